"""Real models small enough to build in the test: 2 layers, width 32, a vocabulary of about 300,
saved as folders.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, WordPiece
from tokenizers.trainers import BpeTrainer, WordPieceTrainer
from transformers import (
    BertConfig,
    BertLMHeadModel,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

TEXT = [
    "Background: Paris is the capital of France.\n\nQuestion: what is the capital?\nAnswer: Paris",
    "The river flows through the old town, and O'Brien paid 1,000 crowns in 1990.",
    "Who wrote the book? The well-known author wrote it in London: a: b: c:",
    "query: passage: the of and in Lyon Madrid Rome Berlin Vienna Oslo (old) 1.5 10:30 3",
]
LM_KINDS = ("llama", "llama_tied", "qwen2", "qwen3", "gpt2", "bert")
_VOCABULARY = 300


def byte_level_tokenizer(*, bos: bool) -> PreTrainedTokenizerFast:
    """As GPT-2 and Qwen (no BOS), or as LLaMA-3 (BOS of its own accord)."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(TEXT * 4, trainer)
    if bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def metaspace_tokenizer() -> PreTrainedTokenizerFast:
    """As LLaMA-1 and 2: SentencePiece BPE with a dummy space, byte fallback, BOS, and no PAD."""
    backend = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first")
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(16))]
    trainer = BpeTrainer(vocab_size=_VOCABULARY, special_tokens=special)
    backend.train_from_iterator([text.replace("\n", " ") for text in TEXT * 4], trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def wordpiece_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT: [CLS] and [SEP], lower case, no EOS token."""
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = WordPieceTrainer(vocab_size=_VOCABULARY, special_tokens=special)
    backend.train_from_iterator(TEXT * 4, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=128,
    )


def _causal_lm(kind: str) -> tuple[Any, PreTrainedTokenizerFast]:
    shape = {
        "vocab_size": _VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,  # logits that differ, so that a leak or an off-by-one shows
    }
    rope = {**shape, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1}
    if kind == "llama":
        config = LlamaConfig(
            **{**rope, "bos_token_id": 1, "eos_token_id": 2}, attention_dropout=0.1
        )
        return LlamaForCausalLM(config), metaspace_tokenizer()
    if kind == "llama_tied":
        return (
            LlamaForCausalLM(LlamaConfig(**rope, tie_word_embeddings=True)),
            byte_level_tokenizer(bos=True),
        )
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**rope)), byte_level_tokenizer(bos=False)
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**rope, head_dim=8)), byte_level_tokenizer(bos=False)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=_VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=128,
            initializer_range=0.3,
        )
        return GPT2LMHeadModel(config), byte_level_tokenizer(bos=False)
    config = BertConfig(**shape, is_decoder=True, tie_word_embeddings=True)
    return BertLMHeadModel(config), wordpiece_tokenizer()


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """lm_folder("gpt2") is the path of a saved tiny LM with its tokenizer."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> str:
        if kind not in made:
            torch.manual_seed(LM_KINDS.index(kind))
            model, tokenizer = _causal_lm(kind)
            made[kind] = tmp_path_factory.mktemp("lm") / kind
            model.save_pretrained(made[kind])
            tokenizer.save_pretrained(made[kind])
        return str(made[kind])

    return folder


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], str]:
    """encoder_folder(seed) is the path of a saved tiny BERT encoder."""
    made: dict[int, Path] = {}

    def folder(seed: int) -> str:
        if seed not in made:
            torch.manual_seed(seed)
            config = BertConfig(
                vocab_size=_VOCABULARY,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=64,
                initializer_range=0.3,
            )
            made[seed] = tmp_path_factory.mktemp("encoder") / f"bert{seed}"
            BertModel(config, add_pooling_layer=False).save_pretrained(made[seed])
            wordpiece_tokenizer().save_pretrained(made[seed])
        return str(made[seed])

    return folder
