"""What a run's names and numbers mean, in words for someone who has never seen them.

In: names of variants, contrasts and metrics, and the cells of `results.json`. Out: plain text.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

ABSENT = "\N{EN DASH}"
NO_CHUNKS = "no chunks"
PARTS = {  # variant -> (its LM, what finds its chunks)
    "closed-book": ("base LM", NO_CHUNKS),
    "replug": ("base LM", "base retriever"),
    "replug-5shot": ("base LM, 5 examples", "base retriever"),
    "r-ft": ("base LM", "R-ft retriever"),
    "it": ("instruction-tuned LM", NO_CHUNKS),
    "it-retrieval": ("instruction-tuned LM", "base retriever"),
    "lm-ft-closed-book": ("LM-ft", NO_CHUNKS),
    "lm-ft": ("LM-ft", "base retriever"),
    "radit": ("LM-ft", "R-ft retriever"),
}
WHAT = {  # variant -> what was done, for someone who has never seen its name
    "closed-book": "The LM as it came, asked without any chunk: what it knows by heart.",
    "replug": "Nothing is trained: the LM as it came reads what the retriever as it came finds.",
    "replug-5shot": "As replug, with five answered questions in front that show the LM what to do.",
    "it": "The control: the LM is tuned on the same questions and answers, but without chunks, and "
    "asked without chunks.",
    "it-retrieval": "The LM of the control is given chunks when it is asked. What lm-ft has beyond "
    "it comes from training with chunks, not from training.",
    "lm-ft": "The first half alone: the LM is tuned to answer with retrieved chunks in front; the "
    "retriever is as it came.",
    "r-ft": "The second half alone: the retriever is tuned to find what the LM prefers; the LM is "
    "as it came.",
    "radit": "RA-DIT, both halves: the tuned LM reads what the tuned retriever finds.",
}
_SIDES = {  # contrast -> (what is looked at, what it is held against)
    "lm-ft-minus-it-retrieval": ("LM-ft", "instruction tuning with the same chunks"),
    "lm-ft-minus-replug": ("LM-ft", "the untuned LM with the same chunks"),
    "r-ft-minus-replug": ("R-ft", "the base retriever, both with the base LM"),
    "radit-minus-lm-ft": ("R-ft on top of LM-ft", "LM-ft alone"),
    "radit-minus-r-ft": ("LM-ft on top of R-ft", "R-ft alone"),
    "radit-minus-replug": ("RA-DIT (LM-ft and R-ft)", "the untuned pair"),
    "radit-minus-replug-5shot": (
        "RA-DIT (LM-ft and R-ft)",
        "the untuned pair with 5 examples in front",
    ),
}
STAGES = {
    "chunk": "cut the corpus into chunks",
    "dedup": "leave out, or mark, chunks that are copies of earlier ones",
    "embed": "a vector for every chunk, by the base retriever",
    "index": "an index to search the vectors",
    "retrieve": "the best chunks for every question, by the base retriever",
    "lm-ft": "LM-ft: the LM learns to answer with a retrieved background",
    "it": "the control: the same tuning without background",
    "score": "how much each chunk helps the LM (the target of R-ft)",
    "r-ft": "R-ft: the query encoder learns which chunks the LM prefers",
    "retrieve-tuned": "the best chunks again, by the tuned retriever",
    "evaluate": "every variant answers the same questions",
}
GLOSSARY = {
    "chunk": "a passage of the corpus, the unit that is searched and shown to the LM",
    "LM": "the language model that answers",
    "retriever": "finds chunks: it compares the vector of a question with those of all chunks",
    "LM-ft": "fine-tuning of the LM on questions with retrieved chunks in front of them",
    "R-ft": "fine-tuning of the retriever's query side on what the LM found helpful",
    "instruction tuning": "the control of LM-ft: the same questions in as many steps, no chunks in "
    "front; of both, the weights of the best step on dev are kept",
    "replug": "REPLUG's way: an LM as it is, given chunks by a retriever as it is",
    "closed book": "asked without chunks; lm-ft-closed-book is the LM of LM-ft asked so",
    "p_R": "the weight of a chunk, all together 1. Every chunk answers alone; each of the answers "
    "then gets its probability under every chunk, added up with these weights, and the most "
    "probable one wins. So a chunk of little weight can win where the LM is surer of its answer",
    "exact match": "share of questions whose answer equals a right one, but for case, articles and "
    "punctuation",
    "F1": "overlap of the words of answer and right answer, 1 = all",
    "NLL": "how surprised the variant is by the right answer, in nats; lower is better",
    "recall@k": "share of questions whose right chunk is among the first k",
    "95% interval": "where the number would lie for 95 of 100 other draws of questions like these",
}

TASKS = {  # of the generated world
    "world": "facts about invented subjects that no LM here has read of",
    "world-known": "facts about invented subjects that the base LM was trained on",
}

DEV = {  # what R-ft measures on its dev examples
    "kl": "how far p_R is from the chunks that the LM prefers; lower is better",
    "mrr": "mean of 1 / rank of the right chunk; higher is better",
    "nll": "NLL of the right answer, nats; lower is better",
    "recall@1": "the right chunk is first; higher is better",
    "recall@5": "the right chunk is among the first five; higher is better",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric:
    """How a metric is named and printed."""

    name: str
    unit: str = "points"  # hundredths; else printed as it is
    lower_is_better: bool = False

    @property
    def factor(self) -> float:
        return 100.0 if self.unit == "points" else 1.0

    def number(self, value: float, sign: str = "") -> str:
        """
        >>> METRICS["em"].number(0.565, "+"), METRICS["nll"].number(2.5)
        ('+56.5', '2.50')
        """
        digits = 1 if self.unit == "points" else 2
        return f"{round(value * self.factor, digits) + 0.0:{sign}.{digits}f}"

    def range(self, low: float, high: float, sign: str = "") -> str:
        """
        >>> METRICS["em"].range(0.533, 0.597)
        '[53.3, 59.7]'
        """
        return f"[{self.number(low, sign)}, {self.number(high, sign)}]"


METRICS = {
    "em": Metric(name="exact match"),
    "f1": Metric(name="F1"),
    "nll": Metric(name="NLL of the right answer", unit="nats", lower_is_better=True),
    "recall@1": Metric(name="recall@1"),
    "recall@5": Metric(name="recall@5"),
}


def parts_of(variant: str) -> tuple[str, str]:
    """(its LM, what finds its chunks); empty words for a variant that is not known.

    >>> parts_of("radit-cycle-0")
    ('LM-ft of cycle 0', 'R-ft retriever of cycle 0')
    """
    if cycle := re.fullmatch(r"radit-cycle-(\d+)", variant):
        return f"LM-ft of cycle {cycle[1]}", f"R-ft retriever of cycle {cycle[1]}"
    return PARTS.get(variant, ("", ""))


def shown_contrast(contrast: str) -> str:
    """ "a-minus-b" as it is printed."""
    return contrast.replace("-minus-", " \N{MINUS SIGN} ")


def sides_of(contrast: str) -> tuple[str, str]:
    """(what is looked at, what it is held against), in words."""
    a, _, b = contrast.partition("-minus-")
    return _SIDES.get(contrast, (a, b))


def verdict(cell: Mapping[str, float], metric: str) -> str:
    """ "better", "worse", or "unclear" where 0 lies inside the interval."""
    if cell["low"] <= 0.0 <= cell["high"]:
        return "unclear"
    return "better" if (cell["diff"] < 0) == METRICS[metric].lower_is_better else "worse"


def sentence(contrast: str, metric: str, cell: Mapping[str, float]) -> str:
    """One difference as a plain sentence.

    >>> sentence("a-minus-b", "em", {"diff": -0.03, "low": -0.05, "high": -0.01})
    'a is worse than b: 3.0 points of exact match less [1.0, 5.0].'
    """
    (what, against), shown, found = sides_of(contrast), METRICS[metric], verdict(cell, metric)
    if found == "unclear":
        if cell["diff"] == cell["low"] == cell["high"]:
            return f"{what} and {against}: the same {shown.name}."
        interval = shown.range(cell["low"], cell["high"], "+")
        return (
            f"No clear difference in {shown.name} between {what} and {against}: "
            f"{shown.number(cell['diff'], '+')} {shown.unit} {interval}."
        )
    low, high = sorted(abs(cell[edge]) for edge in ("low", "high"))
    size, interval = shown.number(abs(cell["diff"])), shown.range(low, high)
    if shown.lower_is_better:
        verb = "lowers" if found == "better" else "is worse: it raises"
        change = f"{verb} the {shown.name} by {size} {shown.unit}"
        return f"{what} {change} against {against} {interval}."
    if found == "better":
        return f"{what} adds {size} {shown.unit} of {shown.name} over {against} {interval}."
    return f"{what} is worse than {against}: {size} {shown.unit} of {shown.name} less {interval}."


def si(value: float) -> str:
    """A count with three digits.

    >>> si(484504), si(999700), si(4.6e12), si(0)
    ('485 k', '1 M', '4.6 T', '0')
    """
    for power, prefix in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if value >= 0.9995 * 10**power:
            return f"{value / 10**power:.3g} {prefix}"
    return f"{value:.3g}"


def seconds(value: float) -> str:
    """
    >>> seconds(4.25), seconds(448.2), seconds(9000)
    ('4.2 s', '7 min 28 s', '2 h 30 min')
    """
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
