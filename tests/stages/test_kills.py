"""Contract: kill -9 of a worker, of the driver, or of the driver and its whole cluster, at seeded
moments of every stage and of a sweep: the same command completes, no committed shard is written
again, at most one shard or checkpoint interval is repeated, and the result is that of an
uninterrupted run. The functions are those of benchmarks/kill.py, which logs them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.kill import KINDS, kill_once, plan, prepare
from benchmarks.nodes import Nodes, cluster
from benchmarks.tiny_chain import STAGES

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(7200)]
KILLS = plan(list(STAGES), 3 * len(STAGES))


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster(head_cpus=2) as started:
        yield started


@pytest.fixture(scope="module")
def folder(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The chain and its uninterrupted results."""
    made = str(tmp_path_factory.mktemp("kills"))
    prepare(made, list(STAGES), nodes)
    return made


def test_the_plan_reaches_every_stage_in_every_way() -> None:
    assert len(KILLS) >= 20
    assert set(KILLS) == {(stage, kind) for stage in STAGES for kind in KINDS}


@pytest.mark.parametrize(("stage", "kind"), KILLS)
def test_the_same_command_completes(stage: str, kind: str, folder: str, nodes: Nodes) -> None:
    row = kill_once(stage, kind, folder, nodes, random.Random(f"{stage} {kind}"))
    assert row["killed"] == kind, row
    assert row["redone"] == 0
    assert row["ours"] <= 1.0, row
    assert row["equal"], row  # bit for bit, trainings of one worker too
