"""`radit overlap`: is the evaluation in the training data, or in the corpus?"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.examples import read_examples
from radit_ray.data.readers import list_corpus_files
from radit_ray.engines.overlap import FOUND, OverlapConfig, check_overlap, overlap
from radit_ray.engines.resources import Resources


@dataclass(frozen=True, kw_only=True)
class OverlapArgs:
    """Options of `radit overlap`."""

    examples: str  # the questions: a file, a folder named by split, task:NAME[:SPLIT], or hf:NAME
    # training questions, likewise; without it those of --examples that are in split train, where
    # others are not
    train: str = ""
    corpus: str = ""  # documents, as for `radit chunk`, or the folder of a chunk artifact
    split: str = ""  # questions of this split only; none = all that are not in train
    ngram: int = 13  # words of a shared n-gram
    short_ngram: int = 8  # of questions with fewer words; one shorter still must be there whole
    shown: int = 3  # examples of each finding
    output: str = ""  # a JSON file for all of it
    resources: Resources = Resources()
    json: bool = False  # print JSON instead of a table


def run(args: OverlapArgs) -> None:
    """Compares, writes --output, prints the table and a few examples."""
    config = OverlapConfig(ngram=args.ngram, short_ngram=args.short_ngram, shown=args.shown)
    check_overlap(config)
    if args.output and os.path.isdir(storage.local(args.output)):
        raise InputError(f"--output {args.output} is a folder, expected the name of a file")
    questions, training = chosen(args)
    if args.corpus:
        from radit_ray.engines.connect import connect

        list_corpus_files(args.corpus)  # a wrong path needs no cluster
        connect()
    report = overlap(
        config,
        questions,
        training=training,
        corpus=storage.absolute(args.corpus),
        resources=args.resources,
    )
    report = {**{name: getattr(args, name) for name in ("examples", "train", "corpus")}, **report}
    if args.output:
        storage.write_json(args.output, report)
    print(json.dumps(report, ensure_ascii=False) if args.json else text(report))


def chosen(args: OverlapArgs) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(questions of the evaluation, questions of training)."""
    rows = read_examples(args.examples)
    splits = {row["split"] for row in rows}
    others = splits - {"train"}
    if args.split and args.split not in splits:
        raise InputError(
            f"{args.examples}: no example of split {args.split!r}, only of "
            f"{', '.join(sorted(splits))}; change --split, or name a file {args.split}=FILE"
        )
    wanted = {args.split} if args.split else others or splits
    questions = [row for row in rows if row["split"] in wanted]
    if args.train:
        found = read_examples(args.train)
        return questions, [row for row in found if row["split"] == "train"] or found
    return questions, [row for row in rows if row["split"] == "train" and "train" not in wanted]


def text(report: dict[str, Any]) -> str:
    """The table by task, and below it a few examples of each finding."""
    from radit_ray.report.table import text_table

    findings = [name for name in FOUND if name in report["shown"]]
    tasks = report["tasks"]
    if len(tasks) == 2:  # one task is all of them
        tasks = {name: counts for name, counts in tasks.items() if name != "all"}
    table = [
        [task, str(counts["num_questions"]), *(share(counts[name]) for name in findings)]
        for task, counts in tasks.items()
    ]
    lines = [text_table(["task", "questions", *(FOUND[name] for name in findings)], table, False)]
    for name in findings:
        if report["shown"][name]:
            lines += ["", f"{FOUND[name]}:"]
        for row in report["shown"][name]:
            lines.append(f"  {row['question']}  [{row['id']}]")
            lines.append(f"    {row['with']!r} in {row['place']}")
    return "\n".join(lines)


def share(counted: dict[str, Any]) -> str:
    """A count and its share of those asked, as the table shows it."""
    if counted["share"] is None:
        return "-"
    return f"{counted['count']} ({100 * counted['share']:.1f}%)"


def command(arguments: Sequence[str]) -> None:
    """Reads the options of `radit overlap`."""
    from radit_ray.options import parse

    about = (
        "What the questions of an evaluation share with training questions and with a corpus: the "
        "same questions and answers, n-grams, whole questions and answers in a document. Words are "
        "compared in lower case without punctuation."
    )
    run(parse(OverlapArgs, arguments, "radit overlap", about))
