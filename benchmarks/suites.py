"""Every suite on one run, each by its own command, and the page that shows them.

In: the folder of a finished run and the question sets below $RADIT_DATA. Out: OUTPUT/<suite>/ as
`radit evaluate --suite` leaves them, OUTPUT/suites.json, a copy of it in docs/results, and the part
of docs/results/suites.md below its marker. A killed call continues.

    python -m benchmarks.suites runs/squad_open --output runs/suites
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.publish import ROOT, write_below
from radit_ray.data import storage
from radit_ray.data.tasks import data_folder
from radit_ray.report.suites import suite_page

FEW, MANY = 50, 500
PLAN = [  # (suite, tasks, limit); "" = all that can be read
    ("zero-shot", "mmlu,nq,triviaqa,web_questions:eval", MANY),
    *(
        (name, "", FEW)
        for name in ("open-domain", "reading", "domain", "facts", "time", "cross-lingual")
    ),
    *((f"paper-table-{number}", "", FEW) for number in (3, 13, 6, 7, 5, 2, 4)),
]


def run_all(run: str, output: str, file: str) -> None:
    """Runs what `file` does not hold yet; writes it after each suite."""
    results: list[dict[str, Any]] = storage.read_json(file) if storage.exists(file) else []
    for suite, tasks, limit in PLAN:
        command = f"radit evaluate --suite {suite} --variants {run} --output {output}/{suite}"
        command += f" --limit {limit}" + (f" --tasks {tasks}" if tasks else "")
        if any(entry["command"] == command for entry in results):
            continue
        start = time.monotonic()
        done = subprocess.run(shlex.split(command), stdout=subprocess.DEVNULL)
        if done.returncode:
            print(f"failed with {done.returncode}: {command}", file=sys.stderr)
            continue
        found = storage.read_json(f"{output}/{suite}/suite.json")
        for pair in found["pairs"].values():
            for name in ("lm", "query_encoder", "index"):
                del pair[name]  # paths of the machine it ran on; how it was asked stays
        for task in found["tasks"].values():
            task["missing"] = task["missing"].replace(data_folder(), "$RADIT_DATA")
        wall = time.monotonic() - start
        results.append({"command": command, "wall_s": wall, "results": found})
        storage.write_json(file, results)


def suites_page(results: list[dict[str, Any]]) -> str:
    """All suites in the order they ran."""
    parts = []
    for entry in results:
        made = entry["results"]["environment"]
        how = (
            f"`{entry['command']}`, {entry['wall_s'] / 60:.1f} min, commit "
            f"{made['versions']['commit']}, {made['hardware']}."
        )
        head, _, rest = suite_page(entry["results"], markdown=True).partition("\n\n")
        parts.append(f"{head}\n\n{how}\n\n{rest}")
    return "\n\n".join(parts)


def publish_suites(root: Path = ROOT) -> None:
    """The part of docs/results/suites.md below its marker, from suites.json."""
    file = root / "docs" / "results" / "suites.md"
    write_below(file, suites_page(storage.read_json(str(file.with_suffix(".json")))))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="every suite on one run, and its page")
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--output", required=True, help="folder of the suites")
    arguments = parser.parse_args()
    file = f"{arguments.output}/suites.json"
    run_all(arguments.run, arguments.output, file)
    # only now, since a changed file would make the commit of later suites a dirty one
    storage.write_json(str(ROOT / "docs" / "results" / "suites.json"), storage.read_json(file))
    publish_suites()
