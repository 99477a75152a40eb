"""Contract of the faithfulness numbers: an answer is copied where its normalised words stand in a
chunk; from a swapped chunk it is the substitute, the old answer or neither.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from radit_ray.core.metrics import normalize
from radit_ray.engines.faithfulness import (
    FOLLOWS,
    copied_share,
    followed,
    is_copied,
    swapped_shares,
)

DRAWS = {"num_samples": 100, "seed": 0}


def row(number: int, prediction: str, em: float = 0.0) -> dict[str, Any]:
    return {"id": str(number), "group": str(number // 2), "prediction": prediction, "em": em}


@pytest.mark.parametrize(
    ("prediction", "copied"),
    [
        ("the Old Town", True),
        ("old town.", True),
        ("town lies", False),  # across two chunks
        ("own", False),  # a part of a word
        ("river by", False),
        ("", False),
        ("the", False),  # normalises to nothing
    ],
)
def test_copied_is_a_run_of_normalised_words_in_one_chunk(prediction: str, copied: bool) -> None:
    assert is_copied(prediction, ["An old, town", "It lies by the river"]) is copied


def test_shares_are_means_over_questions() -> None:
    rows = [row(0, "red"), row(1, "blue"), row(2, "dark green"), row(3, "")]
    shown = {"0": ["a red one"], "1": ["red"], "2": ["x", "so Dark Green!"], "3": ["red"]}
    cell = copied_share(rows, shown, DRAWS)
    slow = []
    for r in rows:
        words = normalize(r["prediction"]).split()
        runs = [
            text[start:end]
            for text in (normalize(chunk).split() for chunk in shown[r["id"]])
            for end in range(1, len(text) + 1)
            for start in range(end)
        ]
        slow.append(words in runs)
    assert cell["value"] == np.mean(slow) == 0.5
    assert cell["low"] <= 0.5 <= cell["high"]


def test_a_swapped_question_is_followed_remembered_or_neither() -> None:
    rows = [row(0, "The Rome"), row(1, "Paris", em=1.0), row(2, "Oslo"), row(3, "Rome.")]
    substitutes = {"0": "Rome", "1": "Rome", "2": "Rome", "3": "Bern"}
    kinds = [followed(r, substitutes[r["id"]]) for r in rows]
    assert kinds == ["substitute", "answer", "neither", "neither"]
    shares = swapped_shares(rows, substitutes, DRAWS)
    assert shares is not None
    assert shares["num_questions"] == 4
    assert [shares[name]["value"] for name in FOLLOWS] == [0.25, 0.25, 0.5]
    assert swapped_shares([], substitutes, DRAWS) is None
