"""What the side-by-side scripts run on: texts of invented words, and models of random weights in
realistic shapes, built once below `.bench/models` and never committed.

Speed and agreement do not depend on what weights say, and a fresh machine has no models. Lengths
are spread as those of real chunks are (lognormal around `mean` words), words follow Zipf's law
over 40,000 types, so that tokenizers of 30,000 tokens have something to do.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, WordPieceTrainer

from benchmarks.side_by_side import CACHE
from radit_ray.data.rows import example_row

NUM_WORDS = 40_000
ENCODERS = {  # hidden width, layers, heads
    "minilm": (384, 6, 12),  # all-MiniLM-L6-v2
    "base": (768, 12, 12),  # BERT base
    "wide": (384, 1, 6),  # vectors of MiniLM's width, little to compute
    "tiny": (128, 2, 4),
}
LMS = {  # width, MLP width, layers, heads, vocabulary
    "tiny": (128, 352, 2, 4, 32_000),
    "small": (512, 1408, 8, 8, 32_000),
    "medium": (1024, 2816, 8, 16, 32_000),
    "1b": (2048, 5632, 22, 32, 32_000),  # TinyLlama
    "7b": (4096, 11_008, 32, 32, 32_000),  # LLaMA 7B
}


@functools.cache
def words() -> tuple[str, ...]:
    """Invented words of two to four syllables, common ones first."""
    starts = ("", *"bcdfghklmnprstvz", "br", "ch", "st", "tr", "sh")
    rng = np.random.default_rng(0)
    parts = [a + b + c for a in starts for b in "aeiou" for c in ("", "n", "r", "s")]
    found: dict[str, None] = {}
    while len(found) < NUM_WORDS:
        size = int(rng.integers(2, 5))
        found["".join(parts[i] for i in rng.integers(0, len(parts), size))] = None
    return tuple(found)


def texts(num: int, *, mean: int = 90, spread: float = 0.6, seed: int = 0) -> list[str]:
    """Texts of 5 to 200 words with a full stop now and then."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(np.log(mean), spread, num), 5, 200).astype(int)
    ranks = np.arange(1, NUM_WORDS + 1)
    drawn = rng.choice(NUM_WORDS, size=int(lengths.sum()), p=(1 / ranks) / (1 / ranks).sum())
    known = words()
    stream = iter(drawn.tolist())
    made = []
    for length in lengths.tolist():
        own = [known[i] for i in itertools.islice(stream, length)]
        own[11::12] = [f"{word}." for word in own[11::12]]
        made.append(" ".join(own))
    return made


def ranked_rows(
    num: int, *, k: int, mean: int = 120, spread: float = 0.6, answer_words: int = 2, seed: int = 0
) -> list[dict[str, Any]]:
    """Questions with an answer and k chunks each, as `retrieve` leaves them."""
    chunks = texts(num * k, mean=mean, spread=spread, seed=seed)
    questions = texts(num, mean=10, spread=0.2, seed=seed + 1)
    answers = texts(num, mean=answer_words + 4, spread=0.0, seed=seed + 2)
    rows = []
    for number in range(num):
        own = chunks[number * k : (number + 1) * k]
        ids = [f"chunk-{number}-{place}" for place in range(k)]
        answer = " ".join(answers[number].replace(".", "").split()[:answer_words])
        row = example_row(
            {"id": f"q-{number}", "question": f"{questions[number]}?", "answers": [answer]}
        )
        rows.append(
            {
                **row,
                **{"chunk_ids": ids, "doc_ids": ids, "titles": ["Title"] * k, "texts": own},
                "scores": [0.8 - 0.02 * place for place in range(k)],
            }
        )
    return rows


def encoder(shape: str = "minilm") -> str:
    """A sentence-transformers folder: BERT, mean pooling, vectors of length 1. Below it `bert/`, a
    plain Hugging Face folder of the same weights, which every peer's older library reads too.
    """
    folder = CACHE / "models" / f"encoder-{shape}"
    if (folder / "done").exists():
        return str(folder)
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    width, layers, heads = ENCODERS[shape]
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = WordPieceTrainer(vocab_size=30_522, special_tokens=special, show_progress=False)
    backend.train_from_iterator(_training_text(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=256,
        **{f"{name}_token": token for name, token in names.items()},
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30_522,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        initializer_range=0.1,  # wide enough that vectors of different texts differ
    )
    bert = folder / "bert"
    BertModel(config).save_pretrained(bert)
    _save_tokenizer(tokenizer, bert)
    modules = [
        Transformer(str(bert), max_seq_length=256),
        Pooling(width, pooling_mode="mean"),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    (folder / "done").touch()
    return str(folder)


def lm(shape: str = "small", *, context: int = 2048, vocabulary: int = 0) -> str:
    """A Hugging Face folder: LLaMA with BOS, EOS, PAD and a byte-level BPE."""
    width, inner, layers, heads, size = LMS[shape]
    size = vocabulary or size
    folder = CACHE / "models" / f"lm-{shape}-{size}"
    if (folder / "done").exists():
        return str(folder)
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=size,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    if inner > 5_000:  # a CPU takes minutes to draw that many weights, a disk to write them in fp32
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = LlamaForCausalLM(config).to(torch.bfloat16)
    else:
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    # a vocabulary of another size reads the same tokens
    _save_tokenizer(_byte_level(8_000 if vocabulary else size), folder)
    (folder / "done").touch()
    return str(folder)


def _byte_level(size: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_training_text(), trainer)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        model_max_length=2048,
    )


def _training_text() -> Sequence[str]:
    template = "Background: Title Question: Answer: "
    return [*texts(3000, seed=7), " ".join(words()), template * 50]


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """With the class name that transformers 4 knows too."""
    tokenizer.save_pretrained(folder)
    file = folder / "tokenizer_config.json"
    told = json.loads(file.read_text())
    told["tokenizer_class"] = "PreTrainedTokenizerFast"
    file.write_text(json.dumps(told, indent=2))


def world(folder: str, num: int, *, files: int = 1, mean: int = 60) -> dict[str, str]:
    """{"corpus": folder of JSONL, "examples": "train=..,dev=..,eval=.."}: a question a document for
    up to 60 of them, whose answer is a word that stands there alone.
    """
    base = Path(folder)
    docs = texts(num, mean=mean, spread=0.3, seed=11)
    (base / "corpus").mkdir(parents=True, exist_ok=True)
    for part in range(files):
        with open(base / "corpus" / f"part-{part}.jsonl", "w") as file:
            for number in range(part, num, files):
                row = {"id": f"d-{number}", "title": f"Place {number}"}
                row["text"] = f"{docs[number]} The key is answer{number}."
                file.write(json.dumps(row) + "\n")
    splits: dict[str, list[dict[str, Any]]] = {"train": [], "dev": [], "eval": []}
    for number in range(min(num, 60)):
        split = ("train", "train", "dev", "eval")[number % 4]
        question = " ".join(docs[number].split()[:8])
        row = {"id": f"q-{number}", "question": f"{question}?", "answers": [f"answer{number}"]}
        splits[split].append(row)
    for split, rows in splits.items():
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (base / f"{split}.jsonl").write_text(text)
    found = ",".join(f"{split}={base / split}.jsonl" for split in splits)
    return {"corpus": str(base / "corpus"), "examples": found}
