"""Every string of Tables 10 and 12, letter for letter, and what stands around it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from typing import Any

import pytest

from radit_ray.core.errors import InputError
from radit_ray.core.templates import (
    ANSWER_S,
    INST_S,
    INSTRUCTIONS,
    Prompt,
    background,
    clean_answer,
    eval_prompt,
    format_chunk,
    gold_answer,
    gold_choice,
    options,
    resolve_template,
    retrieval_query,
    shot,
    train_prompt,
)

CHUNK = ("Emma", "Emma is a novel.")
BACKGROUND = "Background: Emma Emma is a novel.\n\n"


def _row(question: str, category: str = "open-domain-qa", **more: Any) -> dict[str, Any]:
    return {"id": "1", "category": category, "question": question, **more}


QA = _row("who wrote emma", answers=["Jane Austen", "Austen"])
MMLU = _row("Which?", "multiple-choice", choices=["red", "blue", "green", "grey"], answers=["blue"])
WOW = _row("I like jazz.\nWho plays it?\nMiles Davis did.\nWhen?", "dialogue", answers=["In 1959."])
AIDA = _row(
    "",
    "entity-linking",
    context="He met [START_ENT] Austen [END_ENT] in Bath.",
    answers=["Jane Austen"],
)
FEVER = _row("Emma is a film.", "fact-checking", answers=["REFUTES"])
SLOT = _row("Emma [SEP] author", "slot-filling", answers=["Jane Austen"])
BOOLQ = _row("is it old", context="It is old.", choices=["no", "yes"], answers=["yes"])
SIQA = _row("Why?", context="Ann left.", choices=["tired", "sad"], answers=["sad"])
HELLASWAG = _row(
    "", context="She opens the door and", choices=["leaves.", "flies."], answers=["leaves."]
)
WINOGRANDE = _row("The cup fell off the shelf as _ was wet.", choices=["it", "Ann"], answers=["it"])
READING = _row("Who?", "reading-comprehension", context="Ann wrote it.", answers=["Ann"])
SUMMARY = _row("", "summarization", context="A long article.", answers=["Short."])
CORPUS = _row("The first half", "corpus", answers=["and the second."])
PLAIN = _row("Continue this:", "plain", answers=["ok"])

AIDA_TEXT = (
    "He met [START_ENT] Austen [END_ENT] in Bath.\nOutput the Wikipedia page title of the entity "
    "mentioned "
    "between [START_ENT] and [END_ENT] in the given text\nA:"
)
WOW_TEXT = "A: I like jazz.\nQ: Who plays it?\nA: Miles Davis did.\nQ: When?\nA:"


@pytest.mark.parametrize(
    ("row", "template", "expected"),
    [
        (QA, "qa", "Q: who wrote emma\nA:"),
        (MMLU, "mmlu", "Question: Which?\nA. red\nB. blue\nC. green\nD. grey\nA:"),
        (FEVER, "fever", "Is this statement true? Emma is a film.\nA:"),
        (AIDA, "aida", AIDA_TEXT),
        (SLOT, "slot-filling", "Emma [SEP] author\nA:"),
        (_row("Hi\nHello\nWho plays jazz?"), "wow", "Q: Hi\nA: Hello\nQ: Who plays jazz?\nA:"),
        (QA, "question-answer", "Question: who wrote emma\nAnswer:"),
        (BOOLQ, "boolq", "It is old.\nQuestion: is it old\nAnswer:"),
        (SIQA, "siqa", "Ann left. Q: Why? A:"),
        (HELLASWAG, "hellaswag", "She opens the door and"),
        (WINOGRANDE, "winogrande", "The cup fell off the shelf as"),
        (PLAIN, "plain", "Continue this:"),
    ],
)
def test_table_12(row: dict[str, Any], template: str, expected: str) -> None:
    assert eval_prompt(row, template=template).text == expected
    with_chunk = eval_prompt(row, template=template, chunk=CHUNK)
    assert with_chunk.background == BACKGROUND
    assert with_chunk.instruction == expected
    assert with_chunk.text == BACKGROUND + expected


ALL_ROWS = [QA, MMLU, WOW, AIDA, FEVER, SLOT, READING, SUMMARY, CORPUS, PLAIN]


@pytest.mark.parametrize("row", ALL_ROWS, ids=lambda row: str(row["category"]))
def test_no_instruction_ends_with_white_space(row: dict[str, Any]) -> None:
    assert eval_prompt(row).instruction.strip() == eval_prompt(row).instruction
    for seed in range(9):
        instruction = train_prompt(row, seed=seed).instruction
        assert instruction.rstrip() == instruction


def test_auto_follows_the_category() -> None:
    names = [resolve_template(row) for row in ALL_ROWS]
    assert names == [
        "qa",
        "mmlu",
        "wow",
        "aida",
        "fever",
        "slot-filling",
        "reading-comprehension",
        "summarization",
        "corpus",
        "plain",
    ]
    assert resolve_template(_row("x", "chain-of-thought")) == "qa"
    assert resolve_template(_row("x", "multiple-choice")) == "question-answer"
    assert resolve_template(_row("x", "", choices=["a"])) == "mmlu"
    assert resolve_template(_row("x", "")) == "qa"


def test_an_examples_own_template_goes_before_its_category() -> None:
    arc = {**MMLU, "template": "question-answer"}
    assert eval_prompt(arc).text == "Question: Which?\nAnswer:"
    assert gold_answer(arc) == "blue"
    assert options(arc) == MMLU["choices"]
    assert retrieval_query(arc) == ""
    assert resolve_template(arc, "mmlu") == "mmlu"
    with pytest.raises(InputError, match=r"unknown template 'boolqq'.*'boolq'"):
        eval_prompt({**MMLU, "template": "boolqq"})


def test_a_dialogue_ends_with_a_question() -> None:
    assert eval_prompt(WOW).text == WOW_TEXT


def test_reading_comprehension_and_summarization_take_their_own_context_and_no_chunk() -> None:
    for build in (eval_prompt, lambda row, chunk: train_prompt(row, chunk=chunk, seed=0)):
        assert build(READING, chunk=CHUNK).background == "Background: Ann wrote it.\n\n"  # type: ignore[operator]
        assert build(SUMMARY, chunk=CHUNK).background == "Background: A long article.\n\n"  # type: ignore[operator]
    assert eval_prompt(SUMMARY).instruction == "Summarize this article:\nA:"


def test_mmlu_letters_any_number_of_choices_up_to_26() -> None:
    row = _row("Which?", choices=[f"c{n}" for n in range(26)], answers=["c25"])
    assert eval_prompt(row, template="mmlu").instruction.endswith("\nZ. c25\nA:")
    assert options(row, "mmlu")[-1] == gold_answer(row, "mmlu") == "Z"
    row["choices"].append("c26")
    with pytest.raises(InputError, match="has 27 choices"):
        eval_prompt(row, template="mmlu")
    with pytest.raises(InputError, match="has no choices"):
        eval_prompt(QA, template="mmlu")


def test_mmlu_keeps_a_context_that_the_table_does_not_have() -> None:
    row = {**MMLU, "context": "It rains."}
    assert eval_prompt(row).instruction.startswith("Question: It rains. Which?\nA. red")


def test_options_are_what_is_scored() -> None:
    assert options(MMLU) == ["A", "B", "C", "D"]
    assert options(BOOLQ, "boolq") == ["no", "yes"]
    assert options(HELLASWAG, "hellaswag") == ["leaves.", "flies."]
    assert options(WINOGRANDE, "winogrande") == ["it was wet.", "Ann was wet."]
    with pytest.raises(InputError, match="has no choices"):
        options(QA)


def test_gold_answer_is_the_right_option() -> None:
    assert gold_answer(MMLU) == "B"
    assert gold_answer({**MMLU, "answers": ["D"]}) == "D"
    assert (
        gold_answer({**MMLU, "choices": ["B", "A"], "answers": ["A"]}) == "B"
    )  # text before letter
    assert gold_answer(MMLU, "question-answer") == "blue"
    assert gold_answer(WINOGRANDE, "winogrande") == "it was wet."
    assert gold_answer(QA) == "Jane Austen"
    assert gold_choice(SIQA) == 1
    for answers in (["yellow"], ["E"]):
        with pytest.raises(
            InputError, match=f"answer '{answers[0]}' of example '1' is none of its choices"
        ):
            gold_choice({**MMLU, "answers": answers})
    with pytest.raises(InputError, match="has no answer"):
        gold_answer(_row("x"))


@pytest.mark.parametrize(
    ("row", "template", "expected"),
    [
        (QA, "auto", "who wrote emma"),
        (MMLU, "auto", "Which? red blue green grey"),
        (AIDA, "auto", "Austen"),
        (FEVER, "auto", "Emma is a film."),
        (SLOT, "auto", "Emma [SEP] author"),
        (WOW, "auto", "I like jazz. Who plays it? Miles Davis did. When?"),
        (CORPUS, "auto", "The first half"),
        (READING, "auto", ""),
        (SUMMARY, "auto", ""),
        (PLAIN, "auto", ""),
        (BOOLQ, "boolq", ""),
        (MMLU, "question-answer", ""),
        ({**QA, "query": "emma author"}, "auto", "emma author"),
    ],
)
def test_retrieval_query(row: dict[str, Any], template: str, expected: str) -> None:
    assert retrieval_query(row, template) == expected


def test_table_10_samples_its_markers() -> None:
    seen: Counter[str] = Counter()
    for n in range(600):
        seen[train_prompt({**QA, "id": str(n)}, chunk=CHUNK, seed=0).text] += 1
    assert set(seen) == {f"{BACKGROUND}{s}who wrote emma\n{a}" for s in INST_S for a in ANSWER_S}
    assert all(
        60 <= count <= 140 for count in seen.values()
    )  # 100 expected, four standard deviations


def test_table_10_by_category() -> None:
    def one_of(text: str, middle: str) -> bool:
        return text in {f"{s}{middle}\n{a}" for s in INST_S for a in ANSWER_S}

    assert train_prompt(WOW, seed=0).text == WOW_TEXT.replace("\n", " ")
    assert one_of(train_prompt(READING, seed=0).instruction, "Who?")
    assert one_of(train_prompt(_row("Think.", "chain-of-thought"), seed=0).text, "Think.")
    assert one_of(train_prompt(MMLU, seed=0).text, "Which?\nA. red\nB. blue\nC. green\nD. grey")
    assert train_prompt(SUMMARY, seed=0).instruction in {
        f"Summarize this article:\n{a}" for a in ANSWER_S
    }
    assert train_prompt(CORPUS, chunk=CHUNK, seed=0).text == BACKGROUND + "The first half"
    assert train_prompt(FEVER, chunk=CHUNK, seed=0) == eval_prompt(FEVER, chunk=CHUNK)
    assert train_prompt(AIDA, seed=0) == eval_prompt(AIDA)


def test_markers_depend_on_seed_and_id_alone_in_every_process() -> None:
    code = (
        "from radit_ray.core.templates import train_prompt\n"
        "for n in range(20): print(repr(train_prompt({'id': str(n), 'question': 'x'}, "
        "seed=4).text))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = [repr(train_prompt({"id": str(n), "question": "x"}, seed=4).text) for n in range(20)]
    assert done.stdout.splitlines() == here
    assert here != [
        repr(train_prompt({"id": str(n), "question": "x"}, seed=5).text) for n in range(20)
    ]


def test_a_shot_is_a_whole_demonstration() -> None:
    assert shot(QA) == "Q: who wrote emma\nA: Jane Austen\n\n"
    assert shot(QA, chunk=CHUNK) == BACKGROUND + "Q: who wrote emma\nA: Jane Austen\n\n"
    assert shot(MMLU).endswith("D. grey\nA: B\n\n")
    prompt = eval_prompt(QA, chunk=CHUNK, shots=[shot(FEVER), shot(SLOT)])
    assert prompt.text == shot(FEVER) + shot(SLOT) + BACKGROUND + "Q: who wrote emma\nA:"


def test_parts() -> None:
    assert background("") == ""
    assert background("x") == "Background: x\n\n"
    assert format_chunk("", "body") == "body"
    assert format_chunk("Title", "body") == "Title body"
    assert Prompt(instruction="x").text == "x"


@pytest.mark.parametrize(
    ("decoded", "expected"),
    [
        (" Paris\nQ: next", "Paris"),
        (" Paris. ", "Paris."),
        ("\nParis", ""),
        ("", ""),
        ("Paris", "Paris"),
    ],
)
def test_clean_answer(decoded: str, expected: str) -> None:
    assert clean_answer(decoded) == expected


def test_unknown_names_are_suggested() -> None:
    with pytest.raises(InputError, match="unknown template 'mlu'; did you mean 'mmlu'"):
        eval_prompt(QA, template="mlu")
    with pytest.raises(InputError, match=r"unknown category 'open-qa'.*'open-domain-qa'"):
        eval_prompt(_row("x", "open-qa"))
    with pytest.raises(InputError, match="has no blank"):
        eval_prompt(QA, template="winogrande")
    assert len(INSTRUCTIONS) == 15
