"""Suites: tables of tasks, and the rows that a table needs, each named by the role of its models.

The paper's tables and their values live once, in assets/paper_results.json, each with how far its
source can be trusted; the suites beyond the paper are below. A value is in percent, as printed.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Mapping
from importlib import resources
from typing import Any

from radit_ray.core.errors import InputError, nearest

TRUST = {  # how a table, or one of its cells, was read
    "ocr": "read in a machine-read copy of the paper",
    "restated": "read in a secondary text",
    "repaired": "a damaged cell, repaired so that its row's printed mean comes out",
    "recalled": "found in no source, recalled",
    "checked": "found in no source, recalled; its row's printed mean comes out",
    "curves": "printed as curves only",
}
_RUN = "radit run own --lm {} --retriever {} --corpus {} --examples QA --output RUN"
_BASE = _RUN.format("LM", "RETRIEVER", "DOCS")


def _beside(role: str, lm: str, retriever: str, corpus: str, more: str = "") -> str:
    """The command for a role of a run of its own, and how it is named beside the other run."""
    command = _RUN.format(lm, retriever, corpus).removesuffix("RUN")
    return f"{command}RUN2{more}, then --variants RUN,{role}=RUN2"


# role -> what it is, the command whose run (or variants file) brings it
ROLES = {
    "closed-book": ("base LM, no chunks", _BASE),
    "replug": ("base LM + base retriever", _BASE),
    "it": ("instruction-tuned LM, no chunks", _BASE),
    "it-retrieval": ("instruction-tuned LM + base retriever", _BASE),
    "lm-ft": ("LM-ft + base retriever", _BASE),
    "r-ft": ("base LM + R-ft", _BASE),
    "radit": ("LM-ft + R-ft", _BASE),
    "radit-64shot": (
        "RA-DIT, tuned further on 64 examples of each task (Table 9)",
        "radit few-shot RUN --output DIR, then --variants RUN,DIR/variants.json",
    ),
    "r-ft-tasks": (
        "R-ft on task examples only",
        _beside("r-ft-tasks", "LM", "RETRIEVER", "DOCS", " --set score.corpus_share=0"),
    ),
    "r-ft-corpus": (
        "R-ft on corpus examples only",
        _beside("r-ft-corpus", "LM", "RETRIEVER", "DOCS", " --set score.corpus_share=1"),
    ),
    "r-ft-both": ("R-ft of both encoders", "not offered: only the query encoder is tuned"),
    "replug-contriever": (
        "base LM + Contriever",
        _beside("replug-contriever", "LM", "contriever", "DOCS"),
    ),
    "replug-contriever-msmarco": (
        "base LM + Contriever tuned on MS MARCO",
        _beside(
            "replug-contriever-msmarco",
            "LM",
            "facebook/contriever-msmarco",
            "DOCS",
            " --preset contriever",
        ),
    ),
    **{
        f"replug-{name}": (what, _beside(f"replug-{name}", "LM", "RETRIEVER", corpus))
        for name, what, corpus in (
            ("cc", "chunks of Common Crawl only", "COMMON_CRAWL"),
            ("wiki21", "chunks of Wikipedia 2021", "WIKI_2021"),
            ("wiki21-infobox", "with its infoboxes", "WIKI_2021,INFOBOXES"),
            ("wiki18", "chunks of Wikipedia 2018", "psgs_w100.tsv"),
        )
    },
    **{
        f"lm-ft-{size}": (
            f"LM-ft of a {size.upper()} LM + base retriever",
            _beside(f"lm-ft-{size}", f"LM_{size.upper()}", "RETRIEVER", "DOCS"),
        )
        for size in ("7b", "13b", "65b")
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
    """One printed value, in percent."""

    value: float
    trust: str = ""  # of TRUST where it differs from its table's
    low: float | None = None  # where copies disagree
    high: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteRow:
    """One row of a table: who answers, and how it is asked."""

    label: str
    role: str  # "" = another system's figures, never measured here
    shots: int = 0
    k: int = -1  # chunks; -1 = as many as the pair has
    ensemble: str = ""  # "" = the pair's
    paper: Mapping[str, Cell] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Suite:
    """A table: tasks across, rows down."""

    name: str
    title: str
    tasks: tuple[str, ...]  # NAME or NAME:SPLIT, as behind `task:`
    rows: tuple[SuiteRow, ...]
    trust: str = ""  # of the paper's values, of TRUST; "" = not in the paper
    note: str = ""
    averages: tuple[tuple[str, ...], ...] = ()  # of the paper, over some of the tasks only


# sets whose default split is the official test one, as open-domain papers call it, and that have a
# dev one beside it (MMLU's holds the five demonstrations of each subject and nothing to measure)
TEST_BY_DEFAULT = ("nq", "triviaqa")
# role -> the roles that it is compared with beside the row above it: what each half alone gives
ALONE = {"lm-ft": ("it-retrieval", "it"), "radit": ("lm-ft", "r-ft")}
OWN_ROWS = tuple(
    SuiteRow(label=f"{role}: {ROLES[role][0]}", role=role, k=0 if role == "closed-book" else -1)
    for role in ("closed-book", "replug", "it-retrieval", "lm-ft", "r-ft", "radit")
)
_LANGUAGES = ("en", "ar", "de", "el", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
_OWN = {  # name -> (title, tasks)
    "zero-shot": (
        "The paper's tasks without demonstrations, each row with its own number of chunks",
        "mmlu nq triviaqa web_questions:eval eli5 hotpotqa fever aida zsre t-rex wow",
    ),
    "open-domain": (
        "Open-domain questions, beyond the paper",
        "web_questions:eval popqa curatedtrec efficientqa asqa 2wikimultihopqa squad_open",
    ),
    "reading": (
        "Reading comprehension with the gold text",
        "squad squadshifts-wiki squadshifts-amazon squadshifts-reddit nq-gold qed dream",
    ),
    "cross-lingual": ("XQuAD in 12 languages", " ".join(f"xquad-{x}" for x in _LANGUAGES)),
    "domain": (
        "Medicine, law, policy, science",
        "pubmed_qa:eval covidqa policyqa legalbench sciq expertqa",
    ),
    "facts": ("Statements to judge, facts to fill in", "fever-symmetric hover temporalwiki"),
    "time": (
        "Answers that change with time or place",
        "situatedqa-temp situatedqa-geo freshqa realtimeqa pat-2021-12 pat-2023-12 pat-2024-03 "
        "retrievalqa timeqa",
    ),
}


@functools.cache
def suites() -> dict[str, Suite]:
    """All suites by name: the paper's tables and figure, then those beyond it."""
    text = resources.files("radit_ray").joinpath("assets/paper_results.json").read_text("utf-8")
    found = {name: _paper_suite(name, table) for name, table in json.loads(text).items()}
    for name, (title, tasks) in _OWN.items():
        found[name] = Suite(name=name, title=title, tasks=tuple(tasks.split()), rows=OWN_ROWS)
    return found


def suite_named(name: str) -> Suite:
    """The suite of that name; InputError with the nearest one otherwise."""
    if name not in suites():
        raise InputError(f"unknown suite {name!r}{nearest(name, suites())}")
    return suites()[name]


def _paper_suite(name: str, table: Mapping[str, Any]) -> Suite:
    named = {task: _on_split(task, table["split"]) for task in table["tasks"]}
    parts = dict.fromkeys(over for row in table["rows"] for over in row["averages"])
    rows = tuple(
        SuiteRow(
            label=row["label"],
            role=row["role"],
            shots=row["shots"],
            k=-1 if row["k"] is None else row["k"],
            ensemble=row.get("ensemble", ""),
            paper={named[task]: _cell(value) for task, value in row["values"].items()},
        )
        for row in table["rows"]
    )
    return Suite(
        name=name,
        title=table["title"],
        tasks=tuple(named.values()),
        rows=rows,
        trust=table["trust"],
        note=table["note"],
        averages=tuple(
            tuple(named[task] for task in over.split(",")) for over in parts if over != "all"
        ),
    )


def _on_split(task: str, split: str) -> str:
    """The task on the split that a table of the paper measured, where both it and the official
    test set are there to choose from.
    """
    return f"{task}:{split}" if split == "dev" and task in TEST_BY_DEFAULT else task


def _cell(value: Any) -> Cell:
    if isinstance(value, int | float):
        return Cell(value=float(value))
    low, high = value.get("range", (None, None))
    return Cell(value=value["value"], trust=value.get("trust", ""), low=low, high=high)
