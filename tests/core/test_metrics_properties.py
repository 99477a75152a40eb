"""Contract: on random strings our metrics are those of KILT's scorer and of SQuAD's, written out
here the slow way from their definitions, and those of the libraries that people compare with; and
choices, recall and MRR are those of a plain loop.

EM and F1 stand beside `torchmetrics` (SQuAD). Rouge-L is that of the `rouge` package, as in KILT's
scorer: sentences end at full stops, words at white space, and a text counts each word once.
Google's `rouge-score` is another measure (its own tokens, one sequence, repeated words count), so
its numbers differ.

Strings are drawn with a seed, from words that meet every rule: articles, punctuation inside and
outside ASCII, several alphabets, combining marks, odd spaces, nothing at all.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import pytest
import torch
from rouge import Rouge
from torchmetrics.functional.text import squad

from radit_ray.core import ensembles, metrics
from radit_ray.core.templates import gold_choice

CASES = 600
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
PIECES = (
    *("a", "an", "the", "The", "AN", "theatre", "anthem", "Oslo", "oslo", "red", "house", "house"),
    *("U.S.A.", "don't", "A-Team", "a_b", "3.14", "1,000", "-", "...", ".", ". .", "(the)", "?!"),
    *(
        "Zürich",
        "Zu\u0308rich",
        "a\u0301",
        "«the»",
        "“a”",
        "—",
        "日本",
        "東京都",
        "Ελλάς",
        "İ",
        "ß",
    ),
    *("ﬁ", "١٢", "²", "🙂", "\u200b", "\u00a0", "the\u00a0house", "", " ", "\t", "\n", "\x0b"),
)
GLUE = (" ", " ", " ", "  ", "", "-", "\n", "\u00a0", ". ")


def text(draw: random.Random, size: int = 7) -> str:
    return "".join(draw.choice(PIECES) + draw.choice(GLUE) for _ in range(draw.randint(0, size)))


def near(draw: random.Random, other: str) -> str:
    """The other text, changed a little or not at all, so that scores between 0 and 1 are common."""
    words = other.split(" ")
    for _ in range(draw.randint(0, 2)):
        words[draw.randrange(len(words))] = draw.choice(PIECES)
    changed = " ".join(words)
    return draw.choice((changed, changed.upper(), f"The {changed}.", f" {changed}\n"))


def cases(seed: int) -> list[tuple[str, list[str]]]:
    """CASES predictions, each with one to three gold answers."""
    draw = random.Random(seed)
    found = []
    for _ in range(CASES):
        prediction = text(draw)
        golds = [
            near(draw, prediction) if draw.random() < 0.6 else text(draw)
            for _ in range(draw.randint(1, 3))
        ]
        found.append((prediction, golds))
    return found


# --- the references ---


def slow_normalize(value: str) -> str:
    """Lower case; ASCII punctuation out; whole words a, an, the out; single spaces."""
    kept = "".join(char for char in value.lower() if char not in PUNCTUATION)
    pieces, word = [], ""
    for char in f"{kept} ":
        if char.isalnum():
            word += char
        else:  # the end of a word: a mark of its own (a combining accent) is one too
            pieces += [" " if word in ("a", "an", "the") else word, char]
            word = ""
    return " ".join("".join(pieces).split())


def slow_em(prediction: str, gold: str) -> float:
    return 1.0 if slow_normalize(prediction) == slow_normalize(gold) else 0.0


def slow_f1(prediction: str, gold: str) -> float:
    """KILT: precision and recall over words, each gold word matched once."""
    predicted, left = slow_normalize(prediction).split(), slow_normalize(gold).split()
    length, common = len(left), 0
    for word in predicted:
        if word in left:
            left.remove(word)
            common += 1
    if not common:
        return 0.0
    precision, recall = common / len(predicted), common / length
    return 2 * precision * recall / (precision + recall)


def squad_f1(prediction: str, gold: str) -> float:
    """SQuAD 1.1: twice the shared words over all words."""
    a, b = sorted(slow_normalize(prediction).split()), sorted(slow_normalize(gold).split())
    shared = sum(min(a.count(word), b.count(word)) for word in set(a))
    return 2 * shared / (len(a) + len(b)) if shared else 0.0


def slow_accuracy(prediction: str, gold: str) -> float:
    """KILT: character by character once the ends are stripped."""
    return float(prediction.strip() == gold.strip())


def sentences(value: str) -> list[list[str]]:
    """The `rouge` package: parts between full stops; a part of white space alone is the word ""."""
    return [part.split() or [""] for part in value.split(".") if part]


def one_lcs(reference: list[str], candidate: list[str]) -> set[str]:
    """Words of one longest common subsequence: where two are as long, the package's choice, which
    drops the candidate's last word first.
    """
    length = [[0] * (len(candidate) + 1) for _ in range(len(reference) + 1)]
    for i, word in enumerate(reference, start=1):
        for j, other in enumerate(candidate, start=1):
            same = length[i - 1][j - 1] + 1
            longest = max(length[i - 1][j], length[i][j - 1])
            length[i][j] = same if word == other else longest
    i, j, found = len(reference), len(candidate), set()
    while i and j:
        if reference[i - 1] == candidate[j - 1]:
            found.add(reference[i - 1])
            i, j = i - 1, j - 1
        elif length[i - 1][j] > length[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found


def slow_rouge_l(prediction: str, gold: str) -> float:
    """F of the union of all pairs' subsequences over distinct words; 0 without any word, where the
    package raises or counts "".
    """
    if not prediction.replace(".", " ").split() or not gold.replace(".", " ").split():
        return 0.0
    said, right = sentences(prediction), sentences(gold)
    union = {word for r in right for s in said for word in one_lcs(r, s)}
    precision = len(union) / len({word for s in said for word in s})
    recall = len(union) / len({word for r in right for word in r})
    return 2 * precision * recall / (precision + recall) if union else 0.0


# --- strings ---


def test_normalize_equals_kilts() -> None:
    for prediction, golds in cases(seed=0):
        for value in (prediction, *golds):
            assert metrics.normalize(value) == slow_normalize(value), repr(value)


@pytest.mark.parametrize(
    ("metric", "slow", "tolerance"),
    [
        (metrics.exact_match, slow_em, 0.0),
        (metrics.f1, slow_f1, 0.0),
        (metrics.f1, squad_f1, 1e-12),
        (metrics.accuracy, slow_accuracy, 0.0),
        (metrics.rouge_l, slow_rouge_l, 1e-6),  # the package adds 1e-8 to its denominator
    ],
    ids=["em", "f1", "squad-f1", "accuracy", "rouge-l"],
)
def test_a_metric_equals_the_best_of_its_slow_twin(
    metric: Callable[[str, Sequence[str]], float],
    slow: Callable[[str, str], float],
    tolerance: float,
) -> None:
    values = []
    for prediction, golds in cases(seed=1):
        expected = max(slow(prediction, gold) for gold in golds)
        found = metric(prediction, golds)
        assert found == pytest.approx(expected, abs=tolerance, rel=0), (prediction, golds)
        values.append(found)
    assert len(values) == CASES >= 500
    assert min(values.count(0.0), sum(value > 0.9 for value in values)) > CASES / 20
    if metric in (metrics.f1, metrics.rouge_l):
        assert sum(0.05 < value < 0.95 for value in values) > CASES / 5


def library_squad(prediction: str, golds: list[str]) -> tuple[float, float]:
    """(EM, F1) of torchmetrics, which gives percent in single precision."""
    answers = {"text": golds, "answer_start": [0] * len(golds)}
    found = squad(
        {"prediction_text": prediction, "id": "x"},
        {"answers": answers, "id": "x"},
    )
    return float(found["exact_match"]) / 100, float(found["f1"]) / 100


def says_nothing(prediction: str, golds: list[str]) -> bool:
    """Whether prediction and some gold answer both are empty once normalised."""
    return not slow_normalize(prediction) and not all(map(slow_normalize, golds))


def test_em_and_f1_equal_torchmetrics() -> None:
    """But for the F1 of two texts that say nothing, see `test_where_squad_2_differs`."""
    apart = 0
    for prediction, golds in [*cases(seed=4), ("", [""]), ("", ["x", ""]), ("The.", ["an", "x"])]:
        em, f1 = library_squad(prediction, golds)
        assert metrics.exact_match(prediction, golds) == em, (prediction, golds)
        if says_nothing(prediction, golds):
            assert (f1, metrics.f1(prediction, golds)) == (1.0, 0.0)
            apart += 1
        else:
            found = metrics.f1(prediction, golds)
            assert found == pytest.approx(f1, abs=1e-6), (prediction, golds)
    assert 3 <= apart < CASES / 5


def test_rouge_l_equals_the_rouge_package() -> None:
    """The package itself, called as KILT's scorer does: the best of one answer after the other."""
    compared = 0
    for prediction, golds in cases(seed=5):
        texts = (prediction, *golds)
        if not all(value.replace(".", " ").split() for value in texts):
            continue  # without a word the package raises or compares two blanks; ours is 0
        expected = [Rouge().get_scores(prediction, gold)[0]["rouge-l"]["f"] for gold in golds]
        assert metrics.rouge_l(prediction, golds) == max(expected), texts
        compared += 1
    assert compared > CASES / 2


def test_where_squad_2_differs() -> None:
    """There two empty texts agree, for questions without an answer; our examples all have one, and
    KILT and SQuAD 1.1 give 0. On every other pair of texts all of them are one measure.
    """
    assert metrics.f1("", ["the"]) == squad_f1("", "the") == slow_f1("", "the") == 0.0
    assert metrics.exact_match("", ["the"]) == slow_em("", "the") == 1.0
    assert library_squad("", ["the"]) == (1.0, 1.0)


# --- choices and hits ---


@pytest.mark.parametrize("scoring", ["nll", "nll_token", "nll_char", "nll_compl"])
def test_the_accuracy_of_choices_equals_a_plain_loop(scoring: metrics.Scoring) -> None:
    draw = random.Random(2)
    agreed = []
    for number in range(500):
        num, k = draw.randint(2, 5), draw.randint(1, 4)
        logprob_OK = [[-20 * draw.random() for _ in range(k)] for _ in range(num)]
        weights = [draw.random() + 0.01 for _ in range(k)]
        p_r_K = [weight / sum(weights) for weight in weights]
        texts = [f"{'x' * draw.randint(1, 30)}{n}" for n in range(num)]
        tokens = [draw.randint(1, 9) for _ in texts]
        bare = [-20 * draw.random() for _ in texts]
        right = draw.randrange(num)
        row = {"id": str(number), "choices": texts, "answers": [texts[right]]}
        if draw.random() < 0.3:
            row["answers"] = ["ABCDE"[right]]
        scores_O = ensembles.choice_scores(
            ensembles.choices(torch.tensor(logprob_OK), torch.tensor(p_r_K)),
            num_tokens_O=torch.tensor(tokens),
            num_chars_O=torch.tensor([len(text) for text in texts]),
            logprob_uncond_O=torch.tensor(bare),
            scoring=scoring,
        )
        slow = []
        for n in range(num):
            mixed = sum(p * math.exp(v) for p, v in zip(p_r_K, logprob_OK[n], strict=True))
            divisor = {"nll_token": tokens[n], "nll_char": len(texts[n])}.get(scoring, 1)
            base = bare[n] if scoring == "nll_compl" else 0.0
            slow.append((math.log(mixed) - base) / divisor)
        assert scores_O.tolist() == pytest.approx(slow, abs=1e-4)
        assert gold_choice(row) == right
        agreed.append(int(scores_O.argmax()) == right)
        assert agreed[-1] == (slow[right] == max(slow))
    assert 100 < sum(agreed) < 400


def test_recall_and_mrr_equal_a_plain_loop() -> None:
    draw = random.Random(3)
    for _ in range(CASES):
        hits = [draw.random() < 0.2 for _ in range(draw.randint(0, 12))]
        first = 0
        for rank, hit in enumerate(hits):
            if hit and not first:
                first = rank + 1
        assert metrics.reciprocal_rank(hits) == (1 / first if first else 0.0)
        for k in range(1, 15):
            assert metrics.recall_at_k(hits, k) == (1.0 if 0 < first <= k else 0.0)
