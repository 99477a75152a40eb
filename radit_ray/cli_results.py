"""The commands about what a run left: ask it, report it, compare it with the paper, challenge it,
hand its predictions on; and the question sets known by name.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Literal

from radit_ray.core.errors import InputError
from radit_ray.options import option, parse, word


def ask(arguments: Sequence[str]) -> None:
    """`radit ask RUN "question"`: the answer, its chunks with p_R, and what each chunk alone would
    have answered.
    """
    fields: list[Any] = [
        ("run", word("folder of the run")),
        ("question", word("your question, in quotes")),
        ("variant", option(str, "a variant of the run"), "radit"),
        ("json", option(bool, "print the prediction row"), False),
    ]
    about = "Asks a finished run, and shows the chunks with p_R and what each alone would answer."
    kind = dataclasses.make_dataclass("AskArgs", fields, kw_only=True, frozen=True)
    args = parse(kind, arguments, "radit ask", about)
    from radit_ray import commands

    commands.ask(args.run, args.question, variant=args.variant, as_json=args.json)


def serve(arguments: Sequence[str]) -> None:
    """`radit serve RUN [--variant A B] [--host H] [--port P] [--token-file FILE]`."""
    from radit_ray.serving.config import Limits, Scale, ServeConfig

    plain = ServeConfig(run="")
    variants = "those to load, the first one answers by default; none = radit beside replug"
    token = "a file with the bearer token; without it only this machine may ask"
    fields: list[Any] = [
        ("run", word("folder of a finished run")),
        ("variant", option(tuple[str, ...], variants), ()),
        ("host", option(str, "address to listen at; another one needs --token-file"), "127.0.0.1"),
        ("port", option(int, "port to listen at"), 8000),
        ("token_file", option(str, token), ""),
        ("retriever", option(Scale, "size of each query encoder"), plain.retriever),
        ("shards", option(Scale, "size of each index shard"), plain.shards),
        ("lm", option(Scale, "size of each LM"), plain.lm),
        ("limits", option(Limits, "how much at once and how long"), plain.limits),
        ("precision", option(str, "of the LMs: auto, fp32, bf16"), plain.precision),
        ("threads", option(int, "of a model on a CPU; 0 = the node's CPUs / LMs"), plain.threads),
        ("max_batch", option(int, "requests that a model takes at once"), plain.max_batch),
        ("batch_tokens", option(int, "tokens of one forward pass"), plain.batch_tokens),
        ("log_contents", option(bool, "log what is asked and answered, not ids alone"), False),
    ]
    about = "Serves a finished run: a page at /, the endpoints at /docs. docs/serving.md."
    kind = dataclasses.make_dataclass("ServeArgs", fields, kw_only=True, frozen=True)
    args = parse(kind, arguments, "radit serve", about)
    from radit_ray.serving.command import serve_run

    same = ("run", "token_file", "retriever", "shards", "lm", "limits")
    same += ("precision", "threads", "max_batch", "batch_tokens", "log_contents")
    names = tuple(name for word in args.variant for name in word.split(",") if name)
    config = ServeConfig(variants=names, **{name: getattr(args, name) for name in same})
    serve_run(config, host=args.host, port=args.port)


def report(arguments: Sequence[str]) -> None:
    """`radit report DIR`."""
    from radit_ray import commands

    if len(arguments) != 1 or arguments[0].startswith("-"):
        raise InputError(
            "usage: radit report DIR (a folder with results.json, sweep.json or suite.json)"
        )
    commands.report(arguments[0])


def challenge(arguments: Sequence[str]) -> None:
    """`radit challenge RUN --output DIR [--variants a,b] [--limit N] [--split eval]`."""
    from radit_ray.engines.resources import Resources

    about = (
        "What the paper did not measure, on a finished run: what the LMs still know without "
        "chunks, what one wrong chunk does to them, and whether they say what their chunks say."
    )
    variants = "variants of the run, one for each LM, with commas; none = the first of each LM"
    fields: list[Any] = [
        ("run", word("folder of the run")),
        ("output", option(str, "folder of challenge.json, challenge.md and what they rest on")),
        ("variants", option(str, variants), ""),
        ("split", option(str, "of the questions: train, dev or eval"), "eval"),
        ("limit", option(int, "questions, a seeded choice; 0 = all that qualify"), 0),
        ("texts", option(int, "chunks read as plain text; 0 = all of 16 shards"), 500),
        ("seed", option(int, "of every choice"), 0),
        ("resources", Resources, Resources()),
        ("json", option(bool, "print challenge.json instead of tables"), False),
    ]
    kind = dataclasses.make_dataclass("ChallengeArgs", fields, kw_only=True, frozen=True)
    args = parse(kind, arguments, "radit challenge", about)
    from radit_ray import commands
    from radit_ray.challenge import ChallengeConfig

    names = tuple(name.strip() for name in args.variants.split(",") if name.strip())
    config = ChallengeConfig(
        variants=names, split=args.split, limit=args.limit, num_texts=args.texts, seed=args.seed
    )
    commands.challenge(config, args.run, args.output, resources=args.resources, as_json=args.json)


def predictions(arguments: Sequence[str]) -> None:
    """`radit predictions RUN VARIANT [--task NAME] [--format jsonl|kilt|parquet] --output FILE`."""
    forms = Literal["jsonl", "kilt", "parquet"]
    kilt = "kilt: what KILT's scorer reads, one task a file"
    fields: list[Any] = [
        ("run", word("folder of a finished run, or of an evaluate artifact")),
        ("variant", word("a variant of it, such as radit")),
        ("output", option(str, "the file, replaced at once when it is whole")),
        ("form", option(forms, kilt, "format"), "jsonl"),
        ("task", option(str, "questions of this task only"), ""),
    ]
    about = "Writes one variant's predictions, question by question, for other tools."
    kind = dataclasses.make_dataclass("PredictionsArgs", fields, kw_only=True, frozen=True)
    args = parse(kind, arguments, "radit predictions", about)
    from radit_ray import commands

    commands.predictions(args.run, args.variant, task=args.task, form=args.form, output=args.output)


def plan(arguments: Sequence[str]) -> None:
    """`radit plan RECIPE --chunks N --lm N [--gpus N] [--device a100 | --rates FILE]`, `radit plan
    like RUN` and `radit plan index`.
    """
    parts = {"index": plan_index, "like": plan_like}
    if arguments and arguments[0] in parts:
        parts[arguments[0]](arguments[1:])
        return
    about = (
        "What a run will cost, stage by stage. Rates of GPUs are assumptions (40% of the published "
        "peak) unless --rates gives measured ones."
    )
    fields: list[Any] = [
        ("recipe", word("demo, own, squad_open, paper, paper-literal")),
        ("chunks", option(str, "chunks of the corpus, such as 35k or 399M")),
        ("lm", option(str, "parameters of the LM, such as 7B")),
        ("gpus", option(int, "devices of that kind (on CPUs: workers)"), 1),
        ("device", option(str, "a100, h100 or h200"), "a100"),
        ("rates", option(str, "JSON file with fields of radit_ray.plan.Rates, for --device"), ""),
        ("price", option(float, "of one device and hour, in any currency"), 0.0),
        ("encoder", option(str, "parameters of the retriever's encoder"), "110M"),
        ("dimension", option(int, "width of its vectors"), 768),
        ("words", option(float, "mean words of a chunk"), 100.0),
        ("train", option(str, "training questions"), "500k"),
        ("eval", option(str, "evaluated questions"), "2500"),
        ("json", option(bool, "print JSON instead of a table"), False),
    ]
    kind = dataclasses.make_dataclass("PlanArgs", fields, kw_only=True, frozen=True)
    args = parse(kind, arguments, "radit plan", about)
    from radit_ray.plan import Sizes, device_named, number, plan_run, read_rates, text
    from radit_ray.recipes import recipe_named

    rates = read_rates(args.rates) if args.rates else device_named(args.device)
    if args.price:
        rates = dataclasses.replace(rates, price_per_hour=args.price)
    sizes = Sizes(
        num_chunks=number(args.chunks),
        lm_parameters=number(args.lm),
        encoder_parameters=number(args.encoder),
        dimension=args.dimension,
        words_per_chunk=args.words,
        num_train=number(args.train),
        num_eval=number(args.eval),
    )
    plans = plan_run(recipe_named(args.recipe), sizes, rates, num_devices=args.gpus)
    print(json.dumps([dataclasses.asdict(p) for p in plans]) if args.json else text(plans))


def plan_like(arguments: Sequence[str]) -> None:
    """`radit plan like RUN [--chunks N] [--train N] [--eval N] [--set FIELD=NUMBER ...]`."""
    about = (
        "What a run will cost, from a small finished one with the same models on the same sort of "
        "machine: work grows with chunks, questions, steps and k, start-up does not."
    )
    fields: list[Any] = [
        ("run", word("folder of the small run")),
        ("chunks", option(str, "chunks of the corpus, such as 35k or 399M; else the run's"), ""),
        ("train", option(str, "training questions; else the run's"), ""),
        ("dev", option(str, "dev questions; else the run's"), ""),
        ("eval", option(str, "evaluated questions; else the run's"), ""),
        ("devices", option(int, "GPUs where the run had GPUs, else CPUs; 0 = as many"), 0),
        ("run_cpus", option(float, "CPUs the run had, where its results do not say"), 0.0),
        ("run_gpus", option(float, "its GPUs"), 0.0),
        ("rates", option(str, "of `radit doctor --calibrate`: what reading vectors takes"), ""),
        ("price", option(float, "of one device and hour, in any currency"), 0.0),
        ("set", option(tuple[str, ...], "FIELD=NUMBER of the recipe, such as lm_ft.steps=500"), ()),
        ("json", option(bool, "print JSON instead of a table"), False),
    ]
    from radit_ray.cli import joined

    kind = dataclasses.make_dataclass("PlanLikeArgs", fields, kw_only=True, frozen=True)
    args = parse(kind, joined(list(arguments), "--set"), "radit plan like", about)
    from radit_ray import plan_like as like
    from radit_ray.plan import number, read_rates, text

    ran_on = {"CPU": args.run_cpus, "GPU": args.run_gpus} if args.run_cpus else None
    pilot = like.read_pilot(args.run, ran_on)
    given = {name: getattr(args, name) for name in ("chunks", "train", "dev", "eval")}
    counts = {f"num_{name}": number(value) for name, value in given.items() if value}
    plans = like.plan_like(
        pilot,
        dataclasses.replace(pilot.counts, **counts),
        like.changes_of(args.set),
        num_devices=args.devices,
        price_per_hour=args.price,
        search_bytes_per_s=read_rates(args.rates).search_bytes_per_s if args.rates else 0.0,
    )
    print(json.dumps([dataclasses.asdict(p) for p in plans]) if args.json else text(plans))


def plan_index(arguments: Sequence[str]) -> None:
    """`radit plan index --chunks N [--dimension D] [--recall R] --memory GB`."""
    about = (
        "Which kind of index, with which settings: bytes by arithmetic, recall and queries/s as "
        "benchmarks/index_kinds.py measured them."
    )
    fields: list[Any] = [
        ("chunks", option(str, "chunks of the corpus, such as 35k or 399M")),
        ("memory", option(float, "GB that all shards of the index may take together")),
        ("dimension", option(int, "width of the vectors"), 768),
        ("recall", option(float, "share of the true 10 best that a search shall find"), 0.95),
        ("json", option(bool, "print JSON instead of a table"), False),
    ]
    kind = dataclasses.make_dataclass("PlanIndexArgs", fields, kw_only=True, frozen=True)
    args = parse(kind, arguments, "radit plan index", about)
    from radit_ray import index_plan
    from radit_ray.plan import number

    if args.dimension < 1:
        raise InputError(f"dimension={args.dimension}, expected at least 1")
    count, table = number(args.chunks), index_plan.measured()
    made = index_plan.choices(num_chunks=count, dimension=args.dimension, rows=table["rows"])
    best = index_plan.recommend(
        made, num_chunks=count, recall=args.recall, memory_bytes=1e9 * args.memory
    )
    if args.json:
        shown = {**dataclasses.asdict(best), "command": best.command}
        print(json.dumps({"best": shown, "all": [dataclasses.asdict(one) for one in made]}))
    else:
        print(index_plan.text(made, best, table, count))


def tasks(arguments: Sequence[str]) -> None:
    """`radit tasks [NAME[:SPLIT]] [--json]`."""
    about = "Question sets known by name, for --examples task:NAME[:SPLIT]; of NAME one example."
    fields: list[Any] = [
        ("name", word("a task, to see one example as the LM will; NAME:SPLIT for another"), ""),
        ("json", option(bool, "print JSON"), False),
    ]
    kind = dataclasses.make_dataclass("TasksArgs", fields, frozen=True)
    args = parse(kind, arguments, "radit tasks", about)
    from radit_ray import commands

    commands.tasks(args.name, as_json=args.json)


def suite(arguments: Sequence[str]) -> None:
    """`radit evaluate --suite NAME --variants FILE|RUN --output DIR`."""
    from radit_ray import suite_commands
    from radit_ray.data.suites import suites

    about = (
        "Evaluates every row of a table on its tasks and puts the paper's values beside ours. "
        f"Suites: {', '.join(suites())}."
    )
    args = parse(suite_commands.SuiteArgs, arguments, "radit evaluate --suite", about)
    suite_commands.suite(args)


def few_shot(arguments: Sequence[str]) -> None:
    """`radit few-shot RUN --output DIR`."""
    from radit_ray import suite_commands

    about = "Tunes a finished run's LM further on 64 examples of each task (paper, Table 9)."
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        raise InputError("usage: radit few-shot RUN --output DIR (RUN: the folder of a run)")
    rest = arguments if arguments[0] in ("-h", "--help") else arguments[1:]
    args = parse(suite_commands.FewShotArgs, rest, "radit few-shot RUN", about)
    suite_commands.few_shot(arguments[0], args)
