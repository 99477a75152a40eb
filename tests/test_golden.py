"""Contract of the golden ledger: every prompt, token id, log-probability, prediction and metric of
`tests/golden/` comes out again, and nothing in it hangs on rounding. It is written by hand only:
`python tests/golden/make.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from closed_form import closed_form_lm
from ledger import FOLDER, SHOWN, as_text, cases, compute, differences, inputs

from radit_ray.core.ensembles import Scoring
from radit_ray.core.templates import INSTRUCTIONS
from radit_ray.data.rows import CATEGORIES
from radit_ray.engines import answering
from radit_ray.engines.variants import ENSEMBLES
from radit_ray.models.causal_lm import CausalLM

FILES = ("lm", "table-12", "table-10", "truncation", "ensembles", "metrics")
MARGIN = 2e-4  # nats between the best and the second: some hundred times the rounding of fp32


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> CausalLM:
    return CausalLM.load(closed_form_lm(tmp_path_factory.mktemp("golden")), precision="fp32")


class Margins:
    """Every call of the LM's `generate`, to be looked at again token by token."""

    def __init__(self, lm: CausalLM) -> None:
        self.lm, self.calls = lm, []

    def generate(self, prompts: list[list[int]], **options: Any) -> list[list[int]]:
        made = CausalLM.generate(self.lm, prompts, **options)
        self.calls.append((prompts, made, options))
        return made

    @torch.inference_mode()
    def smallest(self) -> float:
        """Nats between the token taken and the next best, over all steps of all calls."""
        found = []
        for prompts, made, options in self.calls:
            size = options.get("group_size", 1)
            log_p_r = options.get("log_p_r")
            for number, answer in enumerate(made):
                group = prompts[number * size : (number + 1) * size]
                weight_K = torch.zeros(1) if size == 1 else torch.tensor(log_p_r[number])
                for at in range(min(len(answer) + 1, options["max_new_tokens"])):
                    ids = [[*prompt, *answer[:at]] for prompt in group]
                    rows = [self.lm.model(input_ids=torch.tensor([i])).logits[0, -1] for i in ids]
                    logprob_KV = torch.stack(rows).log_softmax(-1)
                    mixed_V = torch.logsumexp(logprob_KV + weight_K[:, None], dim=0)
                    first, second = mixed_V.topk(2).values.tolist()
                    found.append(first - second)
        return min(found)


@pytest.fixture(scope="module")
def margins(lm: CausalLM) -> Margins:
    return Margins(lm)


@pytest.fixture(scope="module")
def found(lm: CausalLM, margins: Margins) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lm, "generate", margins.generate, raising=False)
        return compute(lm)


def written(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", FILES)
def test_the_ledger_comes_out_again(found: dict[str, Any], name: str) -> None:
    lines = differences(written(name), found[name], name)
    assert not lines, "\n".join(lines[:20])


def test_no_choice_of_a_token_hangs_on_rounding(found: dict[str, Any], margins: Margins) -> None:
    assert len(margins.calls) > 6
    assert margins.smallest() > MARGIN


def test_no_choice_of_an_answer_hangs_on_rounding(found: dict[str, Any]) -> None:
    weighed = 0
    for case in found["ensembles"].values():
        scores = sorted(case["candidate_logprobs"], reverse=True)
        if len(scores) > 1:
            weighed += 1
            assert scores[0] - scores[1] > MARGIN
    assert weighed > 10


def test_it_covers_every_template_category_ensemble_and_scoring(found: dict[str, Any]) -> None:
    assert set(found) == set(FILES)
    assert set(found["table-12"]) == set(INSTRUCTIONS)
    assert set(found["table-10"]) == set(CATEGORIES)
    names = [name for name, _, _ in cases()]
    for ensemble in ENSEMBLES:
        asked = [f"{example}, {ensemble}" for example in ("qa", "fever", "mmlu")]
        scored = [f"question-answer, {ensemble}, {scoring}" for scoring in get_args(Scoring)]
        expected = [f"{name}, {number}-shot" for name in asked for number in (0, 2)] + scored
        assert set(expected) <= set(names)
    for entry in found["table-12"].values():
        shown = ("0-shot", "0-shot chunk", "2-shot", "2-shot chunk")
        assert all(entry[name].keys() == {"prompt", "ids", "logprob"} for name in shown)
        assert len(entry["2-shot"]["ids"]) > len(entry["0-shot"]["ids"])
    predictions = set(answering.PREDICTION.names)
    assert set(SHOWN) < predictions


def test_a_difference_is_found_where_it_begins() -> None:
    tree = {"a": {"ids": [1, 2, 3], "logprob": -1.5}, "b": [{"text": "x"}]}
    assert differences(tree, json.loads(json.dumps(tree)), "t") == []
    other = {"a": {"ids": [1, 9, 3], "logprob": -1.50001}, "b": [{"text": "y", "more": 1}]}
    assert differences(tree, other, "t") == [
        "t/a/ids[1]: expected 2, found 9",
        "t/b[0]/text: expected 'x', found 'y'",
        "t/b[0]/more: expected '(nothing)', found 1",
    ]
    assert differences({"v": 1.0}, {"v": 1.0002}, "t") == ["t/v: expected 1.0, found 1.0002"]
    assert differences({"v": [1]}, {"v": [1, 2]}, "t") == ["t/v: expected [1], found [1, 2]"]


def test_the_files_are_small_and_as_they_are_written() -> None:
    files = sorted(FOLDER.glob("*.json"))
    assert [file.stem for file in files] == sorted((*FILES, "inputs"))
    assert sum(file.stat().st_size for file in files) < 200_000
    for name in FILES:
        assert Path(FOLDER, f"{name}.json").read_text(encoding="utf-8") == as_text(written(name))
    assert set(inputs()["templates"]) == set(INSTRUCTIONS)
