"""Contract: a node lost in the middle of a stage or a sweep costs time and nothing else; DeepSpeed
on two nodes gives the weights of DDP, and its export loads in plain transformers; on object storage
over the S3 protocol the corpus side gives the same files as on a path. The functions are those of
benchmarks/multinode.py.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from benchmarks.kill import prepare
from benchmarks.multinode import (
    LOST_IN,
    ON_S3,
    SAME,
    lose_node,
    on_s3,
    zero,
)
from benchmarks.nodes import Nodes, cluster
from tests.s3 import have_s3, s3_server

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture(scope="module")
def three() -> Iterator[Nodes]:
    """A head and two more nodes, one CPU each."""
    with cluster(2, head_cpus=1) as started:
        yield started


@pytest.fixture(scope="module")
def folder(three: Nodes, tmp_path_factory: pytest.TempPathFactory) -> str:
    made = str(tmp_path_factory.mktemp("nodes"))
    prepare(made, [*LOST_IN, "score"], three)
    return made


@pytest.mark.parametrize("stage", LOST_IN)
@pytest.mark.parametrize("replaced", [False, True])
def test_a_lost_node_costs_only_time(stage: str, replaced: bool, folder: str, three: Nodes) -> None:
    """Not replaced: the two nodes that are left hold the two workers."""
    row = lose_node(stage, folder, three, random.Random(f"{stage} {replaced}"), replaced)
    assert row["equal"], row


@pytest.mark.parametrize("stage", [2, 3])
def test_zero_on_two_nodes(stage: int, folder: str, three: Nodes) -> None:
    row = zero(stage, folder, three)
    assert row["nodes"] == 2  # one worker each
    assert row["ours"] < SAME
    assert row["logits_off"] < 1e-2


@pytest.mark.skipif(not have_s3(), reason="needs the extra s3")
def test_the_corpus_side_on_s3(folder: str) -> None:
    with s3_server() as variables:
        rows = on_s3(folder, ON_S3, variables)
    assert [row["stage"] for row in rows] == list(ON_S3)
    assert all(row["equal"] for row in rows), rows
