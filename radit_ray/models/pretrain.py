"""A tiny LLaMA-shaped LM, trained from scratch on plain texts: the base LM of `radit demo`.

In: an iterable of texts. Out: a folder that `AutoModelForCausalLM` and `AutoTokenizer` load
(safetensors in bf16, a byte-level BPE with BOS, EOS and PAD) and `world_lm.json`, the record of how
it was made. The packaged model, and one for another world, are made with

    radit world-lm --size s --num-threads 1 --output DIR
    radit world-lm --size s --world.num-known 300 --output DIR

Suffixes: B rows of a batch, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from tqdm import tqdm  # type: ignore[import-untyped, unused-ignore]
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from radit_ray.core.errors import SEED, InputError, nearest

CONTEXT = 512  # tokens of a training window and the most the model takes
BOS, EOS, PAD = "<s>", "</s>", "<pad>"
TOKENIZER_TEXTS = 20_000  # texts, the stream's first, that the BPE is learned from


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """Shape and schedule of one preset."""

    width: int
    depth: int
    heads: int
    mlp: int
    vocab: int  # at most; a poor text gives fewer
    steps: int
    tokens: int  # in a step
    lr: float  # at the peak


SIZES = {
    "xxs": Size(width=64, depth=2, heads=4, mlp=176, vocab=2048, steps=3000, tokens=4096, lr=5e-3),
    "xs": Size(width=96, depth=3, heads=4, mlp=256, vocab=2048, steps=3000, tokens=4096, lr=4e-3),
    "s": Size(width=160, depth=4, heads=4, mlp=448, vocab=2048, steps=3000, tokens=4096, lr=3e-3),
    "m": Size(width=256, depth=6, heads=8, mlp=704, vocab=2048, steps=6000, tokens=8192, lr=2e-3),
    "l": Size(
        width=512, depth=8, heads=8, mlp=1408, vocab=4096, steps=10_000, tokens=16_384, lr=1e-3
    ),
}


def pretrain(
    texts: Iterable[str],
    *,
    size: str | Size,
    output: str | Path,
    steps: int | None = None,
    seed: int = 0,
    num_threads: int | None = None,
    precision: str = "bf16",
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Trains tokenizer and LM, saves both to `output` and returns the record (what `world_lm.json`
    says).

    `size` is a key of SIZES or a `Size`; `steps` and `num_threads` default to the preset's and
    torch's. `precision` "bf16" autocasts, with weights kept in fp32; `about` (command, world) is
    copied into the record. InputError: unknown size or precision, no steps, too few texts.
    """
    if isinstance(size, str) and size not in SIZES:
        raise InputError(f"size={size!r} of the LM{nearest(size, SIZES)}")
    if precision not in ("bf16", "fp32"):
        raise InputError(f"precision={precision!r}{nearest(precision, ('bf16', 'fp32'))}")
    for name, value in (("steps", steps), ("num_threads", num_threads)):
        if value is not None and value < 1:
            raise InputError(f"{name}={value} of the LM; expected at least 1, or leave it out")
    if not SEED[0] <= seed <= SEED[1]:
        raise InputError(f"seed={seed} of the LM; expected {SEED[0]} to {SEED[1]}")
    shape, started = SIZES[size] if isinstance(size, str) else size, time.perf_counter()
    steps = shape.steps if steps is None else steps
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    torch.manual_seed(seed)
    stream = iter(texts)
    first = list(itertools.islice(stream, TOKENIZER_TEXTS))
    tokenizer = train_tokenizer(first, vocab=shape.vocab)
    model = build(shape, tokenizer)
    source = batches(itertools.chain(first, stream), tokenizer, steps=steps, tokens=shape.tokens)
    losses, num_tokens = _train(model, source, steps=steps, lr=shape.lr, bf16=precision == "bf16")
    sha256 = save(model, tokenizer, output)
    record: dict[str, Any] = {
        **(about or {}),
        "size": size if isinstance(size, str) else dataclasses.asdict(size),
        "steps": steps,
        "seed": seed,
        "precision": precision,
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "vocab": len(tokenizer),
        "tokens_seen": num_tokens,
        "final_loss": round(sum(losses[-50:]) / len(losses[-50:]), 4),
        "wall_s": round(time.perf_counter() - started, 1),
        "torch": torch.__version__,
        "sha256": sha256,
    }
    Path(output, "world_lm.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def train_tokenizer(texts: Iterable[str], *, vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE; BOS is put before a text, EOS by whoever ends one. Any string survives encode
    and decode.
    """
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    # Rare pairs stay apart: an invented name is to be read in pieces, as every name in a question
    # will be.
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        min_frequency=50,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def build(shape: Size, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The untrained LM, in fp32."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.width,
            intermediate_size=shape.mlp,
            num_hidden_layers=shape.depth,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            # Rows are short: two small matrix products beat the fused kernel on a CPU.
            attn_implementation="eager",
        )
    )


def batches(
    texts: Iterable[str], tokenizer: PreTrainedTokenizerFast, *, steps: int, tokens: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`steps` batches (ids_BT, targets_BT) of about `tokens` tokens: first whole texts, then full
    windows.

    Nine in ten hold one text a row, texts of like length together: short rows make attention cheap
    on a CPU and no text is cut. The last tenth are packed windows of CONTEXT tokens, which bring
    the far positions. Targets are the ids one ahead, -100 on padding; they need no attention mask,
    since padding stands behind the text.
    """
    stream = _encoded(texts, tokenizer)
    num_rows = round(0.9 * steps)
    yield from itertools.islice(_rows(stream, tokens, tokenizer.pad_token_id), num_rows)
    yield from itertools.islice(_windows(stream, max(1, tokens // CONTEXT)), steps - num_rows)


def _encoded(texts: Iterable[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[list[int]]:
    """BOS text EOS, at most CONTEXT ids."""
    source = iter(texts)
    while some := list(itertools.islice(source, 256)):
        for ids in tokenizer(some, truncation=True, max_length=CONTEXT - 1)["input_ids"]:
            yield [*ids, tokenizer.eos_token_id]


def _rows(
    stream: Iterator[list[int]], tokens: int, pad: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """One text a row, sorted by length within a pool of some twenty batches, the batches in another
    order.
    """
    order = torch.Generator().manual_seed(0)
    while pool := list(itertools.islice(stream, max(64, tokens // 4))):
        pool.sort(key=len)
        groups: list[list[list[int]]] = [[]]
        for ids in pool:
            if groups[-1] and (len(groups[-1]) + 1) * len(ids) > tokens:
                groups.append([])
            groups[-1].append(ids)
        for number in torch.randperm(len(groups), generator=order).tolist():
            group = groups[number]
            ids_BT = torch.full((len(group), len(group[-1])), pad)
            targets_BT = torch.full_like(ids_BT, -100)
            for row, ids in enumerate(group):
                ids_BT[row, : len(ids)] = torch.tensor(ids)
                targets_BT[row, : len(ids) - 1] = torch.tensor(ids[1:])
            yield ids_BT, targets_BT


def _windows(stream: Iterator[list[int]], num: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Texts end to end, cut into `num` windows of CONTEXT tokens."""
    ids: list[int] = []
    need = num * CONTEXT + 1
    for text in stream:
        ids += text
        while len(ids) >= need:
            window_N = torch.tensor(ids[:need])
            yield window_N[:-1].view(num, CONTEXT), window_N[1:].view(num, CONTEXT)
            del ids[: need - 1]


def _train(
    model: LlamaForCausalLM,
    source: Iterator[tuple[torch.Tensor, torch.Tensor]],
    *,
    steps: int,
    lr: float,
    bf16: bool,
) -> tuple[list[float], int]:
    """AdamW (0.9, 0.95), weight decay 0.1 on matrices, 3% warm-up, cosine to a twentieth of `lr`.

    Returns the loss of each step (nats per token) and the number of tokens trained on.
    """
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, 0.95))
    warm_up = max(1, int(0.03 * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(
            (step + 1) / warm_up, 0.525 + 0.475 * math.cos(math.pi * min(step / steps, 1.0))
        ),
    )
    model.train()
    losses: list[float] = []
    num_tokens = 0
    bar = tqdm(range(steps), desc="pretrain", unit="step", mininterval=10)
    for step in bar:
        batch = next(source, None)
        if batch is None:
            raise InputError(
                f"the texts ran out after {step} of {steps} steps; "
                f"expected enough for all: give more text, or fewer steps"
            )
        ids_BT, targets_BT = batch
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits_BTV = model(input_ids=ids_BT, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits_BTV.float().flatten(0, 1), targets_BT.flatten()
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
        num_tokens += int((targets_BT != -100).sum())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return losses, num_tokens


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, output: str | Path) -> str:
    """Model in bf16 and tokenizer; returns the sha256 of the weights."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
