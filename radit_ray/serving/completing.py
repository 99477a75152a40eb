"""Text behind a prompt, for the OpenAI-compatible endpoints: many at once, with log-probabilities,
or token by token.

In: a prompt (text or ids) and the chunks that were found for it. Out: what the p_R-weighted
ensemble writes (`engines/plain_text.py`), and what its mixture says of each token.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
from transformers.generation.streamers import BaseStreamer

from radit_ray.core.errors import InputError
from radit_ray.engines.plain_text import (
    PLAIN,
    Continuation,
    Shown,
    background_ids,
    continuation,
    continue_texts,
    fit_prompts,
    raw_text,
    shown_of,
)
from radit_ray.engines.variants import Row, Variant
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.scoring import mixture_token_logprobs

LOWEST = -9999.0  # JSON has no infinity
MAX_TOKEN_CHARS = 32  # of a token on the average of a whole prompt: far more than any text has
NOTHING = Continuation(text="", ids=[], ended=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
    """One prompt to be continued, with the ranked row of its chunks (None: without any)."""

    prompt: str | tuple[int, ...]
    row: Row | None
    variant: Variant
    max_tokens: int
    stop: tuple[str, ...] = ()
    echo: bool = False
    logprobs: int | None = None  # likeliest tokens beside each; None = no log-probabilities

    @property
    def key(self) -> tuple[Any, ...]:
        """Prompts with the same one go into one batch."""
        return (self.variant, self.max_tokens, self.stop, self.logprobs is None)

    @property
    def alone(self) -> bool:
        """Whether several prompts write a text each, of which one is chosen at the end."""
        several = self.row is not None and len(self.row["chunk_ids"]) > 1
        return self.variant.ensemble == "answers" and several

    def shown(self) -> Shown:
        """The backgrounds in front of the prompt."""
        return PLAIN if self.row is None else shown_of(self.row, self.variant)

    def ids(self, lm: CausalLM) -> list[int]:
        """The prompt's token ids; InputError where it leaves no room in the context, or where the
        LM has no such ids.
        """
        room = lm.context_length - self.max_tokens - max(1, len(lm.bos_ids))
        if isinstance(self.prompt, str):
            # a million characters take seconds to encode, in which nobody else is answered
            if len(self.prompt) > MAX_TOKEN_CHARS * max(room, 1):
                raise InputError(
                    f"the prompt has {len(self.prompt)} characters, far more than the LM's context "
                    f"of {lm.context_length} tokens holds; shorten it"
                )
            ids = lm.encode(self.prompt)
        else:
            ids = list(self.prompt)
            check_ids(lm, ids)
        if len(ids) > room:
            raise InputError(
                f"the prompt has {len(ids)} tokens and {self.max_tokens} are to be written, but "
                f"the LM's context holds {lm.context_length}; shorten the prompt or ask for fewer"
            )
        return ids


def check_ids(lm: CausalLM, ids: Sequence[int]) -> None:
    """InputError for ids that the LM does not know."""
    size = lm.model.get_input_embeddings().weight.shape[0]
    if wrong := [i for i in ids if not 0 <= i < size]:
        raise InputError(f"token id {wrong[0]}, expected 0 to {size - 1}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """What stands behind a prompt; `logprobs` in the form of OpenAI's completions."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str  # "stop" or "length"
    logprobs: dict[str, list[Any]] | None = None


def complete(lm: CausalLM, asked: Sequence[Completion], *, batch_tokens: int) -> list[Written]:
    """Continuations of prompts that share variant, number of tokens and stop strings."""
    first = asked[0]
    ids = [one.ids(lm) for one in asked]
    found = [NOTHING] * len(asked)
    if first.max_tokens:
        found = continue_texts(
            lm,
            first.variant,
            ids,
            [one.shown() for one in asked],
            max_new_tokens=first.max_tokens,
            until=first.stop,
            batch_tokens=batch_tokens,
        )
    return [
        written(one, text, len(own), before=raw_text(lm, own) if one.echo else "")
        for one, own, text in zip(asked, ids, found, strict=True)
    ]


def written(
    asked: Completion,
    found: Continuation,
    prompt_tokens: int,
    *,
    before: str = "",
    logprobs: dict[str, list[Any]] | None = None,
) -> Written:
    """A continuation as the endpoints tell it."""
    return Written(
        text=before + found.text,
        prompt_tokens=prompt_tokens,
        completion_tokens=len(found.ids),
        finish_reason="stop" if found.ended else "length",
        logprobs=logprobs,
    )


def with_logprobs(lm: CausalLM, asked: Completion, *, batch_tokens: int) -> Written:
    """A continuation with what the mixture says of its tokens, and of the prompt's where they are
    echoed. The mixture also writes it, so that text and log-probabilities belong together.
    """
    assert asked.logprobs is not None
    ids, shown = asked.ids(lm), asked.shown()
    # the prompt keeps all its tokens, it is the background that gives way
    budget = lm.context_length - asked.max_tokens - len(lm.bos_ids) - len(ids)
    # nothing stands before a text's first token: it belongs to what the others are read behind
    prompts = [
        [*lm.bos_ids, *own, *ids[:1]] or [lm.eos_id] for own in background_ids(lm, shown, budget)
    ]
    found = NOTHING
    if asked.max_tokens > 1:
        (new,) = lm.generate(
            [[*prompt, *ids[1:]] for prompt in prompts],
            max_new_tokens=asked.max_tokens,
            stop_newline=False,
            stop=asked.stop,
            group_size=len(prompts),
            log_p_r=np.log(shown.p_r_K)[None],
            batch_tokens=batch_tokens,
        )
        found = continuation(lm, new, max_new_tokens=asked.max_tokens, until=asked.stop)
    # a single token is read off the place behind the prompt; which one stands there does not matter
    behind = [lm.eos_id] if asked.max_tokens == 1 else found.ids
    scored = mixture_token_logprobs(
        lm,
        prompts,
        [*ids[1:], *behind] or [lm.eos_id],
        shown.p_r_K,
        top=max(1, asked.logprobs),
        batch_tokens=batch_tokens,
    )
    logprob_T, end = scored.logprob_T, len(ids[1:]) + len(behind)
    if asked.max_tokens == 1:
        best = int(scored.top_ids_TN[end - 1, 0])
        logprob_T[end - 1] = scored.top_logprob_TN[end - 1, 0]
        found = continuation(lm, [best], max_new_tokens=1, until=asked.stop)
        found = dataclasses.replace(found, ids=[best], ended=found.ended or best == lm.eos_id)
    tops = [
        list(zip(own_ids, own, strict=True))[: asked.logprobs]
        for own_ids, own in zip(
            scored.top_ids_TN.tolist(), scored.top_logprob_TN.tolist(), strict=True
        )
    ]
    first = len(ids[1:])
    told = list(zip(found.ids, logprob_T[first:end].tolist(), tops[first:end], strict=True))
    if asked.echo:
        echoed = zip(ids[1:], logprob_T[:first].tolist(), tops[:first], strict=True)
        told = [*((one, None, None) for one in ids[:1]), *echoed, *told]
    return written(
        asked,
        found,
        len(ids),
        before=raw_text(lm, ids) if asked.echo else "",
        logprobs=token_table(lm, told),
    )


def token_table(lm: CausalLM, told: Sequence[tuple[int, Any, Any]]) -> dict[str, list[Any]]:
    """(id, log-probability, likeliest ids with theirs) of each token in OpenAI's form."""
    texts = [token_text(lm, one) for one, _, _ in told]
    return {
        "tokens": texts,
        "token_logprobs": [None if own is None else max(own, LOWEST) for _, own, _ in told],
        "top_logprobs": [
            None if top is None else {token_text(lm, i): max(p, LOWEST) for i, p in top}
            for _, _, top in told
        ],
        "text_offset": list(itertools.accumulate(map(len, texts[:-1]), initial=0))[: len(texts)],
    }


def token_text(lm: CausalLM, token: int) -> str:
    """A token as text; one that holds a part of a character as the vocabulary writes it."""
    text = str(lm.tokenizer.decode([token]))
    return text if "\ufffd" not in text else str(lm.tokenizer.convert_ids_to_tokens(token))


class Stream(BaseStreamer):  # type: ignore[misc]
    """Text that one thread writes and the event loop reads piece by piece."""

    def __init__(self, lm: CausalLM, asked: Completion, loop: asyncio.AbstractEventLoop) -> None:
        self.lm, self.asked, self.loop = lm, asked, loop
        self.pieces: asyncio.Queue[str | None] = asyncio.Queue()
        self.cancelled = threading.Event()
        self.ids: list[int] | None = None  # None: the prompt comes first
        self.told = ""

    def run(self) -> Written:
        """Writes; in the thread that may compute."""
        asked, lm = self.asked, self.lm
        try:
            ids, shown = asked.ids(lm), asked.shown()
            prompts = fit_prompts(lm, shown, ids, room=asked.max_tokens)
            (new,) = lm.generate(
                prompts,
                max_new_tokens=asked.max_tokens,
                stop_newline=False,
                stop=asked.stop,
                group_size=len(prompts),
                log_p_r=np.log(shown.p_r_K)[None],
                streamer=self,
            )
            found = continuation(lm, new, max_new_tokens=asked.max_tokens, until=asked.stop)
            self._tell(found.text[len(self.told) :])
            return written(asked, found, len(ids))
        except Cancelled:
            return written(asked, NOTHING, 0)
        finally:
            self._tell(None)

    def put(self, value: Any) -> None:
        """The newest ids of all rows, which agree; the prompts at first."""
        if self.cancelled.is_set():
            raise Cancelled
        if self.ids is None:
            self.ids = []
            return
        self.ids.append(int(value[0]))
        text = raw_text(self.lm, self.ids)
        # a part of a character, or of a string that ends the text, waits for what comes next
        safe = len(text.rstrip("\ufffd"))
        safe = min([safe, *(text.find(end) for end in self.asked.stop if end in text)])
        for end in self.asked.stop:
            most = min(len(end) - 1, safe)
            held = next((n for n in range(most, 0, -1) if end.startswith(text[safe - n : safe])), 0)
            safe -= held
        if safe > len(self.told):
            self._tell(text[len(self.told) : safe])

    def end(self) -> None:
        """Called when the last token is written; `run` tells the rest."""

    async def texts(self) -> AsyncIterator[str]:
        """The pieces as they come."""
        while (piece := await self.pieces.get()) is not None:
            yield piece

    def cancel(self) -> None:
        """Nobody reads any more: the thread stops at its next token."""
        self.cancelled.set()

    def _tell(self, piece: str | None) -> None:
        if piece != "":
            self.told += piece or ""
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class Cancelled(Exception):  # noqa: N818
    """Nobody reads a stream any more."""
