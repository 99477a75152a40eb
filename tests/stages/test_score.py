"""Contract of score: log-probs are those of a naive fp32 loop over plain transformers, bf16's error
is known, T_R comes from its grid, the mix holds no row twice.
"""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chain import Chain
from transformers import AutoModelForCausalLM, AutoTokenizer

from radit_ray.core.errors import InputError
from radit_ray.data.artifacts import artifact_input, iter_tables, read_manifest
from radit_ray.models.causal_lm import CausalLM
from radit_ray.stages.score import T_R_FACTORS, ScoreConfig, choose_rows, score, score_rows

pytestmark = pytest.mark.ray


def scored_rows(chain: Chain) -> list[dict[str, Any]]:
    tables = iter_tables(artifact_input(chain.scored, "score"))
    return [row for table in tables for row in table.to_pylist()]


def naive_logprob(model: Any, prompt: list[int], answer: list[int]) -> float:
    """Sum of log p over the answer's tokens, one token at a time."""
    total = 0.0
    for at, token in enumerate(answer):
        ids = torch.tensor([[*prompt, *answer[:at]]])
        total += float(model(input_ids=ids).logits[0, -1].float().log_softmax(-1)[token])
    return total


@torch.inference_mode()
def test_logprobs_equal_a_naive_fp32_loop(chain: Chain) -> None:
    model = AutoModelForCausalLM.from_pretrained(chain.lm, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(chain.lm)

    def ids(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    rows = scored_rows(chain)
    seen = [*rows[:5], *[row for row in rows if row["task"] == "corpus"][:3]]
    for row in seen:
        answer = ids(f" {row['answers'][0]}")
        assert row["num_answer_tokens"] == len(answer)
        if row["task"] == "corpus":
            instruction = ids(row["question"])
        else:
            instruction = ids(f"Q: {row['question']}\nA:")
        for title, text, logprob in zip(row["titles"], row["texts"], row["logprobs"], strict=True):
            background = ids(f"Background: {title} {text}\n\n")
            prompt = [tokenizer.bos_token_id, *background, *instruction]
            expected = naive_logprob(model, prompt, answer)
            assert logprob == pytest.approx(expected, abs=1e-4 * max(1, len(answer)), rel=1e-5)


def test_only_the_first_chunks_are_scored_where_k_says_so(chain: Chain, tmp_path: Path) -> None:
    """For a ranking that is deeper than R-ft wants: the same numbers of fewer chunks."""
    made = score(
        ScoreConfig(lm=chain.lm, corpus_share=0.4, precision="fp32", k=2),
        ranked=chain.ranked,
        output=str(tmp_path / "score"),
    )
    whole = {row["id"]: row for row in scored_rows(chain)}
    tables = iter_tables(artifact_input(made.path, "score"))
    cut = {row["id"]: row for table in tables for row in table.to_pylist()}
    assert cut.keys() == whole.keys()
    assert made.metrics["num_pairs"] == 2 * len(cut)
    for name, row in cut.items():
        assert row["chunk_ids"] == whole[name]["chunk_ids"][:2]
        assert row["logprobs"] == pytest.approx(whole[name]["logprobs"][:2], abs=1e-4)
    assert all(len(row["chunk_ids"]) > 2 for row in whole.values())
    with pytest.raises(InputError, match=r"score.k=1: of one chunk the LM prefers none"):
        score(ScoreConfig(lm=chain.lm, k=1), ranked=chain.ranked, output=str(tmp_path / "one"))


def test_bf16_error_and_rank_agreement_are_reported(chain: Chain) -> None:
    rows = scored_rows(chain)[:24]
    lm = CausalLM.load(chain.lm, precision="bf16")
    half, _ = score_rows(lm, rows, 4096)
    error, tokens, agreeing, pairs = 0.0, 0, 0, 0
    for full, other in zip(rows, half, strict=True):
        a_K, b_K = np.array(full["logprobs"]), np.array(other["logprobs"])
        error += float(np.abs(a_K - b_K).sum())
        tokens += len(a_K) * full["num_answer_tokens"]
        for i in range(len(a_K)):
            for j in range(i):
                pairs += 1
                agreeing += (a_K[i] > a_K[j]) == (b_K[i] > b_K[j])
    print(
        f"bf16: {error / tokens:.4f} nats a token off fp32, {agreeing / pairs:.3f} of pairs agree"
    )
    assert error > 0  # else it was no bf16
    assert error / tokens < 0.05
    assert agreeing / pairs > 0.85


def test_t_r_is_the_best_of_its_grid(chain: Chain) -> None:
    manifest, source = read_manifest(chain.scored), read_manifest(chain.ranked)
    assert manifest is not None
    assert source is not None
    grid = [source["metrics"]["t_r"] * factor for factor in T_R_FACTORS]
    dev = [row for row in scored_rows(chain) if row["split"] == "dev"]
    losses = []
    for t_r in grid:
        nll = []
        for row in dev:
            weight_K = np.exp(np.array(row["scores"]) / t_r)
            weight_K /= weight_K.sum()
            nll.append(-np.log((weight_K * np.exp(np.array(row["logprobs"], dtype=float))).sum()))
        losses.append(np.mean(nll))
    assert manifest["metrics"]["t_r"] == pytest.approx(grid[int(np.argmin(losses))])
    assert manifest["metrics"]["t_r_fitted_on"] == "dev"


def test_the_mix_has_its_share_and_no_row_twice(chain: Chain) -> None:
    rows = scored_rows(chain)
    assert len({row["id"] for row in rows}) == len(rows)
    counts = collections.Counter((row["split"], row["task"]) for row in rows)
    assert counts["dev", "tiny"] == 12
    assert counts["eval", "tiny"] == 0
    train = counts["train", "corpus"] + counts["train", "tiny"]
    assert counts["train", "corpus"] / train == pytest.approx(0.4, abs=1 / train)
    source = artifact_input(chain.ranked, "retrieve")
    half = choose_rows(source, ScoreConfig(corpus_share=0.0, num_examples=10, dev_limit=3))
    assert sum(map(len, half.values())) == 13


def test_rows_with_a_single_chunk_are_refused(chain: Chain, tmp_path_factory: Any) -> None:
    from radit_ray.data.artifacts import Input, commit_shard
    from radit_ray.data.work import Work as Claim

    folder = str(tmp_path_factory.mktemp("single"))
    table = next(iter_tables(artifact_input(chain.ranked, "retrieve")))
    lone = [{**row, "chunk_ids": row["chunk_ids"][:1]} for row in table.to_pylist()]
    import pyarrow as pa

    config = ScoreConfig()
    source = {"x": Input(path="x", fingerprint="x")}
    with Claim.open("retrieve", 1, config, source, folder) as work:
        commit_shard(folder, "part-0.parquet", pa.Table.from_pylist(lone, schema=table.schema))
        work.finish(metrics={})
    with pytest.raises(InputError, match="two chunks or more; retrieve with k >= 2"):
        choose_rows(artifact_input(folder, "retrieve"), config)
