"""Any causal LM on one device: text -> ids, ids -> answer log-probs, prompts -> greedy
continuations.

In: a Hugging Face id or folder (safetensors). Out: `CausalLM`, which knows the special tokens, fits
prompts into the context, scores answers (RA-DIT Eq. 2 and Eq. 4 need log p_LM(y | c o x)) and
decodes. Training uses the same object, with dropout off, so that one worker and two workers compute
the same loss.

Text is encoded piece by piece (each shot, the background, the instruction, the answer) without
automatic special tokens, at training and at inference alike. A control token spelled out in a
document stays plain text.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radit_ray.core.errors import InputError
from radit_ray.models.batches import supports_sharing
from radit_ray.models.generation import greedy
from radit_ray.models.lm_files import (
    config_dropout_off,
    context_length,
    read_config,
    read_model,
    shapes_alone,
)
from radit_ray.models.precision import resolve_precision, torch_dtype
from radit_ray.models.prefix import Prefix, bytes_per_token
from radit_ray.models.scoring import answer_logprobs
from radit_ray.models.vocabulary import bos_ids, close_wordpiece, eos_id, newline_ids
from radit_ray.models.weights import dropout_off, loading, require_weights

_PROBE_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1, "fp16": 0.02}  # logits, not log-probs


class PromptParts(Protocol):
    """What `prompt_ids` reads of `radit_ray.core.templates.Prompt`; the pieces are concatenated in
    this order.
    """

    @property
    def shots(self) -> tuple[str, ...]: ...
    @property
    def background(self) -> str: ...
    @property
    def instruction(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class FittedPrompt:
    """A prompt that fits the context, and what had to go."""

    ids: list[int]
    num_background_cut: int  # tokens cut from the end of the background
    num_shots_dropped: int  # whole shots dropped from the front
    num_instruction_cut: int = 0  # tokens cut from the beginning of the instruction


@dataclass(kw_only=True)
class CausalLM:
    """A loaded model with its tokenizer; make it with `CausalLM.load`."""

    name: str  # the folder or id it came from
    model: Any
    tokenizer: Any
    device: torch.device
    precision: str
    context_length: int  # tokens, prompt and answer together
    bos_ids: tuple[int, ...]  # what the tokenizer itself would put in front of a text
    eos_id: int
    pad_id: int
    logits_to_keep: bool  # the model computes logits at chosen positions only
    base_dtype: torch.dtype  # the checkpoint's, in which an export is written
    base_dropout: dict[str, float] = field(
        default_factory=dict
    )  # config values before they were set to 0
    newline_ids: frozenset[int] = frozenset()
    last_num_tokens: int = (
        0  # tokens computed by the last call that ran the model, padding included
    )

    @classmethod
    def load(
        cls,
        path: str,
        *,
        precision: str = "fp32",
        device: str = "cpu",
        eos_token: str = "",
        trust_remote_code: bool = False,
        weights: bool = True,
    ) -> CausalLM:
        """Loads safetensors only, dropout off, on one device.

        eos_token: used where the tokenizer has no EOS. weights: False loads tokenizer and config
        only, for whoever fits prompts and runs nothing. Raises `InputError` in one line for a wrong
        path, pickled weights, a model that is no causal LM, or a tokenizer without any end token.
        """
        from transformers import AutoTokenizer

        precision = resolve_precision(precision, device)
        require_weights(path, what="LM")
        with loading(path, what="LM"):
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
            config = read_config(path, trust_remote_code=trust_remote_code)
            base_dropout = config_dropout_off(config)
            base_dtype = getattr(config, "dtype", None) or torch_dtype(precision)
            if weights:
                model = read_model(path, config, torch_dtype(precision), trust_remote_code).to(
                    device
                )
            else:
                model = shapes_alone(config, trust_remote_code)
        dropout_off(model)
        model.eval()
        lm = cls(
            name=path,
            model=model,
            tokenizer=tokenizer,
            device=torch.device(device),
            precision=precision,
            context_length=context_length(config, tokenizer),
            bos_ids=bos_ids(tokenizer),
            eos_id=(end := eos_id(tokenizer, config, eos_token, path)),
            pad_id=end if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id),
            logits_to_keep=weights and _logits_to_keep_works(model, precision, end),
            base_dtype=base_dtype,
            base_dropout=base_dropout,
            newline_ids=newline_ids(tokenizer),
        )
        _set_generation_config(lm)
        return lm

    @property
    def num_parameters(self) -> int:
        """All weights, tied ones once."""
        return sum(p.numel() for p in self.model.parameters())

    @property
    def flops_per_token(self) -> int:
        """Forward FLOPs per token: 2 * (weights without embedding tables, with the head); attention
        scores not counted.
        """
        tables = {
            id(m.weight): m.weight.numel()
            for m in self.model.modules()
            if isinstance(m, nn.Embedding)
        }
        head = self.model.get_output_embeddings()
        if head is not None:
            tables.pop(id(head.weight), None)  # a tied table works as the head
        return 2 * (self.num_parameters - sum(tables.values()))

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone: no special tokens added, none recognised in the text."""
        encoded = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return [int(i) for i in encoded["input_ids"]]

    def text(self, ids: Sequence[int]) -> str:
        """Decodes, skips special tokens, strips; WordPiece's spaces around inner punctuation are
        closed.

        That is the documented clean-up: "o ' brien" -> "o'brien", "1 , 000" -> "1,000", "well -
        known" -> "well-known".
        """
        text = str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
        return (close_wordpiece(text) if self._is_wordpiece else text).strip()

    def answer_ids(self, answer: str, *, eos: bool = False) -> list[int]:
        """Ids of " " + answer as they stand after a colon ("Answer:"), with EOS at the end where
        asked.

        The anchor makes this right for byte-level BPE (space belongs to the word), SentencePiece
        (which would add a dummy space of its own) and WordPiece (no spaces at all).
        """
        words = answer.strip()
        anchor, anchored = self.encode(":"), self.encode(f": {words}")
        ids = (
            anchored[len(anchor) :]
            if anchored[: len(anchor)] == anchor
            else self.encode(f" {words}")
        )
        if not words or not ids:
            raise InputError(
                f"answer {answer!r} has no tokens; expected text, drop the example or give an "
                "answer"
            )
        return [*ids, self.eos_id] if eos else ids

    def prompt_ids(self, prompt: PromptParts, *, room: int) -> tuple[list[int], int]:
        """(ids, background tokens cut): the prompt in at most context_length - room tokens; see
        `fit_prompt`.
        """
        fitted = self.fit_prompt(prompt, room=room)
        return fitted.ids, fitted.num_background_cut

    def fit_prompt(
        self, prompt: PromptParts, *, room: int, cut_instruction: bool = False
    ) -> FittedPrompt:
        r"""bos + shots + background + instruction, with `room` tokens of the context left free for
        the answer.

        On overflow whole shots are dropped from the front first (paper, footnote 11: few-shot
        examples are truncated), then the end of the background is cut, keeping the "\n\n" that
        closes it. An instruction that alone is too long loses its beginning where
        `cut_instruction` says so (what the lm-evaluation-harness does), else it is an InputError.
        """
        shots = [self.encode(shot) for shot in prompt.shots]
        background = self.encode(prompt.background) if prompt.background else []
        instruction = self.encode(prompt.instruction)
        budget = self.context_length - room - len(self.bos_ids) - len(instruction)
        too_long = max(0, -budget)
        if cut_instruction and too_long < len(instruction):
            instruction, budget = instruction[too_long:], max(0, budget)
        if budget < 0 or not (instruction or self.bos_ids):
            raise InputError(
                f"the instruction has {len(instruction)} tokens and {room} are kept for the "
                "answer, but the LM's context "
                f"is {self.context_length} tokens; shorten the question or take an LM with a "
                "longer context"
            )
        kept = len(shots)
        while kept and len(background) + sum(map(len, shots[-kept:])) > budget:
            kept -= 1
        num_cut = 0
        if len(background) > budget:
            body = background
            background = self.cut_background(prompt.background, budget)
            num_cut = len(body) - len(background)
        shot_ids = itertools.chain.from_iterable(shots[len(shots) - kept :])
        return FittedPrompt(
            ids=[*self.bos_ids, *shot_ids, *background, *instruction],
            num_background_cut=num_cut,
            num_shots_dropped=len(shots) - kept,
            num_instruction_cut=too_long,
        )

    def cut_background(self, background: str, budget: int) -> list[int]:
        """The first tokens of the background plus the tokens of its closing newlines, at most
        `budget` together.
        """
        body = background.rstrip("\n")
        anchor = self.encode(".")
        closing = (
            self.encode("." + background[len(body) :])[len(anchor) :] if body != background else []
        )
        if budget <= len(closing):
            return []  # a background of newlines alone says nothing
        return [*self.encode(body)[: budget - len(closing)], *closing]

    def round_trip_share(self, answers: Sequence[str]) -> float:
        """Share of answers that survive encode and decode under the EM normalisation; 1.0 for no
        answers.
        """
        from radit_ray.core.metrics import normalize

        if not answers:
            return 1.0
        same = [normalize(self.text(self.answer_ids(a))) == normalize(a) for a in answers]
        return sum(same) / len(same)

    @functools.cached_property
    def shares_prompts(self) -> bool:
        """Whether answers of one prompt can be scored in one row (see `supports_sharing`)."""
        return supports_sharing(self)

    @functools.cached_property
    def prefix_bytes(self) -> int:
        """Bytes that a token of a kept prompt takes; 0 where prompts cannot be kept (see
        `prefix.bytes_per_token`).
        """
        return bytes_per_token(self)

    def answer_logprobs(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        *,
        batch_tokens: int = 8192,
        prefix: Prefix | None = None,
    ) -> NDArray[np.float32]:
        """log p_LM(answer | prompt) in nats, (B,): the SUM over the answer's tokens; see
        `scoring.answer_logprobs`.
        """
        return answer_logprobs(self, prompts, answers, batch_tokens=batch_tokens, prefix=prefix)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        max_new_tokens: int,
        stop_newline: bool = True,
        stop: Sequence[str] = (),
        group_size: int = 1,
        log_p_r: Tensor | NDArray[np.float32] | None = None,
        batch_tokens: int = 8192,
        prefix: Prefix | None = None,
        streamer: Any = None,
    ) -> list[list[int]]:
        """Greedy continuations, cut before EOS (and before the first newline); see
        `generation.greedy`.
        """
        return greedy(
            self,
            prompts,
            max_new_tokens=max_new_tokens,
            stop_newline=stop_newline,
            stop=stop,
            group_size=group_size,
            log_p_r=log_p_r,
            batch_tokens=batch_tokens,
            prefix=prefix,
            streamer=streamer,
        )

    @property
    def _is_wordpiece(self) -> bool:
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return type(getattr(backend, "decoder", None)).__name__ == "WordPiece"


@torch.inference_mode()
def _logits_to_keep_works(model: Any, precision: str, any_id: int) -> bool:
    """Compares a short prompt's kept logits with the plain forward; a mismatch means the full head,
    with a warning.
    """
    size = int(model.get_input_embeddings().weight.shape[0])
    device = next(model.parameters()).device
    ids_BT = torch.tensor([[(any_id + 7 * i) % size for i in range(6)]], device=device)
    full = model(input_ids=ids_BT).logits[:, [2, 4, 5]]
    reason = "it gives other logits"
    if "logits_to_keep" not in inspect.signature(model.forward).parameters:
        reason = "forward has no such argument"
    try:
        kept = model(input_ids=ids_BT, logits_to_keep=torch.tensor([2, 4, 5], device=device)).logits
        if kept.shape == full.shape and torch.allclose(
            kept.float(), full.float(), atol=_PROBE_TOLERANCE[precision], rtol=0.01
        ):
            return True
    except (TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    name = type(model).__name__
    warnings.warn(
        f"{name} does not support logits_to_keep ({reason}); the full head is computed",
        stacklevel=3,
    )
    return False


def _set_generation_config(lm: CausalLM) -> None:
    """Plain greedy decoding, whatever sampling the checkpoint recommends; also what an export
    carries.
    """
    from transformers import GenerationConfig

    bos_id = lm.bos_ids[0] if lm.bos_ids else None
    lm.model.generation_config = GenerationConfig(
        do_sample=False, bos_token_id=bos_id, eos_token_id=lm.eos_id, pad_token_id=lm.pad_id
    )
