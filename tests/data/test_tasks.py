"""Contract of the tasks: every pinned name is there with the paper's settings, `task:NAME` reads
what it says, and a part of it by `@N`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.examples import read_examples
from radit_ray.data.tasks import TASKS, listing, parse_task, sources

EVALUATION = (
    "mmlu nq triviaqa eli5 hotpotqa fever aida zsre t-rex wow boolq piqa siqa hellaswag winogrande "
    "arc-e arc-c obqa"
)
TRAINING = (
    "oasst1 commonsense_qa math_qa web_questions wiki_qa yahoo_answers_qa freebase_qa ms_marco "
    "coqa drop narrativeqa newsqa pubmed_qa quail quarel squad_v2 cnn_dailymail aqua_rat ecqa "
    "gsm8k competition_math strategyqa"
)


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of our own, with 40 questions of nq's dev split in DPR's format."""
    monkeypatch.setenv("RADIT_DATA", str(tmp_path))
    file = tmp_path / "qa" / "nq_open" / "NQ-open.dev.jsonl.xz"
    plain = file.with_suffix("")
    plain.parent.mkdir(parents=True)
    rows = [{"question": f"who is {n}", "answer": [f"name {n}"]} for n in range(40)]
    import lzma

    file.write_bytes(lzma.compress("\n".join(map(json.dumps, rows)).encode()))
    return tmp_path


def test_the_pinned_names_are_there() -> None:
    groups = {"evaluation": EVALUATION, "training": TRAINING}
    for group, names in groups.items():
        assert [t.name for t in TASKS.values() if t.paper == group] == names.split()
    assert [entry["name"] for entry in listing()] == list(TASKS)


def test_the_paper_settings() -> None:
    # Table 11; caps and shares of section 2
    scoring = {name: TASKS[name].scoring for name in EVALUATION.split()}
    by = {s: {name for name, value in scoring.items() if value == s} for s in scoring.values()}
    assert by["nll_char"] == {"piqa", "siqa", "hellaswag", "winogrande", "arc-e", "arc-c"}
    assert by["nll_compl"] == {"boolq", "obqa"}
    assert by["nll_token"] == {"eli5", "wow"}
    metrics = {name: TASKS[name].metric for name in ("nq", "eli5", "hotpotqa", "fever", "wow")}
    assert list(metrics.values()) == ["em", "rouge-l", "em", "accuracy", "f1"]
    lm_ft = [task for task in TASKS.values() if "lm-ft" in task.fine_tunes]
    assert len(lm_ft) == 20
    assert {task.name for task in TASKS.values() if "r-ft" in task.fine_tunes} >= {
        "freebase_qa",
        "ms_marco",
        "oasst1",
    }
    assert sum("r-ft" in task.fine_tunes for task in TASKS.values()) == 10
    assert TASKS["oasst1"].share == 0.05
    assert TASKS["gsm8k"].cap == 7500


def test_a_task_is_read_by_name(data: Path) -> None:
    rows = read_examples("task:nq")
    assert len(rows) == 40
    assert {(row["task"], row["split"], row["metric"]) for row in rows} == {("nq", "eval", "em")}
    assert rows[0]["id"].startswith("nq/")


def test_part_of_a_task_is_a_seeded_choice_that_is_nested(data: Path) -> None:
    def ids(spec: str) -> set[str]:
        return {row["id"] for row in read_examples(spec)}

    assert len(ids("task:nq@10")) == 10
    assert ids("task:nq@4") | ids("task:nq@4+6") == ids("task:nq@10")
    assert len(ids("task:nq@35+10")) == 5
    both = read_examples("eval=task:nq@4,train=task:nq:eval@4+6")
    assert [sum(row["split"] == split for row in both) for split in ("eval", "train")] == [4, 6]
    assert {row["id"] for row in read_examples("task:nq@10", seed=1)} != ids("task:nq@10")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("task:triviqa", "unknown task 'triviqa'; did you mean 'triviaqa'"),
        ("task:nq:eval2", "task 'nq' has no split 'eval2' (it has: train, dev, eval)"),
        ("task:nq@", "expected @N or @M+N behind a task"),
        ("task:nq@0", "expected @N or @M+N behind a task"),
        ("task:nq@1-2", "expected @N or @M+N behind a task"),
        ("task:nq@x+2", "expected @N or @M+N behind a task"),
        ("task:nq@40+2", "no usable example"),
        ("task:eli5", "task 'eli5' is neither below"),
    ],
)
def test_bad_specs(data: Path, spec: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        read_examples(spec)
    assert message in str(error.value)


def test_splits_that_a_task_has() -> None:
    assert parse_task("task:nq:validation")[1] == "dev"
    assert parse_task("task:mmlu@5")[0].name == "mmlu"
    assert sources("task:squad")[0].sample == 2500  # an official dev set that is measured
    assert sources("task:squad:dev")[0].sample == 0
