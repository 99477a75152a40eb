"""Every test is offline and quiet: set before any library reads its environment. `make test` runs
them in two processes (pytest-xdist), each with a Ray cluster of two CPUs of its own: one makes the
chain of small artifacts, the other the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from chain import Chain

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on Ray first, since they take longest: those on the chain in one process, the others in
    the other one. Then the rest, a file at a time, by whichever is free.
    """
    for item in items:
        item.add_marker(pytest.mark.xdist_group(group_of(item)))
    items.sort(key=lambda item: item.get_closest_marker("ray") is None)


def group_of(item: pytest.Item) -> str:
    """Tests of one group run in one process, so what they share is made once."""
    if item.get_closest_marker("ray") is None:
        return item.path.as_posix()
    return "chain" if "chain" in getattr(item, "fixturenames", ()) else "run"


def pytest_collection_finish(session: pytest.Session) -> None:
    """Without its groups pytest-xdist would build every shared fixture in both processes."""
    grouped = getattr(session.config.option, "loadgroup", False)
    if grouped and session.items and "@" not in session.items[0].nodeid:
        pytest.exit("pytest-xdist's groups have no effect with this pytest; install pytest<9.2", 3)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A private Ray of two CPUs for all tests of one process."""
    import ray

    from radit_ray.engines.connect import connect

    connect(num_cpus=2)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """(LM folder, retriever folder)."""
    from tiny import tiny_lm, tiny_retriever

    folder = tmp_path_factory.mktemp("models")
    return tiny_lm(folder), tiny_retriever(folder)


@pytest.fixture(scope="session")
def own_world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """{corpus, examples}: files of the tiny world."""
    from tiny import tiny_world

    return tiny_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def own_run(
    ray_cluster: None,
    own_world: dict[str, str],
    tiny_models: tuple[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A finished `radit run own` of one cycle."""
    from own import arguments_of, radit

    folder = tmp_path_factory.mktemp("run") / "own"
    assert radit("run", *arguments_of(own_world, tiny_models, folder)) == 0
    return folder


@pytest.fixture(scope="session")
def chain(
    ray_cluster: None, tiny_models: tuple[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Chain:
    """chunk -> embed -> index -> retrieve -> score on the tiny world, each stage once."""
    from tiny import tiny_world

    from radit_ray.engines.resources import Resources
    from radit_ray.stages.chunk import ChunkConfig, chunk
    from radit_ray.stages.embed import EmbedConfig, embed
    from radit_ray.stages.index import IndexConfig, index
    from radit_ray.stages.retrieve import RetrieveConfig, retrieve
    from radit_ray.stages.score import ScoreConfig, score

    root = tmp_path_factory.mktemp("chain")
    one = Resources(num_workers=1)
    world = tiny_world(root / "world")
    lm, retriever = tiny_models
    out = {
        name: str(root / name)
        for name in ("chunks", "embeddings", "index", "flat", "ranked", "scored")
    }
    config = ChunkConfig(docs_per_shard=10)
    chunk(config, corpus=world["corpus"], output=out["chunks"], resources=one)
    embedding = EmbedConfig(retriever=retriever, precision="fp32")
    embed(embedding, chunks=out["chunks"], output=out["embeddings"], resources=one)
    index(IndexConfig(num_shards=3), embeddings=out["embeddings"], output=out["index"])
    index(IndexConfig(), embeddings=out["embeddings"], output=out["flat"])
    ranking = RetrieveConfig(
        retriever=retriever, k=4, corpus_examples=20, corpus_tokens=12, examples_per_shard=24
    )
    retrieve(
        ranking, examples=world["examples"], index=out["index"], output=out["ranked"], resources=one
    )
    scoring = ScoreConfig(lm=lm, corpus_share=0.4, precision="fp32")
    score(scoring, ranked=out["ranked"], output=out["scored"], resources=one)
    return Chain(root=root, **world, lm=lm, retriever=retriever, **out)
