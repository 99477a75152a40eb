"""Contract of models as inputs: what is told of a folder without loading it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from radit_ray.core.errors import InputError
from radit_ray.engines.references import model_input, num_parameters


def test_parameters_of_a_model_folder_are_told_without_loading_it(
    tiny_models: tuple[str, str], tmp_path: Path
) -> None:
    """Against the model itself; tied weights are stored, and counted, once."""
    from transformers import AutoModelForCausalLM

    lm = AutoModelForCausalLM.from_pretrained(tiny_models[0])
    assert num_parameters(tiny_models[0]) == sum(p.numel() for p in lm.parameters())
    assert num_parameters("org/elsewhere") == num_parameters(str(tmp_path)) == 0


def test_a_model_folder_whose_weights_break_off_is_one_line(
    tiny_models: tuple[str, str], tmp_path: Path
) -> None:
    shutil.copytree(tiny_models[0], tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"model\.safetensors is damaged or breaks off"):
        num_parameters(str(tmp_path))


def test_a_misspelt_folder_is_told_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "wiki-causal").mkdir()
    with pytest.raises(InputError, match=r"did you mean 'wiki-causal'"):
        model_input(str(tmp_path / "wiki-casual"), what="lm")
    with pytest.raises(InputError, match="does not exist; expected a Hugging Face id or a folder"):
        model_input(str(tmp_path / "no" / "such"), what="lm")
