"""Folders of the tiny models that `tests/tiny.py` builds, made once a session."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import LM_KINDS, bert_encoder, causal_lm, wordpiece_tokenizer


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """lm_folder("gpt2") is the path of a saved tiny LM with its tokenizer."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> str:
        if kind not in made:
            torch.manual_seed(LM_KINDS.index(kind))
            model, tokenizer = causal_lm(kind)
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
            made[seed] = tmp_path_factory.mktemp("encoder") / f"bert{seed}"
            bert_encoder().save_pretrained(made[seed])
            wordpiece_tokenizer().save_pretrained(made[seed])
        return str(made[seed])

    return folder
