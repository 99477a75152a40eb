"""BM25 over one shard of chunks (package bm25s): retrieval by words, the reference without a model.

In: chunk texts and how many chunks of the whole corpus hold each word. Out: scores and row numbers
within the shard, as `faiss_shard` gives them. What a word weighs and what a long chunk is are known
from the whole corpus, so shards of it answer as one index would, up to rounding.

Suffixes: N chunks in the shard, Q queries, K neighbours, P pairs of a chunk and a word in it.
"""

from __future__ import annotations

import array
import hashlib
import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radit_ray.core.errors import InputError

# k1 and b are those of Lucene's BM25 as DPR, BEIR and Pyserini compare with; so is the stemmer
K1, B = 0.9, 0.4
RULES = {"method": "lucene", "k1": K1, "b": B, "stemmer": "porter", "stopwords": "en", "version": 1}


def check_installed() -> None:
    """InputError where the packages of the extra `bm25` are missing."""
    for package, name in (("bm25s", "bm25s"), ("Stemmer", "PyStemmer")):
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"retriever bm25 needs the package {name}: pip install 'radit-ray[bm25]'"
            )


def words_of(texts: Sequence[str]) -> list[list[str]]:
    """The words of each text that are searched: lower case, two letters or more, stemmed, no
    English stop words.
    """
    import bm25s
    import Stemmer

    found: list[list[str]] = bm25s.tokenize(
        list(texts),
        stopwords="en",
        stemmer=Stemmer.Stemmer("porter"),
        return_ids=False,
        show_progress=False,
    )
    return found


def chunk_words(titles: Sequence[str], texts: Sequence[str]) -> list[list[str]]:
    """The words of each chunk, its title among them."""
    return words_of([f"{title} {text}" for title, text in zip(titles, texts, strict=True)])


class Words:
    """Stands where a dense retriever has its query encoder."""

    flops_per_token = 0.0

    def __init__(self) -> None:
        check_installed()
        self.last_num_tokens = 0  # words of the last call

    def encode_queries(self, texts: Sequence[str], *, batch_tokens: int = 0) -> list[list[str]]:
        """The words of each query, in the order given."""
        found = words_of(texts)
        self.last_num_tokens = sum(map(len, found))
        return found

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Character (start, end) of each word between white space, for corpus examples."""
        return [match.span() for match in re.finditer(r"\S+", text)]


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """What a shard must know of all the others."""

    num_chunks: int
    num_words: int  # of all chunks together
    counts: dict[str, int]  # chunks that hold a word


def count_words(chunks: Iterable[Sequence[str]]) -> Corpus:
    """The counts of these chunks; those of parts are added."""
    counts: Counter[str] = Counter()
    num_chunks = num_words = 0
    for words in chunks:
        counts.update(set(words))
        num_chunks += 1
        num_words += len(words)
    return Corpus(num_chunks=num_chunks, num_words=num_words, counts=dict(counts))


def idf(count_V: NDArray[Any], num_chunks: int) -> NDArray[np.float64]:
    """Lucene's ln(1 + (n - count + 0.5) / (count + 0.5)) of words that `count` of n chunks hold."""
    count_V = count_V.astype(np.float64)
    found: NDArray[np.float64] = np.log(1 + (num_chunks - count_V + 0.5) / (count_V + 0.5))
    return found


class LexicalShard:
    """The BM25 scores of each chunk for each of its words, one column a word."""

    def __init__(self, arrays: dict[str, NDArray[Any]], words: Sequence[str], count: int) -> None:
        import bm25s

        self.index = bm25s.BM25(k1=K1, b=B, method="lucene")
        self.index.scores = {**arrays, "num_docs": count}
        self.index.vocab_dict = {word: number for number, word in enumerate(words)}
        self.index.nonoccurrence_array = None
        self.count = count

    def search(
        self, queries: Sequence[Sequence[str]], k: int, *, allowed: NDArray[Any] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """(scores, rows), each (Q, k), best first, equal ones by row; chunks without any of the
        words score 0. -1 where the shard has fewer than k. `allowed`: ascending rows to choose
        from.
        """
        score_QK = np.full((len(queries), k), -np.inf, dtype=np.float32)
        row_QK = np.full((len(queries), k), -1, dtype=np.int64)
        for number, words in enumerate(queries):
            known = [word for word in words if word in self.index.vocab_dict]
            score_N = (
                self.index.get_scores(known) if known else np.zeros(self.count, dtype=np.float32)
            )
            score_N = score_N if allowed is None else score_N[allowed]
            best = top(score_N, k)
            score_QK[number, : len(best)] = score_N[best]
            row_QK[number, : len(best)] = best if allowed is None else allowed[best]
        return score_QK, row_QK

    def save(self, path: str) -> None:
        """One safetensors file: the sparse columns, and their words."""
        from safetensors.numpy import save_file

        words = "\n".join(self.index.vocab_dict).encode()  # no word holds white space
        arrays = {name: self.index.scores[name] for name in ("data", "indices", "indptr")}
        save_file({**arrays, "words": np.frombuffer(words, dtype=np.uint8)}, path)


def top(score_N: NDArray[Any], k: int) -> NDArray[np.int64]:
    """Places of the k largest values, largest first, equal ones in their order.

    >>> top(np.array([0.0, 2.0, 0.0, 3.0, 2.0]), 4).tolist()
    [3, 1, 4, 0]
    """
    k = min(k, len(score_N))
    if k == 0:
        return np.zeros(0, dtype=np.int64)
    last = np.partition(score_N, -k)[-k]
    above = np.flatnonzero(score_N > last)
    above = above[np.argsort(-score_N[above], kind="stable")]
    return np.concatenate([above, np.flatnonzero(score_N == last)[: k - len(above)]])


def build(chunks: Iterable[Sequence[str]], corpus: Corpus) -> LexicalShard:
    """The shard of these chunks, scored as part of the whole corpus.

    bm25s knows only what it is given, hence two corrections, both exact: k1 and b such that a chunk
    is long against the mean of the corpus, and the words' weights (idf) put in the place of the
    shard's own.
    """
    import bm25s

    places: dict[str, int] = {}
    ids = [
        array.array("i", [places.setdefault(word, len(places)) for word in words])
        for words in chunks
    ]
    num_words = sum(map(len, ids))
    if not num_words:
        none = {"data": np.zeros(0, dtype=np.float32), "indices": np.zeros(0, dtype=np.int32)}
        return LexicalShard({**none, "indptr": np.zeros(1, dtype=np.int32)}, (), len(ids))
    near = K1 * (1 - B)
    far = K1 * B * (num_words / len(ids)) / (corpus.num_words / corpus.num_chunks)
    index = bm25s.BM25(k1=near + far, b=far / (near + far), method="lucene")
    index.index((ids, places), create_empty_token=False, show_progress=False)
    found = {name: np.ascontiguousarray(index.scores[name]) for name in ("indices", "indptr")}
    count_V = np.diff(found["indptr"])
    whole_V = np.array([corpus.counts[word] for word in places])
    factor_V = idf(whole_V, corpus.num_chunks) / idf(count_V, len(ids))
    data_P = (index.scores["data"] * np.repeat(factor_V, count_V)).astype(np.float32)
    return LexicalShard({"data": data_P, **found}, list(places), len(ids))


def load(path: str, *, sha256: str, count: int) -> LexicalShard:
    """A saved shard; InputError where the file is another one than the manifest names."""
    from safetensors.numpy import load_file

    check_installed()
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256:
        raise InputError(
            f"{path} has sha256 {digest[:12]}, its manifest says {sha256[:12]}; make the index "
            "again"
        )
    arrays = load_file(path)
    words = arrays.pop("words").tobytes().decode()
    return LexicalShard(arrays, words.split("\n") if words else (), count)
