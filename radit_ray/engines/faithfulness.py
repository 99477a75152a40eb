"""Predictions -> does the LM say what its chunks say? Shares of questions, with intervals over
groups.

In: prediction rows of `evaluate`, and what was shown. Out: cells {value, low, high} as in
`results.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from radit_ray.core.intervals import bootstrap_mean
from radit_ray.core.metrics import exact_match, normalize
from radit_ray.data import storage
from radit_ray.data.artifacts import artifact_input, iter_tables, read_shard

FOLLOWS = ("substitute", "answer", "neither")
Rows = Sequence[Mapping[str, Any]]


def faithfulness(
    folder: str,
    num_chunks: Mapping[str, int],
    *,
    shown: str,
    substitutes: Mapping[str, str],
    num_samples: int = 2000,
    seed: int = 0,
) -> dict[str, Any]:
    """copied {LM: {"top-k", "none": cell}}: predictions that are strings of the LM's own chunks,
    and how often it says one of their strings without having seen them. swapped {LM: {"all",
    "known": shares}}, known: the questions that this LM answers right without a chunk.

    folder: predictions by "LM.kind"; num_chunks: {LM: chunks it was shown}; shown: the artifact of
    the rows with all chunks; substitutes: {question id: answer in the swapped chunk}.
    """
    draws = {"num_samples": num_samples, "seed": seed}
    texts: dict[str, list[str]] = {}
    for table in iter_tables(artifact_input(shown, "challenge"), ["id", "titles", "texts"]):
        for row in table.to_pylist():
            pairs = zip(row["titles"], row["texts"], strict=True)
            texts[row["id"]] = [f"{title} {text}" for title, text in pairs]
    copied, swapped = {}, {}
    for name, k in num_chunks.items():
        own = {question: chunks[:k] for question, chunks in texts.items()}
        free = read_answers(folder, f"{name}.none")
        copied[name] = {
            "top-k": copied_share(read_answers(folder, f"{name}.top-k"), own, draws),
            "none": copied_share(free, own, draws),
        }
        known = {row["id"] for row in free if row["em"]}
        rows = read_answers(folder, f"{name}.swapped")
        remembered = [row for row in rows if row["id"] in known]
        swapped[name] = {
            "all": swapped_shares(rows, substitutes, draws),
            "known": swapped_shares(remembered, substitutes, draws),
        }
    return {"copied": copied, "swapped": swapped}


def read_answers(folder: str, variant: str) -> list[dict[str, Any]]:
    """A variant's questions, in the order of the shards: id, group, answers, prediction, em,
    chunk_ids (those shown).
    """
    place = storage.join(folder, variant)
    columns = ["id", "group", "answers", "prediction", "em", "chunk_ids"]
    return [
        row
        for name in storage.list_files(place)
        if name.endswith(".parquet")
        for row in read_shard(storage.join(place, name), columns).to_pylist()
    ]


def is_copied(prediction: str, chunks: Sequence[str]) -> bool:
    """Whether the words of a prediction, normalised as for exact match, stand in one of the chunks
    in order and without a gap; an answer without a word stands nowhere.

    >>> is_copied("the Old Town", ["An old town. It lies", "by the river"]), is_copied("", ["a b"])
    (True, False)
    """
    words = normalize(prediction)
    return bool(words) and any(f" {words} " in f" {normalize(chunk)} " for chunk in chunks)


def copied_share(
    predictions: Rows, shown: Mapping[str, Sequence[str]], draws: Mapping[str, int]
) -> dict[str, float]:
    """Share of predictions that are strings of the chunks shown for their question."""
    return _share(
        [is_copied(row["prediction"], shown[row["id"]]) for row in predictions], predictions, draws
    )


def followed(row: Mapping[str, Any], substitute: str) -> str:
    """Which of FOLLOWS a prediction from a swapped chunk is: what the chunk says, what it said
    before, or anything else.
    """
    if exact_match(row["prediction"], [substitute]):
        return "substitute"
    return "answer" if row["em"] else "neither"


def swapped_shares(
    predictions: Rows, substitutes: Mapping[str, str], draws: Mapping[str, int]
) -> dict[str, Any] | None:
    """num_questions, and {substitute, answer, neither: cell}, which sum to 1; None without a
    question.
    """
    if not predictions:
        return None
    found = [followed(row, substitutes[row["id"]]) for row in predictions]
    shares = {
        name: _share([kind == name for kind in found], predictions, draws) for name in FOLLOWS
    }
    return {"num_questions": len(predictions), **shares}


def _share(values: Sequence[bool], rows: Rows, draws: Mapping[str, int]) -> dict[str, float]:
    groups = [row["group"] for row in rows]
    value, low, high = bootstrap_mean([float(v) for v in values], groups, **draws)
    return {"value": value, "low": low, "high": high}
