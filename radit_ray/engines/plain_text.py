"""Plain text through retrieval and ensemble: what adapters to other people's evaluations ask for.

In: an opened variant and texts as somebody else formatted them. Out: log-probabilities of
continuations and of whole texts, and continuations. A prompt is the background of one chunk in
front of the context, "Background: {title} {text}\\n\\n" + context, so k prompts (`concat`: one with
all chunks); a variant without chunks is its plain LM. docs/evaluation.md says what is retrieved
with, and what gives way in a short context.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import torch

from radit_ray.core import ensembles
from radit_ray.core.errors import InputError
from radit_ray.core.templates import background, format_chunk
from radit_ray.data.rows import example_row
from radit_ray.engines.asking import Opened
from radit_ray.engines.candidates import unique_answers
from radit_ray.engines.ranking import rank
from radit_ray.engines.variants import Row, Variant, chunks_used, weights_of
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.models.lexical import Words
from radit_ray.models.scoring import mixture_logprobs

QUERIES = ("question", "context")
# What begins a question and what ends it. One pattern for a whole question took time quadratic in
# the spaces within it, and the texts come from outside.
MARKS = re.compile(r"\n|\b(?:Q|Question|A|Answer):")
TAIL_CHARS = 16_384  # of a context, at its end, in which a question is looked for
QUERY_WORDS = 512  # of a context without question; what the encoder reads may be less


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """What a context is read with: one background for each chunk, "" for none, and its weight."""

    backgrounds: tuple[str, ...]
    p_r_K: np.ndarray


PLAIN = Shown(backgrounds=("",), p_r_K=np.ones(1, dtype=np.float32))


def continuation_logprobs(
    opened: Opened,
    contexts: Sequence[str],
    ids: Sequence[tuple[list[int], list[int]]],
    *,
    query: str = "question",
    batch_tokens: int = 16384,
) -> list[tuple[float, bool]]:
    """log sum_k p_R(k) p(continuation | chunk k, context) of each pair in nats, and whether greedy
    decoding of the mixture writes it. `ids` are those of context and continuation; the texts are
    there to retrieve with.
    """
    shown = retrieve(opened, contexts, query=query, batch_tokens=batch_tokens)
    # options of one question share their prompts, and so one row
    groups = collections.defaultdict[tuple[tuple[int, ...], ...], list[int]](list)
    for number, (context_ids, answer) in enumerate(ids):
        prompts = fit_prompts(opened.lm, shown[number], context_ids, room=len(answer))
        groups[tuple(map(tuple, prompts))].append(number)
    found = mixture_logprobs(
        opened.lm,
        list(groups),
        [[ids[number][1] for number in numbers] for numbers in groups.values()],
        [shown[numbers[0]].p_r_K for numbers in groups.values()],
        batch_tokens=batch_tokens,
    )
    results = [(0.0, False)] * len(ids)
    for numbers, (logprob_U, greedy_U) in zip(groups.values(), found, strict=True):
        for number, logprob, greedy in zip(numbers, logprob_U, greedy_U, strict=True):
            results[number] = (float(logprob), bool(greedy))
    return results


def text_logprobs(
    opened: Opened, texts: Sequence[str], *, batch_tokens: int = 16384
) -> list[float]:
    """log p of whole texts in nats, in windows as large as the context allows beside a background.

    A window is scored by the mixture over the chunks that the end of the text before it finds; the
    first one has no background.
    """
    lm = opened.lm
    tokens = [lm.encode(text) for text in texts]
    totals, starts = [0.0] * len(texts), [0] * len(texts)
    while going := [i for i, ids in enumerate(tokens) if starts[i] < len(ids)]:
        before = [tokens[i][: starts[i]][-lm.context_length :] for i in going]
        shown = retrieve(
            opened,
            [raw_text(lm, ids) if ids else "" for ids in before],
            query="context",
            batch_tokens=batch_tokens,
        )
        windows = [_window(lm, tokens[i], starts[i], s) for i, s in zip(going, shown, strict=True)]
        logprobs = lm.answer_logprobs(
            [prompt for prompts, _ in windows for prompt in prompts],
            [window for prompts, window in windows for _ in prompts],
            batch_tokens=batch_tokens,
        )
        parts = np.split(logprobs, np.cumsum([len(prompts) for prompts, _ in windows])[:-1])
        for i, (_, window), s, own in zip(going, windows, shown, parts, strict=True):
            logprob_1K, p_r_K = torch.from_numpy(own)[None], torch.from_numpy(s.p_r_K)
            totals[i] += float(ensembles.answers(logprob_1K, p_r_K)[0])
            starts[i] += len(window)
    return totals


def continuations(
    opened: Opened,
    contexts: Sequence[str],
    *,
    max_new_tokens: int,
    until: Sequence[str] = (),
    query: str = "question",
    batch_tokens: int = 16384,
) -> list[str]:
    """A greedy text for each context, cut before the first of the `until` strings; see
    `continue_texts`.
    """
    lm = opened.lm
    shown = retrieve(opened, contexts, query=query, batch_tokens=batch_tokens)
    found = continue_texts(
        lm,
        opened.variant,
        [lm.encode(context) for context in contexts],
        shown,
        max_new_tokens=max_new_tokens,
        until=until,
        batch_tokens=batch_tokens,
    )
    return [one.text for one in found]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """A text that was written behind a context."""

    text: str
    ids: list[int]  # of the text; the last one may reach beyond it
    ended: bool  # by EOS or a string of `until`, not by the number of tokens


def continue_texts(
    lm: CausalLM,
    variant: Variant,
    contexts: Sequence[list[int]],
    shown: Sequence[Shown],
    *,
    max_new_tokens: int,
    until: Sequence[str] = (),
    batch_tokens: int = 16384,
) -> list[Continuation]:
    """A greedy text behind each context (ids), cut before the first of the `until` strings: decoded
    from the mixture of its prompts (`tokens`), or from each of them, and then the one that is most
    probable under all (`answers`).
    """
    prompts = [
        fit_prompts(lm, s, context, room=max_new_tokens)
        for s, context in zip(shown, contexts, strict=True)
    ]
    mixed = variant.ensemble == "tokens"
    written: list[list[Continuation]] = [[] for _ in contexts]
    for count in sorted({len(own) for own in prompts}):
        numbers = [i for i, own in enumerate(prompts) if len(own) == count]
        found = lm.generate(
            [prompt for i in numbers for prompt in prompts[i]],
            max_new_tokens=max_new_tokens,
            stop_newline=False,
            stop=until,
            group_size=count if mixed else 1,
            log_p_r=torch.from_numpy(np.stack([shown[i].p_r_K for i in numbers])).log(),
            batch_tokens=batch_tokens,
        )
        decoded = [
            continuation(lm, ids, max_new_tokens=max_new_tokens, until=until) for ids in found
        ]
        own = 1 if mixed else count
        for place, i in enumerate(numbers):
            written[i] = decoded[place * own : (place + 1) * own]
    texts = [[one.text for one in own] for own in written]
    best = _best(lm, variant, texts, prompts, shown, batch_tokens)
    return [
        next(one for one in own if one.text == text)
        for own, text in zip(written, best, strict=True)
    ]


def continuation(
    lm: CausalLM, ids: list[int], *, max_new_tokens: int, until: Sequence[str] = ()
) -> Continuation:
    """What new ids say, up to the first string that ends them."""
    whole = raw_text(lm, ids)
    text = whole[: min((whole.find(end) for end in until if end in whole), default=len(whole))]
    ended = len(text) < len(whole) or len(ids) < max_new_tokens
    if len(text) < len(whole):
        ids = next(ids[:n] for n in range(len(ids) + 1) if len(raw_text(lm, ids[:n])) >= len(text))
    return Continuation(text=text, ids=ids, ended=ended)


def retrieve(
    opened: Opened, contexts: Sequence[str], *, query: str, batch_tokens: int
) -> list[Shown]:
    """Backgrounds of each context; a query that comes twice is searched for once."""
    variant = opened.variant
    if not variant.k:
        return [PLAIN] * len(contexts)
    queries = [query_of(opened.encoder, context, query) for context in contexts]
    rows = [
        # only the query counts; the other fields make the row complete
        example_row({"id": text, "question": text, "query": text, "answers": ["unknown"]})
        for text in dict.fromkeys(queries)
        if text
    ]
    ranked = rank(rows, opened.encoder, opened.index, k=variant.k, batch_tokens=batch_tokens)
    shown = {row["id"]: shown_of(row, variant) for row in ranked}
    return [shown.get(text, PLAIN) for text in queries]


def shown_of(row: Row, variant: Variant) -> Shown:
    """What a variant shows of a ranked row's chunks."""
    texts = [background(format_chunk(*chunk)) for chunk in chunks_used(row, variant)]
    if not texts:
        return PLAIN
    weight_K = weights_of(row, variant, variant.t_r, len(texts))
    return Shown(backgrounds=tuple(texts), p_r_K=weight_K)


def query_of(encoder: DualEncoder | Words, context: str, query: str) -> str:
    """What is searched for: the last question ("question"), else and without one ("context") the
    end of the context, as far as the encoder reads; by itself it would keep the beginning.
    """
    context = context[-TAIL_CHARS:]
    if query == "question" and (question := last_question(context)):
        return question
    text = " ".join(context.split()[-QUERY_WORDS:])
    if isinstance(encoder, Words):
        return text  # all words are searched, however many
    room = encoder.query.max_tokens - len(encoder.query_tokens([""])[0])
    spans = encoder.spans(text)
    return text[spans[-room][0] :] if len(spans) > room else text


def last_question(text: str) -> str:
    """The last "Q:" or "Question:" that asks something, up to its line's end or the answer's
    marker; "" without one.

    >>> last_question("Q: who? A: me\\nQ: and who else?\\nA:"), last_question("FAQ: no")
    ('and who else?', '')
    """
    found, start = "", -1  # -1: outside a question
    for mark in MARKS.finditer(text):
        if start < 0:
            start = mark.end() if mark[0].startswith("Q") else -1
        elif not mark[0].startswith("Q"):
            question = text[start : mark.start()].strip()
            found = question or found
            # an empty line behind the marker: the question stands in the next one
            start = -1 if question or mark[0] != "\n" else mark.end()
    return found if start < 0 else text[start:].strip() or found


def fit_prompts(lm: CausalLM, shown: Shown, context: list[int], *, room: int) -> list[list[int]]:
    """bos + background + context for each chunk, with `room` tokens left. A context that is too
    long loses its beginning (few-shot examples go first, as in the paper's footnote 11); a
    background takes half of what there is at most, and loses its end.
    """
    window = lm.context_length - room - len(lm.bos_ids)
    if window < 1:
        raise InputError(
            f"{room} tokens to score or to write leave no room for a prompt in the LM's context of "
            f"{lm.context_length}; ask for fewer tokens, or take an LM with a longer context"
        )
    prompts = []
    for ids in background_ids(lm, shown, max(window - len(context), window // 2)):
        kept = context[-(window - len(ids)) :] if len(ids) < window else []
        prompts.append([*lm.bos_ids, *ids, *kept] or [lm.eos_id])
    return prompts


def raw_text(lm: CausalLM, ids: Sequence[int]) -> str:
    """The ids' text with its white space, which `CausalLM.text` strips: code begins with it."""
    return str(
        lm.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def background_ids(lm: CausalLM, shown: Shown, budget: int) -> list[list[int]]:
    """Ids of the backgrounds, cut at their end to `budget` tokens."""
    found = [(text, lm.encode(text) if text else []) for text in shown.backgrounds]
    return [ids if len(ids) <= budget else lm.cut_background(text, budget) for text, ids in found]


def _window(
    lm: CausalLM, tokens: list[int], start: int, shown: Shown
) -> tuple[list[list[int]], list[int]]:
    """(a prompt for each chunk, the tokens to score from `start`): as many as background and
    context leave room for. What the last window leaves over is filled with the text before.
    """
    size = lm.context_length
    if start == 0:
        prefix = [*lm.bos_ids] or [lm.eos_id]
        return [prefix], tokens[: size - len(prefix)]
    heads = [[*lm.bos_ids, *ids] if ids else [] for ids in background_ids(lm, shown, size // 2)]
    longest = max(map(len, heads))
    width = min(len(tokens) - start, size - longest - 1)
    before = tokens[start + width + longest - size : start]  # equally much for each chunk
    return [[*head, *before] for head in heads], tokens[start : start + width]


def _best(
    lm: CausalLM,
    variant: Variant,
    texts: list[list[str]],
    prompts: list[list[list[int]]],
    shown: Sequence[Shown],
    batch_tokens: int,
) -> list[str]:
    """Of each context's texts the one with most probability under all its prompts (Eq. 2), scored
    as evaluate does: " " + answer + EOS.
    """
    found = {}
    for i, own in enumerate(texts):
        if len(own) > 1:
            bare = [text.strip() for text in own]
            found[i] = unique_answers(lm, bare, shown[i].p_r_K, variant.max_answers)
    scored = [i for i, candidates in found.items() if candidates.ids]
    room = {i: lm.context_length - max(map(len, prompts[i])) for i in scored}
    logprobs = mixture_logprobs(
        lm,
        [prompts[i] for i in scored],
        [[ids[: room[i]] for ids in found[i].ids] for i in scored],
        [shown[i].p_r_K for i in scored],
        batch_tokens=batch_tokens,
    )
    first = {i: int(logprob_U.argmax()) for i, (logprob_U, _) in zip(scored, logprobs, strict=True)}
    best = [own[0] for own in texts]
    for i, candidates in found.items():
        if candidates.texts:
            chosen = candidates.texts[first.get(i, 0)]
            best[i] = next(text for text in texts[i] if text.strip() == chosen)
    return best
