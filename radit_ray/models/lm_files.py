"""What the files of a causal LM hold: its config, made fit for this use, and its weights, all of
them.

In: a Hugging Face id or folder. Out: transformers' config and model; `CausalLM.load` puts them
together with the tokenizer.
"""

from __future__ import annotations

import re
from typing import Any

import torch

from radit_ray.core.errors import InputError
from radit_ray.models.weights import whole

_CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "seq_length")
_NO_LIMIT = 1_000_000_000  # tokenizers say 1e30 for "no limit"
_BERT_LIKE = frozenset(
    {"bert", "roberta", "xlm-roberta", "electra", "camembert", "ernie", "roberta-prelayernorm"}
)
_DROPOUT_KEY = re.compile(r"dropout|dropped|_pdrop$|^p_?drop|drop_?path|layerdrop")


def read_config(path: str, *, trust_remote_code: bool) -> Any:
    """The config, its attention causal; `InputError` for an encoder-decoder."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"LM {path!r} is an encoder-decoder ({config.model_type}); give a causal LM"
        )
    if config.model_type in _BERT_LIKE:
        config.is_decoder = True  # else attention would look ahead
    return config


def read_model(path: str, config: Any, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """The model with every weight from its safetensors; `InputError` where one is missing, as in an
    encoder without an LM head.
    """
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told by name, instead of transformers' table in the log
    )
    return whole(loaded, path, what="LM")


def shapes_alone(config: Any, trust_remote_code: bool) -> Any:
    """The model without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def config_dropout_off(config: Any) -> dict[str, float]:
    """Sets every dropout probability of the config to 0 and returns what they were."""
    found = {
        key: float(value)
        for key, value in config.to_dict().items()
        if _DROPOUT_KEY.search(key)
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
    }
    for key in found:
        setattr(config, key, 0.0)
    return found


def context_length(config: Any, tokenizer: Any) -> int:
    """Tokens that prompt and answer may have together: the least that config and tokenizer name."""
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    limits = [getattr(text_config, key, None) for key in _CONTEXT_KEYS]
    known = [int(n) for n in [*limits, tokenizer.model_max_length] if n and 0 < n < _NO_LIMIT]
    return (
        min(known) if known else 2048
    )  # no limit named (ALiBi, state space): LLaMA-1's, as in the paper
