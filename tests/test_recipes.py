"""Contract of recipes: complete typed configs with the paper's values as defaults, changed by
dotted names, refused by name and type.
"""

from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from pathlib import Path

import pytest
from tiny import tiny_world

from radit_ray.core.errors import InputError
from radit_ray.data.world import WorldConfig
from radit_ray.recipe_checks import check_inputs, check_recipe
from radit_ray.recipes import (
    RECIPES,
    demo,
    flatten,
    override,
    own,
    paper,
    paper_literal,
    recipe_named,
)
from radit_ray.runs import Run


def test_paper_has_the_papers_values() -> None:
    """Tables 8 and 9, sections 2 and 3 of arXiv 2310.01352, at 7B."""
    recipe = paper()
    assert recipe.retriever == "dragon-plus"
    assert (recipe.k_infer, recipe.retrieve.k, recipe.lm_ft.k_train) == (10, 10, 3)
    tuning = recipe.lm_ft
    assert (tuning.steps, tuning.batch_size, tuning.seq_len) == (500, 64, 2048)
    assert (tuning.lr, tuning.end_lr, tuning.warmup) == (1e-5, 1e-7, 200)
    assert recipe.chunk.max_words == 200
    assert recipe.score.corpus_share == 0.95
    assert recipe.retrieve.corpus_examples == 900_000
    assert recipe.r_ft.lr == 1e-5
    literal = paper_literal()
    assert (literal.r_ft.answer_score, literal.r_ft.direction) == ("prob", "r_to_lsr")


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_complete_and_a_record(
    name: str, tiny_models: tuple[str, str], tmp_path: Path
) -> None:
    recipe = recipe_named(name)
    assert recipe.name == name
    assert json.loads(json.dumps(dataclasses.asdict(recipe)))["name"] == name
    lm, retriever = tiny_models
    models = {"lm": lm, "retriever": retriever, "preset": "minilm"}
    filled = dataclasses.replace(recipe, **models, **tiny_world(tmp_path))
    run = Run(filled, str(tmp_path))  # checks that models, sizes and variants agree
    assert run.needed == set(recipe.variants)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lm_ft.lm": "x"}, "lm_ft.lm is filled in by a run; set lm instead"),
        ({"contrasts": "radit-minus-nothing"}, "contrast 'radit-minus-nothing'"),
        ({"lm_ft.lora_export": "adapter"}, "lm_ft.lora_export='adapter'"),
        ({"k_infer": 99}, "k_infer=99"),
        ({"variants": "radt"}, "did you mean 'radit'"),
    ],
)
def test_what_contradicts_itself_is_refused_before_any_work(
    changes: dict[str, object], named: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=re.escape(named)):
        Run(override(own(), changes), str(tmp_path))


def test_dotted_names_change_one_field() -> None:
    changes = {
        "lm_ft.lr": "2e-5",
        "k-infer": 3,
        "variants": "radit, replug",
        "resources.packing": "true",
        "lm_ft.shares.corpus": "0.2",
        "lm_ft.shares": "{'oasst1': 0.1}",
    }
    recipe = override(own(), changes)
    assert recipe.lm_ft.lr == 2e-5
    assert recipe.k_infer == 3
    assert recipe.variants == ("radit", "replug")
    assert recipe.resources.packing is True
    assert recipe.lm_ft.shares == {"oasst1": 0.1}
    one = override(own(), {"lm_ft.shares.corpus": "0.2"}).lm_ft.shares
    assert one == {**own().lm_ft.shares, "corpus": 0.2}
    assert override(own(), {}) == own()


def test_the_demos_world_is_changed_by_dotted_names() -> None:
    changes = {
        "world.num-eval": "200",
        "world.changed_share": "0.3",
        "world.vocabulary_gap": "false",
        "world.snapshot_dates": "2001-01-01, 2002-01-01",
        "snapshot": "2",
    }
    recipe = override(demo(), changes)
    assert recipe.snapshot == 2
    assert recipe.world == WorldConfig(
        num_eval=200,
        changed_share=0.3,
        vocabulary_gap=False,
        snapshot_dates=("2001-01-01", "2002-01-01"),
    )
    table = tomllib.loads("[world]\nsnapshot-dates = ['a', 2002-01-01]\nchanged-share = 1\n")
    world = override(demo(), flatten(table)).world
    assert (world.snapshot_dates, world.changed_share) == (("a", "2002-01-01"), 1.0)


def test_a_toml_file_says_the_same() -> None:
    table = tomllib.loads("k-infer = 3\n[lm-ft]\nlr = 2e-5\nsteps = 7\n[lm-ft.shares]\na = 0.5\n")
    recipe = override(own(), flatten(table))
    assert (recipe.k_infer, recipe.lm_ft.lr, recipe.lm_ft.steps) == (3, 2e-5, 7)
    assert recipe.lm_ft.shares["a"] == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm_ft.lrr": 1}, r"unknown field 'lm_ft.lrr': LmFtConfig has no 'lrr'.*lr"),
        ({"lmft.lr": 1}, r"Recipe has no 'lmft'.*lm_ft"),
        ({"lm_ft": 1}, "group of fields"),
        ({"k_infer.x": 1}, "plain value"),
        ({"k_infer": "many"}, "k_infer='many', expected a value of type int"),
        ({"k_infer": 2.5}, "k_infer=2.5, expected a value of type int"),
        ({"lm_ft.lr": "quick"}, r"lm_ft\.lr='quick', expected a value of type float"),
        ({"resources.packing": "yes"}, r"expected a value of type bool"),
        ({"lm_ft.shares": "nothing"}, "dict"),
        ({"world.snapshot_dates": "a"}, r"snapshot_dates='a', .*tuple\[str, str\]"),
        ({"world.snapshot_dates": ["a", "b", "c"]}, r"tuple\[str, str\]"),
    ],
)
def test_wrong_fields_and_types_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message) as found:
        override(own(), changes)
    assert "\n" not in str(found.value)


def test_contradictions_are_found_before_any_work(tmp_path: object) -> None:
    filled = {"lm": "lm", "retriever": "r", "corpus": "c"}
    for changes, message in (
        ({"k_infer": 11}, "must not exceed retrieve.k=10"),
        ({"cycles": -1}, "cycles=-1"),
        ({"cycle_init": "last"}, "cycle_init='last'"),
        ({"variants": ("raddit",)}, "unknown variant 'raddit'.*radit"),
        ({"lm": ""}, "needs --lm"),
    ):
        with pytest.raises(InputError, match=message):
            Run(own(**{**filled, **changes}), str(tmp_path))


def test_inputs_are_read_before_any_work(tiny_models: tuple[str, str], tmp_path: Path) -> None:
    lm, retriever = tiny_models
    world = tiny_world(tmp_path)
    recipe = dataclasses.replace(own(), lm=lm, retriever=retriever, **world)
    check_inputs(recipe)
    row = {"question": "Who?", "answers": ["Ada"]}
    bare = tmp_path / "bare.jsonl"
    bare.write_text("".join(json.dumps({**row, "id": str(i)}) + "\n" for i in range(20)))
    check_inputs(dataclasses.replace(recipe, examples=str(bare)))  # its shares cut dev and eval
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.json").write_text("{}")
    broken = tmp_path / "broken.jsonl"
    broken.write_text(json.dumps(row) + '\n{"question": ')
    uncut = {"retrieve.dev_share": 0.0}
    for changes, message in (
        (
            {"examples": str(bare), "retrieve.eval_share": 0.0},
            "of split 'eval', only of dev, train",
        ),
        ({"examples": str(bare), "retrieve.dev_share": 0.0}, "retrieve.dev_share=0.1"),
        ({"examples": f"eval={bare}", **uncut}, "no example of split 'train'"),
        ({"examples": str(broken)}, r"broken\.jsonl:2"),
        ({"lm": str(tmp_path / "empty")}, r"no \*\.safetensors"),
        ({"evaluate.tasks": ["wrold"]}, "evaluate.tasks: no question of 'wrold'"),
    ):
        with pytest.raises(InputError, match=message):
            check_inputs(override(recipe, changes))
    check_inputs(override(recipe, {"examples": f"eval={bare}", "cycles": 0, **uncut}))


def test_values_of_a_stage_are_checked_before_any_work(
    tiny_models: tuple[str, str], tmp_path: Path
) -> None:
    lm, retriever = tiny_models
    recipe = dataclasses.replace(own(), lm=lm, retriever=retriever, **tiny_world(tmp_path))
    one = {"retrieve.k": 1, "k_infer": 1, "lm_ft.k_train": 1}
    check_recipe(override(recipe, {**one, "cycles": 0, "score.k": 1}))  # nothing is scored
    check_recipe(override(recipe, {"retriever": "bm25", "r_ft.lr": 0.0, "index.kind": "bm25"}))
    for changes, message in (
        ({"lm_ft.select_by": "em"}, "select_by='em'"),
        ({"r_ft.direction": "r_to_l"}, "direction='r_to_l'"),
        ({"lm_ft.schedule": "linaer"}, "lm_ft.schedule='linaer'; did you mean 'linear'"),
        ({"r_ft.schedule": "step"}, "r_ft.schedule='step' (one of: cosine, linear)"),
        ({"r_ft.lr": 0.0}, "r_ft.lr=0.0; expected a rate above 0"),
        ({"lm_ft.precision": "fp16"}, "lm_ft.precision='fp16'; did you mean 'bf16'"),
        ({"embed.precision": "half"}, "embed.precision 'half' is unknown"),
        ({"score.precision": "fp8"}, "score.precision 'fp8' is unknown"),
        ({"ensemble": "answer"}, "unknown ensemble 'answer'; did you mean 'answers'"),
        ({"index.kind": "flatt"}, "unknown index kind 'flatt'; did you mean 'flat'"),
        ({"index.kind": "bm25"}, "index.kind='bm25' searches words"),
        ({"index.num_shards": 0}, "num_shards=0 of IndexConfig; expected at least 1"),
        ({"retrieve.keep_gold": True}, "keep_gold needs num_documents"),
        ({"retrieve.num_documents": 9}, "num_documents and corpus_examples do not go together"),
        ({"score.k": 1}, "score.k=1: of one chunk"),
        ({"score.corpus_share": 3.0}, "corpus_share=3.0, expected 0 to 1"),
        (one, "retrieve.k=1: of one chunk"),
    ):
        with pytest.raises(InputError, match=re.escape(message)):
            check_recipe(override(recipe, changes))


def test_unknown_recipes_suggest_the_nearest() -> None:
    with pytest.raises(InputError, match=r"unknown recipe 'squad-open'.*squad_open"):
        recipe_named("squad-open")
