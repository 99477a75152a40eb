"""Contract of the cost model: formulas that can be counted by hand, what fits and what does not,
and the FLOPs that squad_open's manifests hold.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.plan import FILE, publish_plan, rows_of, table
from benchmarks.publish import between
from radit_ray.cli import _dispatch
from radit_ray.core.errors import InputError
from radit_ray.plan import (
    DEVICES,
    Rates,
    Sizes,
    number,
    plan_run,
    read_rates,
    text,
    together,
)
from radit_ray.plan_like import SETTINGS, Counts, Pilot, changes_of, plan_like
from radit_ray.recipes import paper, squad_open

RATES = Rates(inference_flops_per_s=1e12, training_flops_per_s=5e11, search_bytes_per_s=1e10)
SIZES = Sizes(num_chunks=1e6, lm_parameters=7e9)
SCALE = Path(__file__).parents[1] / "docs" / "scale.md"
RESULTS = Path(__file__).parents[1] / "docs" / "results" / "squad_open.json"


def test_stages_by_hand() -> None:
    found = {plan.name: plan for plan in plan_run(paper(), SIZES, RATES, num_devices=8)}
    lm_ft = found["lm-ft"]
    assert lm_ft.flops == pytest.approx(6 * 7e9 * 500 * 64 * 2048)
    assert lm_ft.device_s == pytest.approx(lm_ft.flops / 5e11)
    assert lm_ft.wall_s == pytest.approx(20 + lm_ft.device_s / 8)
    embed = found["embed"]
    assert embed.flops == pytest.approx(2 * 110e6 * 1e6 * 135)
    assert embed.storage_bytes > 2 * 768 * 1e6
    assert found["index"].memory_bytes == pytest.approx(2 * 768 * 1e6 / 8)
    whole = together(list(found.values()))
    assert whole.wall_s == pytest.approx(sum(plan.wall_s for plan in found.values()))
    assert "together" in text(list(found.values()))


def test_the_papers_index_has_its_size() -> None:
    sizes = Sizes(num_chunks=399e6, lm_parameters=7e9)
    found = {plan.name: plan for plan in plan_run(paper(), sizes, RATES, num_devices=1)}
    assert found["index"].memory_bytes == pytest.approx(613e9, rel=0.01)  # fp16 x 768
    assert found["retrieve"].note == "the vectors do not fit these devices' memory"
    assert found["lm-ft"].note == "needs 2 devices"
    many = {plan.name: plan for plan in plan_run(paper(), sizes, RATES, num_devices=8)}
    assert many["lm-ft"].note.startswith("resources.zero_stage=3")
    assert many["score"].note == ""


def test_money_and_time_go_with_devices() -> None:
    priced = Rates(**{**RATES.__dict__, "price_per_hour": 2.0, "start_s": 0.0})
    one, four = (plan_run(paper(), SIZES, priced, num_devices=n) for n in (1, 4))
    for a, b in zip(one, four, strict=True):
        assert b.wall_s == pytest.approx(a.wall_s / 4)
        assert b.money == pytest.approx(a.money)


def test_flops_of_squad_open_are_those_of_its_manifests() -> None:
    """Within a tenth, from sizes that are known beforehand."""
    measured = json.loads(RESULTS.read_text())["stages"]
    sizes = Sizes(
        num_chunks=34_679,
        lm_parameters=22.55e6,
        encoder_parameters=10.8e6,
        dimension=384,
        words_per_chunk=107.5,
        num_train=15_328,
        num_eval=2_566,
        question_words=12,
    )
    found = {plan.name: plan for plan in plan_run(squad_open(), sizes, RATES, num_devices=2)}
    for name in ("embed", "score", "evaluate"):
        assert found[name].flops == pytest.approx(measured[name]["cost"]["flops"], rel=0.1), name


def cell(predicted: float, measured: float) -> dict[str, float]:
    return {"by_rates": 2 * predicted, "predicted": predicted, "measured": measured}


def test_a_benchmark_of_the_plan_holds_the_larger_factor_either_way(tmp_path: Path) -> None:
    stages = {
        "embed": {"wall_s": cell(10.0, 40.0), "flops": cell(3e9, 1e9)},
        "score": {"wall_s": cell(3.0, 6.0)},  # the start of processes
        "index": {"wall_s": cell(20.0, 20.0), "flops": cell(0.0, 0.0)},  # nothing to compare
    }
    rows = {row["name"]: row for row in rows_of("half", stages)}
    assert {name: row["ratio"] for name, row in rows.items()} == {
        "half/embed/wall_s": 4.0,
        "half/embed/flops": 3.0,
        "half/score/wall_s": 2.0,
        "half/index/wall_s": 1.0,
        "half/together/wall_s": 2.0,
    }
    assert [name for name, row in rows.items() if row["bound"]] == ["half/score/wall_s"]
    made = {"command": "python -m benchmarks.plan x", "commit": "abc", "hardware": "2 cores"}
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "scale.md"
    page.write_text(SCALE.read_text())
    publish_plan({**made, "run_commits": ["abc"], "rows": list(rows.values())}, root=tmp_path)
    assert "| embed | wall_s | 20 / 10 / 40 |" in page.read_text()
    assert "1 of 5 figures are within a factor of 1.2 and 1 more" in page.read_text()
    assert page.read_text().partition("<!-- plan")[0] == SCALE.read_text().partition("<!-- plan")[0]


def test_the_table_of_the_plan_is_that_of_its_file() -> None:
    if FILE.exists():
        results = json.loads(FILE.read_text())
        assert between(SCALE.read_text(), "plan", table(results)) == SCALE.read_text()


def test_bad_numbers_devices_and_files(tmp_path: Path) -> None:
    for text_, message in (("7X", "'7X', expected a number"), ("0", "above 0"), ("", "above 0")):
        with pytest.raises(InputError, match=message):
            number(text_)
    with pytest.raises(InputError, match=r"unknown device 'a10'"):
        _dispatch(["plan", "paper", "--chunks", "1M", "--lm", "7B", "--device", "a10"])
    with pytest.raises(InputError, match="num_devices=0"):
        plan_run(paper(), SIZES, RATES, num_devices=0)
    for sizes, rates, message in (
        ({"words_per_chunk": -5.0}, {}, "words_per_chunk=-5.0 of Sizes, expected more than 0"),
        ({"dimension": 0}, {}, "dimension=0 of Sizes"),
        ({}, {"search_bytes_per_s": 0.0}, "search_bytes_per_s=0.0 of Rates, expected more than 0"),
        ({}, {"price_per_hour": -1.0}, "price_per_hour=-1.0 of Rates, expected 0 or more"),
    ):
        one, other = dataclasses.replace(SIZES, **sizes), dataclasses.replace(RATES, **rates)
        with pytest.raises(InputError, match=message):
            plan_run(paper(), one, other, num_devices=1)
    file = tmp_path / "rates.json"
    with pytest.raises(InputError, match="does not exist"):
        read_rates(str(file))
    for content, message in (
        ('{"inference_flops": 1}', "unknown field 'inference_flops'.*inference_flops_per_s"),
        ("{", "expected JSON"),
        ('{"start_s": 1}', "expected JSON with the fields of Rates"),
    ):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            read_rates(str(file))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    _dispatch(["plan", "paper", "--chunks", "399M", "--lm", "65B", "--gpus", "64", "--price", "2"])
    shown = capsys.readouterr().out
    assert "together" in shown
    assert "resources.zero_stage=3" in shown
    _dispatch(["plan", "paper", "--chunks", "37M", "--lm", "7B", "--json"])
    assert [row["name"] for row in json.loads(capsys.readouterr().out)][:2] == ["chunk", "embed"]
    assert set(DEVICES) == {"a100", "h100", "h200"}


def test_the_price_of_a_file_of_rates_counts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "rates.json"
    file.write_text(json.dumps({**dataclasses.asdict(RATES), "price_per_hour": 2.0}))
    words = ["plan", "paper", "--chunks", "37M", "--lm", "7B", "--rates", str(file), "--json"]
    _dispatch(words)
    money = sum(row["money"] for row in json.loads(capsys.readouterr().out))
    assert money > 0
    _dispatch([*words, "--price", "4"])
    assert sum(r["money"] for r in json.loads(capsys.readouterr().out)) == pytest.approx(2 * money)


# --- like a small run ---


def manifest(wall_s: float, device_s: float, **more: Any) -> dict[str, Any]:
    cost = {"wall_s": wall_s, "device_s": device_s, "flops": 1e9, "peak_memory_bytes": 1000.0}
    return {"cost": cost, "files": [{"bytes": 100}], "metrics": {}, **more}


def small_run(**fields: Any) -> Pilot:
    settings = dict.fromkeys(SETTINGS, 1.0) | {
        "chunk.docs_per_shard": 2000.0,
        "retrieve.corpus_examples": 20.0,
        "retrieve.examples_per_shard": 10.0,
        "lm_ft.steps": 10.0,
        "score.num_examples": 50.0,
        "score.dev_limit": 10.0,
        "evaluate.limit": 0.0,
    }
    stages = {
        "chunk": manifest(2.0, 1.0, metrics={"num_documents": 10}, rows=100),
        "embed": manifest(7.0, 4.0),
        "index": manifest(2.0, 0.5, metrics={"dimension": 4, "kind": "flat"}),
        "retrieve": manifest(9.0, 8.0),
        "lm-ft": manifest(30.0, 12.0),
        "score": manifest(8.0, 6.0),
        "r-ft": manifest(25.0, 8.0),
        "retrieve-tuned": manifest(9.0, 8.0),
        "evaluate": manifest(20.0, 30.0),
    }
    counts = Counts(num_chunks=100, num_train=60, num_dev=20, num_eval=40)
    made = Pilot(settings=settings, counts=counts, cluster={"CPU": 2.0, "GPU": 0.0}, stages=stages)
    return dataclasses.replace(made, **fields)


def test_a_plan_like_a_run_is_that_run() -> None:
    small = small_run()
    for plan in plan_like(small, small.counts):
        found = small.stages[plan.name]["cost"]
        assert plan.wall_s == pytest.approx(found["wall_s"]), plan.name
        assert plan.device_s == pytest.approx(found["device_s"])
        assert (plan.flops, plan.storage_bytes) == (1e9, 100)


def test_work_grows_and_start_up_does_not() -> None:
    small = small_run()
    many = Counts(num_chunks=1000, num_train=600, num_dev=200, num_eval=400)
    changes = {"lm_ft.steps": 40.0, "score.num_examples": 500.0, "score.dev_limit": 100.0}
    changes["retrieve.corpus_examples"] = 200.0
    found = {plan.name: plan for plan in plan_like(small, many, changes, price_per_hour=3600.0)}
    # start-up 5 s: 8 / 2 of the 9; the work ten times, on two workers
    assert found["retrieve"].wall_s == pytest.approx(5 + 40)
    assert found["evaluate"].wall_s == pytest.approx(5 + 150)
    # one process trains: 18 s are start-up; a model is as large after more steps
    assert found["lm-ft"].wall_s == pytest.approx(18 + 4 * 12)
    assert found["lm-ft"].storage_bytes == 100
    assert found["score"].device_s == pytest.approx(60)
    assert found["index"].storage_bytes == pytest.approx(1000)
    assert found["lm-ft"].money == pytest.approx(2 * (18 + 4 * 12))
    four = {plan.name: plan for plan in plan_like(small, many, changes, num_devices=4)}
    assert four["evaluate"].wall_s == pytest.approx(5 + 75)
    # ten documents of a shard for 250: its one worker had all of the 4 s
    assert found["embed"].device_s == pytest.approx(40)
    assert found["embed"].wall_s == pytest.approx(3 + 40)


def test_many_more_vectors_are_read_or_told_of() -> None:
    small = small_run()
    huge = dataclasses.replace(small.counts, num_chunks=1e6)
    vectors = 2 * (1e6 - 100) * 4
    told = {plan.name: plan for plan in plan_like(small, huge)}
    assert "give --rates" in told["retrieve"].note
    read = {plan.name: plan for plan in plan_like(small, huge, search_bytes_per_s=1e6)}
    assert read["retrieve"].note == ""
    assert read["retrieve"].device_s == pytest.approx(8 + vectors / 1e6)  # one batch
    # each worker of the search holds its part of them
    assert read["retrieve"].memory_bytes == pytest.approx(1000 + vectors / 2)
    hnsw = {**small.stages, "index": manifest(2.0, 0.5, metrics={"dimension": 4, "kind": "hnsw"})}
    other = small_run(stages=hnsw)
    made = {plan.name: plan for plan in plan_like(other, huge, search_bytes_per_s=1e6)}
    assert made["retrieve"].device_s == 8


def test_workers_are_what_a_stage_asked_for() -> None:
    """One on two CPUs: all of the 8 s are its own, and more CPUs bring it nothing."""
    small = small_run()
    one = {**small.stages, "retrieve": manifest(9.0, 8.0, resources={"num_workers": 1})}
    pilot = small_run(stages=one)
    many = dataclasses.replace(small.counts, num_train=660, num_eval=440)
    for devices in (0, 8):
        found = {plan.name: plan for plan in plan_like(pilot, many, num_devices=devices)}
        times = (660 + 20 + 440 + 20) / (60 + 20 + 40 + 20)
        assert found["retrieve"].wall_s == pytest.approx(1 + 8 * times)


def test_answers_taken_from_elsewhere_count() -> None:
    small = small_run()
    spent = {"wall_s": 0.5, "reused_wall_s": 19.5, "reused_device_s": 30.0, "reused_flops": 1e9}
    taken = {**small.stages, "evaluate": {**manifest(1.0, 1.0), "cost": spent}}
    for pilot in (small, small_run(stages=taken)):
        found = {plan.name: plan for plan in plan_like(pilot, small.counts)}["evaluate"]
        assert (found.wall_s, found.device_s, found.flops) == pytest.approx((20.0, 30.0, 1e9))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "lm_ft.step=5"], r"lm_ft\.step=5: a plan like a run goes by .*lm_ft\.steps"),
        (["--set", "lm_ft.seq_len=5"], r"lm_ft\.seq_len=5: a plan like a run goes by"),
        (["--set", "lm_ft.steps=many"], r"lm_ft\.steps=many; expected a number of 1 or more"),
        (["--set", "lm_ft.steps=nan"], "expected a number of 1 or more"),
        (["--set", "chunk.docs_per_shard=0"], "expected a number of 1 or more"),
    ],
)
def test_bad_settings_of_a_plan_like_a_run(words: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        changes_of(words[1:])


def test_bad_small_runs(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no run\.json"):
        _dispatch(["plan", "like", str(tmp_path)])
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(InputError, match="stage chunk is not there; expected a finished run"):
        _dispatch(["plan", "like", str(tmp_path)])
    for wrong in ({"num_devices": -1}, {"price_per_hour": -3.0}):
        with pytest.raises(InputError, match="expected 0 or more"):
            plan_like(small_run(), small_run().counts, **wrong)  # type: ignore[arg-type]


@pytest.mark.ray
def test_a_finished_run_is_read(own_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _dispatch(["plan", "like", str(own_run), "--json"])
    found = {plan["name"]: plan for plan in json.loads(capsys.readouterr().out)}
    stages = json.loads((own_run / "results.json").read_text())["stages"]
    assert found.keys() == stages.keys()
    for name, plan in found.items():
        assert plan["wall_s"] >= stages[name]["cost"]["wall_s"] - 1e-6  # or more than one worker
        assert plan["device_s"] == pytest.approx(stages[name]["cost"]["device_s"])
    _dispatch(["plan", "like", str(own_run), "--eval", "10k", "--set", "lm_ft.steps=1000"])
    assert "together" in capsys.readouterr().out
