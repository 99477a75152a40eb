"""The ground floor stands alone: importing all of core brings in no other floor and no heavy
package.
"""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import radit_ray.core


def test_core_imports_only_the_standard_library_numpy_and_torch() -> None:
    names = [
        f"radit_ray.core.{module.name}" for module in pkgutil.iter_modules(radit_ray.core.__path__)
    ]
    assert len(names) >= 9
    code = (
        f"import importlib, sys\nfor name in {names!r}: importlib.import_module(name)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('radit_ray.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    top_level, ours = (set(line.split()) for line in done.stdout.splitlines())
    assert "torch" in top_level
    heavy = {
        "ray",
        "transformers",
        "sentence_transformers",
        "faiss",
        "pyarrow",
        "datasets",
        "peft",
        "rouge",
    }
    assert not heavy & top_level
    assert ours == {"radit_ray.core", *names}
