"""Rows of the well-known question sets in, the same fields under the project's names out.

| set | what is different |
|---|---|
| NQ-open, GSM8K | `answer`: a list or a string |
| SituatedQA | `edited_question`; ids repeat, so they become the `group` |
| WebQuestions | `qId`, `qText` |
| StrategyQA | `answer`: true or false, here "yes" or "no" |
| RealtimeQA, AQuA | the answer as index or letter of the choices |
| SQuAD JSON (XQuAD, SQuADShifts, COVID-QA, PolicyQA) | nested; see `flat_squad` |
| SQuAD on the hub | `answers`: {"text": [...]} |
| TriviaQA on the hub | `answer`: {"value", "aliases"} |
| MMLU, ARC, CommonsenseQA | `choices` as texts or {"text", "label"}, the answer as index or label |
| DPR question files | `question TAB ['answer', ...]` a line |
"""

from __future__ import annotations

import ast
import datetime
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data.documents import split_tsv
from radit_ray.data.records import Record, iter_lines

UNANSWERABLE = "I don't know"  # RA-DIT's footnote 3: what SQuAD v2's unanswerable questions get
_ALIASES = {
    "id": ("id", "_id", "qId", "question_id", "example_id"),
    "question": ("question", "qText"),
    "answers": ("answers", "answer", "answerKey"),
}
_SAME = ("task", "split", "category", "query", "context", "group", "exclude_ids")


def partial_example(value: Mapping[str, Any]) -> dict[str, Any]:
    """The example fields of one native row; unknown fields are left out.

    Without a `group` it is the gold chunk, else the article title: questions about one text stay in
    one split. InputError with the reason for a row whose fields have an unknown shape.
    """
    value = _flat(value)
    partial = {name: value[name] for name in _SAME if value.get(name) is not None}
    for name in ("id", "question"):
        found = _first(value, _ALIASES[name])
        if found is not None:
            partial[name] = str(found) if name == "id" and _is_number(found) else found
    date = value.get("date")
    if date is not None:
        is_date = isinstance(date, datetime.date)
        partial["date"] = date.isoformat() if is_date else str(date) if _is_number(date) else date
    texts, labels = _choices(value.get("choices"))
    if texts:
        partial["choices"] = texts
    partial["answers"] = _answers(_first(value, _ALIASES["answers"]), texts, labels)
    gold = value.get("gold_ids") or value.get("gold_pid")
    if gold:
        partial["gold_ids"] = [gold] if isinstance(gold, str) else gold
    if isinstance(value.get("title"), str):
        partial["article"] = value["title"]
    group = value.get("group") or value.get("gold_pid") or value.get("title")
    if group:
        partial["group"] = str(group) if _is_number(group) else group
    return partial


def _first(value: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if value.get(name) is not None), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _flat(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """Sets whose rows need more than other field names."""
    question = value.get("question")
    if isinstance(question, Mapping) and "stem" in question:  # CommonsenseQA, ARC
        choices = question.get("choices") or []
        columns = {name: [choice.get(name) for choice in choices] for name in ("label", "text")}
        return {**value, "question": question["stem"], "choices": columns}
    if "question_sentence" in value:  # RealtimeQA: answers are indices, written as strings
        indices = [int(text) if str(text).isdigit() else text for text in value.get("answer") or []]
        date = value.get("question_date")
        return {**value, "question": value["question_sentence"], "answer": indices, "date": date}
    if "edited_question" in value:  # SituatedQA: one id for all dates and places of a question
        return {**value, "question": value["edited_question"], "id": None, "group": value.get("id")}
    if "options" in value and "correct" in value:  # AQuA: "A)21"
        texts = [re.sub(r"^[A-Z]\)\s*", "", str(text)) for text in value["options"]]
        return {**value, "choices": texts, "answer": value["correct"]}
    return value


def _choices(found: Any) -> tuple[list[Any], list[Any]]:
    """Texts and labels; without labels these are A, B, C, ..."""
    if not found:
        return [], []
    if isinstance(found, Mapping):
        return list(found.get("text") or []), list(found.get("label") or [])
    if not isinstance(found, list):
        raise InputError(f"`choices` is {type(found).__name__}, not a list of strings")
    return found, [chr(ord("A") + index) for index in range(len(found))]


def _answers(found: Any, texts: list[Any], labels: list[Any]) -> list[Any]:
    if isinstance(found, Mapping):
        texts_of = found.get("text")
        if texts_of is None:
            texts_of = [found.get("value"), *(found.get("aliases") or [])]
        found = [text for text in texts_of if text is not None]
    if found is None:
        return []
    answers = list(found) if isinstance(found, list | tuple) else [found]
    return [_choice_text(answer, texts, labels) for answer in answers]


def _choice_text(answer: Any, texts: list[Any], labels: list[Any]) -> Any:
    """The text of the choice that an index (from 0) or a label names; anything else as it is."""
    if _is_number(answer) and texts:
        if not 0 <= answer < len(texts):
            raise InputError(f"answer {answer} is no index of {len(texts)} choices, from 0")
        return texts[answer]
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    if answer not in texts and answer in labels and len(labels) == len(texts):
        return texts[labels.index(answer)]
    return answer


def is_squad(value: Any) -> bool:
    """Whether one JSON object is a whole SQuAD file."""
    data = value.get("data") if isinstance(value, Mapping) else None
    return bool(isinstance(data, list) and data and "paragraphs" in data[0])


def flat_squad(value: Mapping[str, Any], category: str) -> Iterator[dict[str, Any]]:
    """One partial example per question of a SQuAD file: context = paragraph, group = article.

    In a file of one "article" (SQuADShifts' reddit) the paragraph is the group.

    Unanswerable questions (v2) are left out, except for reading comprehension, where the paper
    trains them with "I don't know".
    """
    try:
        single = len(value["data"]) == 1
        for article in value["data"]:
            title = str(article.get("title", ""))
            for number, paragraph in enumerate(article["paragraphs"]):
                for item in paragraph["qas"]:
                    answers = [answer["text"] for answer in item.get("answers") or []]
                    if item.get("is_impossible") and not answers:
                        if category != "reading-comprehension":
                            continue
                        answers = [UNANSWERABLE]
                    yield {
                        "id": str(item["id"]),
                        "question": item["question"].strip(),
                        "answers": answers,
                        "context": paragraph["context"],
                        "group": f"{title}#{number}" if single else title,
                        "article": title,
                    }
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"SQuAD JSON with an unknown shape ({error!r}); see its format") from error


def iter_dpr(path: str) -> Iterator[Record]:
    """The rows of DPR's question files; a list that is no Python list of strings is a fault."""
    for record in iter_lines(path):
        if not record.fault:
            record = _dpr_record(record)
        yield record


def _dpr_record(record: Record) -> Record:
    fields = split_tsv(record.raw)
    fault = "not `question<TAB>['answer', ...]`; give JSONL with `question` and `answers` instead"
    if len(fields) == 2:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # answers with a backslash, such as AC\DC
                answers = ast.literal_eval(fields[1].strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            answers = None
        if isinstance(answers, list | tuple) and all(isinstance(item, str) for item in answers):
            value = {"question": fields[0], "answers": list(answers)}
            return Record(line=record.line, raw=record.raw, value=value)
    return Record(line=record.line, raw=record.raw, fault=fault)
