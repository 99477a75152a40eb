"""Chain-of-thought sets in their own fields in, a question with a reasoning chain as answer out.

| set | question | chain | answer |
|---|---|---|---|
| GSM8K | `question` | `answer` up to ####, without its <<48/2=24>> | behind #### |
| AQuA | `question` and `options` | `rationale` | `correct`, a letter |
| ECQA | `q_text` and `q_op1` ... `q_op5` | `taskB` | `q_ans` |
| competition math | `problem` | `solution` | its last \\boxed{...} |
| StrategyQA | `question` | `facts` | yes or no |

The first answer is the chain, a space and the answer (Table 10), on one line since decoding stops
at the first newline; the second is the answer alone, for the metric `ends`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Mapping
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data.native_texts import as_text

Native = Mapping[str, Any]


def _chain(question: str, chain: str, answer: str, options: list[str] | None = None) -> Native:
    """Options are asked with the question and left out of the query."""
    letters = zip(string.ascii_uppercase, options or [], strict=False)
    question, chain = as_text(question), as_text(chain)
    asked = "\n".join([question, *(f"{letter}. {text}" for letter, text in letters)])
    whole = " ".join(f"{chain} {answer}".split())
    row: dict[str, Any] = {"question": asked, "answers": [whole, answer]}
    return {**row, "query": question} if options else row


def gsm8k(row: Native) -> Iterator[Native]:
    chain, mark, answer = as_text(row["answer"]).rpartition("####")
    if not mark:
        raise InputError("`answer` has no `#### NUMBER` at its end, as GSM8K's have")
    yield _chain(row["question"], re.sub(r"<<[^>]*>>", "", chain), answer.strip())


def aqua_rat(row: Native) -> Iterator[Native]:
    options = [re.sub(r"^[A-Z]\)\s*", "", as_text(text)) for text in row["options"]]
    yield _chain(row["question"], row["rationale"], as_text(row["correct"]), options)


def ecqa(row: Native) -> Iterator[Native]:
    options = [as_text(row[f"q_op{number}"]) for number in range(1, 6)]
    yield _chain(row["q_text"], row["taskB"], row["q_ans"], options)


def competition_math(row: Native) -> Iterator[Native]:
    answer = _boxed(row["solution"])
    if not answer:
        raise InputError("`solution` has no \\boxed{answer}")
    yield _chain(row["problem"], row["solution"], answer)


def strategyqa(row: Native) -> Iterator[Native]:
    verdicts = {"true": "yes", "yes": "yes", "false": "no", "no": "no"}
    found = str(row["answer"])
    if found.lower() not in verdicts:  # another set's row, whose answer would become "no" here
        raise InputError(f"`answer` is {found[:40]!r}; expected true or false, as in StrategyQA")
    chain = " ".join(row["facts"])
    yield {"id": row.get("qid"), **_chain(row["question"], chain, verdicts[found.lower()])}


def _boxed(text: str) -> str:
    """What the last \\boxed{...} holds; its braces may be nested."""
    start = text.rfind("\\boxed{")
    depth = 0
    for place in range(start + 6, len(text)) if start >= 0 else ():
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start + 7 : place].strip()
    return ""
