"""Contract of the side-by-side scripts: both sides run by turns and are compared first, a row is
what docs/design.md pins, a peer that is missing is a row, and the page shows what the files hold.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import peers, performance, stand_ins, sweep_k
from benchmarks.peers import ENVIRONMENTS, WORKERS, MissingPeerError, installed
from benchmarks.publish import BELOW, between
from benchmarks.reuse import repeated
from benchmarks.side_by_side import (
    Done,
    Results,
    alternate,
    line,
    missing_row,
    options_of,
    plain_row,
    reached,
    speed_row,
    with_bound,
)

ROOT = Path(__file__).parents[1]
PINNED = {"name", "ours", "peer", "ratio", "floor", "better", "unit", "bound"}


def test_sides_run_by_turns_after_they_were_compared() -> None:
    called: list[str] = []

    def side(name: str, seconds: list[float]) -> Any:
        def run() -> Done:
            called.append(name)
            taken = seconds[(called.count(name) - 1) % len(seconds)]
            return Done(result=name, cpu_s=taken, wall_s=2 * taken)

        return run

    compared_with: list[tuple[str, str]] = []
    options = options_of("", ["--repeats", "3"])
    compared = alternate(
        side("ours", [9.0, 1.0, 2.0, 1.0]),
        side("peer", [9.0, 4.0, 4.0, 5.0]),
        options,
        lambda mine, other: compared_with.append((mine, other)),
    )
    assert compared_with == [("ours", "peer")]
    assert called == [*("ours", "peer"), *("ours", "peer"), *("peer", "ours"), *("ours", "peer")]
    row = speed_row("1 score", compared, count=10, unit="pairs", floor=1.4)
    assert set(row) >= PINNED
    assert (row["ours"], row["peer"], row["ratio"]) == (10.0, 2.5, 4.0)  # ratios 4, 2, 5
    assert (row["spread"], row["unit"], row["repeats"]) == ([2.0, 5.0], "pairs/CPU s", 3)


def test_two_sides_that_differ_are_not_timed() -> None:
    def refuse(mine: int, other: int) -> None:
        assert mine == other

    sides = [lambda v=value: Done(result=v, cpu_s=1.0, wall_s=1.0) for value in (1, 2)]
    with pytest.raises(AssertionError):
        alternate(*sides, options_of("", []), refuse)


@pytest.mark.parametrize(
    ("better", "ratio", "floor", "expected"),
    [
        ("higher", 1.4, 1.4, True),
        ("higher", 1.3, 1.4, False),
        ("lower", 0.0, 0, True),
        ("lower", 1.2, 1.1, False),
        ("lower", 1.2, None, None),
    ],
)
def test_which_side_of_a_floor_is_right(
    better: str, ratio: float, floor: float | None, expected: bool | None
) -> None:
    row = plain_row("x", ours=1.0, ratio=ratio, floor=floor, better=better, unit="s")
    assert set(row) >= PINNED
    assert reached(row) is expected
    assert with_bound(row, "because")["bound"] == ("because" if expected is False else "")
    assert ("MISSED" in line(row)) is (expected is False)


def test_a_missing_peer_is_a_row_and_the_file_is_what_design_says(tmp_path: Path) -> None:
    file = tmp_path / "out.json"
    results = Results("score", options_of("", ["--output", str(file)]))
    row = missing_row("1 score vs fed-rag", floor=1.4, unit="pairs/CPU s", why="no network")
    assert set(row) >= PINNED
    assert reached(row) is None
    results.add(row)
    told = json.loads(file.read_text())
    assert {"commit", "hardware", "versions", "command", "rows"} <= set(told)
    assert told["rows"] == [row]
    assert line(row) == "1 score vs fed-rag: no network"
    assert "no network" in performance.body({"score": told})


def test_a_worker_answers_lines_whatever_its_library_prints() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(WORKERS)!r})\n"
        "from loop import serve\n"
        "class Worker:\n"
        "    def add(self, a, b):\n"
        "        print('noise'); return a + b\n"
        "    def fail(self):\n"
        "        raise ValueError('no such thing')\n"
        "serve(Worker())\n"
    )
    asked = [
        {"call": "add", "arguments": {"a": 1, "b": 2}},
        {"call": "fail", "arguments": {}},
        {"call": "add", "arguments": {"a": 3, "b": 4}},
    ]
    lines = "".join(json.dumps(one) + "\n" for one in asked)
    done = subprocess.run(
        [sys.executable, "-c", code], input=lines, capture_output=True, text=True, check=True
    )
    first, failed, second = (json.loads(told) for told in done.stdout.splitlines())
    assert (first["result"], second["result"]) == (3, 7)
    assert first["cpu_s"] >= 0
    assert failed == {"error": "ValueError: no such thing"}
    assert "noise" in done.stderr


def test_every_environment_and_worker_is_there() -> None:
    assert set(ENVIRONMENTS) == {"fed-rag", "trl", "lm-eval"}
    for script in performance.SCRIPTS:
        assert (ROOT / "benchmarks" / f"{script}.py").exists(), script
    # a worker in a peer's environment may import nothing of ours
    for file in WORKERS.glob("on_*.py"):
        if file.stem != "on_radit":
            text = file.read_text()
            assert "radit_ray" not in text, file
            assert "benchmarks import" not in text, file


@pytest.mark.slow
def test_an_environment_that_cannot_be_installed_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "CACHE", tmp_path)
    steps = (("install", "--no-index", "there-is-no-such-package"),)
    monkeypatch.setitem(ENVIRONMENTS, "none", steps)
    with pytest.raises(MissingPeerError, match=r"'none' cannot be installed.*no-such-package"):
        installed("none")


def test_the_texts_are_the_same_every_time_and_lengths_are_mixed() -> None:
    made = stand_ins.texts(50, mean=30)
    assert made == stand_ins.texts(50, mean=30)
    lengths = {len(text.split()) for text in made}
    assert min(lengths) >= 5
    assert max(lengths) > 2 * min(lengths)
    (row,) = stand_ins.ranked_rows(1, k=3, answer_words=2)
    assert len(row["texts"]) == len(row["scores"]) == 3
    assert len(row["answers"][0].split()) == 2


def test_what_is_repeated_is_counted(tmp_path: Path) -> None:
    """Artifacts as a sweep leaves them that embedded twice and scored two pairs again."""

    def artifact(name: str, *, rows: int = 10, lm: str = "", ids: str = "q") -> None:
        folder = tmp_path / name
        folder.mkdir()
        shard = folder / "part-00000.parquet"
        pq.write_table(pa.table({"id": list(ids), "chunk_ids": [["c", "d"]] * len(ids)}), shard)
        digest = hashlib.sha256(shard.read_bytes()).hexdigest()
        told = {
            **{"format_version": 1, "stage": name.partition("-")[0], "fingerprint": name},
            **{"rows": rows, "inputs": {"lm": {"path": "", "fingerprint": lm}}},
            "files": [{"name": shard.name, "bytes": shard.stat().st_size, "sha256": digest}],
        }
        (folder / "manifest.json").write_text(json.dumps(told))

    for name in ("chunk-1", "embed-1", "embed-2"):
        artifact(name)
    artifact("score-1", lm="a", ids="qr")
    artifact("score-2", lm="a")
    artifact("score-3", lm="b")  # another LM: nothing is repeated
    assert repeated(tmp_path) == (10, 2)


def test_a_sweep_of_k_is_held_against_the_largest_call_beside_it() -> None:
    """The ratio is the median over repeats, whose machines may differ; `tokens` has no floor."""
    alone = [{"device_s": s, "tokens": 100.0} for s in (1.0, 4.0, 10.0)]
    sweep = [{"device_s": s, "tokens": 120.0} for s in (1.2, 4.4, 14.0)]
    spent = {"alone": alone, "sweep": sweep}
    found = sweep_k.row_of("answers", (1, 3), spent, 5)
    assert found["ratio"] == pytest.approx(1.2)
    assert found["spread"] == pytest.approx([1.1, 1.4])
    assert found["tokens_ratio"] == pytest.approx(1.2)
    assert reached(found)
    assert not reached({**found, "ratio": 1.31})
    assert reached(sweep_k.row_of("tokens", (1, 3), spent, 5)) is None


def test_the_page_and_the_readme_show_what_the_files_hold() -> None:
    found = performance.files()
    text = (ROOT / performance.PAGE).read_text(encoding="utf-8")
    assert text.partition(BELOW)[2].strip() == performance.body(found)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert between(readme, "performance", performance.brief(found)) == readme


def test_publishing_writes_both_places(tmp_path: Path) -> None:
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / performance.PAGE).write_text(f"# Page\n\n{BELOW}\nold\n")
    start, end = "<!-- performance: benchmarks/publish.py -->", "<!-- end performance -->"
    (tmp_path / "README.md").write_text(f"before\n{start}\nold\n{end}\nafter\n")
    row = plain_row("6 search", ours=12345.0, ratio=31.5, floor=30, better="higher", unit="q/s")
    made = {"command": "x", "commit": "c0ffee", "hardware": "2 x CPU", "threads": 1, "clock": "cpu"}
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    file = tmp_path / "benchmarks" / "results" / "search.json"
    file.write_text(json.dumps({**made, "rows": [row]}))
    performance.publish(tmp_path)
    for name in (performance.PAGE, Path("README.md")):
        text = (tmp_path / name).read_text()
        assert "| 6 search | 12,345 | - | q/s | 31.5 | - | >= 30 | yes |" in text
        assert "c0ffee" in text
        assert "old" not in text
    assert (tmp_path / "README.md").read_text().startswith("before\n")
