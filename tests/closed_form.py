"""An LM that anyone can rebuild without this repository's files: every weight is a sine of its
place, every token a byte or a fixed word. The golden ledger is computed with it.

    closed_form_lm(folder)    # a Hugging Face folder: model and tokenizer

It has learned nothing. Weights are sin(i * i / golden ratio) * SPREAD in float64, rounded to fp32,
with i counted over all matrices in the order of their sorted names, row by row; norms are 1. The
output weights of odd bytes are then set to 0, so that what it says can be read, and those of what
ends an answer are made larger, so that answers end.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CONTEXT = 1024
SPREAD = {"embed_tokens": 1.0, "lm_head": 0.7}  # of other matrices: HIDDEN
HIDDEN = 0.4
ENDS = 1.2  # factor on the output weights of EOS and the line break
GOLDEN_RATIO = (1 + 5**0.5) / 2
SPECIAL = ("<s>", "</s>", "<pad>")
# "Ġ" is the space before a word, "Ċ" the line break, as byte-level BPE writes them
WORDS = (
    *("Background", "Question", "Answer", "Summarize", "Ġarticle", "Ġstatement", "Ġtrue", "ĊĊ"),
    *("Ġthe", "Ġof", "Ġis", "Ġa", "Ġin", "Ġto", "Ġwas", "Ġand", "Ġtown", "Ġriver", "Ġmayor"),
    *("Ġfounded", "Ġwho", "Ġwhat", "ĠWikipedia", "Ġpage", "Ġtitle", "Ġentity", "Ġbetween"),
    *("START", "END", "ENT", "SEP", "Ġgiven", "Ġtext", "Ġmentioned", "Output", "Arden", "ĠArden"),
    *("Belwick", "ĠBelwick", "Cormont", "ĠCormont", "ĠAnna", "ĠGreta", "ĠHugo", "Ġtrade", "Ġsalt"),
)


def fixed_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE with BOS: the special tokens, the 256 bytes sorted, then WORDS and the parts
    that build each of them from its left.
    """
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    merges = []
    for word in WORDS:
        for end in range(2, len(word) + 1):
            if word[:end] not in tokens:
                tokens.append(word[:end])
                merges.append((word[: end - 1], word[end - 1]))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def fill(model: LlamaForCausalLM, factor_V: torch.Tensor) -> None:
    """Sets every weight in place. `factor_V`: on the output weights of each token."""
    start = 0
    for name, weight in sorted(model.state_dict().items()):
        if weight.ndim == 1:
            weight.fill_(1.0)
            continue
        # whole numbers up to 2 ** 31 and one product: exact, or rounded alike, on any machine
        place = torch.arange(start, start + weight.numel(), dtype=torch.float64)
        spread = SPREAD.get(name.split(".")[-2], HIDDEN)
        weight.copy_((torch.sin(place * place / GOLDEN_RATIO) * spread).view(weight.shape))
        start += weight.numel()
    model.lm_head.weight.data *= factor_V[:, None]


def closed_form_lm(folder: str | Path) -> str:
    """Saves the LM and its tokenizer; returns the folder."""
    tokenizer = fixed_tokenizer()
    vocabulary = tokenizer.get_vocab()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=vocabulary["<s>"],
        eos_token_id=vocabulary["</s>"],
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    factor_V = torch.zeros(len(vocabulary))
    for number in vocabulary.values():
        text = tokenizer.decode([number])
        factor_V[number] = float(text.isascii() and text.strip().isalnum())
    factor_V[[vocabulary["</s>"], vocabulary["Ċ"]]] = ENDS
    fill(model, factor_V)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)
