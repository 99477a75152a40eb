"""Contract: an artifact is known by content, claimed by its identity, complete with its manifest.

Reuse touches nothing, another identity is refused by field name, torn shards are done again, a
second process waits. The same holds on an fsspec URI, apart from the lock.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from radit_ray.core.errors import InputError
from radit_ray.data import artifacts, storage
from radit_ray.data.artifacts import Artifact, Input
from radit_ray.data.work import Work

NAMES = ["part-0.parquet", "part-1.parquet", "part-2.parquet"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    size: int = 2
    precision: str = "auto"
    lm: str = ""


def to_fp32(config: Config) -> Config:
    """What this machine would pick for "auto"."""
    return dataclasses.replace(
        config, precision="fp32" if config.precision == "auto" else config.precision
    )


def to_bf16(config: Config) -> Config:
    """What another machine would pick."""
    return dataclasses.replace(
        config, precision="bf16" if config.precision == "auto" else config.precision
    )


def source(content: str = "a") -> dict[str, Input]:
    return {"lm": Input(path="some/path", fingerprint=artifacts.fingerprint_of(content))}


def table(value: int) -> pa.Table:
    return pa.table({"x": [value, value + 1]})


def make(
    output: str,
    *,
    config: Config | None = None,
    content: str = "a",
    resolve=to_fp32,
    stop_after: int = 3,
    stage: str = "toy",
) -> Artifact | None:
    """One toy stage call; `stop_after` shards ends it as a kill would, without a manifest."""
    inputs = source(content)
    with Work.open(stage, 1, config or Config(), inputs, output, resolve) as work:
        if work.done:
            return work.done
        for number, name in enumerate(work.missing(NAMES)):
            if number == stop_after:
                return None
            artifacts.commit_shard(
                work.output, name, table(number), device_s=0.5, peak_memory_bytes=number
            )
        return work.finish(metrics={"value": 1.5})


def snapshot(folder: str) -> dict[str, tuple[int, bytes]]:
    """{file: (mtime in ns, content)} without the lock."""
    names = [name for name in storage.list_files(folder) if name != ".lock"]
    paths = {name: Path(folder, name) for name in names}
    return {name: (path.stat().st_mtime_ns, path.read_bytes()) for name, path in paths.items()}


def test_manifest_holds_what_the_contract_names(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    artifact = make(output, config=Config(lm="some/path"))
    manifest = storage.read_json(f"{output}/manifest.json")
    assert artifact == Artifact(path=output, rows=6, metrics={"value": 1.5})
    assert json.loads(json.dumps(dataclasses.asdict(artifact)))["rows"] == 6
    assert manifest["format_version"] == 1
    assert manifest["stage"] == "toy"
    # the path of an input is no part of what decides the result
    assert manifest["config"] == {"size": 2, "precision": "fp32"}
    assert manifest["inputs"] == {"lm": dataclasses.asdict(source()["lm"])}
    assert len(manifest["fingerprint"]) == 64
    assert [file["name"] for file in manifest["files"]] == NAMES
    for file in manifest["files"]:
        assert file["bytes"] == os.path.getsize(f"{output}/{file['name']}")
        assert file["sha256"] == storage.sha256_of(f"{output}/{file['name']}")
    assert manifest["rows"] == 6
    assert manifest["cost"]["device_s"] == 1.5  # summed over shards
    assert manifest["cost"]["peak_memory_bytes"] == 2  # the largest
    assert manifest["cost"]["wall_s"] > 0
    assert manifest["versions"]["torch"]
    left = {name for name in storage.list_files(output) if name != ".lock"}
    assert left == {*NAMES, "identity.json", "manifest.json"}


def test_what_finished_artifacts_cost_by_stage(tmp_path: Path) -> None:
    made = [make(str(tmp_path / "store" / n), content=n, stage=n[:3]) for n in ("toy1", "toy2")]
    make(str(tmp_path / "store" / "toy3"), content="c", stop_after=1)  # unfinished
    make(str(tmp_path / "store" / "other"), stage="oth")
    store = str(tmp_path / "store")
    found = artifacts.spent(artifacts.finished_artifacts(store))
    assert list(found) == ["oth", "toy"]
    assert (found["toy"]["count"], found["toy"]["device_s"], found["toy"]["flops"]) == (2, 3.0, 0)
    costs = [storage.read_json(f"{a.path}/manifest.json")["cost"]["wall_s"] for a in made if a]
    assert found["toy"]["wall_s"] == pytest.approx(sum(costs))
    assert artifacts.spent([str(tmp_path / "nothing")]) == {}


def test_identity_is_first_and_manifest_last(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    with Work.open("toy", 1, Config(), source(), output, to_fp32) as work:
        assert storage.list_files(output) == [".lock", "identity.json"]
        record = storage.read_json(f"{output}/identity.json")
        assert record["fingerprint"] == work.identity["fingerprint"]
        assert artifacts.read_manifest(output) is None
        for name in NAMES:
            artifacts.commit_shard(output, name, table(0))
        assert artifacts.read_manifest(output) is None
        work.finish(metrics={})
    assert artifacts.read_manifest(output) is not None


def test_same_identity_reuses_and_touches_nothing(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    first = make(output)
    before = snapshot(output)
    assert make(output) == first
    assert snapshot(output) == before


def test_other_config_and_input_are_refused_by_name(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    make(output)
    before = snapshot(output)
    with pytest.raises(InputError, match=r"size 2 there, 3 asked") as found:
        make(output, config=Config(size=3))
    assert "\n" not in str(found.value)
    assert output in str(found.value)
    assert "precision" not in str(found.value)
    with pytest.raises(InputError, match="input lm has other content"):
        make(output, content="b")
    with pytest.raises(InputError, match="stage 'toy' there, 'other' asked"):
        make(output, stage="other")
    assert snapshot(output) == before


def test_an_unfinished_folder_of_another_identity_is_refused(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    assert make(output, stop_after=1) is None
    with pytest.raises(InputError, match=r"size 2 there, 3 asked"):
        make(output, config=Config(size=3))


def test_resume_keeps_whole_shards_and_redoes_torn_ones(tmp_path: Path) -> None:
    output, plain = str(tmp_path / "out"), str(tmp_path / "plain")
    make(plain)
    assert make(output, stop_after=2) is None
    kept, torn = Path(output, NAMES[0]), Path(output, NAMES[1])
    stamp = kept.stat().st_mtime_ns
    torn.write_bytes(torn.read_bytes()[:-7])
    with Work.open("toy", 1, Config(), source(), output, to_fp32) as work:
        assert work.missing(NAMES) == NAMES[1:]
        for number, name in enumerate(NAMES):
            if name in work.missing(NAMES):
                artifacts.commit_shard(output, name, table(number))
        work.finish(metrics={})
    assert kept.stat().st_mtime_ns == stamp
    manifests = [storage.read_json(f"{folder}/manifest.json") for folder in (output, plain)]
    assert manifests[0]["files"] == manifests[1]["files"]


def test_auto_follows_the_record(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    first = make(output, resolve=to_fp32)
    assert make(output, resolve=to_bf16) == first  # another machine's choice does not matter
    with pytest.raises(InputError, match="precision 'fp32' there, 'bf16' asked"):
        make(output, config=Config(precision="bf16"))


def test_fingerprint_in_the_path_names_the_content(tmp_path: Path) -> None:
    pattern = str(tmp_path / "toy-{fingerprint}")
    first, second = make(pattern), make(pattern, config=Config(size=3))
    assert first is not None
    assert second is not None
    for artifact in (first, second):
        digits = storage.read_json(f"{artifact.path}/manifest.json")["fingerprint"][:12]
        assert artifact.path == str(tmp_path / f"toy-{digits}")
    assert first.path != second.path
    before = snapshot(first.path)
    assert make(pattern) == first
    assert make(pattern, resolve=to_bf16) == first  # taken up from the sibling's record
    assert snapshot(first.path) == before
    assert len(storage.list_folders(str(tmp_path))) == 2


def test_foreign_files_and_plain_files_are_refused(tmp_path: Path) -> None:
    Path(tmp_path, "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt.*empty folder"):
        make(str(tmp_path))
    assert Path(tmp_path, "notes.txt").read_text() == "mine"
    assert not Path(tmp_path, "identity.json").exists()
    with pytest.raises(InputError, match="is a file, expected a folder"):
        make(str(tmp_path / "notes.txt"))


WAITER = """
import sys, time
sys.path.insert(0, {tests!r})
from data import test_artifacts as t
from radit_ray.data import artifacts
from radit_ray.data.work import Work
with Work.open("toy", 1, t.Config(), t.source(), {output!r}, t.to_fp32) as work:
    print("done" if work.done else "mine", flush=True)
    if not work.done:
        for name in t.NAMES:
            artifacts.commit_shard(work.output, name, t.table(0))
            time.sleep(0.4)
        work.finish(metrics={{}})
"""


def test_a_second_process_waits_and_reuses(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    code = WAITER.format(tests=str(Path(__file__).parents[1]), output=output)
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    started = time.monotonic()
    assert make(output) is not None  # blocks until the first process has finished
    assert time.monotonic() - started > 0.3
    assert first.wait(timeout=30) == 0
    sidecar_free = {name for name in storage.list_files(output) if name.endswith(".parquet")}
    assert sidecar_free == set(NAMES)
    assert artifacts.read_shard(f"{output}/{NAMES[2]}")["x"].to_pylist() == [0, 1]  # the other's


def test_a_second_run_of_another_kind_does_not_wait(tmp_path: Path) -> None:
    """It would wait for hours to be refused in the end."""
    output = str(tmp_path / "out")
    code = WAITER.format(tests=str(Path(__file__).parents[1]), output=output)
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    with pytest.raises(InputError, match="size 2 there, 3 asked"):
        make(output, config=Config(size=3))
    assert artifacts.read_manifest(output) is None  # the first one is still at work
    assert first.wait(timeout=60) == 0
    assert storage.read_json(f"{output}/manifest.json")["config"]["size"] == 2


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    code = WAITER.format(tests=str(Path(__file__).parents[1]), output=output)
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "mine\n"
    first.kill()
    first.wait(timeout=30)
    assert artifacts.read_manifest(output) is None
    artifact = make(output)
    assert artifact is not None
    assert artifact.rows == 6


def test_moving_an_input_keeps_its_fingerprint(tmp_path: Path) -> None:
    model = tmp_path / "a" / "model"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    (model / "weights").mkdir()
    (model / "weights" / "w.bin").write_bytes(b"123")
    before = artifacts.folder_fingerprint(str(model))
    moved = tmp_path / "elsewhere"
    model.rename(moved)
    assert artifacts.folder_fingerprint(str(moved)) == before
    (moved / "README.md").write_text("words about it")
    assert artifacts.folder_fingerprint(str(moved)) == before
    (moved / "weights" / "w.bin").write_bytes(b"124")
    assert artifacts.folder_fingerprint(str(moved)) != before


def test_a_model_inside_an_artifact_is_known_by_the_manifest(tmp_path: Path) -> None:
    """The hash of an exported model is the same whether it is read from the manifest or anew."""
    output = str(tmp_path / "out")
    with Work.open("toy", 1, Config(), source(), output, to_fp32) as work:
        storage.write_bytes(f"{output}/model/config.json", b"{}")
        storage.write_bytes(f"{output}/model/model.safetensors", b"weights")
        work.finish(metrics={}, rows=0)
    inside = artifacts.folder_fingerprint(f"{output}/model")
    storage.put_folder(f"{output}/model", str(tmp_path / "copy"))
    assert artifacts.folder_fingerprint(str(tmp_path / "copy")) == inside


def test_raw_files_are_known_by_name_and_content(tmp_path: Path) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        path = tmp_path / folder / "docs.jsonl"
        path.write_text("{}\n")
        paths.append(str(path))
    made = [artifacts.file_input([path], ["docs.jsonl"], path).fingerprint for path in paths]
    assert made[0] == made[1]
    assert artifacts.file_input([paths[0]], ["docs.txt"], "x").fingerprint != made[0]
    Path(paths[0]).write_text("{ }\n")
    assert artifacts.file_input([paths[0]], ["docs.jsonl"], "x").fingerprint != made[0]


def test_artifact_input_says_what_is_wrong(tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    with pytest.raises(InputError, match=r"does not exist, expected a finished `toy`"):
        artifacts.artifact_input(output, "toy")
    make(output, stop_after=1)
    with pytest.raises(InputError, match=r"unfinished \(no manifest.json\)"):
        artifacts.artifact_input(output, "toy")
    make(output)
    assert artifacts.artifact_input(output, "toy").path == output
    with pytest.raises(InputError, match="made by `toy`, expected an artifact of `index`"):
        artifacts.artifact_input(output, "index")
    manifest = storage.read_json(f"{output}/manifest.json")
    storage.write_json(f"{output}/manifest.json", {**manifest, "format_version": 99})
    with pytest.raises(InputError, match="format_version 99, expected 1"):
        artifacts.artifact_input(output, "toy")


def test_a_link_below_a_linked_folder_leads_to_its_artifact(tmp_path: Path) -> None:
    (tmp_path / "disk" / "deep" / "runs").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "disk" / "deep" / "runs")
    target = tmp_path / "runs" / "mine" / "artifacts" / "chunk-0"
    target.mkdir(parents=True)
    (target / "manifest.json").write_text("{}")
    link = tmp_path / "runs" / "mine" / "chunk"
    artifacts.make_link(str(link), os.path.realpath(target))  # as stages return it
    assert (link / "manifest.json").read_text() == "{}"
    assert (tmp_path / "disk/deep/runs/mine/chunk/manifest.json").exists()
    assert not os.path.isabs(os.readlink(link))


def test_links_stand_for_artifacts(tmp_path: Path) -> None:
    made = make(str(tmp_path / "artifacts" / "toy-1"))
    assert made is not None
    link = str(tmp_path / "cycle-1" / "toy")
    artifacts.make_link(link, made.path)
    artifacts.make_link(link, made.path)  # again: nothing to do
    assert artifacts.artifact_input(link, "toy").path == made.path
    moved = tmp_path.with_name(tmp_path.name + "-moved")
    tmp_path.rename(moved)  # relative, so that a run can be moved
    found = artifacts.artifact_input(str(moved / "cycle-1" / "toy"), "toy")
    assert found.path == str(moved / "artifacts" / "toy-1")
    moved.rename(tmp_path)
    (tmp_path / "real").mkdir()
    with pytest.raises(InputError, match="a folder of its own"):
        artifacts.make_link(str(tmp_path / "real"), made.path)


@pytest.fixture
def remote() -> str:
    """A fresh folder on fsspec's in-memory file system."""
    path = f"memory://artifacts-{time.monotonic_ns()}"
    return path


def test_the_contract_on_an_object_store(remote: str) -> None:
    output = f"{remote}/out"
    assert make(output, stop_after=2) is None
    artifact = make(output)
    assert artifact is not None
    assert artifact.path == output
    assert artifact.rows == 6
    assert make(output) == artifact
    with pytest.raises(InputError, match="size 2 there, 3 asked"):
        make(output, config=Config(size=3))
    source_ = artifacts.artifact_input(output, "toy")
    tables = list(artifacts.iter_tables(source_))
    assert [t.num_rows for t in tables] == [2, 2, 2]
    artifacts.make_link(f"{remote}/role", output)
    assert artifacts.artifact_input(f"{remote}/role", "toy").path == output


def test_vectors_come_back_as_written(tmp_path: Path) -> None:
    vectors_ND = np.arange(12, dtype=np.float16).reshape(4, 3) / 7
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel()), 3)
    sliced = pa.table({"embedding": column}).slice(1, 2)  # a slice keeps its parent's buffer
    assert np.array_equal(artifacts.vectors_of(sliced), vectors_ND[1:3])
    whole = pa.concat_tables([sliced, pa.table({"embedding": column})])
    assert np.array_equal(
        artifacts.vectors_of(whole), np.concatenate([vectors_ND[1:3], vectors_ND])
    )


def test_vectors_are_stored_without_a_dictionary(tmp_path: Path) -> None:
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(12, dtype=np.float16)), 3)
    table = pa.table({"title": ["the same"] * 4, "embedding": column})
    artifacts.commit_shard(str(tmp_path), "x.parquet", table)
    file = str(tmp_path / "x.parquet")
    assert artifacts.read_shard(file).equals(table)
    assert artifacts.num_rows(file) == 4
    group = pq.read_metadata(file).row_group(0)
    found = {group.column(i).path_in_schema: group.column(i).encodings for i in range(2)}
    assert "RLE_DICTIONARY" in found["title"]
    assert "RLE_DICTIONARY" not in found["embedding.list.element"]
