"""More documents around a question set: a seeded choice of a large corpus as one JSONL file.

Pages with the title of an article that questions are about are all taken and marked: they may hold
the answer in other words, so they are another source of it and no distractors.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Collection

from radit_ray.core.errors import InputError
from radit_ray.data import storage
from radit_ray.data.readers import iter_documents

SAME_TITLE = "same-title"  # `source` of a marked page: "<source>/same-title"


def write_distractors(
    corpus: str,
    output: str,
    *,
    num_documents: int,
    source: str,
    titles: Collection[str],
    seed: int = 0,
) -> dict[str, int]:
    """Writes `num_documents` pages of `corpus` (those whose ids hash lowest, so that a larger
    choice holds a smaller one) and every page with one of `titles`; returns how many of each.

    InputError where the corpus has fewer pages.
    """
    wanted = {_plain(title) for title in titles}
    chosen: list[tuple[int, str, dict[str, str]]] = []  # a heap, the highest hash on top
    marked = []
    for document in iter_documents(corpus):
        if _plain(document["title"]) in wanted:
            marked.append({**document, "source": f"{source}/{SAME_TITLE}"})
            continue
        key = hashlib.blake2b(f"{seed}:{document['id']}".encode(), digest_size=8).digest()
        entry = (-int.from_bytes(key, "big"), document["id"], {**document, "source": source})
        if len(chosen) < num_documents:
            heapq.heappush(chosen, entry)
        elif entry[0] > chosen[0][0]:
            heapq.heapreplace(chosen, entry)
    if len(chosen) < num_documents:
        raise InputError(
            f"{corpus} has {len(chosen)} pages without those titles, {num_documents} were asked "
            "for; ask for fewer"
        )
    rows = [*marked, *(document for _, _, document in sorted(chosen, key=lambda e: -e[0]))]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    storage.write_bytes(output, text.encode())
    return {"distractors": len(chosen), SAME_TITLE: len(marked)}


def _plain(title: str) -> str:
    return title.replace("_", " ").strip().casefold()
