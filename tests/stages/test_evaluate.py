"""Contract of evaluate: all variants in one call, a folder each, the means of their own prediction
rows, paired contrasts, and the same numbers as answering in this process.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chain import Chain

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.artifacts import (
    Artifact,
    artifact_input,
    iter_tables,
    read_manifest,
    read_shard,
    shard_names,
)
from radit_ray.engines.answered import answer_keys
from radit_ray.engines.answering import METRICS, answer_batch
from radit_ray.engines.demonstrations import draw_shots, shots_of
from radit_ray.engines.resources import Resources
from radit_ray.engines.variants import Variant
from radit_ray.models.causal_lm import CausalLM
from radit_ray.report.predictions import write_predictions
from radit_ray.stages.evaluate import EvaluateConfig, evaluate, largest_first

pytestmark = pytest.mark.ray
ONE = Resources(num_workers=1)
T_R = 0.1


def variants_of(chain: Chain) -> tuple[Variant, ...]:
    common: dict[str, Any] = {"lm": chain.lm, "t_r": T_R, "max_new_tokens": 4}
    return (
        Variant(name="closed-book", k=0, **common),
        Variant(name="replug", k=3, **common),
        Variant(name="mixed", k=3, ensemble="tokens", **common),
        Variant(name="one-prompt", k=2, ensemble="concat", **common),
        Variant(name="replug-2shot", k=2, shots=2, **common),
        Variant(name="replug-again", k=3, **common),
        Variant(name="replug-1", k=1, **common),
    )


@pytest.fixture(scope="module")
def evaluated(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    config = EvaluateConfig(
        variants=variants_of(chain),
        contrasts=("replug-minus-closed-book", "replug-minus-mixed"),
        bootstrap=200,
        precision="fp32",
    )
    output = str(tmp_path_factory.mktemp("evaluate") / "evaluate-{fingerprint}")
    return evaluate(config, ranked=chain.ranked, output=output, resources=ONE)


def predictions(artifact: Artifact, variant: str) -> list[dict[str, Any]]:
    names = [n for n in shard_names(artifact.path) if n.startswith(f"{variant}/")]
    return [row for n in names for row in read_shard(f"{artifact.path}/{n}").to_pylist()]


def read_cost(artifact: Artifact) -> dict[str, Any]:
    manifest = read_manifest(artifact.path)
    assert manifest is not None
    return dict(manifest["cost"])


def fingerprint(artifact: Artifact) -> str:
    manifest = read_manifest(artifact.path)
    assert manifest is not None
    return str(manifest["fingerprint"])


def eval_rows(chain: Chain) -> list[dict[str, Any]]:
    tables = iter_tables(artifact_input(chain.ranked, "retrieve"))
    return [row for t in tables for row in t.to_pylist() if row["split"] == "eval"]


def test_each_variant_has_a_folder_with_every_question(evaluated: Artifact, chain: Chain) -> None:
    asked = [row["id"] for row in eval_rows(chain)]
    assert len(asked) == 12
    for variant in variants_of(chain):
        assert [row["id"] for row in predictions(evaluated, variant.name)] == asked
    folders = {name.split("/")[0] for name in shard_names(evaluated.path)}
    assert folders == {variant.name for variant in variants_of(chain)}
    assert evaluated.rows == evaluated.metrics["num_questions"] == 12


def test_a_variant_that_is_another_by_name_answers_as_it_does(evaluated: Artifact) -> None:
    assert predictions(evaluated, "replug-again") == predictions(evaluated, "replug")


def test_an_export_holds_the_rows_of_the_artifact(evaluated: Artifact, tmp_path: Path) -> None:
    output = str(tmp_path / "out.parquet")
    write_predictions(evaluated.path, "replug", output=output, form="parquet")
    exported = read_shard(output).to_pylist()
    for row, whole in zip(exported, predictions(evaluated, "replug"), strict=True):
        assert row == {name: whole[name] for name in row}
        assert len(row["p_r"]) == len(row["chunk_ids"]) == 3


def test_metrics_are_the_means_of_the_rows(evaluated: Artifact, chain: Chain) -> None:
    found = evaluated.metrics["variants"]
    assert list(found) == [variant.name for variant in variants_of(chain)]
    for name, values in found.items():
        rows = predictions(evaluated, name)
        shown = (
            METRICS[:3] if name == "closed-book" else METRICS
        )  # nothing shown, nothing to recall
        assert set(values) == set(shown)
        for metric, cell in values.items():
            assert cell["value"] == pytest.approx(np.mean([row[metric] for row in rows]))
            assert cell["low"] <= cell["value"] <= cell["high"]
    assert found["replug"]["nll"]["low"] < found["replug"]["nll"]["high"]
    # these examples name no metric of their own
    assert evaluated.metrics["tasks"]["tiny"] == {
        name: {**cells, "score": cells["em"]} for name, cells in found.items()
    }


def test_contrasts_are_paired_differences(evaluated: Artifact) -> None:
    contrasts = evaluated.metrics["contrasts"]
    assert list(contrasts) == ["replug-minus-closed-book", "replug-minus-mixed"]
    means = evaluated.metrics["variants"]
    cell = contrasts["replug-minus-closed-book"]["nll"]
    difference = means["replug"]["nll"]["value"] - means["closed-book"]["nll"]["value"]
    assert cell["diff"] == pytest.approx(difference)
    assert cell["low"] <= cell["diff"] <= cell["high"]
    # how the answer is decoded does not change how probable the gold one is
    assert contrasts["replug-minus-mixed"]["nll"]["diff"] == pytest.approx(0, abs=1e-4)


def test_rows_equal_answering_in_this_process(evaluated: Artifact, chain: Chain) -> None:
    lm = CausalLM.load(chain.lm, precision="fp32")
    rows = eval_rows(chain)
    source = artifact_input(chain.ranked, "retrieve")
    for variant in variants_of(chain):
        shots = shots_of(draw_shots(source, variant, [], seed=0), rows[0])
        assert len(shots) == variant.shots
        here, _ = answer_batch(lm, rows, variant, t_r=T_R, shots=shots)
        for a, b in zip(here, predictions(evaluated, variant.name), strict=True):
            assert a["prediction"] == b["prediction"], variant.name
            assert a["nll"] == pytest.approx(b["nll"], abs=1e-3)


def test_a_rerun_with_moved_models_reuses(
    evaluated: Artifact, chain: Chain, tmp_path: Path
) -> None:
    """Identity is what the LM's folder holds, not where it lies."""
    for name in storage.list_files(chain.lm):
        storage.write_bytes(f"{tmp_path}/lm/{name}", Path(chain.lm, name).read_bytes())
    manifest = read_manifest(evaluated.path)
    assert manifest is not None
    config = EvaluateConfig(
        variants=tuple(
            dataclasses.replace(variant, lm=f"{tmp_path}/lm") for variant in variants_of(chain)
        ),
        contrasts=("replug-minus-closed-book", "replug-minus-mixed"),
        bootstrap=200,
        precision="fp32",
    )
    stamp = Path(evaluated.path, "manifest.json").stat().st_mtime_ns
    again = evaluate(config, ranked=chain.ranked, output=evaluated.path, resources=ONE)
    assert again == evaluated
    assert Path(evaluated.path, "manifest.json").stat().st_mtime_ns == stamp


def test_what_another_evaluation_answered_is_not_asked_again(
    evaluated: Artifact, chain: Chain, capfd: pytest.CaptureFixture[str]
) -> None:
    """Of other names, with other contrasts; but not where other ks would have borne the cost."""
    given = {variant.name: variant for variant in variants_of(chain)}
    renamed = dataclasses.replace(given["one-prompt"], name="concat")
    deep = dataclasses.replace(given["replug"], name="deep", k=2)
    config = EvaluateConfig(
        variants=(given["closed-book"], renamed, given["mixed"], given["replug"], deep),
        contrasts=("concat-minus-closed-book",),
        bootstrap=100,
        precision="fp32",
    )
    beside = str(Path(evaluated.path).parent / "evaluate-{fingerprint}")
    again = evaluate(config, ranked=chain.ranked, output=beside, resources=ONE)
    assert "closed-book, concat, mixed: answered before" in capfd.readouterr().err
    for name, older in (("closed-book",) * 2, ("concat", "one-prompt"), ("mixed",) * 2):
        assert predictions(again, name) == predictions(evaluated, older)
        assert again.metrics["cost"][name] == evaluated.metrics["cost"][older]
        assert again.metrics["reused"][name]["fingerprint"] == fingerprint(evaluated)
    assert again.metrics["reused"].keys() == {"closed-book", "concat", "mixed"}
    manifest = read_manifest(again.path)
    assert manifest is not None
    asked = sum(again.metrics["cost"][name]["tokens"] for name in ("replug", "deep"))
    assert 0 < manifest["cost"]["tokens"] == asked
    taken = ("closed-book", "one-prompt", "mixed")
    before = sum(evaluated.metrics["cost"][name]["tokens"] for name in taken)
    assert manifest["cost"]["reused_tokens"] == pytest.approx(before)
    assert 0 < manifest["cost"]["reused_wall_s"] < read_cost(evaluated)["wall_s"]


def test_what_decides_answers_is_in_their_key(evaluated: Artifact) -> None:
    """Each field of a variant but its name, each input, and the choice of questions."""
    manifest = read_manifest(evaluated.path)
    assert manifest is not None
    inputs = {name: value["fingerprint"] for name, value in manifest["inputs"].items()}
    identity = {"config": manifest["config"], "inputs": inputs}
    keys = answer_keys(identity)
    assert keys["replug"] == keys["replug-again"]
    assert len(set(keys.values())) == len(keys) - 1
    others = [
        {**identity, "config": {**identity["config"], name: "other"}}
        for name in ("split", "limit", "seed", "precision")
    ]
    others += [{**identity, "inputs": {**inputs, name: "other"}} for name in ("ranked", "lm/mixed")]
    for field in dataclasses.fields(Variant):
        if field.name not in ("name", "lm", "ranked"):  # the last two stand in the inputs
            variants = [dict(record) for record in identity["config"]["variants"]]
            for record in variants:
                value = record[field.name]
                record[field.name] = f"{value}!" if isinstance(value, str) else value + 7
            others.append({**identity, "config": {**identity["config"], "variants": variants}})
    for other in others:
        assert answer_keys(other)["mixed"] != keys["mixed"]
    lacking = [{k: v for k, v in r.items() if k != "shots"} for r in manifest["config"]["variants"]]
    assert answer_keys({**identity, "config": {**manifest["config"], "variants": lacking}}) == {}


def test_damaged_answers_are_asked_again(evaluated: Artifact, chain: Chain, tmp_path: Path) -> None:
    shutil.copytree(evaluated.path, tmp_path / Path(evaluated.path).name)
    for part in (tmp_path / Path(evaluated.path).name / "closed-book").iterdir():
        part.write_bytes(part.read_bytes()[:-9] + b"x" * 9)
    closed_book = variants_of(chain)[0]
    config = EvaluateConfig(variants=(closed_book,), bootstrap=100, precision="fp32")
    (tmp_path / "evaluate-broken").mkdir()
    (tmp_path / "evaluate-broken" / "manifest.json").write_text("{")
    output = str(tmp_path / "evaluate-{fingerprint}")
    again = evaluate(config, ranked=chain.ranked, output=output, resources=ONE)
    assert again.metrics["reused"] == {}
    assert predictions(again, "closed-book") == predictions(evaluated, "closed-book")
    assert again.metrics["cost"]["closed-book"]["tokens"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"contrasts": ("a-minus-b",)}, "contrast 'a-minus-b', expected A-minus-B"),
        ({"variants": (Variant(), Variant())}, "all different"),
        ({"split": "evla"}, "evla"),
        ({"variants": (Variant(ensemble="answer"),)}, r"unknown ensemble 'answer'.*answers"),
        ({"variants": (Variant(template="Qa"),)}, r"unknown template 'Qa'.*qa"),
    ],
)
def test_bad_configs_are_refused(
    chain: Chain, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    output = str(tmp_path / "out")
    config = EvaluateConfig(**{"variants": (Variant(k=2),), **changes})
    filled = tuple(dataclasses.replace(v, lm=chain.lm) for v in config.variants)
    config = dataclasses.replace(config, variants=filled)
    with pytest.raises(InputError, match=message) as found:
        evaluate(config, ranked=chain.ranked, output=output, resources=ONE)
    assert "\n" not in str(found.value)
    assert read_manifest(output) is None


def test_the_largest_parts_of_each_lm_come_first() -> None:
    parts = [("b", [3], 9), ("a", [1], 50), ("b", [1, 100], 2), ("a", [10, 3], 7), ("b", [3], 64)]
    items = [{"lm": lm, "ks": ks, "rows": list(range(num))} for lm, ks, num in parts]
    found = [(item["lm"], max(item["ks"]), len(item["rows"])) for item in largest_first(items)]
    assert found == [("b", 100, 2), ("b", 3, 64), ("b", 3, 9), ("a", 10, 7), ("a", 1, 50)]
