"""A finished run as one self-contained page, `report.html`: no script, no request, nothing to install.

In: a run's folder (local or a URI) with `results.json` and `run.json`, and its predictions where
they are still there. Out: `<run>/report.html`.

    radit report runs/demo
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from radit_ray.data import storage
from radit_ray.report.markup import Html, details, join, table, tag
from radit_ray.report.plots import Scale, axis, bar, scale_of, strip
from radit_ray.report.questions import examples
from radit_ray.report.words import (
    GLOSSARY,
    METRICS,
    NO_CHUNKS,
    PARTS,
    STAGES,
    parts_of,
    seconds,
    sentence,
    si,
    verdict,
)

Results = Mapping[str, Any]
SIGNS = {"better": "better", "worse": "worse", "unclear": "no clear difference"}
MAIN = ("replug", "it-retrieval", "lm-ft", "r-ft", "radit")  # compared article by article


def write_report(run: str) -> str:
    """Writes `<run>/report.html` and returns its path."""
    results = storage.read_json(storage.join(run, "results.json"))
    record = storage.read_json(storage.join(run, "run.json"))
    path = storage.join(run, "report.html")
    storage.write_bytes(path, page(run, results, record).encode())
    return path


def page(run: str, results: Results, record: Mapping[str, Any]) -> str:
    """The whole page as text. `record` is what `run.json` holds."""
    sections = [("run", "This run", _run(results, record))]
    if results["variants"]:
        sections += [
            ("halves", "What each half brought", _halves(results)),
            ("variants", "All variants", _variants(results)),
            ("questions", "Questions, before and after", examples(run, record)),
        ]
    else:
        sections.append(("r-ft", "What R-ft changed", _corpus_only(results)))
    sections += [
        ("time", "Where the time went", _time(results)),
        ("made", "How it was made", _made(results, record)),
    ]
    title = f"RA-DIT: {results['recipe']}"
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    parts = [
        tag("section", tag("h2", name), content, id=anchor) for anchor, name, content in sections
    ]
    css = resources.files("radit_ray.report").joinpath("page.css").read_text(encoding="utf-8")
    # nothing may be loaded or run, whatever a corpus holds
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(css)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("nav", *links, aria_label="parts of this page")),
        tag("main", *parts),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"
