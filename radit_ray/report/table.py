"""results.json -> a table of variants and a table of contrasts, as text for a terminal or Markdown
for a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MEANING = {
    "closed-book": "base LM, no chunks",
    "replug": "base LM + base retriever",
    "replug-5shot": "the same with 5 demonstrations",
    "it": "instruction-tuned LM, no chunks",
    "it-retrieval": "instruction-tuned LM + base retriever",
    "lm-ft": "LM-ft + base retriever",
    "r-ft": "base LM + R-ft",
    "radit": "LM-ft + R-ft",
}


def variants_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row a variant: each metric with its 95% interval; "-" where a variant has none."""
    metrics = ["em", "f1", "nll", "recall@1", "recall@5"]
    rows = [
        [name, *(_interval(values.get(metric)) for metric in metrics), MEANING.get(name, "")]
        for name, values in results["variants"].items()
    ]
    return _table(
        [f"variant ({results['num_questions']} questions)", *metrics, "what it is"], rows, markdown
    )


def contrasts_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row a declared contrast: paired differences with their 95% intervals; * where 0 lies
    outside.
    """
    metrics = ["em", "f1", "nll", "recall@1"]
    rows = [
        [name.replace("-minus-", " - "), *(_difference(values.get(metric)) for metric in metrics)]
        for name, values in results["contrasts"].items()
    ]
    return _table(["contrast", *metrics], rows, markdown)


def render(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """Both tables, and the tasks one by one where there are several."""
    parts = [variants_table(results, markdown=markdown)]
    if results["contrasts"]:
        parts.append(contrasts_table(results, markdown=markdown))
    tasks = results.get("tasks", {})
    if len(tasks) > 1:
        metrics = ["em", "f1", "nll"]
        rows = [
            [task, name, *(_interval(values.get(metric)) for metric in metrics)]
            for task, variants in tasks.items()
            for name, values in variants.items()
        ]
        parts.append(_table(["task", "variant", *metrics], rows, markdown))
    return "\n\n".join(parts)


def _interval(cell: Mapping[str, float] | None) -> str:
    return "-" if cell is None else f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def _difference(cell: Mapping[str, float] | None) -> str:
    if cell is None:
        return "-"
    clear = "*" if cell["low"] > 0 or cell["high"] < 0 else ""
    return f"{cell['diff']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]{clear}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
