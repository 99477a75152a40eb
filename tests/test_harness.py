"""Contract of the lm-evaluation-harness model: local tasks of all kinds run through a variant, from
Python and from the command line; without chunks the results are those of the harness's own model of
the same weights; order, cache and errors are as the harness expects. Skipped where it is not
installed, but for the line that says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from chain import Chain, write_run
from tiny import documents, facts, questions, write_jsonl

from radit_ray.core.errors import InputError

pytestmark = pytest.mark.ray
TASKS = ("tiny_choice", "tiny_answer", "tiny_text")


@pytest.fixture(scope="module")
def harness() -> Any:
    """The module under test."""
    pytest.importorskip("lm_eval")
    import radit_ray.harness

    return radit_ray.harness


@pytest.fixture(scope="module")
def run(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_run(chain, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task of each kind over rows of its own."""
    folder = tmp_path_factory.mktemp("tasks")
    mayors = [facts(number)[0] for number in range(40)]
    rows = []
    for number, asked in enumerate(q for q in questions()["eval"] if "mayor" in q["question"]):
        answer = asked["answers"][0]
        choices = [answer, *[name for name in mayors if name != answer][number : number + 3]]
        rows.append({"question": asked["question"], "answer": answer, "choices": choices})
    asked = write_jsonl(folder / "asked.jsonl", rows)
    texts = write_jsonl(folder / "texts.jsonl", [{"text": d["text"]} for d in documents()[:6]])
    kinds: dict[str, dict[str, Any]] = {
        "tiny_choice": {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": 0,
            "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        },
        "tiny_answer": {
            "output_type": "generate_until",
            "doc_to_target": "answer",
            "generation_kwargs": {"until": ["\n"], "max_gen_toks": 6, "do_sample": False},
            "metric_list": [{"metric": "exact_match"}],
        },
        "tiny_text": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "text",
            "metric_list": [{"metric": "word_perplexity"}],
        },
    }
    for name, kind in kinds.items():
        file = texts if name == "tiny_text" else asked
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": file},
                "cache_dir": str(folder / "cache"),
            },
            "test_split": "test",
            "doc_to_text": "Q: {{question}}\nA:",
            **kind,
        }
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return folder


def evaluate(model: Any, tasks: Path, names: tuple[str, ...] = TASKS, **options: Any) -> Any:
    """What the harness returns, without its own thousands of tasks."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    return simple_evaluate(
        model=model, tasks=list(names), task_manager=manager, bootstrap_iters=0, **options
    )


def answers(results: Any, name: str) -> list[Any]:
    """What the model gave for each request of a task, in the harness's order."""
    return [sample["filtered_resps"] for sample in results["samples"][name]]


def test_without_chunks_the_results_are_those_of_the_harness_own_model(
    harness: Any, run: str, chain: Chain, tasks: Path
) -> None:
    from lm_eval.models.huggingface import HFLM

    ours = evaluate(harness.RaditLM(run=run, variant="closed-book", precision="fp32"), tasks)
    # in a whole text the harness counts a BOS of the tokenizer as a token to predict, after another
    for bos, names in ((None, TASKS[:2]), (False, TASKS[2:])):
        theirs = evaluate(
            HFLM(pretrained=chain.lm, device="cpu", dtype="float32", add_bos_token=bos),
            tasks,
            names,
        )
        for name in names:
            found = theirs["results"][name]
            values = {key: value for key, value in found.items() if isinstance(value, float)}
            assert values
            assert {key: ours["results"][name][key] for key in values} == pytest.approx(values)
            for own, other in zip(answers(ours, name), answers(theirs, name), strict=True):
                same(name, own, other)


def same(name: str, own: list[Any], other: list[Any]) -> None:
    """Asserts that two models answer a document's requests alike, log-probs to 1e-4."""
    if name == "tiny_choice":
        assert [logprob for logprob, _ in own] == pytest.approx([x for x, _ in other], abs=1e-4)
        assert [greedy for _, greedy in own] == [greedy for _, greedy in other]
    elif name == "tiny_answer":
        assert own == other
    else:  # a whole text: some hundred nats
        assert own == pytest.approx(other, rel=1e-5)


@pytest.mark.parametrize("variant", ["replug", "tokens", "concat"])
def test_every_kind_of_task_runs_through_retrieval(
    harness: Any, run: str, tasks: Path, variant: str
) -> None:
    from radit_ray.engines.plain_text import continuations

    model = harness.RaditLM(run=run, variant=variant, precision="fp32")
    results = evaluate(model, tasks)
    assert results["config"]["radit"]["variant"]["k"] == 3
    assert 0 <= results["results"]["tiny_choice"]["acc,none"] <= 1
    assert results["results"]["tiny_text"]["word_perplexity,none"] > 1
    asked = [sample["doc"]["question"] for sample in results["samples"]["tiny_answer"]]
    contexts = [f"Q: {question}\nA:" for question in asked]
    expected = continuations(model.opened, contexts, max_new_tokens=6, until=["\n"])
    assert [text for (text,) in answers(results, "tiny_answer")] == expected


def test_the_cache_answers_what_was_asked_before(
    harness: Any, run: str, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = harness.RaditLM(run=run, variant="replug", precision="fp32")
    first = evaluate(model, tasks, use_cache=str(tmp_path / "cache"))
    for name in ("continuation_logprobs", "continuations", "text_logprobs"):
        monkeypatch.delattr(harness, name)  # whoever computed again would miss them
    again = evaluate(model, tasks, use_cache=str(tmp_path / "cache"))
    for name in TASKS:
        assert answers(again, name) == answers(first, name)


def test_the_command_line_knows_the_model(run: str, tasks: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    command = [sys.executable, "-m", "radit_ray.harness"]
    command += ["--model_args", f"run={run},variant=replug", "--include_path", str(tasks)]
    out = tmp_path / "out.json"
    done = subprocess.run(
        [*command, "--tasks", "tiny_choice,tiny_answer", "--output_path", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("out*.json")
    found = json.loads(file.read_text())
    assert found["config"]["model"] == "radit"
    assert set(found["results"]) == {"tiny_choice", "tiny_answer"}
    wrong = [*command, "--tasks", "tiny_choice", "--model_args", f"run={run},variant=replg"]
    done = subprocess.run(wrong, capture_output=True, text=True)
    assert done.returncode == 2
    assert "did you mean 'replug'" in done.stderr.splitlines()[-1]


def test_bad_arguments_are_one_line(harness: Any, run: str, tmp_path: Path) -> None:
    for arguments, message in (
        ({}, "no run given; expected --model_args run=FOLDER"),
        ({"run": str(tmp_path)}, r"no run\.json"),
        ({"run": run, "varaint": "radit"}, "'varaint'; did you mean 'variant'"),
        ({"run": run, "variant": "radit"}, "has no variant 'radit'"),
        ({"run": run, "variant": "replug", "query": "end"}, "unknown query 'end'"),
    ):
        with pytest.raises(InputError, match=message):
            harness.RaditLM(**arguments)


def test_only_greedy_decoding_is_offered(harness: Any, run: str) -> None:
    from lm_eval.api.instance import Instance

    model = harness.RaditLM(run=run, variant="closed-book", precision="fp32")

    def write(**arguments: Any) -> str:
        request = Instance("generate_until", {}, ("Q: who?\nA:", arguments), 0)
        (text,) = model.generate_until([request], disable_tqdm=True)
        return str(text)

    text = write(until=["\n"], max_gen_toks=8)
    assert write(until="\n", max_new_tokens=8, do_sample=False, temperature=1.0) == text
    assert write(until=["", "\n"], max_gen_toks=8, temperature=0, num_beams=1) == text
    for wrong, message in (
        ({"do_sample": True}, "only greedy decoding is supported"),
        ({"temperature": 0.7}, "only greedy decoding is supported"),
        ({"num_beams": 4}, "only greedy decoding is supported"),
        ({"repetition_penalty": 2}, "unknown generation argument 'repetition_penalty'"),
        ({"max_gen_toks": 256}, "max_gen_toks=256, expected 1 or more and less than"),
    ):
        with pytest.raises(InputError, match=message):
            write(**wrong)


@pytest.mark.parametrize("name", ["radit_ray.harness", "__main__"])
def test_without_the_extra_one_line_says_how_to_get_it(name: str) -> None:
    code = (
        "import runpy, sys\nsys.modules['lm_eval'] = None\n"
        f"try: runpy.run_module('radit_ray.harness', run_name={name!r})\n"
        "except ValueError as error: sys.exit(f'{type(error).__name__}: {error}')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    start, status = ("radit", 2) if name == "__main__" else ("InputError", 1)
    assert done.returncode == status
    assert done.stderr.splitlines()[-1] == (
        f"{start}: lm-evaluation-harness is not installed; pip install 'radit-ray[lm-eval]'"
    )
