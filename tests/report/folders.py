"""Folders of finished runs and sweeps for the tests of reports, and a reader of pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from radit_ray.core.metrics import exact_match, f1
from radit_ray.data.rows import RANKED, example_row
from radit_ray.engines.answering import PREDICTION
from radit_ray.engines.measuring import measure, read_predictions

TABLE = ("closed-book", "replug", "it-retrieval", "lm-ft", "r-ft", "radit")
PROBE = "lm-ft-closed-book"
TUNED = ("r-ft", "radit")  # these see the chunks of the tuned retriever
CONTRASTS = ("lm-ft-minus-it-retrieval", "r-ft-minus-replug", "radit-minus-replug")
CITIES = ("Oslo", "Bergen", "Tromso", "Narvik", "Molde", "Bodo", "Hamar", "Alta")
# question -> the variants that answer it right; 6 and 7 are of the task "known"
RIGHT = {
    0: ("radit", "lm-ft"),
    1: ("radit", "lm-ft", "it-retrieval"),
    2: ("replug", "it-retrieval", "lm-ft", "r-ft", "radit"),
    3: ("replug", "r-ft", "lm-ft", "radit"),
    4: ("replug",),
    5: ("radit", "r-ft"),
    6: ("closed-book", PROBE),
    7: ("closed-book",),
}
MOVED = (0, 5)  # questions whose right chunk only the tuned retriever puts first
EVIL = '<script>alert(1)</script>"><img src=x onerror=alert(1)>'
VOID = {"meta", "link", "br"}


class Page(HTMLParser):
    """Every element with its attributes, text and ancestors; fails on an element that is left open
    or closed twice.
    """

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[dict[str, Any]] = []
        self.elements: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open[-1]["tag"]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), attrs
        element = {"tag": tag, "text": "", **dict(attrs), "inside": list(self.open)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert tag not in VOID
        assert self.open.pop()["tag"] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, class_: str = "", inside: str = "") -> list[dict[str, Any]]:
        """Elements by tag, by one of their classes, inside the element of an id."""
        return [
            element
            for element in self.elements
            if element["tag"] == tag
            and (not class_ or class_ in (element.get("class") or "").split())
            and (not inside or inside in [e.get("id") for e in element["inside"]])
        ]


def chunk_names(number: int, variant: str) -> list[str]:
    names = [f"right-{number}", f"wrong-{number}"]
    found_first = variant in TUNED or number not in MOVED
    return names if found_first else names[::-1]


def prediction(number: int, variant: str, **changes: Any) -> dict[str, Any]:
    """One row as evaluate writes it: each of two chunks answers alone."""
    gold, bare = CITIES[number], variant in ("closed-book", PROBE)
    said = gold if variant in RIGHT[number] else "Paris"
    names = [] if bare else chunk_names(number, variant)
    row = {
        "id": f"q{number}",
        "task": "known" if number > 5 else "open",
        "group": f"g{number}",
        "article": f"article {number % 2}",
        "question": f"Where is house {number}?",
        "answers": [gold],
        "prediction": said,
        "em": exact_match(said, [gold]),
        "f1": f1(said, [gold]),
        "nll": 1.0 if said == gold else 4.0 + number / 10,
        "recall@1": None if bare else float(names[0].startswith("right")),
        "recall@5": None if bare else 1.0,
        "answer_recall@1": None,
        "answer_recall@5": None,
        "chunk_ids": names,
        "p_r": [1.0] if bare else [0.75, 0.25],
        "chunk_answers": [said] if bare else [said, "Rome"],
        "chunk_logprobs": [-1.0] if bare else [-1.0, -2.0],
        "candidates": [said],
        "candidate_logprobs": [0.0],
        "num_truncated": 0,
        "num_question_cut": 0,
    }
    return {**row, **changes}


def ranked(number: int, variant: str, **changes: Any) -> dict[str, Any]:
    names = chunk_names(number, variant)
    gold = CITIES[number]
    text = {
        f"right-{number}": f"House {number} is in {gold.lower()}.",
        f"wrong-{number}": f"It is not in {gold}berg.",
    }
    example = example_row(
        {
            "id": f"q{number}",
            "question": f"Where is house {number}?",
            "answers": [gold],
            "gold_ids": [f"right-{number}"],
            "split": "eval",
        }
    )
    found = {
        "chunk_ids": names,
        "doc_ids": names,
        "titles": [f"Title of {name}" for name in names],
        "texts": [text[name] for name in names],
        "scores": [0.9, 0.1],
        "index_version": "0123456789ab",
    }
    return {**example, **found, **changes}


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), path)


STAGE = {"rows": 8, "fingerprint": "0123456789abcdef" * 4}
STAGES = {
    "embed": {**STAGE, "cost": {"wall_s": 12.0, "device_s": 20.0, "tokens": 5000, "flops": 3e9}},
    "r-ft": {
        **STAGE,
        "cost": {"wall_s": 48.0, "device_s": 90.0},
        "metrics": {
            "best_step": 3,
            "dev_before": {"mrr": 0.5, "kl": 1.25},
            "dev": {"mrr": 0.75, "kl": 0.5},
        },
    },
}
ENVIRONMENT = {
    "hardware": "2 x Some CPU, 8 GiB",
    "versions": {"python": "3.11.7", "commit": "abc123abc123"},
    "command": "radit run own",
}


def cost_of(place: int) -> dict[str, float]:
    """Of a variant's 8 answers: 0.5 s a question for the first one, 1 s for the next."""
    return {"questions": 8.0, "device_s": 4.0 * (place + 1), "tokens": 800.0}


def make_run(
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    ranked_changes: Any = None,
    *,
    costs: bool = False,
) -> Path:
    """A run's folder: predictions, ranked rows, run.json and results.json. `changes` go into every
    prediction of question 0, `ranked_changes` into its ranked rows; `costs`: each variant's answers
    have a cost.
    """
    shard = "part-00000.parquet"
    for kind, variant in (("retrieve-base", "replug"), ("retrieve-tuned", "radit")):
        rows = [ranked(n, variant, **(ranked_changes or {} if n == 0 else {})) for n in RIGHT]
        write_rows(folder / "artifacts" / kind / shard, rows, RANKED)
    for variant in (*TABLE, PROBE):
        rows = [prediction(n, variant, **(changes or {} if n == 0 else {})) for n in RIGHT]
        write_rows(folder / "artifacts" / "evaluate-1" / variant / shard, rows, PREDICTION)
    (folder / "evaluate").symlink_to("artifacts/evaluate-1")
    tables = {v: read_predictions(str(folder / "evaluate"), v) for v in (*TABLE, PROBE)}
    results = {
        "recipe": "own",
        **measure(tables, contrasts=CONTRASTS, tasks=["open"], probes=[PROBE], num_samples=200),
        "seeds": [0],
        "wall_s": 60.0,
        "stages": STAGES,
        "environment": ENVIRONMENT,
    }
    if costs:
        results["cost"] = {v: cost_of(place) for place, v in enumerate((*TABLE, PROBE))}
    variants = {
        variant: {
            "k": 0 if variant in ("closed-book", PROBE) else 2,
            "ranked": f"artifacts/retrieve-{'tuned' if variant in TUNED else 'base'}",
        }
        for variant in (*TABLE, PROBE)
    }
    recipe = {"lm": "/models/lm", "retriever": "org/name", "lm_ft": {"lr": 3e-4}}
    record = {"recipe": {**recipe, "evaluate": {"tasks": ["open"]}}, "variants": variants}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def sweep_point(values: dict[str, Any], em: float, *, recall: bool = True) -> dict[str, Any]:
    """One point of a sweep: replug and radit with the same exact match."""
    cell = {"value": em, "low": em - 0.1, "high": em + 0.1}
    radit = {"em": cell, "nll": {**cell, "value": 3.0, "low": 2.5, "high": 3.5}}
    if recall:
        radit["recall@1"] = cell
    difference = {"diff": 0.2, "low": 0.1, "high": 0.3, "mde": 0.15}
    return {
        "values": values,
        "num_questions": 600,
        "variants": {"replug": {"em": cell}, "radit": radit},
        "contrasts": {"radit-minus-replug": {"em": difference}},
    }


def sweep_results(points: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """What sweep.json holds."""
    return {
        "kind": "corpus",
        "recipe": "demo",
        "objectives": {"radit.em": "max"},
        "seeds": [0, 1],
        "points": points,
        "trials": [{"values": {}, "metrics": {"wall_s": 60.0}}] * 2,
        "best": [{"r_ft.lr": "1e-4"}],
        "environment": {
            "command": "radit sweep corpus demo --values 10,20",
            "hardware": "2 x CPU",
            "versions": {"commit": "abc"},
        },
        **more,
    }


def make_sweep(folder: Path) -> Path:
    """A folder with a sweep over LMs of long names whose answers have a cost."""
    names = ("models/wiki-causal-minilm", "org/AnotherModel-135M", "org/SomeModel-0.5B-Instruct")
    points = [sweep_point({"lm": name}, 0.3 + place / 5) for place, name in enumerate(names)]
    trials = [
        {
            "values": {"lm": name},
            "metrics": {
                "wall_s": 60.0,
                "radit.em": 0.5,
                "radit.s_per_question": 0.02 * 4**place,
                "replug.s_per_question": 0.019 * 4**place,
            },
        }
        for place, name in enumerate(names)
    ]
    sizes = {name: 10 ** (place + 7) for place, name in enumerate(names)}
    found = sweep_results(points, kind="lms", trials=trials, parameters=sizes)
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(found))
    return folder
