"""Real models and a real corpus small enough to build in a test: width 32, 2 layers, some hundred
tokens, 40 documents.

    lm = tiny_lm(folder)                  # Hugging Face folder: model and tokenizer
    retriever = tiny_retriever(folder)    # sentence-transformers folder: BERT, mean, L2 norm
    world = tiny_world(folder)            # {"corpus": "...jsonl", "examples": "train=...,dev=..."}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
SETTINGS = {  # of a run over `tiny_world` in seconds
    "k_infer": 2,
    "max_new_tokens": 4,
    "probes": "",
    "chunk.docs_per_shard": 20,
    "retrieve.k": 3,
    "retrieve.corpus_examples": 0,
    "lm_ft.k_train": 1,
    "lm_ft.steps": 4,
    "lm_ft.batch_size": 2,
    "lm_ft.seq_len": 256,
    "lm_ft.eval_every": 2,
    "lm_ft.warmup": 1,
    "score.corpus_share": 0.0,
    "r_ft.batch_size": 8,
    "r_ft.eval_every": 2,
    "r_ft.select_by": "last",
    "evaluate.bootstrap": 50,
    "evaluate.precision": "fp32",
    "score.precision": "fp32",
    "resources.num_workers": 1,
}
_VOCABULARY = 300
_WORLD_VOCABULARY = 500

FIRST = ("Ar", "Bel", "Cor", "Dun", "Els", "Fal", "Gor", "Hol", "Ist", "Jor")
LAST = ("den", "wick", "mont", "stad")
PEOPLE = ("Anna", "Boris", "Clara", "Dario", "Edith", "Felix", "Greta", "Hugo", "Irma", "Jonas")
TRADES = ("salt", "wool", "glass", "amber", "iron", "honey", "paper", "silk")


def byte_level_tokenizer(
    *, bos: bool, texts: Sequence[str] = TEXT, vocab_size: int = _VOCABULARY
) -> PreTrainedTokenizerFast:
    """As GPT-2 and Qwen (no BOS), or as LLaMA-3 (BOS of its own accord)."""
    backend = Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet)
    backend.train_from_iterator(list(texts) * 4, trainer)
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


def wordpiece_tokenizer(
    *, texts: Sequence[str] = TEXT, vocab_size: int = _VOCABULARY, max_length: int = 128
) -> PreTrainedTokenizerFast:
    """As BERT: [CLS] and [SEP], lower case, no EOS token."""
    backend = Tokenizer(WordPiece(unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = WordPieceTrainer(vocab_size=vocab_size, special_tokens=special)
    backend.train_from_iterator(list(texts) * 4, trainer)
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
        model_max_length=max_length,
    )


def causal_lm(
    kind: str,
    *,
    texts: Sequence[str] = TEXT,
    vocab_size: int = _VOCABULARY,
    context: int = 128,
    spread: float = 0.3,
) -> tuple[Any, PreTrainedTokenizerFast]:
    """(model, tokenizer) of one of LM_KINDS. `spread` is large, so that logits differ and a leak or
    an off-by-one shows.
    """
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": context,
        "initializer_range": spread,
    }
    rope = {**shape, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 1}
    if kind == "llama":
        config = LlamaConfig(
            **{**rope, "bos_token_id": 1, "eos_token_id": 2}, attention_dropout=0.1
        )
        return LlamaForCausalLM(config), metaspace_tokenizer()
    byte_level = {"texts": texts, "vocab_size": vocab_size}
    if kind == "llama_tied":
        config = LlamaConfig(**rope, tie_word_embeddings=True)
        return LlamaForCausalLM(config), byte_level_tokenizer(bos=True, **byte_level)
    if kind == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**rope)), byte_level_tokenizer(bos=False, **byte_level)
    if kind == "qwen3":
        config = Qwen3Config(**rope, head_dim=8)
        return Qwen3ForCausalLM(config), byte_level_tokenizer(bos=False, **byte_level)
    if kind == "gpt2":
        config = GPT2Config(
            vocab_size=vocab_size,
            n_embd=32,
            n_layer=2,
            n_head=4,
            n_positions=context,
            initializer_range=spread,
        )
        return GPT2LMHeadModel(config), byte_level_tokenizer(bos=False, **byte_level)
    config = BertConfig(**shape, is_decoder=True, tie_word_embeddings=True)
    tokenizer = wordpiece_tokenizer(texts=texts, vocab_size=vocab_size, max_length=context)
    return BertLMHeadModel(config), tokenizer


def bert_encoder(vocab_size: int = _VOCABULARY, *, context: int = 64, width: int = 32) -> BertModel:
    """A BERT body without pooler."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=width,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=context,
        initializer_range=0.3,
    )
    return BertModel(config, add_pooling_layer=False)


def tiny_lm(folder: str | Path, *, shape: str = "llama", seed: int = 0) -> str:
    """A saved LM that knows the tiny world's words; `shape` is "llama", "qwen2", "gpt2", "bert"."""
    torch.manual_seed(seed)
    model, tokenizer = causal_lm(
        "llama_tied" if shape == "llama" else shape,
        texts=_world_texts(),
        vocab_size=_WORLD_VOCABULARY,
        context=256,
    )
    path = Path(folder, f"lm-{shape}-{seed}")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def tiny_retriever(folder: str | Path, *, seed: int = 0, width: int = 32) -> str:
    """A saved sentence-transformers retriever: BERT, mean pooling, vectors of length 1."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    torch.manual_seed(seed)
    path = Path(folder, f"retriever-{seed}-{width}")
    bert = path / "bert"
    bert_encoder(_WORLD_VOCABULARY, context=128, width=width).save_pretrained(bert)
    words = wordpiece_tokenizer(texts=_world_texts(), vocab_size=_WORLD_VOCABULARY)
    words.save_pretrained(bert)
    modules = [Transformer(str(bert)), Pooling(width, pooling_mode="mean"), Normalize()]
    target = path / "model"
    SentenceTransformer(modules=modules, device="cpu").save(str(target), create_model_card=False)
    return str(target)


def documents() -> list[dict[str, str]]:
    """40 documents of three facts each."""
    made = []
    for number in range(40):
        town = FIRST[number % 10] + LAST[number // 10]
        mayor, year, trade = facts(number)
        text = (
            f"{town} is an old town on the river. The mayor of {town} is {mayor}. "
            f"{town} was founded in {year}. The merchants of {town} trade in {trade}."
        )
        made.append({"id": f"doc-{number:02d}", "title": town, "text": text, "source": "tiny"})
    return made


def facts(number: int) -> tuple[str, str, str]:
    """(mayor, year, trade) of one document."""
    mayor = f"{PEOPLE[number % 10]} {PEOPLE[(3 * number + 1) % 10]}"
    return mayor, str(1200 + 7 * number), TRADES[number % 8]


def questions() -> dict[str, list[dict[str, Any]]]:
    """60 questions by split: train 36, dev 12, eval 12, each over documents of its own."""
    found: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "eval": []}
    for number, document in enumerate(documents()):
        mayor, year, _ = facts(number)
        split = "train" if number < 24 else "dev" if number < 32 else "eval"
        town = document["title"]
        asked = [(f"Who is the mayor of {town}?", mayor)]
        if number % 2:
            asked.append((f"When was {town} founded?", year))
        for part, (question, answer) in enumerate(asked):
            row = {"id": f"q-{number:02d}-{part}", "question": question, "answers": [answer]}
            found[split].append({**row, "task": "tiny", "group": document["id"]})
    return found


def tiny_world(folder: str | Path, *, split_files: bool = True) -> dict[str, str]:
    """{"corpus": JSONL path, "examples": "train=..,dev=..,eval=.." or one file without splits}."""
    base = Path(folder)
    base.mkdir(parents=True, exist_ok=True)
    corpus = write_jsonl(base / "corpus.jsonl", documents())
    asked = questions()
    if not split_files:
        rows = [row for split in asked.values() for row in split]
        return {"corpus": corpus, "examples": write_jsonl(base / "examples.jsonl", rows)}
    files = {name: write_jsonl(base / f"{name}.jsonl", rows) for name, rows in asked.items()}
    return {"corpus": corpus, "examples": ",".join(f"{k}={v}" for k, v in files.items())}


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> str:
    """One JSON object a line; returns the path."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _world_texts() -> list[str]:
    template = "Background: \n\nQuestion: \nAnswer: Q: A: 0123456789"
    return [
        *(d["text"] for d in documents()),
        *(q["question"] for q in questions()["eval"]),
        template,
    ]
