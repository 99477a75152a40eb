"""The `radit` command: each stage by itself, whole runs, a question to a finished run.

Bad input prints one line and leaves with exit code 2; a failed run prints one line, writes the
traceback to a file and leaves with 1. Nothing heavy is imported before it is known which command is
meant.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from radit_ray import cli_results as results
from radit_ray.core.errors import FULL, READ_ONLY, IncompleteError, InputError, nearest
from radit_ray.data.world import WorldConfig
from radit_ray.engines.failures import input_error, root_cause
from radit_ray.options import one_line, parse

STAGES = {  # command -> its inputs, in the order of the method
    "chunk": ("corpus",),
    "dedup": ("chunks",),
    "embed": ("chunks", "reuse"),
    "index": ("embeddings",),
    "retrieve": ("examples", "index"),
    "lm-ft": ("ranked",),
    "score": ("ranked",),
    "r-ft": ("scored", "embeddings"),
    "evaluate": ("ranked",),
}
OPTIONAL = ("examples", "reuse")  # inputs that may be left out
HELP = """radit: Retrieval-Augmented Dual Instruction Tuning (RA-DIT, arXiv 2310.01352) on Ray

Take any causal LM and any dense retriever; teach the LM to answer with a retrieved background
(LM-ft) and the retriever what the LM prefers (R-ft); measure what each half brought.

start here
  radit demo       the whole method on a generated world, offline, in a few minutes -> runs/demo
  radit run own --lm LM --retriever R --corpus DOCS [--examples QA] --output DIR
                   your own documents, questions and models, in one command
  radit ask RUN "question"
                   ask a finished run, and see which chunks it answered from
  radit serve RUN  the same as a page and as HTTP endpoints, on 127.0.0.1:8000

whole runs
  radit run RECIPE every stage in order: demo, own, squad_open, paper, paper-literal
  radit report DIR a finished run's or sweep's report.html, report.md and plots/*.png
  radit challenge RUN --output DIR
                   what the paper did not measure: knowledge kept, wrong chunks, swapped answers
  radit predictions RUN VARIANT --output FILE
                   one variant's answers as JSONL, Parquet, or KILT's prediction format
  radit tasks      the question sets known by name; radit tasks NAME shows one example of it
  radit overlap --examples QA [--train QA] [--corpus DOCS]
                   what evaluation questions share with training questions and with a corpus
  radit doctor [--storage URI] [--address CLUSTER]
                   what this machine, a storage or a cluster offers, and what to mend

the paper's tables, and more
  radit evaluate --suite NAME --variants RUN --output DIR
                   every row of a table on its tasks, beside the paper's values
  radit few-shot RUN --output DIR
                   tune a run's LM further on 64 examples of each task (Table 9)

sweeps (resumable; Ray Tune and Optuna)
  radit sweep KIND RECIPE --values A,B,C --output DIR
                   chunks, corpus, snapshot, cycles, lms, retrievers, or any field (custom)

before a long run
  radit plan RECIPE --chunks 399M --lm 7B --gpus 8 --device a100
                   FLOPs, device hours, memory, storage and money of every stage
  radit plan like RUN --chunks 35k --eval 2.5k --set lm_ft.steps=500
  radit plan index --chunks 399M --memory 200 --recall 0.9
                   which kind of index finds that much in so many GB, and how fast

the demo's world
  radit world-lm   train a base LM on the text of a generated world, for radit demo --lm

the stages, one by one (each resumes; each writes an artifact with a manifest)
  radit chunk      raw corpus files -> chunks of at most 200 words
  radit dedup      chunks -> those that are no copies, exact or near (optional)
  radit embed      chunks -> vectors (base retriever)
  radit index      vectors -> FAISS shards
  radit retrieve   questions -> their best chunks, with scores
  radit lm-ft      LM-ft: the LM learns to answer with a background (Eq. 3)
  radit score      how probable a frozen LM finds the answer under each chunk (Eq. 4)
  radit r-ft       R-ft: the query encoder learns what the LM prefers (Eq. 5)
  radit evaluate   variants side by side: em, f1, nll, recall, with intervals and contrasts

radit COMMAND --help shows every option. --json prints the result as JSON.
RADIT_VERBOSE=1 shows the workers' logs and tracebacks.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunArgs:
    """Options of `radit run RECIPE` and `radit demo`."""

    output: str = ""  # folder of the run (demo: runs/demo)
    lm: str = ""  # base LM: Hugging Face id or folder
    retriever: str = ""  # base retriever: id, folder, preset, or "QUERY_PATH,CONTEXT_PATH"
    preset: str = ""  # dragon-plus, dpr, contriever, e5, minilm
    corpus: str = ""  # your documents
    # your questions with answers, or task:NAME[:SPLIT]; without them R-ft uses the corpus alone
    examples: str = ""
    # an earlier run, this one too, or an embed artifact: chunks it has are not encoded again
    reuse: str = ""
    # at most this many examples of each split, for a short run; 0 = all. The corpus stays whole
    limit: int = 0
    cycles: int | None = None  # times both fine-tunings are run
    config: str = ""  # a TOML file with fields of the recipe
    set: tuple[str, ...] = ()  # field=value, such as lm_ft.lr=1e-5; wins over --config
    seeds: str = ""  # training seeds, such as 0,1,2: one ablation each, and their mean
    num_cpus: int = 0  # CPUs of the private cluster; 0 = all
    json: bool = False  # print results.json instead of tables


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecipeArgs(RunArgs):
    """Of those alone: open questions have the options above too."""

    # stop after this stage (chunk, embed, ...); without it, or with a later one, the run goes on
    until: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldLmArgs:
    """Options of `radit world-lm`."""

    output: str  # folder of the LM, new or empty
    # 0.2, 0.5, 1.6, 5.3 or 28 million parameters
    size: Literal["xxs", "xs", "s", "m", "l"] = "s"
    steps: int | None = None  # optimiser steps; without it the size's: 3000 (m 6000, l 10000)
    seed: int = 0  # of the weights; the world has its own
    num_threads: int | None = None  # of the CPU; without it torch's choice. Decides the rounding
    precision: Literal["bf16", "fp32"] = "bf16"  # bf16: autocast, the weights stay in fp32
    snapshot: int = 1  # 1 or 2, which of the world's two dates
    world: WorldConfig = dataclasses.field(default_factory=WorldConfig)
    json: bool = False  # print world_lm.json instead of a summary


@dataclasses.dataclass(frozen=True, kw_only=True)
class DoctorArgs:
    """Options of `radit doctor`."""

    storage: str = ""  # a folder or URI that runs shall be written to
    # a running cluster: http://HOST:8265 (asked from outside), or auto, or HOST:6379 (joined, and
    # every node looks at itself)
    address: str = ""
    calibrate: str = ""  # measure this machine's rates into a file for radit plan --rates instead
    json: bool = False  # print the findings as JSON


def main() -> None:
    """Entry point of the `radit` command."""
    sys.exit(_guarded(lambda: _dispatch(sys.argv[1:])))


def run_command() -> None:
    """Entry point of `jobs/pipeline.py`: `radit run` with the script's arguments."""
    sys.exit(_guarded(lambda: _run(sys.argv[1:])))


def question_command(name: str) -> None:
    """Entry point of `jobs/open_question_N.py` and `jobs/lm_sizes.py`."""
    from radit_ray.open_questions.command import run

    sys.exit(_guarded(lambda: run(name, sys.argv[1:])))


def _dispatch(arguments: Sequence[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return
    command, rest = arguments[0], list(arguments[1:])
    if command == "--version":
        from radit_ray import __version__

        print(__version__)
        return
    others: dict[str, Callable[[Sequence[str]], None]] = {
        "demo": lambda rest: _run(["demo", *rest]),
        "run": _run,
        "ask": results.ask,
        "serve": lambda rest: results.serve(joined(rest, "--variant")),
        "report": results.report,
        "challenge": results.challenge,
        "predictions": results.predictions,
        "tasks": results.tasks,
        "world-lm": _world_lm,
        "doctor": _doctor,
        "few-shot": results.few_shot,
        "sweep": _sweep,
        "plan": results.plan,
        "overlap": _overlap,
    }
    if command == "evaluate" and any(word.split("=")[0] == "--suite" for word in rest):
        results.suite(rest)
    elif command in STAGES:
        _stage(command, rest)
    elif command in others:
        others[command](rest)
    else:
        raise InputError(
            f"unknown command {command!r}{nearest(command, [*STAGES, *others])}; see radit --help"
        )


def _guarded(work: Callable[[], None]) -> int:
    """Runs a command; returns its exit code after printing the one line a failure deserves."""
    try:
        work()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(
            "radit: interrupted; run the same command again, what is finished is kept",
            file=sys.stderr,
        )
        return 130
    except IncompleteError as error:
        print(f"radit: {one_line(str(error))}; the same command tries again", file=sys.stderr)
        return 1
    except Exception as error:
        refused = input_error(error)  # also where a worker raised it
        if refused is None:
            return _failed(error)
        print(f"radit: {one_line(refused)}", file=sys.stderr)
        return 2
    return 0


def _of_the_disk(error: BaseException) -> str:
    """What is wrong with the disk and what to do; "" where it is something else."""
    number = error.errno if isinstance(error, OSError) else None
    file = str(error.filename or "") if isinstance(error, OSError) else ""
    # safetensors and FAISS do not raise an OSError
    if number in FULL or "No space left on device" in str(error):
        place = f" ({file})" if file else ""
        return f"the disk is full{place}; free space"
    if number in READ_ONLY:
        return f"no permission for {file} ({os.strerror(number or 0)}); give it back"
    return ""


def _failed(error: BaseException) -> int:
    if mend := _of_the_disk(error):
        kept = "and run the same command again, finished shards are kept"
        print(f"radit: {one_line(mend)} {kept}", file=sys.stderr)
        return 2
    if os.environ.get("RADIT_VERBOSE") == "1":
        traceback.print_exc()
    with tempfile.NamedTemporaryFile(
        "w", prefix="radit-error-", suffix=".log", delete=False
    ) as file:
        file.write(traceback.format_exc())
    reason = one_line(root_cause(error))
    print(
        f"radit: failed: {reason} (traceback in {file.name}); the same command resumes",
        file=sys.stderr,
    )
    return 1


def _stage(command: str, arguments: Sequence[str]) -> None:
    """One stage: its config's fields, its inputs, --output, --resources.*, --json."""
    import tyro

    from radit_ray.engines.resources import Resources

    name = command.replace("-", "_")
    module = importlib.import_module(f"radit_ray.stages.{name}")
    kind = getattr(module, {"lm_ft": "LmFt", "r_ft": "RFt"}.get(name, name.capitalize()) + "Config")
    fields: list[Any] = [(path, str) for path in STAGES[command] if path not in OPTIONAL]
    fields += [("output", str), ("config", Annotated[kind, tyro.conf.arg(name="")])]
    fields += [(path, str, "") for path in STAGES[command] if path in OPTIONAL]
    fields += [("resources", Resources, Resources()), ("json", bool, False)]
    args = parse(
        dataclasses.make_dataclass("Args", fields, kw_only=True, frozen=True),
        arguments,
        f"radit {command}",
        module.__doc__ or "",
    )
    from radit_ray.engines.connect import connect

    connect()
    inputs = {path: getattr(args, path) for path in STAGES[command]}
    artifact = getattr(module, name)(
        args.config, **inputs, output=args.output, resources=args.resources
    )
    if args.json:
        print(json.dumps(dataclasses.asdict(artifact)))
        return
    print(f"{artifact.path}: {artifact.rows} rows")
    for key, value in artifact.metrics.items():
        print(f"  {key}: {json.dumps(value)}")


def _run(arguments: Sequence[str]) -> None:
    """`radit run RECIPE`: the recipe, changed by --config, the flags and --set, in that order."""
    from radit_ray import commands
    from radit_ray.recipes import RECIPES, recipe_named

    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: radit run RECIPE [OPTIONS], RECIPE one of: {', '.join(RECIPES)}\n")
        arguments = ["own", "--help"]
    recipe = recipe_named(arguments[0])
    args = parse(
        RecipeArgs,
        joined(arguments[1:]),
        f"radit run {arguments[0]}",
        RECIPES[arguments[0]].__doc__ or "",
    )
    recipe = commands.changed(recipe, args)
    commands.run(recipe, args.output, until=args.until, num_cpus=args.num_cpus, as_json=args.json)


def joined(arguments: Sequence[str], name: str = "--set") -> list[str]:
    """Several `--set a=b` as the one `--set a=b c=d` tyro reads."""
    values: list[str] = []
    rest, waiting = [], False
    for argument in arguments:
        if argument == name:
            waiting = True
        elif argument.startswith(f"{name}="):
            values.append(argument.removeprefix(f"{name}="))
        elif waiting and not argument.startswith("--"):
            values.append(argument)
        else:
            waiting = False
            rest.append(argument)
    return [*rest, name, *values] if values else rest


def _sweep(arguments: Sequence[str]) -> None:
    """`radit sweep KIND RECIPE`: the recipe with one thing, or several, changed."""
    from radit_ray.recipes import RECIPES
    from radit_ray.sweep_checks import KINDS
    from radit_ray.sweep_commands import SweepArgs, sweep

    usage = f"usage: radit sweep KIND RECIPE [OPTIONS], RECIPE one of: {', '.join(RECIPES)}"
    if not arguments or arguments[0] in ("-h", "--help"):
        kinds = "\n".join(f"  {name:<11} {values}" for name, values in KINDS.items())
        print(f"{usage}, KIND and its --values:\n{kinds}\n")
        arguments = ["custom", "own", "--help"]
    if len(arguments) < 2 or arguments[1].startswith("-"):
        raise InputError(f"{usage}, KIND one of: {', '.join(KINDS)}")
    words = list(arguments[2:])
    for name in ("--set", "--space", "--objective"):
        words = joined(words, name)
    kind, recipe = arguments[:2]
    if kind not in KINDS:
        raise InputError(f"unknown sweep {kind!r}{nearest(kind, KINDS)}")
    args = parse(SweepArgs, words, f"radit sweep {kind} {recipe}", KINDS[kind])
    sweep(kind, recipe, args)


def _world_lm(arguments: Sequence[str]) -> None:
    """`radit world-lm`: the base LM of a demo, from the generated world's plain text."""
    about = "Trains the base LM of radit demo from scratch on the plain text of a generated world."
    args = parse(WorldLmArgs, arguments, "radit world-lm", about)
    from radit_ray import demo_world

    demo_world.world_lm(args, command=shlex.join(["radit", "world-lm", *arguments]))


def _overlap(arguments: Sequence[str]) -> None:
    from radit_ray import overlap_command

    overlap_command.command(arguments)


def _doctor(arguments: Sequence[str]) -> None:
    about = "Looks at this machine, a storage and a cluster: ok, warn or fail, and the fix."
    args = parse(DoctorArgs, arguments, "radit doctor", about)
    from radit_ray.commands import calibrate, doctor

    if args.calibrate:
        calibrate(args.calibrate)
    elif not doctor(storage_uri=args.storage, address=args.address, as_json=args.json):
        raise SystemExit(1)  # what to mend is printed; it is no failed run with a traceback


if __name__ == "__main__":
    main()
