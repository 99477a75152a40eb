"""chunk: raw corpus files -> chunks of at most 200 words, sections kept together (paper, Appendix
B).

In: corpus files in any format of `radit_ray.data.readers`. Out: Parquet shards with `id, doc_id,
title, text, source, date`; one worker a file, a shard for every `docs_per_shard` documents, so that
a corpus never has to fit in memory.

    radit chunk --corpus wiki.jsonl.xz --output runs/x/chunk
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Collection
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from radit_ray.core.chunking import chunk_document
from radit_ray.core.errors import Bounds, InputError, check_bounds, nearest
from radit_ray.data import rows, storage
from radit_ray.data.artifacts import (
    Artifact,
    Input,
    commit_shard,
    committed_shard,
    file_input,
    fingerprint_of,
    read_shard,
    sidecar_file,
)
from radit_ray.data.readers import iter_file, iter_placed, known_by, list_corpus_files
from radit_ray.data.work import Work
from radit_ray.engines.resources import Resources
from radit_ray.engines.shards import Meter, map_shards

VERSION = 1
READ = "resume/read"  # a name for each file that was read whole and has no bad row: number-shards


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChunkConfig:
    """What decides the chunks."""

    max_words: int = 200  # whitespace words in one chunk (paper: < 200 for Wikipedia)
    docs_per_shard: int = 2000  # documents in one output shard: the unit of resuming
    on_bad_row: str = (
        "fail"  # "fail" or "quarantine" (rows go to quarantine/*.jsonl with the reason)
    )
    limit: int = 0  # documents read from each file, 0 = all

    BOUNDS: ClassVar[Bounds] = {
        "max_words": (1, None),
        "docs_per_shard": (1, None),
        "limit": (0, None),
    }


def chunk(
    config: ChunkConfig, *, corpus: str, output: str, resources: Resources = Resources()
) -> Artifact:
    """Cuts every document into chunks `<doc id>#<n>` and writes them in shards.

    Metrics: num_documents, num_chunks, mean_words, num_bad_rows. InputError on unreadable files,
    bad rows (unless quarantined), duplicate document ids, an empty corpus.
    """
    if config.on_bad_row not in ("fail", "quarantine"):
        raise InputError(
            f"on_bad_row={config.on_bad_row!r}{nearest(config.on_bad_row, ['fail', 'quarantine'])}"
        )
    check_bounds(config, config.BOUNDS)
    corpus = storage.absolute(corpus)
    files = list_corpus_files(corpus)
    if any(file.startswith("hf:") for file in files):
        # the name stands for the content: pin a revision by giving a local copy
        source = Input(path=corpus, fingerprint=fingerprint_of(files))
    else:
        source = file_input(files, [known_by(file, corpus) for file in files], corpus)
    with Work.open("chunk", VERSION, config, {"corpus": source}, output) as work:
        if work.done:
            return work.done
        committed = work.committed()
        read = _read_whole(work.output, committed)
        items = [{"number": n, "file": file} for n, file in enumerate(files) if n not in read]
        arguments = {
            "config": config,
            "corpus": corpus,
            "output": work.output,
            "committed": list(committed),
        }
        try:
            results = map_shards(
                ChunkWorker,
                arguments,
                items,
                resources=resources,
                label="chunk",
                unit="file",
                gpu=False,
            )
        except InputError:
            work.discard()  # of a corpus with a bad row nothing can be used, and the fix changes it
            raise
        committed = work.committed()
        if not sum(sidecar["rows"] for sidecar in committed.values()):
            work.discard()  # as above; the quarantine stays until the next call
            raise InputError(_nothing_usable(corpus, work.output, results))
        _check_unique(work, files)
        totals = [sidecar["stats"] for sidecar in committed.values()]
        num_chunks = sum(sidecar["rows"] for sidecar in committed.values())
        metrics = {
            "num_documents": int(sum(t["documents"] for t in totals)),
            "num_chunks": num_chunks,
            "mean_words": sum(t["words"] for t in totals) / num_chunks,
            "num_bad_rows": sum(r["bad_rows"] for r in results),
        }
        return work.finish(resources=resources, metrics=metrics)


class ChunkWorker:
    """Reads one file as a stream and commits a shard for each block of documents."""

    def __init__(
        self, *, config: ChunkConfig, corpus: str, output: str, committed: list[str]
    ) -> None:
        self.config, self.corpus, self.output, self.committed = (
            config,
            corpus,
            output,
            set(committed),
        )

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        bad: list[dict[str, Any]] = []
        documents = iter_file(
            item["file"], spec=self.corpus, on_bad_row=self.config.on_bad_row, quarantine=bad.append
        )
        documents = itertools.islice(documents, self.config.limit or None)
        blocks = iter(lambda: list(itertools.islice(documents, self.config.docs_per_shard)), [])
        number = -1
        for number, block in enumerate(blocks):
            name = f"part-{item['number']:05d}-{number:05d}.parquet"
            if name in self.committed:
                continue
            # a file that is read again since its worker was killed has shards of this call
            if committed_shard(self.output, sidecar_file(self.output, name)) is None:
                self._commit(name, block)
        if bad:
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in bad)
            name = f"quarantine/{item['number']:05d}.jsonl"
            storage.write_bytes(storage.join(self.output, name), lines.encode())
        else:
            name = f"{item['number']:05d}-{number + 1}"
            storage.write_bytes(storage.join(self.output, READ, name), b"")
        return {"bad_rows": len(bad)}

    def _commit(self, name: str, block: list[dict[str, Any]]) -> None:
        def work() -> tuple[list[dict[str, str]], int]:
            chunks = [
                row for document in block for row in chunks_of(document, self.config.max_words)
            ]
            return chunks, sum(len(row["text"].split()) for row in chunks)

        chunks, cost = Meter().measure(work)
        words = cost.pop("tokens")
        table = pa.Table.from_pylist(chunks, schema=rows.CHUNK)
        commit_shard(self.output, name, table, documents=len(block), words=words, **cost)


def chunks_of(document: dict[str, Any], max_words: int) -> list[dict[str, str]]:
    """The chunk rows of one document."""
    sections = document.get("sections")
    texts = chunk_document(document["text"], max_words=max_words, sections=sections or None)
    return [
        {
            "id": f"{document['id']}#{number}",
            "doc_id": document["id"],
            "title": document["title"],
            "text": text,
            "source": document["source"],
            "date": document["date"],
        }
        for number, text in enumerate(texts)
    ]


def _read_whole(output: str, committed: Collection[str]) -> set[int]:
    """The numbers of the files that need not be read again: all their shards are (still) there."""
    there = collections.Counter(name.split("-")[1] for name in committed)
    marks = (name.split("-") for name in storage.list_files(storage.join(output, READ)))
    return {int(number) for number, shards in marks if int(shards) == there[number]}


def _nothing_usable(corpus: str, output: str, results: list[dict[str, Any]]) -> str:
    if num_bad := sum(result["bad_rows"] for result in results):
        return (
            f"{corpus}: no usable row, {num_bad} went to quarantine; mend them by the reasons in "
            f"{storage.join(output, 'quarantine')} and run the same command again"
        )
    return f"{corpus}: no chunk came out of it; expected documents with text"


def _check_unique(work: Work[ChunkConfig], files: list[str]) -> None:
    """InputError where two documents share an id: eight bytes a document in memory, the corpus read
    again only on a hit.
    """
    hashes = [np.empty(0, dtype=np.uint64)]
    for name in sorted(work.committed()):
        ids = read_shard(storage.join(work.output, name), ["id"])["id"]
        first = ids.filter(pc.ends_with(ids, "#0"))  # every document has exactly one first chunk
        hashes.append(np.array([_hash(i) for i in first.to_pylist()], dtype=np.uint64))
    values, counts = np.unique(np.concatenate(hashes), return_counts=True)
    twins = set(values[counts > 1].tolist())
    if not twins:
        return
    seen: dict[str, str] = {}
    limit = work.config.limit or None
    for file in files:
        documents = iter_placed(
            file, spec=work.inputs["corpus"].path, on_bad_row="quarantine", quarantine=_passed_over
        )
        for place, document in itertools.islice(documents, limit):
            name = document["id"]
            if _hash(f"{name}#0") not in twins:
                continue
            if name in seen:
                storage.remove(work.output)
                raise InputError(
                    f"duplicate document id {name!r}: {seen[name]} and {place}; ids must be "
                    "unique, drop one of the two or rename it"
                )
            seen[name] = place


def _passed_over(row: dict[str, Any]) -> None:
    """Bad rows were dealt with when the chunks were made."""


def _hash(value: str) -> int:
    """A 64-bit hash of an id, the same in every process."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")
