"""The results of the side-by-side measurements into docs/results/performance.md and README.md.

In: benchmarks/results/*.json as the scripts left them. Out: what stands below the marker of the
page, and the ratio table between README's markers. No number is copied by hand.

    python -m benchmarks.performance
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.publish import ROOT, between, write_below
from benchmarks.side_by_side import RESULTS, reached
from radit_ray.report.table import text_table

SCRIPTS = {  # in the order of the page
    **{"score": "Scoring", "r_ft": "R-ft", "lm_ft": "LM-ft", "embed": "Embedding"},
    **{"search": "Search", "choices": "Choices", "tokens": "The tokens ensemble"},
    **{"reuse": "What a second trial repeats", "memory": "Memory when the corpus doubles"},
    **{"hardware": "Fraction of the hardware", "startup": "Start-up", "growth": "Growth"},
}
ON_GPU = {  # the same scripts with `--device cuda`
    **{"hardware": "Fraction of a GPU", "tokens": "Ensembles on a GPU"},
    **{"lm_ft": "LM-ft with ZeRO on a GPU", "search": "Exact search on a GPU"},
}
ON_A_RUN = {"sweep_k": "A sweep of the number of chunks"}  # `python -m benchmarks.sweep_k RUN`
TITLES = SCRIPTS | ON_A_RUN | {f"{script}_cuda": title for script, title in ON_GPU.items()}
IN_README = ("score", "r_ft", "lm_ft", "embed", "search", "choices", "tokens")
PAGE = Path("docs") / "results" / "performance.md"
NOT_YET = "Not run yet: `make bench`."
HEAD = ["measure", "ours", "peer", "unit", "ratio", "spread", "floor", "reached"]


def files(root: Path = ROOT) -> dict[str, dict[str, Any]]:
    """The result file of each script that has one, also of those on a GPU."""
    folder = root / RESULTS.relative_to(ROOT)
    found = {script: folder / f"{script}.json" for script in TITLES}
    return {
        script: json.loads(file.read_text(encoding="utf-8"))
        for script, file in found.items()
        if file.exists()
    }


def body(found: dict[str, dict[str, Any]]) -> str:
    """The page below its marker."""
    parts = [NOT_YET] if not found else []
    for script, file in found.items():
        parts += [f"## {TITLES[script]}", made(file), table(file["rows"])]
        notes = [note for row in file["rows"] for note in notes_of(row)]
        if notes:
            parts.append("\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts)


def brief(found: dict[str, dict[str, Any]]) -> str:
    """README's table: the rows against peers."""
    chosen = {script: found[script] for script in IN_README if script in found}
    if not chosen:
        return NOT_YET
    first = next(iter(chosen.values()))
    rows = [row for file in chosen.values() for row in file["rows"] if row["floor"] is not None]
    commits = ", ".join(sorted({file["commit"] for file in chosen.values()}))
    line = f"Scripts of `make bench`, commits {commits}, {first['hardware']}, {threads(first)}:"
    return f"{line}\n\n{table(rows)}"


def made(file: dict[str, Any]) -> str:
    """How a file came to be."""
    return f"`{file['command']}`, commit {file['commit']}, {file['hardware']}, {threads(file)}."


def threads(file: dict[str, Any]) -> str:
    """How many threads worked, and what was counted."""
    count = file["threads"]
    clock = "CPU time" if file["clock"] == "cpu" else "wall time"
    return f"{count} thread{'s' if count > 1 else ''}, {clock}"


def table(rows: list[dict[str, Any]]) -> str:
    """One line a row."""
    return text_table(HEAD, [line(row) for row in rows], True)


def line(row: dict[str, Any]) -> list[str]:
    """The cells of a row."""
    spread = row.get("spread")
    told = {True: "yes", False: "no", None: "-"}[reached(row)]
    limit = "<=" if row["better"] == "lower" else ">="
    return [
        row["name"],
        number(row["ours"]),
        number(row["peer"]),
        row["unit"],
        number(row["ratio"]),
        f"{number(spread[0])} to {number(spread[1])}" if spread else "-",
        "-" if row["floor"] is None else f"{limit} {number(row['floor'])}",
        told,
    ]


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def notes_of(row: dict[str, Any]) -> list[str]:
    """What a row says in words: how a peer is wrong or why it is missing, bound, profile."""
    said = [row.get("note", ""), row["bound"]]
    if "profile" in row:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in row["profile"].items())
        said.append(f"{row['shape']}; profile: {shares}")
    text = "; ".join(part for part in said if part)
    return [f"{row['name']}: {text}."] if text else []


def publish(root: Path = ROOT) -> None:
    """Writes both places; ValueError where a marker is missing."""
    found = files(root)
    write_below(root / PAGE, body(found))
    readme = root / "README.md"
    text = between(readme.read_text(encoding="utf-8"), "performance", brief(found))
    readme.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    publish()
