"""The folder of real files that the tests marked `data` read: $RADIT_DATA, else ../shared/data
beside the repository, wherever pytest is started.
"""

from __future__ import annotations

import os
from pathlib import Path

DATA = Path(
    os.environ.get("RADIT_DATA") or Path(__file__).parents[2] / "shared" / "data"
).absolute()
