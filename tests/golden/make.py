"""Writes the golden ledger anew and prints what changed. Only ever by hand:

    python tests/golden/make.py              # writes tests/golden/*.json, prints the diff
    python tests/golden/make.py --lm FOLDER  # only saves the ledger's LM, to try elsewhere

A changed line is a changed number for every user: say why in CHANGELOG.md, and raise the VERSION of
the stages it concerns. `tests/test_golden.py` compares and never writes. `inputs.json` is by hand.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
import tempfile
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="Write the golden ledger anew; print the diff.")
    parser.add_argument("--lm", metavar="FOLDER", help="only save the ledger's LM there")
    folder = parser.parse_args().lm
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    from closed_form import closed_form_lm
    from ledger import FOLDER, as_text, compute

    from radit_ray.models.causal_lm import CausalLM

    if folder:
        print(closed_form_lm(folder))
        return
    with tempfile.TemporaryDirectory() as place:
        made = compute(CausalLM.load(closed_form_lm(place), precision="fp32"))
    for name, tree in made.items():
        file = FOLDER / f"{name}.json"
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        after = as_text(tree)
        sides = [text.splitlines(keepends=True) for text in (before, after)]
        sys.stdout.writelines(difflib.unified_diff(*sides, f"a/{file.name}", f"b/{file.name}", n=1))
        file.write_text(after, encoding="utf-8")


if __name__ == "__main__":
    main()
