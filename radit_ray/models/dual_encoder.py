"""Two text encoders on one device: questions and chunks -> vectors whose dot product is s(q, c)
(RA-DIT Eq. 1).

In: a sentence-transformers folder or id (also a Router with query and document routes), a pair
"QUERY,CHUNK" of Hugging Face encoders, or the bare name of a preset. Out: `DualEncoder`, float32
arrays (N, D), and exports that plain sentence-transformers loads. Inside, both encoders are
SentenceTransformer objects that share no weights, so that tuning the query encoder leaves the chunk
encoder, and every stored vector, bit for bit as it was.

Dropout is off at load, also in training mode: one worker and two workers compute the same loss.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from radit_ray.core.errors import InputError
from radit_ray.models.batches import length_buckets, on_device
from radit_ray.models.encoder_files import assembled, load_encoder
from radit_ray.models.precision import resolve_precision, torch_dtype
from radit_ray.models.presets import LEXICAL, PRESETS, Preset, resolve_preset, write_preset
from radit_ray.models.weights import dropout_off, loading, only_whole, require_weights

# On a GPU launching an encoder's layers takes about as long as computing 16384 tokens (BERT base: 3
# TFLOP), so batches are larger: by arithmetic; on an H200 2 to 16 made no difference as long as the
# tokenizer was the limit.
GPU_BATCHES, GPU_TEXTS = 8, 2048
TOKENISED = 1024  # texts at a time: a tokenizer's own record of a token takes five times its id
_DOCUMENT_NAMES = (
    "document",
    "passage",
    "corpus",
)  # sentence-transformers looks them up in this order


@dataclass(kw_only=True)
class Encoder:
    """One side: a SentenceTransformer, its tokenizer, and what goes in front of each text."""

    model: Any
    prefix: str
    max_tokens: int  # special tokens included
    prompt_length: int = 0  # of the prefix, where the mean over tokens leaves it out

    @property
    def tokenizer(self) -> Any:
        return self.model.tokenizer

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids with the prefix and special tokens, truncated to `max_tokens`."""
        ids: list[list[int]] = []
        for start in range(0, len(texts), TOKENISED):
            encoded = self.tokenizer(
                [self.prefix + text for text in texts[start : start + TOKENISED]],
                truncation=True,
                max_length=self.max_tokens,
                return_attention_mask=False,
                return_token_type_ids=False,
            )
            ids += encoded["input_ids"]
        return ids

    def forward(self, token_lists: Sequence[Sequence[int]]) -> Tensor:
        """(B, D) fp32: padded on the right, masked, through all modules of the encoder."""
        device = self.model.device
        length_B1 = torch.tensor([len(ids) for ids in token_lists])[:, None]
        mask_BT = torch.arange(int(length_B1.max())) < length_B1
        input_ids_BT = torch.full(mask_BT.shape, self.tokenizer.pad_token_id)
        flat = np.fromiter(itertools.chain.from_iterable(token_lists), dtype=np.int64)
        input_ids_BT[mask_BT] = torch.from_numpy(flat)
        features: dict[str, Any] = {
            "input_ids": input_ids_BT.to(device),
            "attention_mask": mask_BT.long().to(device),
        }
        if self.prompt_length:
            features["prompt_length"] = self.prompt_length
        transformer, *rest = self.model.children()
        features = transformer(features)
        # Pooling and L2 norm in fp32: in bf16 "unit" vectors are off by 0.2 %, 0.04 nats at T_R
        # 0.05.
        features["token_embeddings"] = features["token_embeddings"].float()
        for module in rest:
            features = module(features)
        vector_BD: Tensor = features["sentence_embedding"]
        return vector_BD


@dataclass(kw_only=True)
class DualEncoder:
    """A loaded retriever; make it with `DualEncoder.load`."""

    query: Encoder
    chunk: Encoder
    preset: Preset
    precision: str
    device: torch.device
    last_num_tokens: int = 0  # tokens of the last encode call, without padding

    @classmethod
    def load(
        cls,
        retriever: str,
        *,
        preset: str = "auto",
        precision: str = "fp32",
        device: str = "cpu",
        trust_remote_code: bool = False,
        separate: bool = True,
    ) -> DualEncoder:
        """Loads safetensors only.

        separate: a symmetric retriever gets two copies of its weights, as R-ft needs; False shares
        one where both sides are only read. Raises `InputError` in one line for a wrong path,
        pickled weights or an unknown preset.
        """
        if retriever == LEXICAL:
            raise InputError(
                "bm25 searches words and has no vectors; an index of --kind bm25 takes the chunks"
            )
        precision = resolve_precision(precision, device)
        chosen = resolve_preset(retriever, preset)
        if retriever in PRESETS:
            names = [PRESETS[retriever].query_model, PRESETS[retriever].chunk_model]
        else:
            names = [part.strip() for part in retriever.split(",")]
        if len(names) > 2 or not all(names):
            raise InputError(
                f"retriever {retriever!r} names {len(names)} models; expected FOLDER or QUERY,CHUNK"
            )
        sides = []
        for name in dict.fromkeys(names):
            require_weights(name, what="retriever")
            with loading(name, what="retriever"), only_whole(name, what="retriever"):
                sides.append(load_encoder(name, chosen, torch_dtype(precision), trust_remote_code))
        query_model = _route(sides[0], ("query",))
        chunk_model = _route(sides[-1], _DOCUMENT_NAMES)
        if separate:
            query_model, chunk_model = _unshared(query_model, chunk_model)
        for model in (query_model, chunk_model):
            dropout_off(model)
            for head in list(model.children())[1:]:
                head.float()  # see Encoder.forward
            model.to(device).eval()
        query_prefix = _prompt(sides[0], ("query",)) or chosen.query_prefix
        chunk_prefix = _prompt(sides[-1], _DOCUMENT_NAMES) or chosen.chunk_prefix
        return cls(
            query=_encoder(query_model, query_prefix, chosen.max_query_tokens, names[0]),
            chunk=_encoder(chunk_model, chunk_prefix, chosen.max_chunk_tokens, names[-1]),
            preset=chosen,
            precision=precision,
            device=torch.device(device),
        )

    @property
    def dimension(self) -> int:
        """D, the width of a vector."""
        get = getattr(self.query.model, "get_embedding_dimension", None)
        get = get or self.query.model.get_sentence_embedding_dimension
        return int(get())

    @property
    def num_parameters(self) -> int:
        """Weights of the query encoder."""
        return sum(p.numel() for p in self.query_module.parameters())

    @property
    def flops_per_token(self) -> int:
        """Forward FLOPs per token of one encoder: 2 * (weights without embedding tables); attention
        scores not counted.
        """
        tables = [
            m.weight.numel() for m in self.query_module.modules() if isinstance(m, nn.Embedding)
        ]
        return 2 * (self.num_parameters - sum(tables))

    @property
    def query_module(self) -> nn.Module:
        """The query encoder as a module: its parameters are what R-ft trains."""
        module: nn.Module = self.query.model
        return module

    def encode_queries(
        self, texts: Sequence[str], *, batch_tokens: int = 16384
    ) -> NDArray[np.float32]:
        """(N, D) float32 query vectors in the order given."""
        return self._encode(self.query, texts, batch_tokens)

    def encode_chunks(
        self, titles: Sequence[str], texts: Sequence[str], *, batch_tokens: int = 16384
    ) -> NDArray[np.float32]:
        """(N, D) float32 chunk vectors in the order given; an empty title leaves the text alone."""
        formatted = [
            self.format_chunk(title, text) for title, text in zip(titles, texts, strict=True)
        ]
        return self._encode(self.chunk, formatted, batch_tokens)

    def format_chunk(self, title: str, text: str) -> str:
        """The string the chunk encoder reads (before its prefix), e.g. "{title} {text}"."""
        if not title:
            return text
        sep = self.chunk.tokenizer.sep_token or ""
        return self.preset.chunk_format.format(title=title, text=text, sep=sep)

    def query_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of queries as the query encoder reads them: prefix, special tokens, truncation."""
        return self.query.tokens(texts)

    def query_forward(self, token_lists: Sequence[Sequence[int]]) -> Tensor:
        """(B, D) fp32 query vectors with gradient, for R-ft; equal to `encode_queries` of the same
        texts.
        """
        return self.query.forward(token_lists).float()

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Character (start, end) of each token of the query tokenizer, without special tokens or
        truncation.

        Corpus examples cut a chunk's first and last 50 tokens by these.
        """
        encoded = self.query.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        return [(int(start), int(end)) for start, end in encoded["offset_mapping"]]

    def save_query_encoder(self, path: str | Path) -> None:
        """A sentence-transformers folder; plain `SentenceTransformer(path).encode` gives the query
        vectors.
        """
        model = assembled(
            list(self.query.model.children()), {"query": self.query.prefix}, default="query"
        )
        _save(model, path, self.preset)

    def save_retriever(self, path: str | Path) -> None:
        """A sentence-transformers Router: `encode_query` goes to the query encoder,
        `encode_document` to the chunk encoder.

        Prefixes travel as prompts; a title goes in front of its chunk as the preset's chunk_format
        says.
        """
        from sentence_transformers.sentence_transformer.modules import Router

        router = Router.for_query_document(
            query_modules=list(self.query.model.children()),
            document_modules=list(self.chunk.model.children()),
        )
        prompts = {"query": self.query.prefix, "document": self.chunk.prefix}
        _save(assembled([router], prompts), path, self.preset)

    @torch.inference_mode()
    def _encode(
        self, side: Encoder, texts: Sequence[str], batch_tokens: int
    ) -> NDArray[np.float32]:
        """Batches of similar length under a token budget: little padding, and no batch larger than
        memory allows. A GPU computes while a thread tokenises the next texts.
        """
        on_gpu = self.device.type == "cuda"
        budget = GPU_BATCHES * batch_tokens if on_gpu else on_device(batch_tokens, self.device)
        step = GPU_TEXTS if on_gpu else max(1, len(texts))
        vector_ND = torch.empty((len(texts), self.dimension), device=self.device)
        self.last_num_tokens = 0
        for start, token_lists in tokens_ahead(side, texts, step):
            lengths = [len(ids) for ids in token_lists]
            self.last_num_tokens += sum(lengths)
            for rows in length_buckets(lengths, budget):
                vectors_BD = side.forward([token_lists[row] for row in rows])
                places_B = torch.tensor(rows).to(self.device, non_blocking=True) + start
                vector_ND[places_B] = vectors_BD.float()
        result: NDArray[np.float32] = vector_ND.cpu().numpy()
        return result


def tokens_ahead(
    side: Encoder, texts: Sequence[str], step: int
) -> Iterator[tuple[int, list[list[int]]]]:
    """(start, ids of texts[start : start + step]), the next ones in the making meanwhile: every
    copy to a GPU waits for what it computes, and so would the tokenizer behind it.
    """
    starts = range(0, len(texts), step)
    if len(starts) < 2:
        yield from ((start, side.tokens(texts)) for start in starts)
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(side.tokens, texts[:step])
        for start in starts:
            token_lists = ahead.result()
            ahead = pool.submit(side.tokens, texts[start + step : start + 2 * step])
            yield start, token_lists


def _route(model: Any, names: tuple[str, ...]) -> Any:
    """One route of a Router as a SentenceTransformer of its own; any other model as it is."""
    first, *rest = model.children()
    if type(first).__name__ not in {"Router", "Asym"}:
        return model
    mapped = {task: route for (task, _), route in first.route_mappings.items()}
    for name in names:
        route = mapped.get(name, name)
        if route in first.sub_modules:
            return assembled([*first.sub_modules[route], *rest], dict(model.prompts))
    raise InputError(
        f"the Router has the routes {', '.join(first.sub_modules)}; expected one of "
        f"{', '.join(names)}"
    )


def _unshared(query_model: Any, chunk_model: Any) -> tuple[Any, Any]:
    """The query encoder is copied where it shares any weight with the chunk encoder."""
    chunk_weights = {p.data_ptr() for p in chunk_model.parameters()}
    if any(p.data_ptr() in chunk_weights for p in query_model.parameters()):
        return copy.deepcopy(query_model), chunk_model
    return query_model, chunk_model


def _prompt(model: Any, names: tuple[str, ...]) -> str:
    """The prompt sentence-transformers itself would use for this task, or ""."""
    default = model.default_prompt_name
    for name in itertools.chain(names, [default] if default else []):
        if model.prompts.get(name):
            return str(model.prompts[name])
    return ""


def _encoder(model: Any, prefix: str, max_tokens: int, name: str) -> Encoder:
    """Settles the truncation length in the tokenizer as well, so that an export truncates alike."""
    tokenizer = model.tokenizer
    if not getattr(tokenizer, "is_fast", False) or tokenizer.pad_token_id is None:
        raise InputError(
            f"retriever {name!r} has no fast Hugging Face tokenizer with a PAD token; expected a "
            "transformer encoder"
        )
    limits = [n for n in (max_tokens, model.max_seq_length, _positions(model)) if n]
    length = min(limits) if limits else 512
    model.max_seq_length = length
    return Encoder(
        model=model,
        prefix=prefix,
        max_tokens=length,
        prompt_length=_prompt_length(model, prefix),
    )


def _prompt_length(model: Any, prefix: str) -> int:
    """Prefix tokens without a closing special token, counted as sentence-transformers does; 0 but
    for INSTRUCTOR-like models, which read the prompt and leave it out of the mean.
    """
    pooled = (getattr(module, "include_prompt", True) for module in model.modules())
    if not prefix or all(pooled):
        return 0
    tokenizer = model.tokenizer
    ids = tokenizer(prefix)["input_ids"]
    closed = ids and ids[-1] in {tokenizer.sep_token_id, tokenizer.eos_token_id}
    return len(ids) - bool(closed)


def _positions(model: Any) -> int:
    """The position table's size, 0 where there is none (RoPE)."""
    config = getattr(next(iter(model.children())), "config", None)
    size = int(getattr(config, "max_position_embeddings", 0) or 0)
    # RoBERTa-like tables start after the padding index.
    offset = (
        (config.pad_token_id or 0) + 1
        if config is not None and "roberta" in config.model_type
        else 0
    )
    return max(0, size - offset)


def _save(model: Any, path: str | Path, preset: Preset) -> None:
    model.save_pretrained(str(path))
    write_preset(preset, path)
