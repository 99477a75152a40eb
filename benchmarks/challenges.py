"""Results of `radit challenge` into the docs: no number is copied by hand.

In: the folders of challenges, one a run. Out: docs/results/challenge.json ({name: results}) and the
part of docs/results/challenge.md below its marker; a name that is not given keeps what is there.

    python -m benchmarks.challenges demo=runs/challenge/demo squad_open=runs/challenge/squad_open
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.publish import ROOT, write_below
from radit_ray.data import storage
from radit_ray.report.challenge import page

PATHS = {"lm", "query_encoder", "index", "ranked"}


def challenges_page(files: Mapping[str, Any]) -> str:
    """Every run's tables, one below the other, each under its name."""
    parts = []
    for name, results in files.items():
        _, _, body = page(results).strip().partition("\n")
        parts.append(f"## {name}\n" + body.replace("\n## ", "\n### "))
    return "\n\n".join(parts)


def publish_challenges(given: Sequence[str], root: Path = ROOT) -> None:
    """Writes the data file and the page. ValueError where one is not NAME=FOLDER."""
    data, text = (root / "docs" / "results" / f"challenge.{end}" for end in ("json", "md"))
    files = storage.read_json(str(data)) if data.exists() else {}
    for one in given:
        name, equals, folder = one.partition("=")
        if not equals:
            raise ValueError(f"{one!r}, expected NAME=FOLDER")
        results = storage.read_json(storage.join(folder, "challenge.json"))
        for variant in results["variants"].values():
            for place in PATHS & variant.keys():  # of the machine it ran on
                del variant[place]
        files[name] = results
    storage.write_json(str(data), files)
    write_below(text, challenges_page(files))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="publish what `radit challenge` found")
    parser.add_argument("given", nargs="+", help="NAME=FOLDER of a challenge")
    publish_challenges(parser.parse_args().given)
