"""What the `radit` commands do once their options are read: run a recipe, ask, report, export
predictions, look at the machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.records import not_utf8
from radit_ray.data.world import WorldConfig
from radit_ray.demo_world import demo_inputs

if TYPE_CHECKING:
    from radit_ray.challenge import ChallengeConfig
    from radit_ray.cli import RunArgs
    from radit_ray.engines.machine_checks import Finding
    from radit_ray.engines.resources import Resources
    from radit_ray.recipes import Recipe


def run(
    recipe: Recipe, output: str, *, until: str = "", num_cpus: int = 0, as_json: bool = False
) -> None:
    """Runs a recipe into `output` (demo: runs/demo) and prints its tables; with `until` only as far
    as that stage.
    """
    output = output or ("runs/demo" if recipe.name == "demo" else "")
    recipe = prepared(recipe, output)
    from radit_ray.engines.connect import connect
    from radit_ray.pipeline import pipeline
    from radit_ray.recipe_checks import check_inputs, check_recipe, check_until
    from radit_ray.report.table import render
    from radit_ray.report.writing import write_report
    from radit_ray.runs import Reached, merge_seeds, seeded

    check_recipe(recipe)
    check_until(recipe, until)
    check_inputs(recipe)
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
        place.until = until
        try:
            found.append(pipeline(one, place))
        except Reached as stop:
            done = {"stage": stop.name, "path": stop.path}
            print(json.dumps(done) if as_json else f"{stop.name} is finished: {stop.path}")
            return
        runs.append(place)
    results = merge_seeds(runs, found) if len(runs) > 1 and found[0]["variants"] else found[0]
    try:
        page = str(write_report(output))
    except Exception as error:  # a picture must not cost a run its results
        page = (
            f"no report.html ({type(error).__name__}: {error}); `radit report {output}` tries again"
        )
    if as_json:
        print(json.dumps(results))
        return
    print(f"\n{render(results)}\n" if results["variants"] else "")
    print(f"{output}/results.json written after {time.perf_counter() - started:.0f} s")
    print(page)
    if results["variants"]:
        print(f'ask it: radit ask {output} "your question"')
        print(f"or on a page: radit serve {output}")
    else:
        print(f"the tuned retriever: {output}/r-ft/retriever (sentence-transformers)")


def prepared(recipe: Recipe, output: str) -> Recipe:
    """The recipe with the inputs that it makes itself (demo: a world; squad_open: its corpus),
    which lie in `output`. InputError where that is no place for a run.
    """
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
        recipe = demo_inputs(recipe, output)
    elif (recipe.world, recipe.snapshot) != (WorldConfig(), 1):
        raise InputError(
            "fields of world, or snapshot, are set, but only `radit demo` without --corpus makes a "
            "world; leave them out"
        )
    if recipe.name == "squad_open" and not (recipe.corpus and recipe.examples):
        recipe = _squad_inputs(recipe, output)
    return recipe


def changed(recipe: Recipe, args: RunArgs) -> Recipe:
    """The recipe with what --config, the options and --set say."""
    from radit_ray.recipes import override

    result: Recipe = override(recipe, changes_of(recipe, args))
    return result


def changes_of(recipe: Recipe, args: RunArgs) -> dict[str, Any]:
    """{field: value}, of --config, the options and --set, in that order."""
    from radit_ray.recipes import flatten

    changes: dict[str, Any] = {}
    if args.limit < 0:
        raise InputError(f"--limit {args.limit}; expected at least 1, or 0 for all examples")
    if args.config:
        changes |= flatten(_read_toml(args.config))
    changes |= {
        name: getattr(args, name)
        for name in ("lm", "retriever", "preset", "corpus", "examples", "reuse", "seeds")
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
    return changes


def _read_toml(path: str) -> dict[str, Any]:
    import tomllib

    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: {not_utf8(error)}") from None
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"{path}: {error}; expected a TOML file with fields of the recipe"
        ) from None


def _squad_inputs(recipe: Recipe, output: str) -> Recipe:
    """squad_open and the pages around it, from $RADIT_DATA, else from ../shared/data."""
    from radit_ray.data.distractors import write_distractors
    from radit_ray.data.readers import iter_documents
    from radit_ray.data.tasks import data_folder

    root = data_folder()
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
    """Prints the results of a finished run, sweep or suite as Markdown, and writes the report of a
    run or sweep again: report.html, report.md, plots/*.png.
    """
    from radit_ray.report import sweeps
    from radit_ray.report.suites import suite_page
    from radit_ray.report.table import page
    from radit_ray.report.writing import write_report

    texts = {
        "sweep.json": sweeps.page,
        "suite.json": partial(suite_page, markdown=True),
        "results.json": page,
    }
    found = [name for name in texts if storage.exists(storage.join(folder, name))]
    if not found:
        raise InputError(
            f"{folder}: no results.json, sweep.json or suite.json, expected the folder of a "
            "finished `radit run`, `radit sweep` or `radit evaluate --suite`"
        )
    print(texts[found[0]](storage.read_json(storage.join(folder, found[0]))))
    if found[0] != "suite.json":
        print(f"radit: {write_report(folder)}", file=sys.stderr)


def challenge(
    config: ChallengeConfig, run: str, output: str, *, resources: Resources, as_json: bool = False
) -> None:
    """Challenges a finished run; prints the tables and writes them as a page."""
    from radit_ray import challenge as challenges
    from radit_ray.engines.connect import connect
    from radit_ray.report.challenge import page, render

    challenges.check(config, run)  # before a cluster is started for nothing
    connect()
    results = challenges.challenge(config, run=run, output=output, resources=resources)
    file = storage.join(output, "challenge.md")
    storage.write_bytes(file, page(results).encode())
    print(json.dumps(results) if as_json else f"\n{render(results)}\n\n{file} written")


def predictions(folder: str, variant: str, *, task: str, form: str, output: str) -> None:
    """Writes a variant's predictions to one file, for other tools."""
    from radit_ray.report.predictions import NO_ANSWER, write_predictions

    count = write_predictions(folder, variant, output=output, form=form, task=task)
    print(f"{output}: {count['rows']} predictions of {variant}")
    if count["empty"]:
        written = f", written as {NO_ANSWER!r}" if form == "kilt" else ""
        print(f"radit: {count['empty']} of them are empty{written}", file=sys.stderr)


def tasks(name: str, *, as_json: bool = False) -> None:
    """Prints the list of tasks, or one task's first example as the LM will see it."""
    from radit_ray.data.tasks import listing
    from radit_ray.report.tasks import example_text, task_example, tasks_text

    if name:
        found = task_example(name)
        print(json.dumps(found, ensure_ascii=False) if as_json else example_text(found))
        return
    entries = list(listing())
    print(json.dumps(entries) if as_json else tasks_text(entries))


def doctor(*, storage_uri: str = "", address: str = "", as_json: bool = False) -> bool:
    """Prints what this machine, a storage and a cluster offer and what is missing, a line each;
    whether nothing fails.
    """
    from radit_ray.engines.cluster_checks import (
        address_findings,
        check_address,
        storage_findings,
    )
    from radit_ray.engines.machine_checks import machine_findings

    if address:
        check_address(address)  # before anything is printed
    found: list[Finding] = []

    def look(findings: Iterable[Finding]) -> bool:
        """Prints them as they come; whether none failed."""
        start = len(found)
        for finding in findings:
            found.append(finding)
            if not as_json:
                print(finding, flush=True)
        return not any(finding.failed for finding in found[start:])

    usable = bool(storage_uri) and look(storage_findings(storage_uri))
    look(machine_findings())
    if address:
        look(address_findings(address, storage_uri if usable else ""))
    if as_json:
        print(json.dumps([{**dataclasses.asdict(one), "level": one.level} for one in found]))
    failed = sum(one.failed for one in found)
    if failed:
        print(
            f"radit: {failed} of {len(found)} findings fail; each line ends with its fix",
            file=sys.stderr,
        )
    return not failed


def calibrate(file: str) -> None:
    """Measures what this machine reaches and writes it for `radit plan --rates`."""
    from radit_ray.engines.calibrate import calibrate as measured

    rates = measured()
    storage.write_json(file, rates)
    for name, value in rates.items():
        print(f"{name}: {value:.3g}")
    print(f"radit: {file}: radit plan RECIPE --rates {file} ...", file=sys.stderr)
