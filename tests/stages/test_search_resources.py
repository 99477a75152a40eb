"""Contract: where the vectors of an index lie, how often and on which device decides the clock and
no row.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from chain import Chain

from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import artifact_input, read_manifest
from radit_ray.engines.resources import Resources
from radit_ray.stages.index import IndexConfig, index
from radit_ray.stages.retrieve import RetrieveConfig, retrieve, shard_gpus

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)


def test_vectors_on_disk_and_two_replicas_rank_alike(chain: Chain, tmp_path: Path) -> None:
    config = RetrieveConfig(
        retriever=chain.retriever, k=4, corpus_examples=20, corpus_tokens=12, examples_per_shard=24
    )
    made = retrieve(
        config,
        examples=chain.examples,
        index=chain.index,
        output=str(tmp_path / "ranked"),
        resources=Resources(num_workers=2, memory_map=True, index_replicas=2),
    )
    expected, found = read_manifest(chain.ranked), read_manifest(made.path)
    assert expected is not None
    assert found is not None
    assert found["fingerprint"] == expected["fingerprint"]
    assert found["files"] == expected["files"]  # sha256 of each shard
    with pytest.raises(InputError, match="index_replicas=0"):
        retrieve(
            config,
            examples=chain.examples,
            index=chain.index,
            output=str(tmp_path / "none"),
            resources=Resources(index_replicas=0),
        )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ivf", "sq"])
def test_an_approximate_index_on_disk_ranks_alike(chain: Chain, tmp_path: Path, kind: str) -> None:
    built = index(
        IndexConfig(kind=kind, num_shards=2, nlist=4 * (kind == "ivf")),
        embeddings=chain.embeddings,
        output=str(tmp_path / "index"),
        resources=ONE,
    )
    config = RetrieveConfig(retriever=chain.retriever, k=3, splits=("eval",))
    files = []
    for memory_map in (False, True):
        made = retrieve(
            config,
            examples=chain.examples,
            index=built.path,
            output=str(tmp_path / f"ranked-{memory_map}"),
            resources=Resources(num_workers=1, memory_map=memory_map),
        )
        manifest = read_manifest(made.path)
        assert manifest is not None
        files.append(manifest["files"])
    assert files[0] == files[1]


def test_shards_get_gpus_where_the_cluster_has_them(
    chain: Chain, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    three = artifact_input(chain.index, "index")  # three shards
    assert shard_gpus(ONE, three) == (ONE, 0.0)
    for gpus, asked, replicas, expected in (
        (8.0, 1.0, 1, (5, 1.0)),  # three for the shards, five workers
        (4.0, 1.0, 1, (1, 1.0)),
        (1.0, 0.25, 1, (1, 0.25)),
        (8.0, 1.0, 2, (2, 1.0)),
        (3.0, 1.0, 1, (0, 0.0)),  # no room for a worker: the shards stay on CPUs
    ):
        monkeypatch.setattr(ray, "cluster_resources", lambda gpus=gpus: {"GPU": gpus, "CPU": 8.0})
        resources = Resources(gpus_per_worker=asked, index_replicas=replicas)
        left, share = shard_gpus(resources, three)
        assert (left.num_workers, share) == expected
    assert "they search on CPUs" in capsys.readouterr().err
