"""A finished run's results into the docs: no number is copied by hand.

In: the folder of a run and a name. Out: docs/results/NAME.json (results.json as it is), the part of
docs/results/NAME.md below its marker, and what README.md has between its markers for that name.
What stands outside the markers is prose and stays.

    python benchmarks/publish.py runs/demo demo
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

from radit_ray.data import storage
from radit_ray.engines.doctor import environment
from radit_ray.report.table import contrasts_table, page, variants_table

ROOT = Path(__file__).resolve().parents[1]
BELOW = "<!-- below: benchmarks/publish.py -->"


def publish(run: str, name: str, *, root: Path = ROOT) -> None:
    """Writes the three places; ValueError where a page or its marker is missing."""
    results = storage.read_json(storage.join(run, "results.json"))
    folder = root / "docs" / "results"
    storage.write_json(str(folder / f"{name}.json"), results)
    file = folder / f"{name}.md"
    write_below(file, page(results).partition("\n")[2])
    readme = root / "README.md"
    readme.write_text(
        between(readme.read_text("utf-8"), name, brief(results, name)), encoding="utf-8"
    )


def brief(results: dict[str, Any], name: str) -> str:
    """The ablation and its contrasts with how they were made, as README shows them."""
    made = results["environment"]
    seeds = results["seeds"]
    line = (
        f"`{made['command']}`, commit {made['versions']['commit']}, {made['hardware']}, training "
        f"seeds {', '.join(map(str, seeds))}, {results['wall_s'] / 60:.0f} min of stages:"
    )
    parts = [line, variants_table(results, markdown=True), contrasts_table(results, markdown=True)]
    if len(seeds) > 1:
        parts.append(clear_seeds(results, f"docs/results/{name}.md"))
    return "\n\n".join(parts)


def clear_seeds(results: dict[str, Any], page: str) -> str:
    """In how many training seeds each contrast's exact match is clear of 0, and in which way."""
    counts = []
    for contrast in results["contrasts"]:
        cells = [seed["contrasts"][contrast]["em"] for seed in results["by_seed"].values()]
        better = sum(cell["low"] > 0 for cell in cells)
        worse = sum(cell["high"] < 0 for cell in cells)
        below = f", below it in {worse}" if worse else ""
        shown = contrast.replace("-minus-", " - ")
        counts.append(f"{shown} in {better} of {len(cells)}{below}")
    told = "; ".join(counts)
    return f"Exact match above 0 by its whole interval, seed by seed ([table]({page})): {told}."


def write_below(file: Path, body: str) -> None:
    """What stands below the marker of a page; what stands above is prose and stays. ValueError
    where the marker is missing.
    """
    prose, marker, _ = file.read_text(encoding="utf-8").partition(BELOW)
    if not marker:
        raise ValueError(f"{file} lacks the line {BELOW}")
    body = body.strip("\n")
    file.write_text(f"{prose}{BELOW}\n\n{body}\n", encoding="utf-8")


def measured_by(script: str) -> dict[str, Any]:
    """How a result file of benchmarks/ came to be: this command, `commit`, hardware, versions. The
    results that an earlier script wrote make no commit "-dirty".
    """
    made = environment(" ".join([f"python -m benchmarks.{script}", *sys.argv[1:]]))
    commit = made["versions"].get("commit", "")
    if commit.endswith("-dirty") and not _code_differs():
        commit = commit.removesuffix("-dirty")
    return {**made, "commit": commit}


def _code_differs() -> bool:
    """Whether anything but results and pages differs from the commit."""
    written = [f":(exclude){name}" for name in ("benchmarks/results", "docs", "README.md")]
    command = ["git", "-C", str(ROOT), "diff", "--quiet", "HEAD", "--", ".", *written]
    return subprocess.run(command, check=False).returncode != 0


def between(text: str, name: str, body: str) -> str:
    """`text` with `body` between the markers of `name`."""
    start, end = f"<!-- {name}: benchmarks/publish.py -->", f"<!-- end {name} -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the page lacks {start} ... {end}")
    return f"{before}{start}\n{body}\n{end}{after}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="publish a run's results in the docs")
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("name", help="page in docs/results, such as demo")
    arguments = parser.parse_args()
    publish(arguments.run, arguments.name)
