"""Contract: each ranked row names the version of the index it comes from, and rows, vectors and
runs of different versions are not joined in silence.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chain import Chain, write_run
from tiny import documents, write_jsonl

from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import artifact_input, iter_tables, read_manifest
from radit_ray.engines.asking import ask, variant_parts
from radit_ray.engines.resources import Resources
from radit_ray.engines.variants import Variant
from radit_ray.stages.chunk import ChunkConfig, chunk
from radit_ray.stages.embed import EmbedConfig, embed
from radit_ray.stages.evaluate import EvaluateConfig, evaluate
from radit_ray.stages.r_ft import RFtConfig, r_ft
from radit_ray.stages.retrieve import RetrieveConfig, retrieve

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)


def test_every_row_names_its_index(chain: Chain) -> None:
    version = artifact_input(chain.index, "index").version
    for path, stage in ((chain.ranked, "retrieve"), (chain.scored, "score")):
        for table in iter_tables(artifact_input(path, stage), ["index_version", "chunk_ids"]):
            assert set(table["index_version"].to_pylist()) == {version}
    embeddings = artifact_input(chain.embeddings, "embed").fingerprint
    manifest = read_manifest(chain.scored)
    assert manifest is not None
    assert manifest["lineage"]["embeddings"] == [embeddings]


def test_r_ft_takes_no_vectors_of_a_replaced_document(chain: Chain, tmp_path: Path) -> None:
    """The ids are the same, so a join by id alone would go well."""
    rows = documents()
    rows[5]["text"] = "Another text under the old id."
    corpus = write_jsonl(tmp_path / "docs.jsonl", rows)
    chunks = chunk(ChunkConfig(), corpus=corpus, output=str(tmp_path / "chunks"), resources=ONE)
    newer = embed(
        EmbedConfig(retriever=chain.retriever, precision="fp32"),
        chunks=chunks.path,
        output=str(tmp_path / "embed"),
        reuse=chain.embeddings,
        resources=ONE,
    )
    assert newer.metrics["num_encoded"] == 1
    config = RFtConfig(retriever=chain.retriever)
    with pytest.raises(InputError, match=r"was made from embeddings [0-9a-f]{12}, and") as caught:
        r_ft(config, scored=chain.scored, embeddings=newer.path, output=str(tmp_path / "r-ft"))
    assert "\n" not in str(caught.value)


def test_a_run_whose_index_was_exchanged_does_not_answer(chain: Chain, tmp_path: Path) -> None:
    run = write_run(chain, tmp_path / "run")
    file = Path(run, "run.json")
    record = json.loads(file.read_text())
    version = artifact_input(chain.index, "index").version
    for made in record["variants"].values():
        made["index_version"] = version
    file.write_text(json.dumps(record))
    assert ask(run, "what is this?", variant="replug")["index_version"] == version
    record["variants"]["replug"]["index"] = chain.flat
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match=f"run {run} was made with {version}"):
        variant_parts(run, "replug")


def test_variants_on_two_versions_are_told(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RetrieveConfig(retriever=chain.retriever, k=2, splits=("eval",))
    other = retrieve(
        config, examples=chain.examples, index=chain.flat, output=str(tmp_path / "r"), resources=ONE
    )
    variants = tuple(
        Variant(name=name, lm=chain.lm, k=1, t_r=0.1, max_new_tokens=2, ranked=ranked)
        for name, ranked in (("old", chain.ranked), ("new", other.path))
    )
    found = evaluate(
        EvaluateConfig(variants=variants, bootstrap=20, precision="fp32"),
        ranked=chain.ranked,
        output=str(tmp_path / "evaluate"),
        resources=ONE,
    )
    versions = {
        name: [artifact_input(path, "index").version]
        for name, path in (("old", chain.index), ("new", chain.flat))
    }
    assert found.metrics["index_versions"] == versions
    told = capsys.readouterr().err
    assert f"old {versions['old'][0]}, new {versions['new'][0]}" in told
