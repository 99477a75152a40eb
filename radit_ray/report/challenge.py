"""challenge.json -> what the LMs still know, what one wrong chunk does to them, whether they say
what their chunks say: text for a terminal or Markdown for a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from radit_ray.engines.faithfulness import FOLLOWS
from radit_ray.report.table import difference_text, interval_text, text_table
from radit_ray.report.words import parts_of

METRICS = ("em", "f1", "nll")


def knowledge_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row an LM and task without chunks, then the differences from the first LM."""
    known = results["knowledge"]
    tasks = known["tasks"] if len(known["tasks"]) > 1 else {}
    rows = [["all", *_metrics(name, cells)] for name, cells in known["closed-book"].items()]
    rows += [
        [task, *_metrics(name, cells)]
        for task, found in tasks.items()
        for name, cells in found.items()
    ]
    rows += [
        ["all", name.replace("-minus-", " - "), *(difference_text(cells[m]) for m in METRICS)]
        for name, cells in known["contrasts"].items()
    ]
    return text_table(
        [f"closed book ({known['num_questions']})", "LM of", *METRICS], rows, markdown
    )


def texts_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row an LM: how surprised it is by a token of the corpus, and what tuning changed."""
    texts = results["knowledge"]["plain_text"]
    base = next(iter(texts["nats_per_token"]))
    rows = [
        [
            name,
            interval_text(cell),
            f"{texts['perplexity'][name]:.2f}",
            difference_text(texts["contrasts"].get(f"{name}-minus-{base}")),
        ]
        for name, cell in texts["nats_per_token"].items()
    ]
    head = [
        f"plain text ({texts['num_texts']} chunks, {texts['num_tokens']} tokens)",
        "nats per token",
        "perplexity",
        f"minus {base} (detectable)",
    ]
    return text_table(head, rows, markdown)


def robustness_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row an LM and kind of chunk; the differences are from the same LM without a chunk."""
    rows = []
    for name, found in results["robustness"].items():
        for kind, cells in found["kinds"].items():
            contrast = found["contrasts"].get(f"{kind}-minus-none", {})
            differences = (difference_text(contrast.get(metric)) for metric in ("em", "nll"))
            rows.append([*_metrics(name, cells, kind), *differences])
    num = results["questions"]["num_questions"]
    head = [f"LM of ({num} questions)", "one chunk", *METRICS, "em - none", "nll - none"]
    return text_table(head, rows, markdown)


def copied_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row an LM: how often its answer is a string of its chunks."""
    rows = [
        [name, interval_text(found["top-k"]), interval_text(found["none"])]
        for name, found in results["faithfulness"]["copied"].items()
    ]
    head = ["answer stands in the chunks, LM of", "given them", "without having seen them"]
    return text_table(head, rows, markdown)


def swapped_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row an LM and set of questions: whose answer it gives when the chunk was changed."""
    rows = []
    for name, found in results["faithfulness"]["swapped"].items():
        for which, shares in found.items():
            num = str(shares["num_questions"] if shares else 0)
            cells = [interval_text(shares[kind] if shares else None) for kind in FOLLOWS]
            rows.append([name, which, num, *cells])
    head = [
        "swapped answer, LM of",
        "questions",
        "number",
        "the chunk's",
        "its memory's",
        "neither",
    ]
    return text_table(head, rows, markdown)


def render(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """All tables, one below the other."""
    tables = (knowledge_table, texts_table, robustness_table, copied_table, swapped_table)
    return "\n\n".join(table(results, markdown=markdown) for table in tables)


def page(results: Mapping[str, Any]) -> str:
    """The results as one Markdown page that says how each number was made."""
    made, asked = results["environment"], results["questions"]
    versions = ", ".join(f"{name} {value}" for name, value in made["versions"].items())
    lms = [f"`{name}` ({parts_of(name)[0]})" for name in results["variants"]]
    return "\n".join(
        [
            "# What the paper did not measure",
            "",
            f"- run: {results['run']}, split {results['split']}; the LMs of {', '.join(lms)}",
            f"- command: `{made['command']}`",
            f"- hardware: {made['hardware']}",
            f"- versions: {versions}",
            "",
            "Square brackets: 95% bootstrap over groups of questions, or over documents; `*`: 0 "
            "lies outside; round brackets: the smallest difference that such a sample finds 4 "
            "times in 5.",
            "",
            "## What the LM still knows",
            "",
            "All questions of the split without a chunk; and chunks of the corpus read as plain "
            "text, the same tokens for every LM.",
            "",
            knowledge_table(results, markdown=True),
            "",
            texts_table(results, markdown=True),
            "",
            "## One chunk, right or wrong",
            "",
            f"Of {asked['asked']} open questions {asked['with_answer']} had a right chunk with "
            f"the answer on their list, {asked['with_negative']} of them also a chunk of another "
            f"page without it; {asked['num_questions']} are asked here. `gold`: the best-ranked "
            "right chunk alone; `hard-negative`: the best-ranked chunk of another page; `random`: "
            "a chunk of another question's list; `none`: no chunk.",
            "",
            robustness_table(results, markdown=True),
            "",
            "## Does it say what its chunks say?",
            "",
            "How often the answer's words stand in one of the run's own top chunks; and, where "
            "the answer in the right chunk was replaced by another question's, whose answer is "
            "given: the chunk's, the one it replaced, or neither. `known`: questions that the "
            "same LM answers right without a chunk.",
            "",
            copied_table(results, markdown=True),
            "",
            swapped_table(results, markdown=True),
            "",
        ]
    )


def _metrics(name: str, cells: Mapping[str, Any], *between: str) -> list[str]:
    return [name, *between, *(interval_text(cells.get(metric)) for metric in METRICS)]
