"""Results of the open questions as pages, and as the series of their plots.

In: {recipe: what <output>/<recipe>/oqN.json holds}. Out: Markdown (how it was made, tables, power,
what each contrast says) and, for whoever draws, plots as plain data: title, axis, labels, and
for each line (value, low, high) or None at each label.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from radit_ray.report.contrasts import (
    METRICS,
    POWER,
    contrasts_table,
    p_text,
    power_cells,
    power_table,
    verdict,
    weighed,
)
from radit_ray.report.figures import Cell
from radit_ray.report.table import difference_text, how_made, interval_text, text_table

Results = Mapping[str, Any]
OF_PAGES = ("em", "f1", "nll", "answer_recall@5")  # of real pages no right chunk is marked
SHARES = ("more", "less")


def page(name: str, files: Mapping[str, Results]) -> str:
    """The part of docs/results/<name>.md below its marker: one section a recipe."""
    parts = []
    for recipe, results in files.items():
        parts.append("\n".join([f"## {recipe}", "", *how_made(results)]))
        parts.append(_spent(results))
        parts += [part for part in _TABLES[name](results) if part]
    return "\n\n".join(parts)


def _spent(results: Results) -> str:
    made = results.get("made", {})
    parts = [
        f"{entry['count']:g} {stage} ({entry['wall_s']:.0f} s)" for stage, entry in made.items()
    ]
    listed = ", ".join(parts) or "nothing, all was there"
    text = f"Made anew for this question: {listed}. Estimated beforehand: {results['estimate']}."
    foreseen = results.get("foreseen")  # files of older versions lack it
    return f"{text} Power, told beforehand: {foreseen}." if foreseen else text


# --- question 1 ---


def _chunks(results: Results) -> Iterator[str]:
    cells = {(p["role"], p["ensemble"], p["k"]): p for p in results["points"]}
    rows = []
    for (role, ensemble, k), point in cells.items():
        found = point["metrics"]
        if found is None:
            rows.append([role, ensemble, str(k), *["beyond the LM's context"] * 3, "-"])
            continue
        shown = [interval_text(found.get(metric)) for metric in ("em", "f1", "nll")]
        rows.append([role, ensemble, str(k), *shown, str(point["num_truncated"])])
    yield f"{results['num_questions']} questions. Quality:"
    yield text_table(["pair", "ensemble", "k", "em", "f1", "nll", "questions cut"], rows, True)
    ks = [str(k) for k in results["config"]["ks"]]
    rows = [[name, *(f"{found[k]:.3f}" for k in ks)] for name, found in results["recall"].items()]
    yield "A right chunk among the first k, by query encoder (first seed):"
    yield text_table(["encoder", *ks], [row for row in rows if len(row) > 1], True)
    yield "Cost of one question (first seed), each k answered by itself:"
    rows = [
        [c["ensemble"], str(c["k"]), f"{c['device_s']:.3f}", f"{c['tokens']:.0f}"]
        for c in results["cost"]
    ]
    yield text_table(["ensemble", "k", "worker s", "LM tokens"], rows, True)
    yield contrasts_table(results["contrasts"], ("em", "f1", "nll"))
    yield power_table(results["contrasts"])
    yield from _bound(results["bound"])


def _bound(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The bound on scored answers against all of them."""
    if not found:
        return
    rows = []
    for entry in found:
        cells = entry["contrasts"]["bounded-minus-all"]
        spent = entry["cost"]
        ratio = spent["bounded"]["device_s"] / max(1e-9, spent["all"]["device_s"])
        shown = [difference_text(cells.get(metric)) for metric in ("em", "f1", "nll")]
        rows.append([str(entry["k"]), str(entry["num_questions"]), *shown, f"{ratio:.2f}"])
    yield "`max_answers` 16 minus all answers scored (first seed, intervals over subjects):"
    yield text_table(["k", "questions", "em", "f1", "nll", "worker s, ratio"], rows, True)


# --- question 2 ---


def _corpora(results: Results) -> Iterator[str]:
    if "pairs" in results:
        for entry in results["pairs"]:
            yield from _versions(entry)
        return
    share = results["changed_share"]
    yield (
        f"{results['num_questions']} questions; the second snapshot changes {share:.0%} of the "
        "facts. Shares of answers, with 95% intervals over subjects; where corpus and memory say "
        "the same it counts for the corpus:"
    )
    yield _share_table(results["cells"], ("category", "given", "lm"))
    if results["where_shown"]:
        yield "With the new corpus, where a right chunk was among those shown:"
        yield _share_table(results["where_shown"], ("category", "lm"))
    if results["remembered"]:
        yield "Changed facts that this LM (first seed) says right closed book, with the new corpus:"
        yield _share_table(results["remembered"], ("lm",))
    rows = [
        [
            found["category"],
            found["contrast"],
            difference_text(weighed({"diff": _mean(found["by_seed"]), "power": found})),
            *power_cells(found),
            verdict(found, SHARES),
        ]
        for found in results["contrasts"]
    ]
    head = ["facts", "with the new corpus: share of", "difference (detectable)", *POWER, "verdict"]
    yield text_table(head, rows, True)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _share_table(cells: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    kinds = ("corpus", "memory", "neither")
    known = any(cell.get("shown") is not None for cell in cells)
    rows = []
    for cell in cells:
        row = [*(cell[name] for name in names), f"{cell['num_questions']} / {cell['num_groups']}"]
        if known:
            row.append("-" if cell["shown"] is None else f"{cell['shown']:.3f}")
        rows.append([*row, *(interval_text(cell[kind]) for kind in kinds)])
    head = [*names, "questions / subjects", *["right chunk shown"] * known]
    head += ["the corpus' value", "the memory's value", "neither"]
    return text_table(head, rows, True)


def _versions(entry: Mapping[str, Any]) -> Iterator[str]:
    pair, chunks, kinds = entry["pair"], entry["chunks"], entry["kinds"]
    note = pair["note"][:1].upper() + pair["note"][1:]
    yield (
        f"### {pair['name']}\n\n{note}. {entry['pages']} pages, "
        f"{chunks['old']} and {chunks['new']} chunks of them in corpora of {chunks['corpus']} "
        f"chunks each. {entry['named']} questions name a page; the answer stands "
        f"in both versions for {kinds['both']} of those asked, in the newer alone for "
        f"{kinds['new only']}, in the older alone for {kinds['old only']}."
    )
    for number, answers in enumerate(entry["answers"]):
        if number and answers["num_questions"] == entry["answers"][0]["num_questions"]:
            continue  # all are of this kind
        rows = [
            [name, *(interval_text(cells.get(metric)) for metric in OF_PAGES)]
            for name, cells in answers["variants"].items()
            if not name.endswith(".gain")  # new - old: among the contrasts
        ]
        head = [f"answer in: {answers['kind']} ({answers['num_questions']} questions)"]
        yield text_table([*head, *OF_PAGES], rows, True)
        yield contrasts_table(answers["contrasts"], OF_PAGES)
        yield power_table(answers["contrasts"])


# --- question 3, and the size of the LM ---


def _variants(results: Results) -> str:
    rows = [
        [name, *(interval_text(cells.get(metric)) for metric in METRICS)]
        for name, cells in results["variants"].items()
    ]
    return text_table([f"{results['num_questions']} questions", *METRICS], rows, True)


def _cycles(results: Results) -> Iterator[str]:
    yield _variants(results)
    rows = []
    for name, found in results["steps"].items():
        kept = "; ".join(", ".join(f"{a}/{b}" for a, b in s["kept"]) for s in found)
        rows.append([name, str(found[0]["lm_ft"]), str(found[0]["r_ft"]), kept])
    yield "Optimiser steps in all, and the steps that dev kept (lm-ft/r-ft of each cycle; by seed):"
    yield text_table(["trained as", "lm-ft", "r-ft", "kept"], rows, True)
    if results["claims"]:
        rows = [
            [name, p_text(c["p"]), p_text(c["adjusted"]), _claimed(results, c)]
            for name, c in results["claims"].items()
        ]
        yield "Does a cycle help? (NLL; the rule stands above)"
        yield text_table(["trained as", "p", "adjusted", "verdict"], rows, True)
    for init, found in results.get("crossed", {}).items():
        yield f"LMs and retrievers of two cycles together, later ones from `{init}` (em, nll):"
        yield _crossed(found)
    if results["seed_noise"]:
        metrics = list(next(iter(results["seed_noise"].values())))
        rows = [
            [name, *(f"{found[m]['rms']:.3f} ({found[m]['most']:.3f})" for m in metrics)]
            for name, found in results["seed_noise"].items()
        ]
        yield "Two trainings that differ in the seed alone are apart by (root mean square; most):"
        yield text_table(["trained as", *metrics], rows, True)
    yield contrasts_table(results["contrasts"])
    yield power_table(results["contrasts"])


def _crossed(found: Mapping[str, Any]) -> str:
    """A row for the LM of each cycle, a column for each cycle's retriever."""
    lms, retrievers = (list(dict.fromkeys(name.split(".")[n] for name in found)) for n in (0, 1))
    rows = [
        [
            lm,
            *(
                ", ".join(f"{found[f'{lm}.{r}'][m]['value']:.3f}" for m in ("em", "nll"))
                for r in retrievers
            ),
        ]
        for lm in lms
    ]
    return text_table(["", *retrievers], rows, True)


def _claimed(results: Results, claim: Mapping[str, Any]) -> str:
    """A claim's verdict; one training says nothing of others."""
    alone = " (one training)" if len(results["seeds"]) == 1 else ""
    return f"{claim['verdict']}{alone}"


def _sizes(results: Results) -> Iterator[str]:
    rows = []
    for size, about in results["lms"].items():
        trained = ", ".join(f"{n} {about[n]:,}" for n in ("steps", "tokens_seen") if n in about)
        rows.append([size, f"{about.get('num_parameters', about['bytes'] // 2):,}", trained or "-"])
    yield text_table(["LM", "parameters", "pretrained"], rows, True)
    yield _variants(results)
    rows = [
        [f"gain-{name}", p_text(c["p"]), p_text(c["adjusted"]), _claimed(results, c)]
        for name, c in results["claims"].items()
    ]
    sizes = list(results["lms"])
    yield f"Does `{sizes[-1]}` gain more than `{sizes[0]}`? (The rule stands above.)"
    yield text_table(["gain", "p", "adjusted", "verdict"], rows, True)
    yield contrasts_table(results["contrasts"])
    yield power_table(results["contrasts"])


_TABLES = {"oq1": _chunks, "oq2": _corpora, "oq3": _cycles, "sizes": _sizes}


# --- plots ---


def plots(name: str, results: Results) -> list[dict[str, Any]]:
    """The lines of a question: {title, axis, labels, series}; with `bars` where the labels
    have no order.
    """
    if name == "oq1":
        return [_chunk_plot(results, metric, title) for metric, title in _TITLES.items()]
    if name == "oq2" and "cells" in results:
        return [
            _share_plot(results, category)
            for category in ("known-changed", "known-unchanged", "new")
        ]
    if name == "oq3":
        return [_cycle_plot(results, metric, title) for metric, title in _TITLES.items()]
    if name == "sizes":
        return [_size_plot(results, metric, title) for metric, title in _TITLES.items()]
    return []


_TITLES = {"em": "Exact match, percent", "nll": "NLL of the gold answer, nats"}


def _cell(cells: Mapping[str, Any] | None, metric: str) -> Cell | None:
    """A point with its interval; shares as percent."""
    if not cells or metric not in cells:
        return None
    factor = 1.0 if metric == "nll" else 100.0
    value, low, high = (factor * cells[metric][name] for name in ("value", "low", "high"))
    return value, low, high


def _chunk_plot(results: Results, metric: str, title: str) -> dict[str, Any]:
    ks = results["config"]["ks"]
    points = {(p["role"], p["ensemble"], p["k"]): p["metrics"] for p in results["points"]}
    pairs = dict.fromkeys((role, ensemble) for role, ensemble, _ in points)
    series = {f"{r}, {e}": [_cell(points[r, e, k], metric) for k in ks] for r, e in pairs}
    return {"title": title, "axis": "chunks", "labels": [str(k) for k in ks], "series": series}


def _share_plot(results: Results, category: str) -> dict[str, Any]:
    """What each LM follows with the new corpus; LMs are no line, so these are bars."""
    cells = {
        c["lm"]: c for c in results["cells"] if c["category"] == category and c["given"] == "new"
    }
    labels = list(cells)
    series = {name: [_cell(cells[lm], kind) for lm in labels] for kind, name in _FOLLOWED.items()}
    title = f"With the new corpus, {category} facts: share of answers, percent"
    return {"title": title, "axis": "LM", "labels": labels, "series": series, "bars": True}


_FOLLOWED = {"corpus": "the corpus' value", "memory": "the memory's value", "neither": "neither"}


def _cycle_plot(results: Results, metric: str, title: str) -> dict[str, Any]:
    """Cycles, and passes of as many steps, all starting from cycle 1."""
    found = results["variants"]
    count = max(int(name.split("-")[1]) for name in found if name.startswith("single-"))
    labels = [str(number) for number in range(1, count + 1)]
    names = {"cycles from base weights": "cycle-{}-base", "from the last": "cycle-{}-previous"}
    names["one pass, as many steps"] = "single-{}"
    series = {
        label: [_cell(found["cycle-1" if n == "1" else form.format(n)], metric) for n in labels]
        for label, form in names.items()
    }
    return {"title": title, "axis": "cycles", "labels": labels, "series": series}


def _size_plot(results: Results, metric: str, title: str) -> dict[str, Any]:
    sizes = list(results["lms"])
    names = list(dict.fromkeys(name.partition(".")[2] for name in results["variants"]))
    series = {
        name: [_cell(results["variants"][f"{size}.{name}"], metric) for size in sizes]
        for name in names
        if not name.startswith("gain-")
    }
    return {"title": title, "axis": "LM", "labels": sizes, "series": series}
