"""Contract of r-ft: Eq. 5 reaches exactly the query encoder, brings p_R nearer to p_lsr, leaves
every other weight bit for bit, and its exports load in plain sentence-transformers.
"""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chain import Chain
from killing import killed
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from tiny import tiny_retriever

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    artifact_input,
    iter_tables,
    read_manifest,
    vectors_of,
)
from radit_ray.engines.resources import Resources
from radit_ray.stages.r_ft import RFtConfig, RFtTask, r_ft
from radit_ray.stages.r_ft_rows import prepare

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)
TAU = 0.1


def config_of(chain: Chain, **changes: Any) -> RFtConfig:
    """A training of seconds on 20 corpus and 30 task rows that visibly learns."""
    config = RFtConfig(
        retriever=chain.retriever,
        t_r=0.1,
        epochs=8.0,
        batch_size=10,
        lr=2e-3,
        warmup=4,
        eval_every=10,
        # not the best of dev: on 6 tiny dev rows that may be the base encoder, from CPU to CPU
        select_by="last",
        precision="fp32",
    )
    return dataclasses.replace(config, **changes)


def hashes(folder: str) -> dict[str, str]:
    """{file: sha256}."""
    names = storage.list_files(folder)
    return {
        name: storage.sha256_of(storage.join(folder, name)) for name in names if name != ".lock"
    }


@pytest.fixture(scope="module")
def before(chain: Chain) -> dict[str, dict[str, str]]:
    """Every file that must not change, hashed before anything is tuned."""
    return {
        name: hashes(getattr(chain, name)) for name in ("lm", "retriever", "embeddings", "scored")
    }


@pytest.fixture(scope="module")
def tuned(chain: Chain, before: Any, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    output = str(tmp_path_factory.mktemp("r-ft") / "one")
    return r_ft(
        config_of(chain),
        scored=chain.scored,
        embeddings=chain.embeddings,
        output=output,
        resources=ONE,
    )


def train_rows(chain: Chain) -> list[dict[str, Any]]:
    tables = iter_tables(artifact_input(chain.scored, "score"))
    return [row for t in tables for row in t.to_pylist() if row["split"] == "train"]


def chunk_vectors(chain: Chain) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for table in iter_tables(artifact_input(chain.embeddings, "embed"), ["id", "embedding"]):
        found |= dict(zip(table["id"].to_pylist(), vectors_of(table), strict=True))
    return found


def mean_kl(
    rows: list[dict[str, Any]],
    encoder: SentenceTransformer,
    chain: Chain,
    direction: str = "lsr_to_r",
) -> float:
    """Eq. 5 in nats, by numpy, from plain encodes: Eq. 1, 2, 4 and 5 the slow way. By default
    KL(p_lsr || p_R), which dev shows whatever was trained.
    """
    vectors = chunk_vectors(chain)
    queries = encoder.encode([row["query"] for row in rows], show_progress_bar=False)
    total = 0.0
    for row, query_D in zip(rows, queries, strict=True):
        score_K = np.array([vectors[c].astype(float) @ query_D for c in row["chunk_ids"]]) / 0.1
        p_r = np.exp(score_K - score_K.max())
        p_r /= p_r.sum()
        a_K = np.array(row["logprobs"], dtype=float) / row["num_answer_tokens"] / TAU
        p_lsr = np.exp(a_K - a_K.max())
        p_lsr /= p_lsr.sum()
        p, q = (p_lsr, p_r) if direction == "lsr_to_r" else (p_r, p_lsr)
        total += float((p * (np.log(np.maximum(p, 1e-30)) - np.log(np.maximum(q, 1e-30)))).sum())
    return total / len(rows)


def test_only_the_query_encoder_changes(
    tuned: Artifact, chain: Chain, before: dict[str, dict[str, str]]
) -> None:
    for name, files in before.items():
        assert hashes(getattr(chain, name)) == files, name
    base = load_file(f"{chain.retriever}/model.safetensors")
    query = load_file(f"{tuned.path}/query_encoder/model.safetensors")
    changed = {n for n in base if not torch.equal(base[n], query[n].to(base[n].dtype))}
    # the pooler is no part of mean pooling; keys are no part of attention's softmax but their bias
    # moves nothing, all else is reached
    reached = {n for n in base if "pooler" not in n and "key.bias" not in n}
    unreached = {n for n in reached - changed if "position" not in n and "token_type" not in n}
    assert not unreached
    route = Path(tuned.path, "retriever")
    documents = [
        load_file(file)
        for file in sorted(route.glob("document*/**/model.safetensors"))
        + sorted(route.glob("document*/model.safetensors"))
    ]
    assert documents, sorted(str(p.relative_to(route)) for p in route.glob("**/*"))
    for name, value in documents[0].items():
        assert torch.equal(value, base[name])


def test_exports_load_in_plain_sentence_transformers(tuned: Artifact, chain: Chain) -> None:
    queries = [row["query"] for row in train_rows(chain)[:6]]
    texts = ["Arden is an old town on the river.", "A town"]
    base = SentenceTransformer(chain.retriever, device="cpu")
    query_encoder = SentenceTransformer(f"{tuned.path}/query_encoder", device="cpu")
    router = SentenceTransformer(f"{tuned.path}/retriever", device="cpu")
    quiet = {"show_progress_bar": False}
    asked = router.encode_query(queries, **quiet)
    np.testing.assert_array_equal(asked, query_encoder.encode(queries, **quiet))
    np.testing.assert_array_equal(
        router.encode_document(texts, **quiet), base.encode(texts, **quiet)
    )
    assert np.abs(asked - base.encode(queries, **quiet)).max() > 1e-3


def test_kl_on_its_own_rows_falls(tuned: Artifact, chain: Chain) -> None:
    rows = train_rows(chain)
    trained = config_of(chain).direction
    start = mean_kl(rows, SentenceTransformer(chain.retriever, device="cpu"), chain, trained)
    encoder = SentenceTransformer(f"{tuned.path}/query_encoder", device="cpu")
    end = mean_kl(rows, encoder, chain, trained)
    assert end < 0.9 * start, (start, end)
    history = json.loads(Path(tuned.path, "history.json").read_text())
    losses = [entry["loss"] for entry in history if "loss" in entry]
    assert len(losses) == tuned.metrics["steps"] == round(8 * len(rows) / 10)
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_dev_numbers_and_facts(tuned: Artifact, chain: Chain) -> None:
    rows = [
        row
        for table in iter_tables(artifact_input(chain.scored, "score"))
        for row in table.to_pylist()
        if row["split"] == "dev"
    ]
    base = SentenceTransformer(chain.retriever, device="cpu")
    assert tuned.metrics["dev_before"]["kl"] == pytest.approx(mean_kl(rows, base, chain), rel=1e-3)
    best = SentenceTransformer(f"{tuned.path}/query_encoder", device="cpu")
    assert tuned.metrics["dev"]["kl"] == pytest.approx(mean_kl(rows, best, chain), rel=1e-3)
    assert tuned.metrics["tau"] == TAU
    assert tuned.metrics["num_train"] == len(train_rows(chain))
    assert 0 <= tuned.metrics["entropy_lsr"] <= np.log(4)
    assert 0 <= tuned.metrics["entropy_r"] <= np.log(4)


@pytest.mark.slow
def test_two_workers_equal_one(tuned: Artifact, chain: Chain, tmp_path: Path) -> None:
    two = Resources(num_workers=2, micro_batch=2)
    artifact = r_ft(
        config_of(chain),
        scored=chain.scored,
        embeddings=chain.embeddings,
        output=str(tmp_path / "two"),
        resources=two,
    )
    a, b = (load_file(f"{x.path}/query_encoder/model.safetensors") for x in (artifact, tuned))
    assert artifact.metrics["best_step"] == tuned.metrics["best_step"]
    # fp32 sums in another order; a key's bias moves no softmax: its gradient is rounding alone,
    # which AdamW scales up to whole steps, as it does for single weights with hardly a gradient
    compared = [name for name in a if not name.endswith("key.bias")]
    apart = torch.cat([(a[name].float() - b[name].float()).abs().flatten() for name in compared])
    assert float((apart < 1e-5).float().mean()) > 0.999
    assert float(apart.max()) < 1e-4
    texts = [row["query"] for row in train_rows(chain)]
    vectors = [
        SentenceTransformer(f"{x.path}/query_encoder", device="cpu").encode(
            texts, show_progress_bar=False
        )
        for x in (artifact, tuned)
    ]
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-4)


@pytest.mark.slow
def test_zero_equals_ddp(tuned: Artifact, chain: Chain, tmp_path: Path) -> None:
    artifact = r_ft(
        config_of(chain),
        scored=chain.scored,
        embeddings=chain.embeddings,
        output=str(tmp_path / "zero"),
        resources=Resources(num_workers=2, zero_stage=2),
    )
    a, b = (load_file(f"{x.path}/query_encoder/model.safetensors") for x in (artifact, tuned))
    compared = [name for name in a if not name.endswith("key.bias")]
    apart = torch.cat([(a[name].float() - b[name].float()).abs().flatten() for name in compared])
    assert float((apart < 1e-5).float().mean()) > 0.99
    assert artifact.metrics["dev"]["kl"] == pytest.approx(tuned.metrics["dev"]["kl"], rel=1e-3)


@pytest.mark.slow
def test_a_killed_training_ends_as_an_uninterrupted_one(
    tuned: Artifact, chain: Chain, tmp_path: Path
) -> None:
    """kill -9 of the driver and all it started, then the same call again on another cluster."""
    output, config = str(tmp_path / "killed"), config_of(chain)
    often = dataclasses.replace(ONE, checkpoint_every=1)
    code = (
        "from radit_ray.engines.resources import Resources\n"
        "from radit_ray.stages.r_ft import RFtConfig, r_ft\n"
        f"r_ft({config!r}, scored={chain.scored!r}, embeddings={chain.embeddings!r}, "
        f"output={output!r}, resources={often!r})\n"
    )

    def reached() -> list[str]:
        return [n for n in storage.list_folders(f"{output}/resume") if n.startswith("step-")]

    killed(code, lambda: max(reached(), default="") >= "step-000003")
    assert read_manifest(output) is None
    inputs = {"scored": chain.scored, "embeddings": chain.embeddings}
    artifact = r_ft(config, **inputs, output=output, resources=often)
    a, b = (load_file(f"{x.path}/query_encoder/model.safetensors") for x in (artifact, tuned))
    assert all(torch.equal(a[name], b[name]) for name in b)  # bit for bit
    assert artifact.metrics["dev"] == tuned.metrics["dev"]


def test_every_epoch_sees_every_row_once(chain: Chain, tmp_path: Path) -> None:
    config = config_of(chain, epochs=3.0)
    scored, embeddings = (
        artifact_input(chain.scored, "score"),
        artifact_input(chain.embeddings, "embed"),
    )
    config = dataclasses.replace(config, tau=TAU)
    facts = prepare(config, scored, embeddings, str(tmp_path))
    assert isinstance(facts, dict)
    task = RFtTask(
        config=config, folder=str(tmp_path), facts=facts, resources=Resources(), device="cpu"
    )
    num = len(task.rows)
    steps = 3 * num // 10
    seen = [i for step in range(steps) for batch in task.batches(step, 0, 1) for i in batch]
    for epoch in range(3):
        part = collections.Counter(seen[epoch * num : (epoch + 1) * num])
        assert max(part.values()) == 1
    assert seen[:num] != seen[num : 2 * num]  # in another order
    two = [
        sorted(i for rank in (0, 1) for batch in task.batches(step, rank, 2) for i in batch)
        for step in range(steps)
    ]
    assert [i for part in two for i in part] == [
        i for step in range(steps) for i in sorted(seen[10 * step : 10 * step + 10])
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_score": "mean_logprobs"}, "answer_score='mean_logprobs'.*mean_logprob"),
        ({"direction": "forward"}, "direction='forward'"),
        ({"epochs": 0.0}, "epochs=0.0"),
        ({"preset": "mini-lm"}, "mini-lm.*minilm"),
        ({"retriever": "no/such/place/here"}, "no/such/place/here"),
    ],
)
def test_bad_configs_are_refused(
    chain: Chain, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    output = str(tmp_path / "out")
    with pytest.raises(InputError, match=message) as found:
        r_ft(
            config_of(chain, **changes),
            scored=chain.scored,
            embeddings=chain.embeddings,
            output=output,
        )
    assert "\n" not in str(found.value)
    assert read_manifest(output) is None


def test_another_width_is_refused(chain: Chain, tmp_path: Path) -> None:
    config = dataclasses.replace(
        config_of(chain), retriever=tiny_retriever(tmp_path, width=48), tau=TAU
    )
    folder = str(tmp_path / "data")
    facts = prepare(
        config,
        artifact_input(chain.scored, "score"),
        artifact_input(chain.embeddings, "embed"),
        folder,
    )
    assert isinstance(facts, dict)
    with pytest.raises(InputError, match="width 48, the embeddings have 32"):
        RFtTask(config=config, folder=folder, facts=facts, resources=Resources(), device="cpu")
