"""What a task is: one question set as data. The tables are `paper_tasks` and `more_tasks`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from radit_ray.core.mixing import CAP, SHARES
from radit_ray.core.templates import AUTO, NO_RETRIEVAL

_QUERIES = {"mmlu": "question + choices", "wow": "all turns", "aida": "the mention"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One question set: where it lies, how it is asked, how it is judged."""

    name: str
    paper: str = ""  # "evaluation", "training"; "" = beyond the paper
    category: str = "open-domain-qa"  # decides the prompts of training, and of evaluation without
    template: str = ""  # ... one of Table 12's
    metric: str = "em"  # of core.metrics, or "regex"
    scoring: str = "nll"  # of choices
    split: str = "eval"  # what `task:NAME` reads: the split that is measured, or "train"
    # our split -> native files below the data folder: all of "A, B"; the first there of "A | B";
    # ZIP!PATTERN: members. Splits that share a file, "train eval", are told by its rows
    files: Mapping[str, str] = dataclasses.field(default_factory=dict)
    # file, or a part of its name -> what a copy below the data folder is, where it is not the set
    notes: Mapping[str, str] = dataclasses.field(default_factory=dict)
    hub: str = ""  # NAME[:CONFIG] on the Hugging Face hub, where no file lies here
    hub_splits: Mapping[str, str] = dataclasses.field(default_factory=dict)  # ours -> the hub's
    date: str = ""  # of its answers, where the rows do not say it
    fine_tunes: tuple[str, ...] = ()  # which stage the paper trains with it: "lm-ft", "r-ft"

    @property
    def resolved_template(self) -> str:
        """The template of Table 12 that its rows are asked with."""
        if self.template or self.category != "multiple-choice":
            return self.template or AUTO[self.category]
        return "mmlu"

    @property
    def query(self) -> str:
        """Table 12's query column in words; "-" where nothing is retrieved."""
        name = self.resolved_template
        return "-" if name in NO_RETRIEVAL else _QUERIES.get(name, "question")

    @property
    def cap(self) -> int | None:
        """Examples that count for its weight in a mixture; None where it has a fixed share, or is
        not trained on.
        """
        return CAP if self.fine_tunes and self.share is None else None

    @property
    def share(self) -> float | None:
        """Its fixed share of LM-ft, where it has one."""
        return SHARES.get(self.name)

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits it has, here or on the hub."""
        known = " ".join((*self.hub_splits, *self.files)).split()
        return tuple(name for name in ("train", "dev", "eval") if name in known)

    def files_of(self, split: str) -> tuple[str, bool]:
        """(the files of a split, whether their rows say which are of that split); "" for none."""
        for splits, files in self.files.items():
            if split in splits.split():
                return files, " " in splits
        return "", False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One file, archive or hub split, and what to make of its rows."""

    path: str
    split: str = ""  # of all its rows; "" = the rows say it
    only: str = ""  # rows of this split only, where the rows say it
    task: Task | None = None
    instead_of: str = ""  # the native files that are not there
    part: str = ""  # the item of the spec that it belongs to; sampled with the others of it
    skip: int = 0  # leave out so many, the first of a seeded order
    sample: int = 0  # then keep at most so many; 0 = all
