"""Contract: a manifest says of what the artifact was made, through everything between, so that what
comes from another version of the corpus is told from what does not.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Input,
    artifact_input,
    check_lineage,
    read_manifest,
    run_index,
    versions_in,
)
from radit_ray.data.work import Work


@dataclasses.dataclass(frozen=True)
class Config:
    size: int = 1


def made(path: Path, stage: str, **inputs: Input) -> Input:
    """A finished artifact without files."""
    with Work.open(stage, 1, Config(), inputs, str(path)) as work:
        if work.done is None:
            work.finish(metrics={}, rows=0)
    return artifact_input(str(path), stage)


def chain(root: Path, corpus: str) -> dict[str, Input]:
    """corpus -> chunks -> embeddings -> index -> ranked -> scored."""
    text = Input(path="train=s3://a/b,s3://c", fingerprint=corpus * 64)
    model = Input(path="some/model", fingerprint="e" * 64)
    found = {"chunks": made(root / "chunks", "chunk", corpus=text)}
    found["embeddings"] = made(root / "embed", "embed", chunks=found["chunks"], retriever=model)
    found["index"] = made(root / "index", "index", embeddings=found["embeddings"])
    found["ranked"] = made(
        root / "ranked", "retrieve", index=found["index"], examples=text, retriever=model
    )
    found["scored"] = made(root / "scored", "score", ranked=found["ranked"], lm=model)
    return found


def test_a_manifest_names_all_it_was_made_of(tmp_path: Path) -> None:
    found = chain(tmp_path, "a")
    manifest = read_manifest(found["scored"].path)
    assert manifest is not None
    assert manifest["lineage"] == {
        "chunks": [found["chunks"].fingerprint],
        "corpus": ["a" * 64],
        "embeddings": [found["embeddings"].fingerprint],
        "examples": ["a" * 64],
        "index": [found["index"].fingerprint],
        "lm": ["e" * 64],
        "ranked": [found["ranked"].fingerprint],
        "retriever": ["e" * 64],
    }
    storage.remove(found["index"].path)  # what lies between may be gone
    assert versions_in(found["scored"], "embeddings") == [found["embeddings"].version]
    check_lineage(found["scored"], "embeddings", found["embeddings"])
    both = {"ranked": found["ranked"], "ranked/other": chain(tmp_path / "b", "b")["ranked"]}
    joined = made(tmp_path / "both", "evaluate", **both)
    assert len(versions_in(joined, "index")) == 2


def test_another_version_is_refused_in_one_line(tmp_path: Path) -> None:
    old, new = chain(tmp_path / "old", "a"), chain(tmp_path / "new", "b")
    with pytest.raises(InputError) as caught:
        check_lineage(old["scored"], "embeddings", new["embeddings"])
    message = str(caught.value)
    assert f"was made from embeddings {old['embeddings'].version}, and" in message
    assert f"is version {new['embeddings'].version}; give the embeddings" in message
    assert "\n" not in message


def test_an_older_manifest_names_its_own_inputs(tmp_path: Path) -> None:
    found = chain(tmp_path, "a")
    for name in ("index", "scored"):
        manifest = read_manifest(found[name].path)
        assert manifest is not None
        del manifest["lineage"]
        storage.write_json(f"{found[name].path}/manifest.json", manifest)
    assert versions_in(found["index"], "embeddings") == [found["embeddings"].version]
    # nothing is known, so nothing can be refused
    check_lineage(found["scored"], "embeddings", chain(tmp_path / "b", "b")["embeddings"])


def test_a_run_is_opened_with_the_index_it_was_made_with(tmp_path: Path) -> None:
    old, new = (chain(tmp_path / name, name)["index"] for name in "ab")
    run = str(tmp_path / "run")
    fields = {"index": old.path, "index_version": old.version}
    assert run_index(run, fields) == old.path
    with pytest.raises(InputError, match="write the new version over index_version") as caught:
        run_index(run, {**fields, "index": new.path})
    assert f"is version {new.version} of the index" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert run_index(run, {"index": new.path, "index_version": new.version}) == new.path
    assert run_index(run, {"index": new.path}) == new.path  # of an earlier release
