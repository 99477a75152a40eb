"""Contract of what a far process says: its lines and, now and then, its bar arrive; its own stream
gets everything.
"""

from __future__ import annotations

import io
import sys

import pytest
from tqdm import tqdm

from radit_ray.engines import told
from radit_ray.engines.told import Telling, shown, telling


def test_lines_are_told_and_all_is_passed_on() -> None:
    inner, lines = io.StringIO(), list[str]()
    stream = Telling(inner, lines.append)
    print("radit lm-ft: LM-ft", file=stream)
    print("radit: training seed 1", file=stream)
    print("a library says so", file=stream)
    stream.write("radit r-")
    stream.write("ft: R-ft\nrest")
    assert lines == ["lm-ft: LM-ft", "training seed 1", "r-ft: R-ft"]
    whole = "radit lm-ft: LM-ft\nradit: training seed 1\na library says so\nradit r-ft: R-ft\nrest"
    assert inner.getvalue() == whole


@pytest.mark.parametrize(("apart", "told_of"), [(0.0, True), (3600.0, False)])
def test_a_bar_is_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, apart: float, told_of: bool
) -> None:
    """As tqdm draws it; never of a stage that is done before BAR_S."""
    monkeypatch.setattr(told, "BAR_S", apart)
    lines = list[str]()
    stream = Telling(io.StringIO(), lines.append)
    for _ in tqdm(range(4), desc="score: tokens", file=stream, mininterval=0, miniters=1):
        pass
    assert bool(lines) is told_of
    assert not told_of or {"score: tokens: 0%, 0/4", "score: tokens: 50%, 2/4"} <= set(lines)


@pytest.mark.ray
def test_what_a_task_says_is_shown_where_it_was_started(ray_cluster: None) -> None:
    import ray
    from ray.cloudpickle import register_pickle_by_value

    register_pickle_by_value(sys.modules[__name__])

    def work(board: object, who: str) -> None:
        with telling(board, who):
            for number in range(3):
                print(f"radit stage {number}", file=sys.stderr)

    heard = list[tuple[str, str]]()
    with shown(lambda who, line: heard.append((who, line))) as board:
        task = ray.remote(num_cpus=0)(work)
        ray.get([task.remote(board, who) for who in ("a", "b")])
    for who in ("a", "b"):
        assert [line for w, line in heard if w == who] == [f"stage {n}" for n in range(3)]
