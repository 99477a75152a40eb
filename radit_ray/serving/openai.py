"""OpenAI's completions and chat over a run's variants.

In: their requests, with `query`, `k` and `ensemble` as fields of our own. Out: their responses,
whole or in pieces, with what was retrieved in the field `radit`. The background of each chunk
stands in front of the prompt as it does in training, "Background: {title} {text}\\n\\n".
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from radit_ray.data.rows import text_fault
from radit_ray.engines.asking import question_row
from radit_ray.engines.ranking import chunk_columns
from radit_ray.engines.variants import Variant
from radit_ray.serving.completing import Completion, Written
from radit_ray.serving.deployments import Found
from radit_ray.serving.refusals import Refused
from radit_ray.serving.schemas import (
    PROMPTS,
    QUESTION_CHARS,
    ChatMessage,
    ChatRequest,
    CompletionRequest,
    OpenAIRequest,
)
from radit_ray.serving.service import Served, Service, p_r

Event = dict[str, Any]
Prompt = str | tuple[int, ...]
CHAT_STOP = ("\n",)  # an answer ends with its line, as in training


async def completions(service: Service, asked: CompletionRequest) -> AsyncGenerator[Event]:
    """The response, or its pieces."""
    served, variant = service.pick(asked.model, asked.k, asked.ensemble)
    prompts = _prompts(asked)
    founds = await _find(service, served, variant, prompts, asked)
    jobs = [
        Completion(
            prompt=prompt,
            row=_row(found),
            variant=variant,
            max_tokens=16 if asked.max_tokens is None else asked.max_tokens,
            stop=_stop(asked),
            echo=bool(asked.echo),
            logprobs=asked.logprobs,
        )
        for prompt, found in zip(prompts, founds, strict=True)
    ]
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion"}
    head |= {"created": int(time.time()), "model": variant.name}
    extra = {"radit": {"retrieved": [_retrieved(found, variant) for found in founds]}}
    if asked.stream:
        if len(jobs) > 1 or asked.echo or asked.logprobs is not None:
            raise Refused(
                422,
                "stream goes with one prompt, without echo and logprobs; leave stream out",
                param="stream",
            )
        async with contextlib.aclosing(_pieces(service, served, jobs[0])) as pieces:
            async for piece, written in pieces:
                choice = {"index": 0, "text": piece, "logprobs": None}
                yield _piece(head, choice, written, extra)
        if _usage_asked(asked):
            yield {**head, "choices": [], "usage": _usage([written])}
        return
    whole = await asyncio.gather(
        *(service.call(lambda job=job: served.lm.complete.remote(job)) for job in jobs)
    )
    _count(service, variant, whole)
    choices = [
        {
            "index": number,
            "text": one.text,
            "logprobs": one.logprobs,
            "finish_reason": one.finish_reason,
        }
        for number, one in enumerate(whole)
    ]
    yield {**head, "choices": choices, "usage": _usage(whole), **extra}


async def chat(service: Service, asked: ChatRequest) -> AsyncGenerator[Event]:
    """The response, or its pieces."""
    served, variant = service.pick(asked.model, asked.k, asked.ensemble)
    prompt, question = conversation(asked.messages)
    found = await service.find(served, variant, asked.query or question)
    most = asked.max_completion_tokens or asked.max_tokens or variant.max_new_tokens
    job = Completion(
        prompt=prompt,
        row=_row(found),
        variant=variant,
        max_tokens=most,
        stop=(*CHAT_STOP, *_stop(asked)),
    )
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time())}
    head |= {"model": variant.name}
    extra = {"radit": {"retrieved": [_retrieved(found, variant)]}}
    if asked.stream:
        head["object"] = "chat.completion.chunk"
        role = {"role": "assistant"}
        first = True
        async with contextlib.aclosing(_pieces(service, served, job)) as pieces:
            async for piece, written in pieces:
                text = piece.lstrip() if first else piece
                delta = {"content": text} if text or not written else {}
                yield _piece(head, {"index": 0, "delta": role | delta}, written, extra)
                role, first = {}, first and not text
        if _usage_asked(asked):
            yield {**head, "choices": [], "usage": _usage([written])}
        return
    one = await service.call(lambda: served.lm.complete.remote(job))
    _count(service, variant, [one])
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": one.text.strip(), "refusal": None},
        "logprobs": None,
        "finish_reason": one.finish_reason,
    }
    head["object"] = "chat.completion"
    yield {**head, "choices": [choice], "usage": _usage([one]), **extra}


def conversation(messages: Sequence[ChatMessage]) -> tuple[str, str]:
    """(prompt, question): the turns with the markers of training, "Q: ...\\nA:", the system's words
    in front; the question is the last of the user's.
    """
    front, lines, question = [], [], ""
    for message in messages:
        text = " ".join(_content(message).split())
        if message.role in ("system", "developer"):
            front.append(text)
        elif message.role == "user":
            lines.append(f"Q: {text}")
            question = text
        else:
            lines.append(f"A: {text}")
    if messages[-1].role != "user":
        raise Refused(422, "the last message is not the user's; end with one", param="messages")
    if not question:
        raise Refused(422, "the last message is empty; give some text", param="messages")
    if len(question) > QUESTION_CHARS:
        raise Refused(
            422,
            f"the last message has {len(question)} characters, expected at most {QUESTION_CHARS}; "
            "shorten it",
            param="messages",
        )
    head = "".join(f"{text}\n\n" for text in front if text)
    return head + "\n".join([*lines, "A:"]), question


def _content(message: ChatMessage) -> str:
    content = message.content
    text = content if isinstance(content, str) else " ".join(part.text for part in content)
    if fault := text_fault(text):
        raise Refused(422, f"a message {fault}; remove it", param="messages")
    return text


def _prompts(asked: CompletionRequest) -> list[Prompt]:
    """The prompts of a request, each text or token ids."""
    given = asked.prompt
    prompts: list[Prompt]
    if isinstance(given, str):
        prompts = [given]
    elif given and isinstance(given[0], int):
        prompts = [tuple(given)]  # type: ignore[arg-type]
    else:
        prompts = [one if isinstance(one, str) else tuple(one) for one in given]  # type: ignore[arg-type]
    if not 0 < len(prompts) <= PROMPTS:
        raise Refused(422, f"{len(prompts)} prompts, expected 1 to {PROMPTS}", param="prompt")
    for prompt in prompts:
        fault = text_fault(prompt) if isinstance(prompt, str) else ""
        if fault or not prompt:
            raise Refused(422, f"a prompt {fault or 'is empty'}; change it", param="prompt")
    return prompts


async def _find(
    service: Service,
    served: Served,
    variant: Variant,
    prompts: Sequence[Prompt],
    asked: CompletionRequest,
) -> list[Found]:
    """The chunks for each prompt: by `query`, else by the last question in it."""
    if asked.query is not None:
        found = await service.find(served, variant, asked.query)
        return [found] * len(prompts)
    texts: list[Any] = list(prompts)
    numbers = [i for i, prompt in enumerate(prompts) if not isinstance(prompt, str)]
    if numbers:
        ids = [list(prompts[i]) for i in numbers]
        decoded = await service.call(lambda: served.lm.texts.remote(ids))
        for i, text in zip(numbers, decoded, strict=True):
            texts[i] = text
    return list(
        await asyncio.gather(
            *(service.find(served, variant, text, is_prompt=True) for text in texts)
        )
    )


async def _pieces(
    service: Service, served: Served, job: Completion
) -> AsyncGenerator[tuple[str, Written | None]]:
    """(text, None) of each piece as it is written, at last ("", what was written)."""
    remote = served.lm.options(stream=True).stream.remote
    async with contextlib.aclosing(service.stream(lambda: remote(job))) as items:
        async for item in items:
            if isinstance(item, Written):
                _count(service, job.variant, [item])
                yield "", item
            else:
                yield item, None


def _piece(
    head: Event, choice: dict[str, Any], written: Written | None, extra: dict[str, Any]
) -> Event:
    reason = written.finish_reason if written else None
    return {
        **head,
        "choices": [{**choice, "finish_reason": reason}],
        **(extra if written else {}),
    }


def _row(found: Found) -> dict[str, Any] | None:
    """The chunks as a ranked row."""
    if not found.chunks:
        return None
    return {**question_row(found.query), **chunk_columns(found.chunks)}


def _retrieved(found: Found, variant: Variant) -> dict[str, Any]:
    """What was found, and with which query."""
    weights = p_r(found, variant)
    chunks = [
        {"id": chunk["id"], "title": chunk["title"], "text": chunk["text"], "p_r": weight}
        for (chunk, _), weight in zip(found.chunks, weights, strict=True)
    ]
    return {"query": found.query, "chunks": chunks}


def _stop(asked: OpenAIRequest) -> tuple[str, ...]:
    stop = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    for text in stop:
        if fault := text_fault(text):
            raise Refused(422, f"a stop string {fault}; change it", param="stop")
    return tuple(text for text in stop if text)


def _usage_asked(asked: OpenAIRequest) -> bool:
    return bool((asked.stream_options or {}).get("include_usage"))


def _usage(written: Sequence[Written | None]) -> dict[str, int]:
    known = [one for one in written if one]
    before = sum(one.prompt_tokens for one in known)
    behind = sum(one.completion_tokens for one in known)
    return {
        "prompt_tokens": before,
        "completion_tokens": behind,
        "total_tokens": before + behind,
    }


def _count(service: Service, variant: Variant, written: Sequence[Written]) -> None:
    tokens = sum(one.completion_tokens for one in written)
    service.counters.tokens.labels(variant.name).inc(tokens)
