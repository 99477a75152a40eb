"""Contract: a shard that broke off, flipped a bit, went missing, has another width or holds nan is
one line that names it, from whoever reads it first; nothing is built or answered from it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain import Chain

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import read_manifest
from radit_ray.engines.resources import Resources
from radit_ray.engines.sharded_index import ShardedIndex
from radit_ray.models import faiss_shard
from radit_ray.stages.index import IndexConfig, index
from radit_ray.stages.retrieve import RetrieveConfig, retrieve

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)
Damage = Callable[[Path], object]


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(bytes(content))


def copied(folder: str, target: Path) -> str:
    for name in storage.list_files(folder):
        storage.write_bytes(f"{target}/{name}", Path(folder, name).read_bytes())
    return str(target)


def lied(folder: str, name: str) -> None:
    """Makes the manifest agree with what a file has become."""
    manifest = read_manifest(folder)
    assert manifest is not None
    for file in manifest["files"]:
        if file["name"] == name:
            file["sha256"] = storage.sha256_of(f"{folder}/{name}")
    storage.write_json(f"{folder}/manifest.json", manifest)


def refused(work: Callable[[], object], name: str, message: str | None = None) -> None:
    with pytest.raises(InputError, match=message) as caught:
        work()
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", [truncated, flipped, Path.unlink])
@pytest.mark.parametrize("ending", ["faiss", "arrow"])
def test_a_damaged_index_answers_nothing(
    chain: Chain, tmp_path: Path, damage: Damage, ending: str
) -> None:
    path = copied(chain.index, tmp_path / "index")
    damage(Path(path, f"shard-00001.{ending}"))
    refused(lambda: ShardedIndex.open(path, remote=False), f"shard-00001.{ending}")


def test_a_stage_names_the_damaged_shard(chain: Chain, tmp_path: Path) -> None:
    path, output = copied(chain.index, tmp_path / "index"), str(tmp_path / "ranked")
    flipped(Path(path, "shard-00002.arrow"))
    config = RetrieveConfig(retriever=chain.retriever, k=2)

    def work() -> object:
        return retrieve(config, examples=chain.examples, index=path, output=output, resources=ONE)

    refused(work, "shard-00002.arrow")
    assert read_manifest(output) is None


def test_a_shard_that_is_not_what_its_manifest_describes(chain: Chain, tmp_path: Path) -> None:
    path = copied(chain.index, tmp_path / "index")
    name = "shard-00000.faiss"
    wide = np.ones((14, 48), dtype=np.float16)
    faiss_shard.save(faiss_shard.build("flat", wide), Path(path, name))
    lied(path, name)
    refused(lambda: ShardedIndex.open(path, remote=False), name, "its width is 48, expected 32")
    few = np.ones((3, 32), dtype=np.float16)
    faiss_shard.save(faiss_shard.build("flat", few), Path(path, name))
    lied(path, name)
    refused(lambda: ShardedIndex.open(path, remote=False), name, "number of vectors is 3")
    other = copied(chain.index, tmp_path / "other")
    Path(other, "shard-00000.arrow").write_bytes(Path(chain.flat, "shard-00000.arrow").read_bytes())
    lied(other, "shard-00000.arrow")
    refused(lambda: ShardedIndex.open(other, remote=False), "shard-00000.arrow", "has 40 chunks")


def rewritten(path: str, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Puts other vectors into an embedding shard, and into its manifest what it has become."""
    table = pq.read_table(f"{path}/{name}")
    vector_ND = np.asarray(table["embedding"].combine_chunks().flatten()).reshape(len(table), -1)
    vector_ND = change(vector_ND.copy()).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vector_ND.ravel()), vector_ND.shape[1])
    pq.write_table(
        table.drop_columns("embedding").append_column("embedding", column), f"{path}/{name}"
    )
    lied(path, name)


def nan_in_row_3(vector_ND: np.ndarray) -> np.ndarray:
    vector_ND[3, 5] = np.nan
    return vector_ND


NAME = "part-00000-00001.parquet"
BROKEN: list[tuple[str, Any, str]] = [
    ("truncated", truncated, "its manifest says"),
    ("flipped", flipped, "its manifest says"),
    ("missing", Path.unlink, "is missing"),
    ("nan", nan_in_row_3, r"the vector of row 3 holds nan or inf \(1 such rows\)"),
    ("infinite", lambda v: v * np.float16(np.inf), "holds nan or inf"),
    ("narrow", lambda v: v[:, :16], "vectors of width 16, those before it have 32"),
]


@pytest.mark.parametrize(("kind", "damage", "message"), BROKEN, ids=[row[0] for row in BROKEN])
def test_no_index_is_built_from_damaged_vectors(
    chain: Chain, tmp_path: Path, kind: str, damage: Any, message: str
) -> None:
    path, output = copied(chain.embeddings, tmp_path / "embeddings"), str(tmp_path / "index")
    if kind in ("truncated", "flipped", "missing"):
        damage(Path(path, NAME))
    else:
        rewritten(path, NAME, damage)
    config = IndexConfig(kind="ivf" if kind == "narrow" else "flat")
    refused(lambda: index(config, embeddings=path, output=output, resources=ONE), NAME, message)
    assert read_manifest(output) is None


def test_index_shards_of_two_widths_are_no_index(chain: Chain, tmp_path: Path) -> None:
    """Where no worker sees more than one width."""
    path, output = copied(chain.embeddings, tmp_path / "embeddings"), str(tmp_path / "index")
    rewritten(path, NAME, lambda v: v[:, :16])
    config = IndexConfig(num_shards=4)
    two = Resources(num_workers=2)
    with pytest.raises(InputError, match=r"width 16|width 32"):
        index(config, embeddings=path, output=output, resources=two)
    assert read_manifest(output) is None
