"""Demonstrations of a few-shot variant: which train examples stand in front of which question.

They come from the question's own subject where train has enough of it (MMLU's dev set holds five a
subject for this), else from its own task, else, where a file mixes tasks, from all of train. The
choice is by a seeded hash of the ids, so that 5 shots are among the 64 of the same seed (paper,
section 5), and equal for all variants.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from radit_ray.core.errors import InputError
from radit_ray.core.templates import shot
from radit_ray.data.artifacts import Input, read_shard, shard_names
from radit_ray.data.rows import seeded_order
from radit_ray.engines.variants import Row, Variant

Key = tuple[str, ...]  # (task, article), (task,) or ()


def draw_shots(
    source: Input, variant: Variant, asked: Iterable[tuple[str, str]], *, seed: int
) -> dict[Key, list[str]]:
    """{pool: whole demonstrations}, for the (task, article) pairs of the questions that are asked.
    Each carries its own top chunk where `shot_chunks` asks for it.

    InputError where train has fewer examples than shots.
    """
    if not variant.shots:
        return {}
    pools: dict[Key, list[tuple[bytes, str, int]]] = {}
    subjects = set(asked)
    for name in shard_names(source):
        table = read_shard(source.file(name), ["id", "task", "article", "split"])
        for number, row in enumerate(table.to_pylist()):
            if row["split"] != "train" or row["task"] == "corpus":
                continue
            place = (seeded_order(seed, row["id"]), name, number)
            keys: list[Key] = [(), (row["task"],)]
            if row["article"] and (row["task"], row["article"]) in subjects:
                keys.append((row["task"], row["article"]))
            for key in keys:
                pools.setdefault(key, []).append(place)
    there = len(pools.get((), []))
    if there < variant.shots:
        raise InputError(
            f"variant {variant.name!r} wants {variant.shots} shots, {there} train examples "
            "are there; lower shots"
        )
    chosen = {
        key: [(name, number) for _, name, number in sorted(places)[: variant.shots]]
        for key, places in pools.items()
        if len(places) >= variant.shots
    }
    texts = _texts(source, variant, {place for places in chosen.values() for place in places})
    return {key: [texts[place] for place in places] for key, places in chosen.items()}


def shots_of(drawn: Mapping[Key, list[str]], row: Row) -> list[str]:
    """The demonstrations of one question."""
    for key in ((row["task"], row["article"]), (row["task"],), ()):
        if key in drawn:
            return drawn[key]
    return []


def _texts(
    source: Input, variant: Variant, places: set[tuple[str, int]]
) -> dict[tuple[str, int], str]:
    """The demonstration at each place (shard, row)."""
    texts = {}
    for name in sorted({name for name, _ in places}):
        table = read_shard(source.file(name))
        for number in sorted(number for shard, number in places if shard == name):
            row: dict[str, Any] = table.slice(number, 1).to_pylist()[0]
            with_chunk = variant.shot_chunks and variant.k > 0 and row["texts"]
            chunk = (row["titles"][0], row["texts"][0]) if with_chunk else None
            texts[name, number] = shot(row, template=variant.template, chunk=chunk)
    return texts
