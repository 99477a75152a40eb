"""Prompt strings: an example (and one retrieved chunk) in, the text the LM reads out. RA-DIT Tables
10 and 12.

A `Prompt` keeps its three parts apart, so that a model's encoder can drop shots and cut the
background, in that order, when the whole is too long. An instruction ends without a trailing space;
the answer is appended as `" " + answer`.

An example is a plain row with `id, category, question` and, where they apply, `query, answers,
choices, context, template`. Where the paper's table is silent (a multiple-choice question with a
context, BoolQ's passage, several turns in one string) the choice stands at the line and in
docs/method.md.

>>> row = {"id": "1", "category": "open-domain-qa", "question": "who wrote emma"}
>>> eval_prompt(row, chunk=("Emma", "Emma is a novel by Jane Austen.")).text
'Background: Emma Emma is a novel by Jane Austen.\\n\\nQ: who wrote emma\\nA:'
"""

from __future__ import annotations

import hashlib
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from radit_ray.core.errors import InputError, nearest

Example = Mapping[str, Any]  # one example row; absent fields count as empty
Chunk = tuple[str, str]  # (title, text)

# Table 10, sampled per example against over-fitting to one marker. The third <inst_s> is damaged in
# the copy we read.
INST_S = ("Q: ", "Question: ", "")
INST_E = "\n"
ANSWER_S = ("A:", "Answer:")

START_ENT, END_ENT = "[START_ENT]", "[END_ENT]"
AIDA_REQUEST = (
    "Output the Wikipedia page title of the entity mentioned between [START_ENT] and [END_ENT] "
    "in the given text"
)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What stands before the answer: demonstrations, one background, the instruction."""

    shots: tuple[str, ...] = ()  # each a whole demonstration that ends with a blank line
    background: str = ""  # "" or "Background: {title} {text}\n\n"
    instruction: str  # no trailing space

    @property
    def text(self) -> str:
        return "".join(self.shots) + self.background + self.instruction


def format_chunk(title: str, text: str) -> str:
    """`"{title} {text}"` (Appendix F's examples; Atlas' retriever_format); the text alone without a
    title.
    """
    return f"{title} {text}".strip()


def background(text: str) -> str:
    """The paper's delimiters (its footnote 2): `"Background: "` before, a blank line after; "" for
    empty text.
    """
    return f"Background: {text}\n\n" if text else ""


def clean_answer(text: str) -> str:
    """The clean-up of a decoded answer: everything up to the first newline, without surrounding
    white space.

    >>> clean_answer(" Jane Austen \\n\\nQ: who wrote")
    'Jane Austen'
    """
    return text.split("\n", 1)[0].strip()


# --- the instructions of Table 12, one function per template ---


def _context_or_question(example: Example) -> str:
    return str(example.get("context") or example["question"])


def turns(example: Example) -> list[str]:
    """The turns of a dialogue: the lines of the question, as in KILT's WoW input; the last one
    is the turn to be answered.
    """
    return [line.strip() for line in str(example["question"]).splitlines() if line.strip()]


def _dialogue(example: Example, *, between: str) -> str:
    """`Q: {turn_1}{between}A: {turn_2}{between}Q: ...A:`; the answer is the next turn.

    The markers are counted from the end, so that the last turn is always a Q, also where the
    dialogue opens with the other speaker.
    """
    lines = turns(example)
    marked = [f"{'Q' if (len(lines) - n) % 2 else 'A'}: {turn}" for n, turn in enumerate(lines)]
    return between.join([*marked, "A:"])


def _lettered(example: Example) -> str:
    choices = _choices(example)
    if len(choices) > len(string.ascii_uppercase):
        raise InputError(
            f"example {example.get('id', '')!r} has {len(choices)} choices; expected at most 26 "
            "(A-Z): "
            "use a template that scores the choices' text, such as template='question-answer'"
        )
    return "\n".join(
        f"{letter}. {choice}"
        for letter, choice in zip(string.ascii_uppercase, choices, strict=False)
    )


def _question_with_context(example: Example) -> str:
    """Table 12's MMLU has no context; where an example brings one it stands before the question."""
    return " ".join(
        part for part in (str(example.get("context") or ""), str(example["question"])) if part
    )


def _mmlu(example: Example) -> str:
    return f"Question: {_question_with_context(example)}\n{_lettered(example)}\nA:"


def _blank(example: Example) -> tuple[str, str]:
    """WinoGrande: the sentence before and after its blank `_`."""
    before, blank, after = str(example["question"]).partition("_")
    if not blank:
        raise InputError(
            f"question {example['question']!r} of example {example.get('id', '')!r} has no blank; "
            "expected '_' where "
            "the choice goes, as in WinoGrande: mark it, or use template='question-answer'"
        )
    return before.rstrip(), after.rstrip()


def _boolq(example: Example) -> str:
    # Our copy of Table 12 lost BoolQ's passage. It stands before the question, as in the LLaMA
    # evaluations.
    passage = str(example.get("context") or "")
    return (f"{passage}\n" if passage else "") + f"Question: {example['question']}\nAnswer:"


def _siqa(example: Example) -> str:
    return f"{example.get('context') or ''} Q: {example['question']} A:".lstrip()


# The first eleven are Table 12. The other four evaluate what Table 12 lacks, in the form that Table
# 10 trains.
INSTRUCTIONS: dict[str, Callable[[Example], str]] = {
    "qa": lambda e: f"Q: {e['question']}\nA:",
    "mmlu": _mmlu,
    "fever": lambda e: f"Is this statement true? {e['question']}\nA:",
    "aida": lambda e: f"{_context_or_question(e)}\n{AIDA_REQUEST}\nA:",
    "slot-filling": lambda e: f"{e['question']}\nA:",
    "wow": lambda e: _dialogue(e, between="\n"),
    "question-answer": lambda e: f"Question: {e['question']}\nAnswer:",
    "boolq": _boolq,
    "siqa": _siqa,
    "hellaswag": _context_or_question,
    "winogrande": lambda e: _blank(e)[0],
    "reading-comprehension": lambda e: f"Q: {e['question']}\nA:",
    "summarization": lambda e: "Summarize this article:\nA:",
    "corpus": lambda e: str(e["question"]).rstrip(),
    "plain": lambda e: str(e["question"]).rstrip(),
}

AUTO = {  # category -> template; multiple-choice depends on the choices, see `resolve_template`
    "open-domain-qa": "qa",
    "chain-of-thought": "qa",
    "dialogue": "wow",
    "fact-checking": "fever",
    "slot-filling": "slot-filling",
    "entity-linking": "aida",
    "reading-comprehension": "reading-comprehension",
    "summarization": "summarization",
    "corpus": "corpus",
    "plain": "plain",
}
GOLD_CONTEXT = (
    "reading-comprehension",
    "summarization",
)  # background = the example's own context, never a chunk
NO_RETRIEVAL = (
    *GOLD_CONTEXT,
    "question-answer",
    "boolq",
    "siqa",
    "hellaswag",
    "winogrande",
    "plain",
)


def resolve_template(example: Example, template: str = "auto") -> str:
    """The template's name; "auto" is the example's own `template`, else follows its category (no
    category: qa, or mmlu where there are choices).
    """
    if template == "auto":
        template = str(example.get("template") or "auto")
    if template != "auto":
        if template not in INSTRUCTIONS:
            raise InputError(
                f"unknown template {template!r}{nearest(template, ['auto', *INSTRUCTIONS])}"
            )
        return template
    category = str(example.get("category") or "")
    has_choices = len(example.get("choices") or ()) > 0
    if not category or category == "multiple-choice":
        if has_choices:
            return "mmlu"
        return "question-answer" if category else "qa"
    if category not in AUTO:
        raise InputError(
            f"unknown category {category!r} of example {example.get('id', '')!r}"
            f"{nearest(category, [*AUTO, 'multiple-choice'])}"
        )
    return AUTO[category]


def eval_prompt(
    example: Example,
    *,
    template: str = "auto",
    chunk: Chunk | None = None,
    shots: Sequence[str] = (),
) -> Prompt:
    """Table 12. `chunk` is (title, text) or None; reading comprehension and summarization take
    their own context.
    """
    name = resolve_template(example, template)
    return Prompt(
        shots=tuple(shots),
        background=_background(example, name, chunk),
        instruction=INSTRUCTIONS[name](example),
    )


def train_prompt(example: Example, *, chunk: Chunk | None = None, seed: int) -> Prompt:
    """Table 10, with markers that depend on (seed, example id) alone. The answer to append is
    `gold_answer`.

    Question-like categories sample their markers; a dialogue has fixed ones; a corpus example is
    its own first part. Categories that only evaluation knows (fact-checking, slot-filling,
    entity-linking) keep Table 12's template, as in the paper's 64-shot stage; a multiple-choice
    question lists its choices as MMLU does.

    >>> row = {"id": "7", "category": "open-domain-qa", "question": "who wrote emma"}
    >>> train_prompt(row, chunk=("Emma", "A novel."), seed=0).text
    'Background: Emma A novel.\\n\\nQuestion: who wrote emma\\nAnswer:'
    """
    name = resolve_template(example)
    inst_s, answer_s = _markers(example, seed)
    if name == "wow":
        instruction = _dialogue(example, between=" ")
    elif name in ("qa", "question-answer", "reading-comprehension"):
        instruction = f"{inst_s}{example['question']}{INST_E}{answer_s}"
    elif name == "mmlu":
        instruction = (
            f"{inst_s}{_question_with_context(example)}\n{_lettered(example)}{INST_E}{answer_s}"
        )
    elif name == "summarization":
        instruction = f"Summarize this article:{INST_E}{answer_s}"
    else:
        instruction = INSTRUCTIONS[name](example)
    return Prompt(background=_background(example, name, chunk), instruction=instruction)


def shot(example: Example, *, template: str = "auto", chunk: Chunk | None = None) -> str:
    """One whole demonstration, with its own chunk if given (as REPLUG's code does), ending with a
    blank line.
    """
    prompt = eval_prompt(example, template=template, chunk=chunk)
    return f"{prompt.text} {gold_answer(example, template=template)}\n\n"


def retrieval_query(example: Example, template: str = "auto") -> str:
    """Table 12's query column; "" where the template does without retrieval. The example's own
    `query` comes first.
    """
    if example.get("query"):
        return str(example["query"])
    name = resolve_template(example, template)
    if name in NO_RETRIEVAL:
        return ""
    if name == "mmlu":
        return " ".join([_question_with_context(example), *_choices(example)])
    if name == "wow":
        return " ".join(turns(example))
    if name == "aida":
        return _mention(example)
    return str(example["question"])


def options(example: Example, template: str = "auto") -> list[str]:
    """What is scored for each choice: the letters for mmlu, choice and rest of the sentence for
    winogrande, else the choices' text.
    """
    name = resolve_template(example, template)
    choices = _choices(example)
    if name == "mmlu":
        return list(string.ascii_uppercase[: len(choices)])
    if name == "winogrande":
        return [choice + _blank(example)[1] for choice in choices]
    return choices


def gold_choice(example: Example) -> int:
    """Index of the right choice: the answer is one of the choices' texts, or a letter that counts
    them.
    """
    choices = [choice.strip() for choice in _choices(example)]
    for answer in _answers(example):
        if answer.strip() in choices:
            return choices.index(answer.strip())
    for answer in _answers(example):
        letter = string.ascii_uppercase.find(answer.strip()) if len(answer.strip()) == 1 else -1
        if 0 <= letter < len(choices):
            return letter
    raise InputError(
        f"answer {_answers(example)[0]!r} of example {example.get('id', '')!r} is none of its "
        f"choices {choices}; "
        "expected a choice's text or its letter: correct answers or choices"
    )


def gold_answer(example: Example, template: str = "auto") -> str:
    """The answer to append to a prompt, in training and in demonstrations: the first one, or the
    right option.
    """
    name = resolve_template(example, template)
    if example.get("choices") and name in ("mmlu", "winogrande"):
        return options(example, name)[gold_choice(example)]
    return _answers(example)[0]


# --- parts ---


def _background(example: Example, name: str, chunk: Chunk | None) -> str:
    if name in GOLD_CONTEXT:
        return background(str(example.get("context") or ""))
    return background(format_chunk(*chunk)) if chunk else ""


def _markers(example: Example, seed: int) -> tuple[str, str]:
    """hashlib and not `hash` or a generator: the same in every process, whatever the order of the
    examples.
    """
    digest = hashlib.blake2b(f"{seed}:{example['id']}".encode(), digest_size=8).digest()
    number = int.from_bytes(digest, "big")
    return INST_S[number % len(INST_S)], ANSWER_S[number // len(INST_S) % len(ANSWER_S)]


def _choices(example: Example) -> list[str]:
    choices = [str(choice) for choice in example.get("choices") or ()]
    if not choices:
        raise InputError(
            f"example {example.get('id', '')!r} has no choices; expected a list of at least one "
            "string: fill choices, "
            "or use template='qa'"
        )
    return choices


def _answers(example: Example) -> list[str]:
    answers = [str(answer) for answer in example.get("answers") or ()]
    if not answers:
        raise InputError(
            f"example {example.get('id', '')!r} has no answer; expected at least one: fill answers"
        )
    return answers


def _mention(example: Example) -> str:
    """AIDA: the tokens between [START_ENT] and [END_ENT]; the whole text where they are missing."""
    text = _context_or_question(example)
    mention = text.partition(START_ENT)[2].partition(END_ENT)[0].strip()
    return mention or text
