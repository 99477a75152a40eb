"""Results of an open question into the docs: no number is copied by hand.

In: the result files of a question, one a recipe. Out: docs/results/NAME.json ({recipe: results}),
the part of docs/results/NAME.md below its marker, and a PNG for each plot, where matplotlib is
installed. What stands above the marker is prose and stays.

    python -m benchmarks.open_questions oq1 runs/oq/demo/oq1.json [runs/oq/squad_open/oq1.json]
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.publish import ROOT, write_below
from radit_ray.data import storage
from radit_ray.report.open_questions import page, plots

NAMES = ("oq1", "oq2", "oq3", "sizes")


def publish_question(name: str, paths: Sequence[str], *, root: Path = ROOT) -> None:
    """Writes or renews the data file, the page and its plots; a recipe that is not given keeps what
    the data file has. ValueError where a result file answers another question.
    """
    folder = root / "docs" / "results"
    data, text = folder / f"{name}.json", folder / f"{name}.md"
    files = storage.read_json(str(data)) if data.exists() else {}
    for path in paths:
        found = storage.read_json(path)
        if found["question"] != name:
            raise ValueError(f"{path} answers {found['question']}, expected {name}")
        files[found["recipe"]] = found
    storage.write_json(str(data), files)
    drawn = [image for recipe in files for image in draw(name, recipe, files[recipe], folder)]
    write_page(name, text, files, drawn)


def write_page(name: str, file: Path, files: Mapping[str, Any], drawn: Sequence[str]) -> None:
    """The page: its prose, the marker, the plots, the tables."""
    images = "".join(f"![{image.removesuffix('.png')}]({image})\n" for image in drawn)
    body = f"{images}\n{page(name, files)}" if drawn else page(name, files)
    write_below(file, body)


def draw(name: str, recipe: str, results: Mapping[str, Any], folder: Path) -> list[str]:
    """The plots of one recipe as PNG files; their names. None without matplotlib."""
    if find_spec("matplotlib") is None:
        return []
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    made = []
    for number, plot in enumerate(plots(name, results), start=1):
        figure, axes = pyplot.subplots(figsize=(6.4, 3.9), layout="constrained")
        for place_of, (label, line) in enumerate(plot["series"].items()):
            if plot.get("bars"):
                _bars(axes, line, label, place_of, len(plot["series"]))
                continue
            places = [place for place, cell in enumerate(line) if cell is not None]
            cells = [cell for cell in line if cell is not None]
            if cells:
                (drawn,) = axes.plot(places, [c[0] for c in cells], marker="o", label=label)
                low, high = [c[1] for c in cells], [c[2] for c in cells]
                axes.fill_between(places, low, high, alpha=0.15, color=drawn.get_color(), lw=0)
        axes.set_xticks(range(len(plot["labels"])), plot["labels"])
        axes.set_xlabel(plot["axis"])
        axes.set_title(plot["title"], loc="left", fontsize=10)
        figure.legend(fontsize=8, frameon=False, loc="outside lower center", ncols=3)
        image = f"{name}-{recipe}-{number}.png"
        figure.savefig(folder / image, dpi=120, metadata={"Software": None})
        pyplot.close(figure)
        made.append(image)
    return made


def _bars(axes: Any, line: Sequence[Any], label: str, number: int, count: int) -> None:
    """One of `count` series as bars beside those of the others, with their intervals."""
    width = 0.8 / count
    places = [place + (number - (count - 1) / 2) * width for place in range(len(line))]
    values = [cell[0] for cell in line]
    spread = [[c[0] - c[1] for c in line], [c[2] - c[0] for c in line]]
    axes.bar(places, values, width, yerr=spread, label=label, error_kw={"lw": 1, "capsize": 3})
    axes.set_ylim(0, 105)


def main() -> None:
    parser = argparse.ArgumentParser(description="publish an open question's results in the docs")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("results", nargs="+", help="result files, one a recipe")
    arguments = parser.parse_args()
    publish_question(arguments.name, arguments.results)


if __name__ == "__main__":
    main()
