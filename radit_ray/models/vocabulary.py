"""Special tokens and spellings of a tokenizer: what it puts in front, what ends a text, which ids
break a line, and how WordPiece's text is closed up again.

In: a transformers tokenizer (and a config). Out: ids, or cleaned text. No model is run.
"""

from __future__ import annotations

import re
from typing import Any

from radit_ray.core.errors import InputError


def bos_ids(tokenizer: Any) -> tuple[int, ...]:
    """The ids the tokenizer prepends of its own accord: LLaMA (<s>,), BERT ([CLS],), GPT-2 and Qwen
    ().
    """
    plain = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    dressed = list(tokenizer("a")["input_ids"])
    for start in range(len(dressed) - len(plain) + 1):
        if dressed[start : start + len(plain)] == plain:
            return tuple(int(i) for i in dressed[:start])
    return ()


def eos_id(tokenizer: Any, config: Any, eos_token: str, path: str) -> int:
    """The tokenizer's EOS, else the argument, else the config's, else SEP."""
    if tokenizer.eos_token_id is not None:
        return int(tokenizer.eos_token_id)
    if eos_token:
        found = tokenizer.get_vocab().get(eos_token)
        if found is None:
            raise InputError(
                f"eos_token {eos_token!r} is not in the vocabulary of {path!r}; give one of its "
                "tokens"
            )
        return int(found)
    configured = getattr(config, "eos_token_id", None)
    if isinstance(configured, (list, tuple)):
        configured = configured[0] if configured else None
    if configured is not None and 0 <= int(configured) < len(tokenizer):
        return int(configured)  # a default left over from another vocabulary does not count
    if tokenizer.sep_token_id is not None:
        return int(tokenizer.sep_token_id)
    raise InputError(
        f"LM {path!r} has no EOS token (tokenizer, config, SEP); name one of its tokens: "
        "eos_token='...'"
    )


def newline_ids(tokenizer: Any) -> frozenset[int]:
    r"""Ids of tokens whose text holds "\n" (byte-level "Ċ", SentencePiece "<0x0A>"); empty for
    WordPiece.
    """
    suspects = [
        i
        for token, i in tokenizer.get_vocab().items()
        if "\n" in token or "Ċ" in token or token == "<0x0A>"
    ]
    return frozenset(i for i in suspects if "\n" in tokenizer.decode([i]))


# The tokenizer's own decoder already closes some of these (" ," -> ","), so the first space is
# optional. A comma
# between digits needs three digits after it: "1, 000" is a number and "May 1, 2020" is not.
_WORDPIECE_SPACES = (
    (
        re.compile("(?<=\\w) (['\u2019\\-\u2013/]) (?=\\w)"),
        r"\1",
    ),  # o ' brien, well - known, and / or
    (re.compile(r"(?<=\d) ?, (?=\d{3}(?!\d))"), ","),
    (re.compile(r"(?<=\d) ?([.:]) (?=\d)"), r"\1"),  # 3 . 14, 10 : 30
    (re.compile(r" ([.,;:!?%)\]])"), r"\1"),
    (re.compile("([(\\[$\u00a3\u20ac#]) "), r"\1"),
)


def close_wordpiece(text: str) -> str:
    for pattern, replacement in _WORDPIECE_SPACES:
        text = pattern.sub(replacement, text)
    return text
