"""What the files of one encoder hold, as a SentenceTransformer.

In: a sentence-transformers folder or id, or a Hugging Face encoder with a preset's pooling (DPR
checkpoints too). Out: a SentenceTransformer; `DualEncoder.load` makes a retriever of one or two.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from radit_ray.core.errors import InputError
from radit_ray.models.presets import Preset

_DPR = "dpr"


def load_encoder(name: str, preset: Preset, dtype: torch.dtype, trust_remote_code: bool) -> Any:
    """A SentenceTransformer: the folder's own modules, or a Hugging Face encoder with the preset's
    pooling.
    """
    from sentence_transformers import SentenceTransformer

    model_kwargs = {"dtype": dtype, "use_safetensors": True}
    has_modules = (Path(name).expanduser() / "modules.json").is_file()
    if has_modules or preset.pooling == "sentence-transformers":
        return SentenceTransformer(
            name, device="cpu", trust_remote_code=trust_remote_code, model_kwargs=model_kwargs
        )
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoConfig

    if AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code).model_type == _DPR:
        transformer = _dpr_transformer(name, dtype)
    else:
        remote = {"trust_remote_code": trust_remote_code}
        transformer = Transformer(
            name,
            model_kwargs={**model_kwargs, **remote},
            config_kwargs=remote,
            processor_kwargs=remote,
        )
    width = int(transformer.model.config.hidden_size)
    modules = [transformer, Pooling(width, pooling_mode=preset.pooling)]
    return assembled([*modules, Normalize()] if preset.normalize else modules, {})


def _dpr_transformer(name: str, dtype: torch.dtype) -> Any:
    """The BERT inside a DPR checkpoint: its pooled output is that BERT's [CLS] vector."""
    from sentence_transformers.sentence_transformer.modules import Transformer
    from transformers import AutoConfig, AutoTokenizer, DPRContextEncoder, DPRQuestionEncoder

    config = AutoConfig.from_pretrained(name)
    if getattr(config, "projection_dim", 0):
        raise InputError(
            f"retriever {name!r} projects its vectors (projection_dim {config.projection_dim}), "
            "which is not supported; "
            "give a DPR checkpoint without projection"
        )
    is_context = "DPRContextEncoder" in (config.architectures or [])
    loader = DPRContextEncoder if is_context else DPRQuestionEncoder
    dpr = loader.from_pretrained(name, dtype=dtype, use_safetensors=True)
    inner = (dpr.ctx_encoder if is_context else dpr.question_encoder).bert_model
    inner.config.model_type = "bert"
    inner.config.architectures = ["BertModel"]
    with tempfile.TemporaryDirectory() as folder:
        _as_bert(inner).save_pretrained(folder)
        AutoTokenizer.from_pretrained(name).save_pretrained(folder)
        return Transformer(folder, model_kwargs={"dtype": dtype, "use_safetensors": True})


def _as_bert(inner: Any) -> Any:
    """The same weights under a plain BertConfig, which AutoModel maps to BertModel."""
    from transformers import BertConfig, BertModel

    known = BertConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    settings = {key: value for key, value in inner.config.to_dict().items() if key in known}
    bert = BertModel(BertConfig(**settings), add_pooling_layer=False)
    bert.load_state_dict(inner.state_dict(), strict=True)
    return bert.to(inner.dtype)


def assembled(modules: list[Any], prompts: dict[str, str], default: str = "") -> Any:
    """A SentenceTransformer of given modules whose scores are dot products."""
    from sentence_transformers import SentenceTransformer

    used = {key: value for key, value in prompts.items() if value}
    return SentenceTransformer(
        modules=modules,
        device="cpu" if not modules else str(next(modules[0].parameters()).device),
        prompts=used or None,
        default_prompt_name=default if default in used else None,
        similarity_fn_name="dot",
    )
