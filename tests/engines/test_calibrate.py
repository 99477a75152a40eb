"""Contract of the calibration: every rate that the cost model multiplies with, above 0, and a file
that `radit plan` reads.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from radit_ray.cli import _dispatch
from radit_ray.plan import read_rates


@pytest.mark.slow
def test_rates_of_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "rates.json")
    _dispatch(["doctor", "--calibrate", file])
    rates = read_rates(file)
    assert 1e9 < rates.training_flops_per_s < 1e16
    assert 1e9 < rates.inference_flops_per_s < 1e16
    assert rates.search_bytes_per_s > 1e6
    assert rates.chunk_words_per_s > 1e4
    _dispatch(["plan", "demo", "--chunks", "5k", "--lm", "1.6M", "--rates", file])
    assert "together" in capsys.readouterr().out
