"""`python jobs/open_question_N.py`: the options of a question, and what is run for it."""

from __future__ import annotations

import dataclasses
import os
import shlex
import sys
from collections.abc import Sequence

from radit_ray.cli import RunArgs
from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.engines.references import num_parameters
from radit_ray.models.presets import LEXICAL
from radit_ray.open_questions.base import (
    Job,
    Question,
    answer,
    share_artifacts,
)
from radit_ray.open_questions.chunks import CHECKED, TIMED
from radit_ray.options import parse
from radit_ray.recipe_checks import check_inputs, check_recipe
from radit_ray.recipes import WORLD_LM, override, recipe_named

SEEDS = (0, 1, 2, 3, 4)  # of the demo; of other recipes their own
QUESTIONS = {
    "oq1": "do more than ten chunks help, and at what cost?",
    "oq2": "with a corpus of today: does the LM follow the corpus or its memory?",
    "oq3": "do more cycles of the two fine-tunings help, or only more steps?",
    "sizes": "does a larger LM gain more?",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionArgs(RunArgs):
    """Options of an open question; those of `radit run` say what it is asked of."""

    recipe: str = "demo"  # demo (the generated world) or squad_open; any recipe with questions
    # the store of an earlier run, such as runs/demo/artifacts: what it trained is not trained again
    artifacts: str = ""
    num_questions: int = 0  # asked, a seeded choice; 0 = all
    roles: tuple[str, ...] = ("replug", "radit")  # question 1: pairs that are shown more chunks
    ks: tuple[int, ...] = (1, 3, 10, 20, 50, 100)  # question 1
    # question 1: questions on which 16 scored answers are compared with all, and on which each k is
    # answered by itself for its cost
    num_checked: int = CHECKED
    num_timed: int = TIMED
    num_cycles: int = 3  # question 3
    lms: tuple[
        str, ...
    ] = ()  # sizes: NAME=PATH of LMs beside the packaged s; put in order of parameters
    # train the first seed's pair, print what all the rest will cost, and stop
    only_estimate: bool = False


def run(name: str, arguments: Sequence[str]) -> None:
    """Runs or continues a question and prints its page."""
    from radit_ray import commands
    from radit_ray.cli import joined
    from radit_ray.engines.connect import connect
    from radit_ray.report.open_questions import page

    words = list(arguments)
    for option in ("--set", "--lms", "--roles", "--ks"):
        words = joined(words, option)
    args = parse(QuestionArgs, words, program(name), QUESTIONS[name])
    if not args.output:
        raise InputError("no --output given; expected a folder, one for all open questions")
    if args.num_questions < 0:
        raise InputError(f"--num-questions {args.num_questions}, expected how many, or 0 for all")
    recipe = recipe_named(args.recipe)
    recipe = override(recipe, commands.changes_of(recipe, args))
    if args.recipe == "demo" and not args.seeds:
        recipe = dataclasses.replace(recipe, seeds=SEEDS)
    folder = storage.join(args.output, recipe.name)
    recipe = commands.prepared(recipe, folder)
    if not recipe.examples:
        raise InputError("an open question measures answers; give --examples")
    check_recipe(recipe)
    check_inputs(recipe)
    if not recipe.cycles or recipe.retriever == LEXICAL:
        raise InputError(
            f"cycles={recipe.cycles}, retriever={recipe.retriever}: the open questions are about a "
            "tuned pair; give a dense retriever and cycles of 1"
        )
    if args.artifacts:
        share_artifacts(args.output, args.artifacts)
    job = Job(
        recipe=recipe,
        output=args.output,
        num_questions=args.num_questions,
        roles=args.roles,
        command=f"python {shlex.join([program(name), *arguments])}",
    )
    question = _question(name, job, args)
    connect(num_cpus=args.num_cpus or None)
    result = answer(job, name, question, only_estimate=args.only_estimate)
    if not args.only_estimate:
        print(page(name, {recipe.name: result}))
        print(f"radit: {storage.join(job.folder, name)}.json", file=sys.stderr)


def program(name: str) -> str:
    script = f"open_question_{name[2:]}" if name.startswith("oq") else "lm_sizes"
    return os.path.join("jobs", f"{script}.py")


def _question(name: str, job: Job, args: QuestionArgs) -> Question:
    """What is run for a name; InputError where the recipe lacks what it looks at."""
    from radit_ray.open_questions import chunks, corpora, cycles, sizes, versions

    if name == "oq1":
        config = chunks.ChunksConfig(ks=args.ks, checked=args.num_checked, timed=args.num_timed)
        chunks.check(job, config)
        return chunks.question(config)
    if name == "oq2":
        if job.recipe.name == "demo":
            corpora.check(job)
            return corpora.question()
        _need(job, versions.LMS)
        versions.check()
        return versions.question()
    if name == "oq3":
        if args.num_cycles < 2:
            raise InputError(f"--num-cycles {args.num_cycles}, expected 2 or more")
        _need(job, ("replug", *cycles.KEPT))
        return cycles.question(args.num_cycles)
    lms = lms_of(args)
    _need(job, sizes.SHOWN)
    sizes.check(job, lms)
    return sizes.question(lms)


def _need(job: Job, variants: Sequence[str]) -> None:
    """InputError where the recipe lacks one that the question looks at."""
    missing = [name for name in variants if name not in job.recipe.variants]
    if missing:
        raise InputError(f"variant {missing[0]!r} is not in the recipe; this question needs it")


def lms_of(args: QuestionArgs) -> dict[str, str]:
    """{size: folder}, smallest first where their parameters can be counted, else as given."""
    lms = {"s": args.lm or WORLD_LM} if args.recipe == "demo" else {}
    for pair in args.lms:
        size, separator, path = pair.partition("=")
        if not separator or not size.isalnum():
            raise InputError(f"--lms {pair!r}, expected NAME=PATH such as m=runs/lm-m")
        lms[size] = path
    if len(lms) < 2:
        raise InputError(
            "expected LMs of two sizes or more: radit world-lm --size m --output runs/lm-m, then "
            "--lms m=runs/lm-m"
        )
    sizes = {size: num_parameters(path) for size, path in lms.items()}
    if 0 in sizes.values():
        return lms
    return dict(sorted(lms.items(), key=lambda pair: sizes[pair[0]]))
