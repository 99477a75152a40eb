"""Every side-by-side measurement, one script after the other, each in a process of its own; one
that fails is named at the end and the others go on.

    make bench            all, with the peers in their own environments: hours
    make bench-quick      small sizes against naive references: minutes; nothing is published
    python -m benchmarks.bench --device cuda --threads 16       what only a GPU shows

Further arguments go to every script, `--only NAME ...` picks some.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

from benchmarks.performance import ON_GPU, SCRIPTS, publish
from benchmarks.publish import ROOT


def main(argv: Sequence[str]) -> int:
    words = list(argv)
    chosen = list(ON_GPU if "cuda" in words else SCRIPTS)
    if "--only" in words:
        at = words.index("--only")
        end = next((n for n in range(at + 1, len(words)) if words[n].startswith("--")), len(words))
        chosen, words = words[at + 1 : end], words[:at] + words[end:]
        unknown = set(chosen) - set(SCRIPTS)
        if unknown:
            print(f"unknown script {sorted(unknown)[0]!r}; one of {', '.join(SCRIPTS)}")
            return 2
    failed = []
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    if "cuda" in words:  # the host works beside the GPU, and FAISS against it
        environment.pop("OMP_NUM_THREADS")
    for script in chosen:
        print(f"== {script}", flush=True)
        command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{script}", *words]
        if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode:
            failed.append(script)
    if "--quick" not in words:
        publish()
    print(f"failed: {', '.join(failed)}" if failed else "all ran to their end")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
