"""The `radit` command: each stage by itself, whole runs, a question to a finished run.

Bad input prints one line and leaves with exit code 2; a failed run prints one line, writes the
traceback to a file and leaves with 1. Nothing heavy is imported before it is known which command is
meant.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import io
import json
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from radit_ray.core.errors import InputError, nearest

STAGES = {  # command -> its inputs, in the order of the method
    "chunk": ("corpus",),
    "embed": ("chunks",),
    "index": ("embeddings",),
    "retrieve": ("examples", "index"),
    "lm-ft": ("ranked",),
    "score": ("ranked",),
    "r-ft": ("scored", "embeddings"),
    "evaluate": ("ranked",),
}
HELP = """radit: Retrieval-Augmented Dual Instruction Tuning (RA-DIT, arXiv 2310.01352) on Ray

Take any causal LM and any dense retriever; teach the LM to answer with a retrieved background
(LM-ft) and the retriever what the LM prefers (R-ft); measure what each half brought.

start here
  radit demo       the whole method on a generated world, offline, in a few minutes -> runs/demo
  radit run own --lm LM --retriever R --corpus DOCS [--examples QA] --output DIR
                   your own documents, questions and models, in one command
  radit ask RUN "question"
                   ask a finished run, and see which chunks it answered from

whole runs
  radit run RECIPE every stage in order: demo, own, squad_open, paper, paper-literal
  radit report RUN the tables of a finished run as Markdown, with how it was made and what it cost
  radit doctor     what this machine offers and what is missing

the stages, one by one (each resumes; each writes an artifact with a manifest)
  radit chunk      raw corpus files -> chunks of at most 200 words
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
    examples: str = ""  # your questions with answers; without them R-ft uses the corpus alone
    limit: int = (
        0  # at most this many examples of each split, for a short run; the corpus stays whole
    )
    cycles: int | None = None  # times both fine-tunings are run
    config: str = ""  # a TOML file with fields of the recipe
    set: tuple[str, ...] = ()  # field=value, such as lm_ft.lr=1e-5; wins over --config
    num_cpus: int = 0  # CPUs of the private cluster; 0 = all
    json: bool = False  # print results.json instead of tables


def main() -> None:
    """Entry point of the `radit` command."""
    sys.exit(_guarded(lambda: _dispatch(sys.argv[1:])))


def run_command() -> None:
    """Entry point of `jobs/pipeline.py`: `radit run` with the script's arguments."""
    sys.exit(_guarded(lambda: _run(sys.argv[1:])))


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
        "ask": _ask,
        "report": _report,
        "doctor": _doctor,
    }
    if command in STAGES:
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
    except InputError as error:
        print(f"radit: {_one_line(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _disk_full(error.filename or "")
        return _failed(error)
    except KeyboardInterrupt:
        print("radit: interrupted; the same command continues where it stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return _failed(error)
    return 0


def _disk_full(file: str) -> int:
    place = f" ({file})" if file else ""
    print(
        f"radit: the disk is full{place}; free space and run the same command again, finished "
        "shards are kept",
        file=sys.stderr,
    )
    return 2


def _failed(error: BaseException) -> int:
    if "No space left on device" in str(error):  # safetensors and FAISS do not raise an OSError
        return _disk_full("")
    if os.environ.get("RADIT_VERBOSE") == "1":
        traceback.print_exc()
    with tempfile.NamedTemporaryFile(
        "w", prefix="radit-error-", suffix=".log", delete=False
    ) as file:
        file.write(traceback.format_exc())
    # Ray's errors carry the worker's traceback as text; its last line says what happened
    last = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    print(
        f"radit: failed: {_one_line(last[-1])} (traceback in {file.name}); the same command "
        "resumes",
        file=sys.stderr,
    )
    return 1


def _one_line(value: object) -> str:
    return re.sub(r"\s+", " ", re.sub(r"\x1b\[[0-9;]*m", "", str(value))).strip()


def _parse(kind: Any, arguments: Sequence[str], program: str, description: str = "") -> Any:
    """tyro, with its framed messages folded into the one line of an InputError."""
    import tyro

    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                kind, args=list(arguments), prog=program, description=description or None
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        words = re.sub(r"[╭╮╰╯│─]+|-{3,}", " ", captured.getvalue())
        words = re.sub(r"\x1b\[[0-9;]*m", "", words)
        words = re.sub(r"For full helptext, .*", "", words, flags=re.DOTALL).replace(
            "Parsing error", ""
        )
        raise InputError(f"{_one_line(words)} (see {program} --help)") from None


def _stage(command: str, arguments: Sequence[str]) -> None:
    """One stage: its config's fields, its inputs, --output, --resources.*, --json."""
    import tyro

    from radit_ray.engines.resources import Resources

    name = command.replace("-", "_")
    module = importlib.import_module(f"radit_ray.stages.{name}")
    kind = getattr(module, {"lm_ft": "LmFt", "r_ft": "RFt"}.get(name, name.capitalize()) + "Config")
    fields: list[Any] = [(path, str) for path in STAGES[command] if path != "examples"]
    fields += [("output", str), ("config", Annotated[kind, tyro.conf.arg(name="")])]
    fields += [("examples", str, "")] if "examples" in STAGES[command] else []
    fields += [("resources", Resources, Resources()), ("json", bool, False)]
    args = _parse(
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
    from radit_ray.recipes import RECIPES, recipe_named

    if not arguments or arguments[0] in ("-h", "--help"):
        print(f"usage: radit run RECIPE [OPTIONS], RECIPE one of: {', '.join(RECIPES)}\n")
        arguments = ["own", "--help"]
    recipe = recipe_named(arguments[0])
    split = [part for value in _joined_sets(arguments[1:]) for part in value]
    args = _parse(RunArgs, split, f"radit run {arguments[0]}", RECIPES[arguments[0]].__doc__ or "")
    recipe = _changed(recipe, args)
    output = args.output or ("runs/demo" if recipe.name == "demo" else "")
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
    if recipe.name == "squad_open" and not (recipe.corpus and recipe.examples):
        recipe = _squad_inputs(recipe)
    from radit_ray.engines.connect import connect
    from radit_ray.pipeline import pipeline
    from radit_ray.report.table import render
    from radit_ray.runs import Run

    run = Run(recipe, output)
    if recipe.name == "own" and not recipe.examples:
        print(
            "radit: no --examples: R-ft runs on the corpus alone; LM-ft and the evaluation need "
            "questions with answers",
            file=sys.stderr,
        )
    started = time.perf_counter()
    connect(num_cpus=args.num_cpus or None)
    results = pipeline(recipe, run)
    if args.json:
        print(json.dumps(results))
        return
    print(f"\n{render(results)}\n" if results["variants"] else "")
    print(f"{output}/results.json written after {time.perf_counter() - started:.0f} s")
    if results["variants"]:
        print(f'ask it: radit ask {output} "your question"')
    else:
        print(f"the tuned retriever: {output}/r-ft/retriever (sentence-transformers)")


def _joined_sets(arguments: Sequence[str]) -> list[list[str]]:
    """Several `--set a=b` as the one `--set a=b c=d` tyro reads."""
    values, rest, waiting = [], [], False
    for argument in arguments:
        if argument == "--set":
            waiting = True
        elif argument.startswith("--set="):
            values.append(argument.removeprefix("--set="))
        elif waiting and not argument.startswith("--"):
            values.append(argument)
        else:
            waiting = False
            rest.append(argument)
    return [rest, ["--set", *values] if values else []]


def _changed(recipe: Any, args: RunArgs) -> Any:
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
        for name in ("lm", "retriever", "preset", "corpus", "examples")
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
    return override(recipe, changes)


def _demo_inputs(recipe: Any, output: str) -> Any:
    """The generated world's files beside the run."""
    from radit_ray.data.world import WorldConfig, write_world

    paths = write_world(WorldConfig(), os.path.join(output, "world"))
    examples = ",".join(f"{split}={paths[split]}" for split in ("train", "dev", "eval"))
    return dataclasses.replace(recipe, corpus=str(paths["corpus"]), examples=examples)


def _squad_inputs(recipe: Any) -> Any:
    """The files of squad_open in $RADIT_DATA, else in ../shared/data."""
    folder = os.path.join(
        os.environ.get("RADIT_DATA", os.path.join("..", "shared", "data")), "squad_open"
    )
    if not os.path.isdir(folder):
        raise InputError(
            f"{folder} does not exist; set RADIT_DATA to the folder that holds squad_open/, or "
            "give --corpus and --examples"
        )
    examples = ",".join(
        f"{split}={folder}/qa.{name}.jsonl.gz"
        for split, name in (("train", "train"), ("eval", "dev"))
    )
    return dataclasses.replace(
        recipe,
        corpus=recipe.corpus or f"{folder}/corpus.jsonl.gz",
        examples=recipe.examples or examples,
    )


def _ask(arguments: Sequence[str]) -> None:
    """`radit ask RUN "question"`: the answer, its chunks with p_R, and what each chunk alone would
    have answered.
    """
    import tyro

    def word(text: str) -> Any:
        return Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=text)]

    fields: list[Any] = [
        ("run", word("folder of the run")),
        ("question", word("your question, in quotes")),
        ("variant", Annotated[str, tyro.conf.arg(help="a variant of the run")], "radit"),
        ("json", Annotated[bool, tyro.conf.arg(help="print the prediction row")], False),
    ]
    about = "Asks a finished run, and shows the chunks with p_R and what each alone would answer."
    kind = dataclasses.make_dataclass("AskArgs", fields, kw_only=True, frozen=True)
    args = _parse(kind, arguments, "radit ask", about)
    from radit_ray.engines.asking import ask

    prediction = ask(args.run, args.question, variant=args.variant)
    if args.json:
        print(json.dumps(prediction))
        return
    print(f"{prediction['prediction']}\n")
    for number, title in enumerate(prediction["titles"]):
        alone = (
            prediction["chunk_answers"][number] if number < len(prediction["chunk_answers"]) else ""
        )
        print(
            f"  p_R {prediction['p_r'][number]:.3f}  {title}: "
            f"{prediction['texts'][number][:110]!r} -> {alone!r}"
        )


def _report(arguments: Sequence[str]) -> None:
    """`radit report RUN`: a finished run's results as Markdown on standard output."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError("usage: radit report RUN (a folder with results.json)")
    from radit_ray.data import storage
    from radit_ray.report.table import page

    file = storage.join(arguments[0], "results.json")
    if not storage.exists(file):
        raise InputError(f"{arguments[0]}: no results.json, expected the folder of a finished run")
    print(page(storage.read_json(file)))


def _doctor(arguments: Sequence[str]) -> None:
    """`radit doctor`: what this machine offers and what is missing."""
    if arguments:
        raise InputError("radit doctor takes no options")
    from radit_ray.engines.doctor import findings

    failed = False
    for name, state, fix in findings():
        failed |= bool(fix)
        print(f"{'!!' if fix else 'ok'}  {name}: {state}{f'; {fix}' if fix else ''}")
    if failed:
        raise InputError("something is missing, see the lines above")


if __name__ == "__main__":
    main()
