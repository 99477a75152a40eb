"""Contract: vectors equal plain sentence-transformers', sides share nothing, gradients reach the
query side, exports load.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import (
    AutoTokenizer,
    BertModel,
    DPRConfig,
    DPRContextEncoder,
    DPRQuestionEncoder,
)

from radit_ray.core.errors import InputError
from radit_ray.models import dual_encoder
from radit_ray.models.dual_encoder import DualEncoder, tokens_ahead
from radit_ray.models.presets import PRESETS

WORDS = [
    "Paris",
    "is",
    "the",
    "capital",
    "of",
    "France",
    "and",
    "the",
    "old",
    "town",
    "in",
    "London",
    "who",
    "wrote",
    "the",
    "book",
]
TEXTS = [" ".join(WORDS[:length]) for length in (3, 16, 1, 9, 12, 2, 7)]
TITLES = ["Paris", "", "London", "the river", "", "town", "book"]
# 1e-5: fp32 through two layers, other batches than the reference
CLOSE = {"atol": 1e-5, "rtol": 1e-4}


@pytest.fixture(scope="module")
def st_folder(
    encoder_folder: Callable[[int], str], tmp_path_factory: pytest.TempPathFactory
) -> str:
    """A symmetric sentence-transformers folder: mean pooling, length 1, prompts for both sides."""
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(encoder_folder(1))
    model = SentenceTransformer(
        modules=[transformer, Pooling(32, pooling_mode="mean"), Normalize()],
        prompts={"query": "query: ", "document": "passage: "},
        device="cpu",
    )
    path = tmp_path_factory.mktemp("st") / "symmetric"
    model.save_pretrained(str(path))
    return str(path)


def by_hand(folder: str, text: str, pooling: str, *, normalize: bool = False) -> np.ndarray:
    """One text through the bare BERT."""
    ids = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=64)["input_ids"]
    with torch.no_grad():
        hidden_TD = BertModel.from_pretrained(folder, add_pooling_layer=False).eval()(
            input_ids=torch.tensor([ids])
        )[0][0]
    vector = (hidden_TD[0] if pooling == "cls" else hidden_TD.mean(0)).numpy()
    return vector / np.linalg.norm(vector) if normalize else vector


def test_equals_plain_sentence_transformers(st_folder: str) -> None:
    encoder = DualEncoder.load(st_folder)
    plain = SentenceTransformer(st_folder, device="cpu")
    queries = encoder.encode_queries(TEXTS)
    assert (queries.dtype, queries.shape) == (np.float32, (7, encoder.dimension))
    np.testing.assert_allclose(queries, plain.encode_query(TEXTS), **CLOSE)
    chunks = encoder.encode_chunks(TITLES, TEXTS)
    joined = [f"{title} {text}".strip() for title, text in zip(TITLES, TEXTS, strict=True)]
    np.testing.assert_allclose(chunks, plain.encode_document(joined), **CLOSE)
    np.testing.assert_allclose(encoder.encode_queries(TEXTS, batch_tokens=1), queries, **CLOSE)
    assert encoder.last_num_tokens == sum(map(len, encoder.query_tokens(TEXTS)))
    assert encoder.encode_queries([]).shape == (0, 32)
    assert (encoder.preset.name, encoder.preset.t_r) == ("sentence-transformers", 0.05)


@pytest.mark.parametrize("preset", ["dragon-plus", "contriever", "e5"])
def test_pair_of_encoders_with_a_preset(encoder_folder: Callable[[int], str], preset: str) -> None:
    folders = encoder_folder(1), encoder_folder(2)
    encoder = DualEncoder.load(",".join(folders), preset=preset)
    rule = PRESETS[preset]
    for side, folder, texts, found in (
        (rule.query_prefix, folders[0], TEXTS, encoder.encode_queries(TEXTS)),
        (rule.chunk_prefix, folders[1], TEXTS, encoder.encode_chunks([""] * 7, TEXTS)),
    ):
        expected = [
            by_hand(folder, side + text, rule.pooling, normalize=rule.normalize) for text in texts
        ]
        np.testing.assert_allclose(found, np.stack(expected), **CLOSE)


def test_dpr_checkpoints_give_their_own_vectors(
    encoder_folder: Callable[[int], str], tmp_path: Path
) -> None:
    torch.manual_seed(7)
    base = BertModel.from_pretrained(encoder_folder(1)).config.to_dict()
    shape = {k: v for k, v in base.items() if k in DPRConfig().to_dict() and k != "model_type"}
    tokenizer = AutoTokenizer.from_pretrained(encoder_folder(1))
    originals = []
    for name, kind in (("question", DPRQuestionEncoder), ("ctx", DPRContextEncoder)):
        model = kind(DPRConfig(**shape)).eval()
        model.save_pretrained(tmp_path / f"dpr-{name}")
        tokenizer.save_pretrained(tmp_path / f"dpr-{name}")
        originals.append(model)
    encoder = DualEncoder.load(f"{tmp_path / 'dpr-question'},{tmp_path / 'dpr-ctx'}")
    assert encoder.preset.name == "dpr"
    question = torch.tensor([tokenizer("who wrote the book")["input_ids"]])
    pair = torch.tensor([tokenizer("Paris", "the old town")["input_ids"]])  # [CLS] a [SEP] b [SEP]
    with torch.no_grad():
        np.testing.assert_allclose(
            encoder.encode_queries(["who wrote the book"]),
            originals[0](input_ids=question).pooler_output.numpy(),
            **CLOSE,
        )
        np.testing.assert_allclose(
            encoder.encode_chunks(["Paris"], ["the old town"]),
            originals[1](input_ids=pair).pooler_output.numpy(),
            **CLOSE,
        )


def test_only_the_query_encoder_learns(st_folder: str) -> None:
    encoder = DualEncoder.load(st_folder)
    tokens = encoder.query_tokens(TEXTS)
    before_queries = encoder.encode_queries(TEXTS)
    before_chunks = encoder.encode_chunks(TITLES, TEXTS)
    encoder.query_module.train()  # dropout is off in training mode as well
    vector_BD = encoder.query_forward(tokens)
    assert vector_BD.dtype == torch.float32
    np.testing.assert_allclose(vector_BD.detach().numpy(), before_queries, **CLOSE)
    weights = torch.arange(vector_BD.numel()).view_as(vector_BD) / 100
    (vector_BD * weights).sum().backward()
    assert all(p.grad is None for p in encoder.chunk.model.parameters())
    with torch.no_grad():
        reached = 0
        for parameter in encoder.query_module.parameters():
            if parameter.grad is not None and parameter.grad.abs().sum() > 0:
                reached += 1
                parameter -= 0.1 * parameter.grad
    assert reached > 30  # embeddings and both layers
    assert np.abs(encoder.encode_queries(TEXTS) - before_queries).max() > 1e-3
    assert np.array_equal(encoder.encode_chunks(TITLES, TEXTS), before_chunks)  # bit for bit


def test_gradient_equals_finite_differences(st_folder: str) -> None:
    encoder = DualEncoder.load(st_folder)
    tokens = encoder.query_tokens(TEXTS[:3])
    target = torch.linspace(-1, 1, 32)
    table = next(encoder.query_module.parameters())
    (encoder.query_forward(tokens) @ target).sum().backward()
    row, step = tokens[0][1], 1e-2
    slopes = []
    for column in range(4):
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                table[row, column] += sign * step
                values.append(float((encoder.query_forward(tokens) @ target).sum()))
                table[row, column] -= sign * step
        slopes.append((values[0] - values[1]) / (2 * step))
    # 5 %: central differences of fp32 numbers of order 1
    np.testing.assert_allclose(table.grad[row, :4].numpy(), slopes, rtol=0.05, atol=5e-3)


def test_shared_weights_where_both_sides_are_only_read(st_folder: str) -> None:
    shared = DualEncoder.load(st_folder, separate=False)
    assert shared.query.model is shared.chunk.model
    separate = DualEncoder.load(st_folder)
    pointers = [
        {p.data_ptr() for p in s.model.parameters()} for s in (separate.query, separate.chunk)
    ]
    assert not pointers[0] & pointers[1]


def test_exports_load_in_plain_sentence_transformers(
    encoder_folder: Callable[[int], str], tmp_path: Path
) -> None:
    encoder = DualEncoder.load(f"{encoder_folder(1)},{encoder_folder(2)}", preset="e5")
    with torch.no_grad():
        next(encoder.query_module.parameters()).add_(0.05)  # "tuned"
    queries = encoder.encode_queries(TEXTS)
    chunks = encoder.encode_chunks([""] * 7, TEXTS)
    encoder.save_query_encoder(tmp_path / "query_encoder")
    encoder.save_retriever(tmp_path / "retriever")

    plain = SentenceTransformer(str(tmp_path / "query_encoder"), device="cpu")
    np.testing.assert_allclose(plain.encode(TEXTS), queries, **CLOSE)
    np.testing.assert_allclose(plain.encode_query(TEXTS), queries, **CLOSE)
    router = SentenceTransformer(str(tmp_path / "retriever"), device="cpu")
    np.testing.assert_allclose(router.encode_query(TEXTS), queries, **CLOSE)
    np.testing.assert_allclose(router.encode_document(TEXTS), chunks, **CLOSE)
    assert not list(tmp_path.rglob("*.bin"))

    again = DualEncoder.load(str(tmp_path / "retriever"))
    assert again.preset == encoder.preset
    np.testing.assert_allclose(again.encode_queries(TEXTS), queries, **CLOSE)
    np.testing.assert_allclose(again.encode_chunks([""] * 7, TEXTS), chunks, **CLOSE)
    mixed = DualEncoder.load(f"{tmp_path / 'query_encoder'},{encoder_folder(2)}")
    np.testing.assert_allclose(mixed.encode_queries(TEXTS), queries, **CLOSE)
    np.testing.assert_allclose(mixed.encode_chunks([""] * 7, TEXTS), chunks, **CLOSE)


def test_spans_cover_the_tokens(st_folder: str) -> None:
    encoder = DualEncoder.load(st_folder)
    text = "Paris is  the capital,\nof France " * 20  # longer than the encoder reads
    spans = encoder.spans(text)
    ids = encoder.query.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert len(spans) == len(ids)
    assert all(start < end for start, end in spans)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    assert text[spans[0][0] : spans[3][1]].startswith("Paris")
    assert len(encoder.query_tokens([text])[0]) == 64  # truncated, special tokens included


def test_bf16_is_close_and_float32_comes_out(st_folder: str) -> None:
    half = DualEncoder.load(st_folder, precision="bf16")
    assert next(half.query_module.parameters()).dtype == torch.bfloat16
    vectors = half.encode_queries(TEXTS)
    full = DualEncoder.load(st_folder).encode_queries(TEXTS)
    assert vectors.dtype == np.float32
    assert (vectors * full).sum(1).min() > 0.99  # cosine; 8 bits of mantissa
    assert half.num_parameters == sum(p.numel() for p in half.query_module.parameters())
    tables = (300 + 64 + 2) * 32
    assert half.flops_per_token == 2 * (half.num_parameters - tables)


def test_what_cannot_be_loaded_is_one_line(
    encoder_folder: Callable[[int], str], tmp_path: Path
) -> None:
    for retriever, preset, message in (
        ("dragn-plus", "auto", "did you mean 'dragon-plus'"),
        (str(tmp_path / "contriever"), "auto", "there is no such folder"),
        (encoder_folder(1), "auto", "no preset can be told"),
        (encoder_folder(1), "e6", "preset 'e6' is unknown; did you mean 'e5'"),
        ("a,b,c", "e5", "names 3 models"),
        ("contriever", "auto", "cannot be loaded"),  # offline
    ):
        with pytest.raises(InputError, match=message) as caught:
            DualEncoder.load(retriever, preset=preset)
        assert "\n" not in str(caught.value)


def test_tokens_ahead_are_those_of_all_texts(st_folder: str) -> None:
    side = DualEncoder.load(st_folder, separate=False).chunk
    texts = [f"chunk {number} of " + "words " * (number % 7) for number in range(23)]
    parts = list(tokens_ahead(side, texts, 5))
    assert [start for start, _ in parts] == [0, 5, 10, 15, 20]
    assert list(itertools.chain.from_iterable(ids for _, ids in parts)) == side.tokens(texts)
    assert list(tokens_ahead(side, [], 5)) == []


def test_texts_are_tokenised_in_slices(st_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    side = DualEncoder.load(st_folder, separate=False).chunk
    texts = [f"chunk {number} of " + "words " * (number % 7) for number in range(23)]
    at_once = side.tokens(texts)
    monkeypatch.setattr(dual_encoder, "TOKENISED", 4)
    assert side.tokens(texts) == at_once


def test_a_prompt_that_the_mean_leaves_out(st_folder: str, tmp_path: Path) -> None:
    model = SentenceTransformer(st_folder, device="cpu")
    model.set_pooling_include_prompt(False)
    model.save_pretrained(str(tmp_path / "instructor"))
    encoder = DualEncoder.load(str(tmp_path / "instructor"), separate=False)
    texts = ["the capital of France", "Paris"]
    expected = model.encode(texts, prompt_name="query")
    np.testing.assert_allclose(encoder.encode_queries(texts), expected, atol=1e-6)
    counted = DualEncoder.load(st_folder, separate=False).encode_queries(texts)
    assert np.abs(counted - expected).max() > 1e-3
