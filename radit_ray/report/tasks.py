"""`radit tasks`: the list of tasks, and one task's first example as the LM will see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from radit_ray.core.templates import (
    GOLD_CONTEXT,
    eval_prompt,
    gold_answer,
    options,
    resolve_template,
    retrieval_query,
    train_prompt,
)
from radit_ray.data.examples import first_example
from radit_ray.data.tasks import (
    PREFIX,
    data_folder,
    local_files,
    local_splits,
    notes,
    parse_task,
    sources,
)

CHUNK = ("{title of a retrieved chunk}", "{its text}")
COLUMNS = ("name", "split", "category", "template", "query", "metric", "scoring", "data")


def tasks_text(entries: Iterable[Mapping[str, Any]]) -> str:
    """All tasks, by group, with what is read for `task:NAME`."""
    groups: dict[str, list[list[str]]] = {}
    for entry in entries:
        row = {**entry, "data": "here" if entry["files"] else entry["hub"] or "missing"}
        groups.setdefault(entry["group"], []).append([str(row[name]) for name in COLUMNS])
    every = [list(COLUMNS), *(row for rows in groups.values() for row in rows)]
    widths = [max(len(row[i]) for row in every) for i in range(len(COLUMNS))]

    def line(row: list[str]) -> str:
        return "  ".join(
            f"{text:{width}}" for text, width in zip(row, widths, strict=True)
        ).rstrip()

    parts = [f"{name}\n" + "\n".join(map(line, [every[0], *rows])) for name, rows in groups.items()]
    return "\n\n".join(
        [
            *parts,
            f"here: below {data_folder()}; else what is read from the hub. "
            "`radit tasks NAME` shows one example, `--examples task:NAME[:SPLIT]` reads them",
        ]
    )


def task_example(name: str) -> dict[str, Any]:
    """A task's spec, its first example, and every string that is made of it."""
    name = name.removeprefix(PREFIX)
    task, asked = parse_task(name)
    split = asked or task.split
    if not asked and not local_files(task, split):  # what lies here shows as well what it is like
        split = next(iter(local_splits(task)), split)
    read = f"task:{task.name}:{split}" if split != task.split else f"task:{name}"
    row = first_example(read)
    template = resolve_template(row)
    query = retrieval_query(row)
    chunk = CHUNK if query and template not in GOLD_CONTEXT else None
    found = {
        "task": {
            **dataclasses.asdict(task),
            "template": template,
            "query": task.query,
            "cap": task.cap,
            "share": task.share,
        },
        "split": split,
        "read_from": [source.path for source in sources(read)],
        "notes": notes(read),
        "example": row,
        "query": query,
        "prompt": eval_prompt(row, chunk=chunk).text,
        "answers": row["answers"],
        "options": options(row) if row["choices"] else [],
    }
    if task.fine_tunes:
        found["training_prompt"] = train_prompt(row, chunk=chunk, seed=0).text
        found["training_answer"] = gold_answer(row)
    return found


def example_text(found: Mapping[str, Any]) -> str:
    """`task_example` for people; what stands between the lines is exact."""
    task, row = found["task"], found["example"]
    facts = ("split", "category", "template", "metric", "scoring")
    shown = {**task, "split": found["split"]}
    parts = [
        f"{task['name']}: " + ", ".join(f"{name} {shown[name]}" for name in facts),
        *_training(task),
        "read from " + ", ".join(found["read_from"]),
        *(f"note: {note}" for note in found["notes"]),
        f"id {row['id']}",
        f"retrieval query: {found['query'] or 'none, nothing is retrieved'}",
        _framed("evaluation prompt", found["prompt"]),
    ]
    if found["options"]:
        parts.append("scored as its continuation: " + " | ".join(map(repr, found["options"])))
    parts.append("right answers: " + " | ".join(map(repr, found["answers"])))
    if "training_prompt" in found:
        parts.append(_framed("training prompt (seed 0)", found["training_prompt"]))
        parts.append(f"trained continuation: {' ' + found['training_answer']!r}")
    return "\n".join(parts)


def _training(task: Mapping[str, Any]) -> list[str]:
    """Which stages of the paper train with it, and how much of it they take."""
    if not task["fine_tunes"]:
        return []
    amount = f"a share of {task['share']:.0%}" if task["share"] else f"capped at {task['cap']:,}"
    return [f"the paper trains {' and '.join(task['fine_tunes'])} with it, {amount}"]


def _framed(title: str, text: str) -> str:
    return f"--- {title}\n{text}\n---"
