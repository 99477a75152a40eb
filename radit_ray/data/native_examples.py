"""Rows of the well-known question sets in, the same fields under the project's names out.

A row is told by the names of its fields (`SHAPES`), so that a set is understood from any file and
from the hub. What a set does beyond other names stands in `native_choices`, `native_chains` and
`native_texts`; the rest here:

| set | what is different |
|---|---|
| NQ-open | `answer`: a list or a string |
| WebQuestions | `qId`, `qText` |
| StrategyQA | `answer`: true or false, here "yes" or "no" |
| AQuA | the answer as letter of the options |
| SQuAD JSON (XQuAD, SQuADShifts, COVID-QA, PolicyQA) | nested; see `flat_squad` |
| SQuAD on the hub | `answers`: {"text": [...]} |
| TriviaQA on the hub | `answer`: {"value", "aliases"} |
| ARC, CommonsenseQA | `choices` as texts or {"text", "label"}, the answer as index or label |
| CuratedTREC | the answers are patterns; a text that fits is put before them |
| DPR question files | `question TAB ['answer', ...]` a line |
"""

from __future__ import annotations

import ast
import datetime
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data import native_chains as chains
from radit_ray.data import native_choices as choices
from radit_ray.data import native_texts as texts
from radit_ray.data.documents import split_tsv
from radit_ray.data.native_texts import UNANSWERABLE, as_text
from radit_ray.data.records import Record, iter_lines

Native = Mapping[str, Any]
Shape = Callable[[Native], Iterator[Native]]

_ALIASES = {
    "id": ("id", "_id", "qId", "qid", "question_id", "example_id"),
    "question": ("question", "qText"),
    "answers": ("answers", "answer", "answerKey"),
}
_SAME = (
    *("task", "split", "category", "query", "context", "group", "article", "exclude_ids"),
    *("template", "metric", "scoring"),
)

# The first line whose fields a row has. A shape behind a category is only for that one.
SHAPES: tuple[tuple[str, Shape], ...] = (
    ("question_sentence", choices.realtimeqa),
    ("edited_question", texts.situatedqa),
    ("instruction output answer", choices.llm_adapters),
    ("instruction instances", texts.self_instruct),
    ("choice0 choice1 choice2 choice3 answer", choices.mmlu),
    ("question passage answer", choices.boolq),
    ("goal sol1 sol2", choices.piqa),
    ("question answerA answerB answerC", choices.siqa),
    ("ctx endings label", choices.hellaswag),
    ("sentence option1 option2 answer", choices.winogrande),
    ("question_stem choices", choices.openbookqa),
    ("premise choice1 choice2 question label", choices.xcopa),
    ("correct_answer_id answers context", choices.quail),
    ("dialogue", choices.dream),
    ("answer_index question", choices.quarel),
    ("Problem options correct", choices.math_qa),
    ("q_text q_op1 q_ans", chains.ecqa),
    ("problem solution", chains.competition_math),
    ("input output", texts.kilt),
    ("claim label", texts.claim),
    ("question answer supporting_facts", texts.hotpotqa),
    ("question possible_answers", texts.popqa),
    ("question ground_truth", texts.retrievalqa),
    ("question false_premise answer_0", texts.freshqa),
    ("example_id context question answer", texts.expertqa),
    ("questions paras", texts.timeqa),
    ("question_text original_nq_answers", texts.qed),
    ("question ctxs nq_annotated_gold", texts.nq_oracle),
    ("query passages answers", texts.ms_marco),
    ("question document_title answer label", texts.wiki_qa),
    ("RawQuestion Parses", texts.freebase_qa),
    ("Questions", texts.freebase_qa),
    ("story questions answers", texts.coqa),
    ("passage question answers_spans", texts.drop_row),
    ("document question answers", texts.narrativeqa),
    ("pubid question context final_decision", texts.pubmed_qa),
    ("article highlights", texts.cnn_dailymail),
    ("sub_label obj_label", texts.lama),
    ("subject relation object", texts.triple),
    ("message_tree_id prompt", texts.openassistant),
    ("history whoSawDoc", texts.cmu_dog),
    ("evidence history response", texts.faithdial),
    ("base_prompt answer", texts.legalbench),
    ("prompt completion", texts.t0),
)
BY_CATEGORY: dict[str, tuple[tuple[str, Shape], ...]] = {
    "chain-of-thought": (
        ("question options rationale correct", chains.aqua_rat),
        ("question facts answer", chains.strategyqa),
        ("question answer", chains.gsm8k),
    ),
}
# what reading a field of another type or length than expected raises
_MISSHAPEN = (KeyError, TypeError, AttributeError, IndexError, ValueError)
KEYED: tuple[tuple[str, Shape], ...] = (  # one object that holds all rows by id; `key` is that id
    ("text answers", texts.pat_questions),
    ("QUESTION final_decision", texts.pubmed_qa),
    ("passage qa_pairs", texts.drop),
)


def partial_examples(value: Native, category: str) -> Iterator[dict[str, Any]]:
    """The examples of one native row, which may hold none or several.

    InputError where a row has a set's fields, but not their shape.
    """
    try:
        yield from _partial_examples(value, category)
    except _MISSHAPEN as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"a field of the row has another type than expected ({error!r}); `question` is a text, "
            "`answers` a list of texts, `choices` one of texts, or of {label, text}"
        ) from error


def _partial_examples(value: Native, category: str) -> Iterator[dict[str, Any]]:
    if is_squad(value):
        yield from flat_squad(value, category)
        return
    shape, rows = _shape_of(value, category)
    if shape is None:
        yield partial_example(value)
        return
    name = getattr(shape, "__name__", "")
    for row in rows:
        try:
            found = list(shape(row))
        except _MISSHAPEN as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"a row like those of {name} with another shape ({error!r}); see its format in "
                "radit_ray/data/native_*.py"
            ) from error
        yield from map(partial_example, found)


def is_own(value: Any, category: str) -> bool:
    """Whether a row has no set's own fields, but plain `question` and `answer`: somebody's own, who
    can mend it.
    """
    return isinstance(value, Mapping) and not (
        is_squad(value) or _shape_of(value, category)[0] is not None
    )


def _shape_of(value: Native, category: str) -> tuple[Shape | None, list[Native]]:
    """The shape of a row and the rows to give it: itself, or those that it holds by id."""
    data = value.get("data")
    if isinstance(data, list) and data and isinstance(data[0], Mapping) and "story" in data[0]:
        return texts.coqa, [value]
    answers = value.get("answers")
    if isinstance(answers, Mapping) and "answer_start" in answers and "context" in value:
        return lambda row: texts.squad_row(row, category), [value]
    for names, shape in (*BY_CATEGORY.get(category, ()), *SHAPES):
        if value.keys() >= set(names.split()) and (
            # a text is the answer of somebody's own row about a passage, not BoolQ's
            shape is not choices.boolq or isinstance(value["answer"], bool)
        ):
            return shape, [value]
    inner = next(iter(value.values()), None)
    if isinstance(inner, Mapping):
        for names, shape in KEYED:
            if inner.keys() >= ({names} if names == "text answers" else set(names.split())):
                return shape, [{**row, "key": key} for key, row in value.items()]
    return None, []


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
    options, labels = _choices(value.get("choices"))
    if options:
        partial["choices"] = options
    partial["answers"] = _answers(_first(value, _ALIASES["answers"]), options, labels)
    gold = value.get("gold_ids") or value.get("gold_pid")
    if gold:
        partial["gold_ids"] = [gold] if isinstance(gold, str) else gold
    if isinstance(value.get("title"), str):
        partial.setdefault("article", value["title"])
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
    if "options" in value and "correct" in value:  # AQuA: "A)21"
        texts = [re.sub(r"^[A-Z]\)\s*", "", as_text(text)) for text in value["options"]]
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


def _answers(found: Any, options: list[Any], labels: list[Any]) -> list[Any]:
    if isinstance(found, Mapping):
        texts_of = found.get("text")
        if texts_of is None:
            texts_of = [found.get("value"), *(found.get("aliases") or [])]
        found = [text for text in texts_of if text is not None]
    if found is None:
        return []
    answers = list(found) if isinstance(found, list | tuple) else [found]
    return [_choice_text(answer, options, labels) for answer in answers]


def _choice_text(answer: Any, options: list[Any], labels: list[Any]) -> Any:
    """The text of the choice that an index (from 0) or a label names; anything else as it is."""
    if _is_number(answer) and options:
        if not 0 <= answer < len(options):
            raise InputError(f"answer {answer} is no index of {len(options)} choices, from 0")
        return options[answer]
    if isinstance(answer, bool):
        return "yes" if answer else "no"
    if answer not in options and answer in labels and len(labels) == len(options):
        return options[labels.index(answer)]
    return answer


def is_squad(value: Any) -> bool:
    """Whether one JSON object is a whole SQuAD file."""
    data = value.get("data") if isinstance(value, Mapping) else None
    return bool(
        isinstance(data, list) and data and isinstance(data[0], Mapping) and "paragraphs" in data[0]
    )


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
    except _MISSHAPEN as error:
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
            value = {"question": fields[0], "answer": list(answers)}
            return Record(line=record.line, raw=record.raw, value=value)
    return Record(line=record.line, raw=record.raw, fault=fault)
