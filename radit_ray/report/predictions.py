"""One variant's predictions as a file for other tools: JSONL, Parquet, or what KILT's scorer reads.

In: a finished run, or a finished `evaluate` artifact. Out: one file, one question a row, in the
order of the evaluation; shard after shard, so that the questions need not fit in memory.

| format | a row |
|---|---|
| jsonl, parquet | id, task, question, answers, prediction, every metric, chunk_ids, p_r |
| kilt | {"id", "output": [{"answer", "provenance": [{"wikipedia_id"}, ...]}]} |

`p_r` has one weight a chunk, or a single 1 where all chunks stood in one prompt (`concat`) or none
was shown. KILT's `wikipedia_id` is the id of a chunk's document, so its retrieval scores mean
something only for an index over KILT's own pages.
"""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from radit_ray.core.errors import InputError, nearest
from radit_ray.data import storage
from radit_ray.data.artifacts import artifact_input, read_shard, shard_names

FORMATS = ("jsonl", "kilt", "parquet")
FIRST = ("id", "task", "question", "answers", "prediction")
LAST = ("chunk_ids", "p_r")
# KILT's scorer stops at an empty answer. This one is nothing once normalised, and no word of a
# gold answer, so it scores what an empty one would by EM, F1, accuracy and Rouge-L
NO_ANSWER = "<>"
# what KILT's FEVER calls the two choices that its claims are asked with (data.native_texts)
VERDICTS = {"yes": "SUPPORTS", "no": "REFUTES"}


def write_predictions(
    folder: str, variant: str, *, output: str, form: str = "jsonl", task: str = ""
) -> dict[str, int]:
    """Writes `output`, whole or not at all; {"rows": ..., "empty": predictions without a word}.

    `folder` is a run or an evaluate artifact; `task` keeps the questions of one task. InputError on
    an unfinished evaluation, an unknown variant, task or format, on questions of several tasks for
    KILT, which has one file a task, and on a place that no file can be written to.
    """
    if form not in FORMATS:
        raise InputError(f"unknown format {form!r}{nearest(form, FORMATS)}")
    if storage.is_local(output) and os.path.isdir(storage.local(output)):
        raise InputError(f"--output {output} is a folder, expected the name of a file")
    shards = _shards(folder, variant)
    tasks = _tasks(shards)
    if task and task not in tasks:
        raise InputError(f"{folder} has no question of task {task!r}{nearest(task, tasks)}")
    if form == "kilt" and not task and len(tasks) > 1:
        raise InputError(
            f"{folder} has questions of {len(tasks)} tasks and KILT has one file a task; "
            f"give --task, one of: {', '.join(sorted(tasks))}"
        )
    tables = (_chosen(read_shard(path), task) for path in shards)
    try:
        with storage.atomic_file(output) as name:
            return _WRITERS[form](name, tables)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(
            f"--output {output}: {error.strerror}; give a file in a folder that can be written"
        ) from None


def _shards(folder: str, variant: str) -> list[str]:
    """The prediction shards of a variant, in order."""
    inside = storage.join(folder, "evaluate")
    source = artifact_input(inside if storage.exists(inside) else folder, "evaluate")
    names = shard_names(source)
    variants = sorted({name.split("/")[0] for name in names})
    if variant not in variants:
        raise InputError(f"{folder} has no variant {variant!r}{nearest(variant, variants)}")
    return [source.file(name) for name in names if name.startswith(f"{variant}/")]


def _tasks(shards: list[str]) -> list[str]:
    """Names of the tasks, in the order of their first questions."""
    columns = [read_shard(path, ["task"])["task"] for path in shards]
    return list(dict.fromkeys(name for column in columns for name in pc.unique(column).to_pylist()))


def _chosen(table: pa.Table, task: str) -> pa.Table:
    """One task's rows (all without a name) with the columns of FIRST, the metrics, and LAST."""
    metrics = [field.name for field in table.schema if pa.types.is_float64(field.type)]
    chosen = table.select([*FIRST, *metrics, *LAST])
    return chosen.filter(pc.equal(chosen["task"], task)) if task else chosen


def kilt_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction as KILT's scorer reads it: its own id, one answer, each page once, best first.

    A task's name before the id goes, since KILT's files do not have it; of a chunk id
    `<doc id>#<n>` the document stays. Of task fever "yes" and "no" get the names that its gold has.

    >>> row = {"id": "hotpotqa/5a7a", "task": "hotpotqa", "prediction": "Delhi"}
    >>> kilt_row({**row, "chunk_ids": ["7#0", "7#3", "9#0"]})["output"][0]["provenance"]
    [{'wikipedia_id': '7'}, {'wikipedia_id': '9'}]
    """
    pages = dict.fromkeys(chunk.rpartition("#")[0] or chunk for chunk in row["chunk_ids"])
    said = row["prediction"].strip()
    if row["task"] == "fever":
        said = VERDICTS.get(said, said)
    answer = {
        "answer": said or NO_ANSWER,
        "provenance": [{"wikipedia_id": page} for page in pages],
    }
    own_id = row["id"].removeprefix(f"{row['task']}/") if row["task"] else row["id"]
    return {"id": own_id, "output": [answer]}


def _write_jsonl(name: str, tables: Iterator[pa.Table]) -> dict[str, int]:
    return _write_lines(name, tables, _finite)


def _write_kilt(name: str, tables: Iterator[pa.Table]) -> dict[str, int]:
    return _write_lines(name, tables, kilt_row)


def _write_lines(name: str, tables: Iterator[pa.Table], made: Any) -> dict[str, int]:
    count = {"rows": 0, "empty": 0}
    with open(name, "w", encoding="utf-8") as file:
        for table in tables:
            for row in table.to_pylist():
                file.write(json.dumps(made(row), ensure_ascii=False, allow_nan=False) + "\n")
                count["empty"] += not row["prediction"].strip()
            count["rows"] += table.num_rows
    return count


def _write_parquet(name: str, tables: Iterator[pa.Table]) -> dict[str, int]:
    count = {"rows": 0, "empty": 0}
    first = next(tables)  # an evaluation has at least one shard of each variant
    with pq.ParquetWriter(name, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
            count["rows"] += table.num_rows
            count["empty"] += sum(not text.strip() for text in table["prediction"].to_pylist())
    return count


def _finite(row: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: an answer of probability 0 has an nll of null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
    }


_WRITERS = {"jsonl": _write_jsonl, "kilt": _write_kilt, "parquet": _write_parquet}
