"""results.json -> tables of variants, contrasts and training seeds, as text for a terminal or
Markdown for a page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.report.words import DEV

COMPARED = ("em", "f1", "nll", "recall@1")
MEANING = {
    "closed-book": "base LM, no chunks",
    "replug": "base LM + base retriever",
    "replug-5shot": "the same with 5 demonstrations",
    "it": "instruction-tuned LM, no chunks",
    "it-retrieval": "instruction-tuned LM + base retriever",
    "lm-ft": "LM-ft + base retriever",
    "lm-ft-closed-book": "LM-ft without chunks (what it still knows)",
    "r-ft": "base LM + R-ft",
    "radit": "LM-ft + R-ft",
}
SAME = "+0.000 [+0.000, +0.000] (0.000)"  # a difference that is none on any question


def variants_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row a variant: each metric with its 95% interval; "-" where a variant has none."""
    metrics = ["em", "f1", "nll", "recall@1", "recall@5"]
    rows = [
        [name, *(interval_text(values.get(metric)) for metric in metrics), MEANING.get(name, "")]
        for name, values in results["variants"].items()
    ]
    return text_table(
        [f"variant ({results['num_questions']} questions)", *metrics, "what it is"], rows, markdown
    )


def truncation_note(results: Mapping[str, Any]) -> str:
    """What the LMs' contexts cost; "" where nothing was cut."""
    parts = []
    for name, what in (
        ("num_question_cut", "are longer than the LM's context and lost their beginning"),
        ("num_truncated", "lost demonstrations or the end of a chunk"),
    ):
        found = [
            f"{variant} {cut[name]}"
            for variant, cut in results.get("truncation", {}).items()
            if cut[name]
        ]
        if found:
            parts.append(f"questions that {what}: {', '.join(found)}")
    return f"Cut to the context: {'; '.join(parts)}." if parts else ""


def contrasts_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row a declared contrast: paired differences with their 95% intervals; * where 0 lies
    outside; in round brackets the smallest difference that such a sample finds 4 times in 5.
    """
    rows = [
        [name.replace("-minus-", " - "), *(difference_text(values.get(m)) for m in COMPARED)]
        for name, values in results["contrasts"].items()
    ]
    return text_table(["contrast (detectable)", *COMPARED], rows, markdown)


def seeds_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row a contrast and metric, one column a training seed: its own difference."""
    seeds = results["by_seed"]
    rows = [
        [
            name.replace("-minus-", " - "),
            metric,
            *(
                difference_text(seed["contrasts"].get(name, {}).get(metric))
                for seed in seeds.values()
            ),
        ]
        for name in results["contrasts"]
        for metric in ("em", "nll", "recall@1")
    ]
    # what cannot differ, such as recall of one encoder, says nothing
    rows = [row for row in rows if any(cell not in ("-", SAME) for cell in row[2:])]
    return text_table(
        ["by training seed", "metric", *(f"seed {seed}" for seed in seeds)], rows, markdown
    )


def retrieval_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """Recall by the gold chunk and by answer string, of each variant that is shown chunks."""
    metrics = ["recall@1", "recall@5", "answer_recall@1", "answer_recall@5"]
    rows = [
        [name, *(interval_text(values.get(metric)) for metric in metrics)]
        for name, values in results["variants"].items()
        if "recall@1" in values
    ]
    return text_table(["variant", *metrics], rows, markdown)


def articles_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row an article, most questions first: f1 and nll of each variant, plain means."""
    names = list(results["variants"])
    found = sorted(results["articles"].items(), key=lambda item: -item[1]["num_questions"])
    rows = [
        [
            article,
            str(entry["num_questions"]),
            *(
                f"{entry['variants'][name]['f1']:.3f} / {entry['variants'][name]['nll']:.1f}"
                for name in names
            ),
        ]
        for article, entry in found
    ]
    return text_table(
        ["article", "questions", *(f"{name} f1 / nll" for name in names)], rows, markdown
    )


def how_made(results: Mapping[str, Any]) -> list[str]:
    """Command, hardware, versions and seeds, as lines of a Markdown list."""
    made = results["environment"]
    versions = ", ".join(f"{name} {value}" for name, value in made["versions"].items())
    return [
        f"- command: `{made['command']}`",
        f"- hardware: {made['hardware']}",
        f"- versions: {versions}",
        f"- training seeds: {', '.join(map(str, results['seeds']))}",
    ]


def page(results: Mapping[str, Any]) -> str:
    """A run's results as one Markdown page: how they were made, the tables, what each stage
    cost.
    """
    articles = []
    if results.get("articles"):
        articles = ["## By article", "", articles_table(results, markdown=True), ""]
    return "\n".join(
        [
            f"# {results['recipe']}",
            "",
            *how_made(results),
            "",
            "Metrics: em and f1 with KILT's normalisation; nll of the first gold answer under the "
            "mixture, nats; recall of the ranked list. Square brackets: 95% bootstrap over groups "
            "of questions; `*`: 0 lies outside; round brackets: the smallest difference that a "
            "sample like this finds 4 times in 5.",
            "",
            render(results, markdown=True),
            "",
            "## Retrieval",
            "",
            "Recall by the gold chunk where a question names one (else by answer string), and by "
            "answer string in any case.",
            "",
            retrieval_table(results, markdown=True),
            "",
            *articles,
            "## Stages",
            "",
            stages_table(results, markdown=True),
            "",
        ]
    )


def stages_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row a stage: rows, seconds, tokens, FLOPs, metrics."""
    rows = [
        [
            name,
            str(stage["rows"]),
            f"{stage['cost']['wall_s']:.0f}",
            f"{stage['cost'].get('device_s', 0.0):.0f}",
            f"{stage['cost'].get('tokens', 0):.3g}",
            f"{stage['cost'].get('flops', 0):.3g}",
            _brief(stage.get("metrics", {})),
        ]
        for name, stage in results["stages"].items()
    ]
    head = ["stage", "rows", "wall s", "worker s", "tokens", "FLOPs", "metrics"]
    return text_table(head, rows, markdown)


def _brief(metrics: Mapping[str, Any]) -> str:
    """Numbers of a stage in one cell; nested ones by their dotted name."""
    parts = []
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            parts.append(f"{name} ({_brief(value)})")
        elif isinstance(value, float):
            parts.append(f"{name} {value:.4g}")
        elif isinstance(value, (int, str)):
            parts.append(f"{name} {value}")
    return ", ".join(parts)


def render(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """Both tables, the seeds and the tasks one by one where there are several."""
    parts = [variants_table(results, markdown=markdown)]
    note = truncation_note(results)
    if note:
        parts.append(note)
    if results["contrasts"]:
        parts.append(contrasts_table(results, markdown=markdown))
        if len(results.get("by_seed", {})) > 1:
            parts.append(seeds_table(results, markdown=markdown))
    if len(results.get("tasks", {})) > 1:
        parts.append(tasks_table(results, markdown=markdown))
    return "\n\n".join(parts)


def tasks_table(results: Mapping[str, Any], *, markdown: bool = False) -> str:
    """One row a task and variant, probes too."""
    tasks = results["tasks"]
    metrics = ["em", "f1", "nll", *(["score"] if _has_scores(tasks) else [])]
    rows = [
        [task, name, *(interval_text(values.get(metric)) for metric in metrics)]
        for task, variants in tasks.items()
        for name, values in variants.items()
    ]
    return text_table(["task", "variant", *metrics], rows, markdown)


def _has_scores(tasks: Mapping[str, Any]) -> bool:
    """Whether some task has a metric of its own that says something else than em."""
    cells = [values for variants in tasks.values() for values in variants.values()]
    return any("score" in v and v["score"]["value"] != v["em"]["value"] for v in cells)


def interval_text(cell: Mapping[str, float] | None) -> str:
    return "-" if cell is None else f"{cell['value']:.3f} [{cell['low']:.3f}, {cell['high']:.3f}]"


def difference_text(cell: Mapping[str, float] | None) -> str:
    if cell is None:
        return "-"
    clear = "*" if cell["low"] > 0 or cell["high"] < 0 else ""
    detectable = f" ({cell['mde']:.3f})" if "mde" in cell else ""
    return f"{cell['diff']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}]{clear}{detectable}"


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]], markdown: bool) -> str:
    if markdown:
        lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def r_ft_dev(results: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """(head, rows): R-ft on its dev examples, before and after; no rows where it was not run."""
    metrics = results["stages"].get("r-ft", {}).get("metrics", {})
    before, after = metrics.get("dev_before", {}), metrics.get("dev", {})
    rows = [
        [name, DEV.get(name, ""), f"{before[name]:.3f}", f"{after[name]:.3f}"]
        for name in before
        if name in after
    ]
    return ["metric", "what it is", "before", "after"], rows
