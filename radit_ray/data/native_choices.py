"""Multiple-choice sets in their own fields in, fields that `native_examples` knows out.

| set | what is different |
|---|---|
| MMLU (CSV) | `choice0` ... `choice3`, the answer as index |
| BoolQ | `passage`; the answer true or false, here "yes" or "no"; a text is no BoolQ row |
| PIQA, Social IQa | `sol1 sol2`, `answerA ...`; `label` in the row or in `X-labels.lst` |
| HellaSwag | `ctx`, `endings`, `label` |
| WinoGrande | `sentence` with a blank `_`, `option1 option2`, the answer 1 or 2 |
| OpenBookQA on the hub | `question_stem` |
| XCOPA | `premise`, `choice1 choice2`, `question`: cause or effect |
| RealtimeQA | answers are indices, written as strings; a question without one is left out |
| QuAIL, DREAM | `correct_answer_id`; a dialogue with several questions |
| QuaRel | the options stand in the question: "(A) ... (B) ..." |
| MathQA | `Problem`, `options`: "a ) 38 , b ) 27" |
| LLM-Adapters' copies | one `instruction` text with question and options, `answer`: answer2 |

Each function takes one native row and yields none, one or several.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data.native_texts import as_text

Native = Mapping[str, Any]
YES_NO = ["yes", "no"]


def labelled(choices: list[Any], label: Any, *, first: int = 0) -> dict[str, Any]:
    """Choices and the answer that an index from `first`, number or digits, names."""
    text = str(label).strip()
    if not text.isdigit() or not 0 <= int(text) - first < len(choices):
        raise InputError(
            f"label {text[:40]!r} is no index of {len(choices)} choices, from {first}; a split "
            "without labels cannot be used"
        )
    return {"choices": choices, "answers": [choices[int(text) - first]]}


def mmlu(row: Native) -> Iterator[Native]:
    choices = [as_text(row[f"choice{number}"]) for number in range(4)]
    yield {"question": row["question"], **labelled(choices, row["answer"])}


def boolq(row: Native) -> Iterator[Native]:
    yield {
        "question": row["question"],
        "context": row["passage"],
        "choices": YES_NO,
        "answers": ["yes" if row["answer"] else "no"],
        "title": row.get("title"),
    }


def piqa(row: Native) -> Iterator[Native]:
    yield {"question": row["goal"], **labelled([row["sol1"], row["sol2"]], row.get("label", ""))}


def siqa(row: Native) -> Iterator[Native]:
    choices = [row[f"answer{letter}"] for letter in "ABC"]
    found = labelled(choices, row.get("label", ""), first=1)
    yield {"question": row["question"], "context": row["context"], **found}


def hellaswag(row: Native) -> Iterator[Native]:
    yield {"question": row["ctx"], **labelled(list(row["endings"]), row["label"])}


def winogrande(row: Native) -> Iterator[Native]:
    choices = [row["option1"], row["option2"]]
    yield {"question": row["sentence"], **labelled(choices, row["answer"], first=1)}


def openbookqa(row: Native) -> Iterator[Native]:
    yield {**row, "question": row["question_stem"]}


def xcopa(row: Native) -> Iterator[Native]:
    asks = {"cause": "What was the cause?", "effect": "What happened as a result?"}
    found = labelled([row["choice1"], row["choice2"]], row["label"])
    yield {"question": f"{as_text(row['premise'])} {asks[row['question']]}", **found}


def realtimeqa(row: Native) -> Iterator[Native]:
    indices = [int(text) if str(text).isdigit() else text for text in row.get("answer") or []]
    choices = list(row["choices"])
    while choices and not choices[-1].strip():  # a few rows end with an empty one
        choices.pop()
    if indices:
        question, date = row["question_sentence"], row.get("question_date")
        found = {"question": question, "choices": choices, "answer": indices, "date": date}
        yield {"id": row.get("question_id"), **found}


def quail(row: Native) -> Iterator[Native]:
    found = labelled(list(row["answers"]), row["correct_answer_id"])
    names = ("id", "question", "context")
    yield {**{name: row[name] for name in names}, "group": row.get("context_id"), **found}


def dream(row: Native) -> Iterator[Native]:
    """`{"dialogue": [turns, questions, id]}`, as `native_files.iter_dream` reads them."""
    turns, questions, name = row["dialogue"]
    for number, item in enumerate(questions):
        yield {
            "id": f"{name}-{number}",
            "question": item["question"],
            "context": "\n".join(turns),
            "choices": item["choice"],
            "answers": [item["answer"]],
            "group": name,
        }


def quarel(row: Native) -> Iterator[Native]:
    texts = re.split(r"\s*\([A-Z]\)\s*", row["question"])[1:]
    yield {"id": row["id"], "question": row["question"], **labelled(texts, row["answer_index"])}


def lettered(text: str) -> list[str]:
    """The options of "a ) 38 , b ) 27.675 , c ) none of these"."""
    return [part.strip() for part in re.split(r"(?:^|\s,)\s*[a-e]\s\)", text)[1:]]


def math_qa(row: Native) -> Iterator[Native]:
    options = lettered(row["options"])
    found = labelled(options, "abcde".find(row["correct"].strip()))
    yield {"question": row["Problem"], **found}


_HEAD = re.compile(r"^Please [^:]*: ")
_TAIL = re.compile(r"\s*Answer format: .*$", re.DOTALL)
_OPTION = re.compile(r"\s(?:Answer|Solution|Option)(\d): ")


def llm_adapters(row: Native) -> Iterator[Native]:
    """LLM-Adapters' rewording of ARC, OpenBookQA, PIQA, SIQA, WinoGrande, SciQ, BoolQ, MathQA."""
    text = as_text(row["instruction"])
    if ", The options: " in text:
        asked, _, options = text.partition(", The options: ")
        yield _adapters_math(asked, options, as_text(row["answer"]))
        return
    body = _TAIL.sub("", _HEAD.sub("", text))
    question, *parts = _OPTION.split(body)
    question = question.strip()
    if not parts:
        found = {"choices": YES_NO, "answers": [_yes_no(row["answer"])]}
    else:
        number = re.sub(r"\D", "", as_text(row["answer"]))
        found = labelled([part.strip() for part in parts[1::2]], number, first=1)
    yield {**_siqa_context(question, text), **found}


def _yes_no(answer: Any) -> str:
    """Anything but true and false is another set's row, whose answer would become "no" here."""
    verdicts = {"true": "yes", "false": "no"}
    if (text := str(answer).strip().lower()) not in verdicts:
        raise InputError(
            f"`answer` is {text[:40]!r}, expected true or false, as an `instruction` without "
            "options has it; for another answer give `question` and `answers`"
        )
    return verdicts[text]


def _siqa_context(question: str, text: str) -> dict[str, str]:
    """SIQA's copy (three answers) runs context and question together: the last sentence asks."""
    context, _, asked = question.rpartition(". ")
    if context and "Answer3: " in text and "Answer4: " not in text and asked.endswith("?"):
        return {"question": asked, "context": f"{context}."}
    return {"question": question}


def _adapters_math(question: str, options: str, answer: str) -> Native:
    """The answer is a number, 38.0; the options are texts, 38 or 38 %."""
    choices = lettered(options)
    for choice in choices:
        found = re.search(r"-?\d[\d,]*\.?\d*", choice)
        if found and float(found[0].replace(",", "")) == float(answer):
            return {"question": question.strip(), "choices": choices, "answers": [choice]}
    return {"question": question.strip(), "answers": [answer.removesuffix(".0")]}
