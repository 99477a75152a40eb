"""Writes the report of a finished run or sweep: `report.html`, and the same as `report.md` with
`plots/*.png`.

In: a folder (local or a URI) with `results.json` and `run.json`, or with `sweep.json`. Out: the
files beside them.

    radit report runs/demo
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.report import html, markdown, pictures, sweeps
from radit_ray.report.figures import Figure
from radit_ray.report.questions import cards_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Written:
    """Where a report is."""

    html: str
    markdown: str
    plots: tuple[str, ...]  # empty without matplotlib

    def __str__(self) -> str:
        beside = f"and {markdown.FOLDER}/*.png" if self.plots else f"({pictures.LACKING})"
        return f"{self.html}: open it in a browser; the same in report.md {beside}"


def write_report(folder: str) -> Written:
    """Writes the report of a run or a sweep, whichever lies there. InputError where neither does,
    or a run is not finished.
    """
    if storage.exists(storage.join(folder, "sweep.json")):
        results = storage.read_json(storage.join(folder, "sweep.json"))
        plots = _plots(folder, markdown.sweep_figures(results))
        return _written(
            folder, sweeps.html(results), markdown.sweep_page(results, plots=bool(plots)), plots
        )
    for name in ("results.json", "run.json"):
        if not storage.exists(storage.join(folder, name)):
            raise InputError(
                f"{folder}: no {name} and no sweep.json, expected the folder of a finished "
                "`radit run` or `radit sweep`"
            )
    results = storage.read_json(storage.join(folder, "results.json"))
    record = storage.read_json(storage.join(folder, "run.json"))
    cards = cards_of(folder, record)
    plots = _plots(folder, markdown.run_figures(results))
    return _written(
        folder,
        html.page(results, record, cards),
        markdown.run_page(results, record, cards, plots=bool(plots)),
        plots,
    )


def _plots(folder: str, found: Sequence[Figure]) -> tuple[str, ...]:
    """The PNGs' paths; none without matplotlib."""
    if not pictures.available():
        return ()
    paths = []
    for figure in found:
        path = storage.join(folder, markdown.FOLDER, f"{figure.file}.png")
        storage.write_bytes(path, pictures.png(figure))
        paths.append(path)
    return tuple(paths)


def _written(folder: str, page: str, text: str, plots: tuple[str, ...]) -> Written:
    paths = [storage.join(folder, name) for name in ("report.html", "report.md")]
    for path, content in zip(paths, (page, text), strict=True):
        storage.write_bytes(path, content.encode())
    return Written(html=paths[0], markdown=paths[1], plots=plots)
