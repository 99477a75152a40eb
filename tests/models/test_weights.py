"""Contract: a model is loaded whole or refused in one line that names the folder and the fix; a
tied head and an unused pooler are no fault, and an error of another kind stays itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer
from tiny import LM_KINDS, bert_encoder, wordpiece_tokenizer
from transformers import BertModel, PreTrainedModel

from radit_ray.core.errors import InputError
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.models.presets import resolve_preset
from radit_ray.models.weights import loading

Folder = Callable[..., str]


@pytest.fixture(scope="module")
def dense_folder(encoder_folder: Folder, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sentence-transformers folder of three modules, two of them with weights."""
    modules = [Transformer(encoder_folder(1)), Pooling(32), Dense(32, 8)]
    path = tmp_path_factory.mktemp("st") / "dense"
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(path))
    return str(path)


def changed(folder: str, tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> str:
    """A copy of a model folder with other weights."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    tensors = load_file(copy / "model.safetensors")
    change(tensors)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return str(copy)


def cut(folder: str, tmp_path: Path, name: str) -> str:
    """A copy of a model folder with half of one file."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[: len(content) // 2])
    return str(copy)


def refused(load: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def first_layer(tensors: dict[str, Any]) -> str:
    return next(name for name in sorted(tensors) if ".layer.0." in name)


@pytest.mark.parametrize("kind", LM_KINDS)
def test_whole_lms_load_with_a_tied_head_or_one_of_their_own(lm_folder: Folder, kind: str) -> None:
    head = CausalLM.load(lm_folder(kind)).model.get_output_embeddings()
    assert torch.isfinite(head.weight).all()


def test_an_lm_with_missing_or_misshapen_tensors_is_refused(
    lm_folder: Folder, tmp_path: Path
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    short = changed(lm_folder("llama"), tmp_path / "a", lambda t: t.pop(name))
    message = refused(lambda: CausalLM.load(short))
    assert message.startswith(f"LM {short!r}: 1 tensors of LlamaForCausalLM are not in its weights")
    assert f"(first: {name})" in message
    assert "save_pretrained" in message
    small = changed(lm_folder("llama"), tmp_path / "b", lambda t: t.update({name: torch.ones(3)}))
    assert "1 tensors of LlamaForCausalLM have another shape" in refused(
        lambda: CausalLM.load(small)
    )
    no_head = changed(lm_folder("llama"), tmp_path / "c", lambda t: t.pop("lm_head.weight"))
    assert "(first: lm_head.weight)" in refused(lambda: CausalLM.load(no_head))


def test_an_encoder_is_no_lm(encoder_folder: Folder) -> None:
    message = refused(lambda: CausalLM.load(encoder_folder(1)))
    assert "6 tensors of BertLMHeadModel" in message
    assert "(first: cls.predictions.bias)" in message
    assert "a causal LM with its head, no encoder" in message


def test_an_encoder_with_missing_tensors_is_refused(encoder_folder: Folder, tmp_path: Path) -> None:
    torn = changed(encoder_folder(1), tmp_path, lambda t: t.pop(first_layer(t)))
    message = refused(lambda: DualEncoder.load(torn, preset="e5"))
    assert message.startswith(f"retriever {torn!r}: 1 tensors of BertModel are not in its weights")


def test_a_sentence_transformers_folder_with_missing_tensors_is_refused(
    dense_folder: str, tmp_path: Path
) -> None:
    torn = changed(dense_folder, tmp_path / "a", lambda t: t.pop(first_layer(t)))
    assert "1 tensors of BertModel" in refused(lambda: DualEncoder.load(torn))
    assert "from_pretrained" in PreTrainedModel.__dict__
    SentenceTransformer(torn, device="cpu")  # what others load afterwards is theirs again
    other = tmp_path / "b"
    shutil.copytree(dense_folder, other)
    part = other / "2_Dense" / "model.safetensors"
    save_file({"linear.weight": torch.ones(8, 32)}, part)
    assert "linear.bias" in refused(lambda: DualEncoder.load(str(other)))


@pytest.mark.parametrize("pooler", [True, False])
def test_a_pooler_is_not_needed(tmp_path: Path, pooler: bool) -> None:
    BertModel(bert_encoder().config, add_pooling_layer=pooler).save_pretrained(tmp_path)
    wordpiece_tokenizer().save_pretrained(tmp_path)
    assert DualEncoder.load(str(tmp_path), preset="contriever").dimension == 32


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_file_that_breaks_off_is_named(
    lm_folder: Folder, encoder_folder: Folder, tmp_path: Path, name: str
) -> None:
    lm = cut(lm_folder("llama"), tmp_path / "lm", name)
    encoder = cut(encoder_folder(1), tmp_path / "encoder", name)
    for message in (
        refused(lambda: CausalLM.load(lm)),
        refused(lambda: DualEncoder.load(encoder, preset="e5")),
    ):
        assert f": {name} is damaged or breaks off" in message
        assert message.endswith("copy or download the model again")


@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json", "model.safetensors"])
def test_a_file_of_a_sentence_transformers_folder_that_breaks_off_is_named(
    dense_folder: str, tmp_path: Path, name: str
) -> None:
    torn = cut(dense_folder, tmp_path, name)
    assert name in refused(lambda: DualEncoder.load(torn))
    if name == "modules.json":
        assert name in refused(lambda: resolve_preset(torn))


def test_json_of_another_kind_is_named(lm_folder: Folder, tmp_path: Path) -> None:
    shutil.copytree(lm_folder("llama"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer.json").write_text(json.dumps([1]))
    message = refused(lambda: CausalLM.load(str(tmp_path)))
    assert "tokenizer.json holds a list, expected an object" in message


def test_an_error_of_another_kind_stays_itself(lm_folder: Folder) -> None:
    with pytest.raises(MemoryError), loading(lm_folder("llama"), what="LM"):
        raise MemoryError
