"""choices: four options of several tokens behind a context of 400 tokens against the method of the
lm-evaluation-harness (row 7).

lm-eval's `HFLM.loglikelihood` computes the context once for each option and the head at every
position; ours puts the options of one context into one row, each seeing the context and itself
only, with the head at the options' positions. Both start from text; the log-probabilities are
checked to be equal.

    python -m benchmarks.choices [--quick]
"""

from __future__ import annotations

import torch

from benchmarks import stand_ins
from benchmarks.peers import MissingPeerError, Peer
from benchmarks.side_by_side import (
    NAIVE,
    Results,
    alternate,
    missing_row,
    options_of,
    speed_row,
    timed,
)
from radit_ray.models.causal_lm import CausalLM
from radit_ray.models.precision import resolve_precision

FLOOR = 5.0
NUM_CHOICES = 4
CONTEXT_TOKENS = 400


def questions(lm: CausalLM, num: int) -> list[tuple[str, list[str]]]:
    """(context of about CONTEXT_TOKENS tokens, its options of three to six words)."""
    words = " ".join(stand_ins.texts(num * 8, mean=120, seed=3)).replace(".", "").split()
    made = []
    for number in range(num):
        start, end = number * 420, number * 420 + 250
        while len(lm.encode(" ".join(words[start:end]))) < CONTEXT_TOKENS:
            end += 1
        at = end
        options = []
        for size in (3, 4, 5, 6)[:NUM_CHOICES]:
            options.append(" ".join(words[at : at + size]))
            at += size
        made.append((" ".join(words[start:end]), options))
    return made


def ours(lm: CausalLM, asked: list[tuple[str, list[str]]]) -> list[float]:
    """log p(option | context), options of a context one behind the other."""
    contexts = [lm.encode(context) for context, _ in asked]
    prompts = [ids for ids, (_, own) in zip(contexts, asked, strict=True) for _ in own]
    answers = [lm.answer_ids(option) for _, own in asked for option in own]
    found: list[float] = lm.answer_logprobs(prompts, answers, batch_tokens=16384).tolist()
    return found


@torch.inference_mode()
def naive(lm: CausalLM, asked: list[tuple[str, list[str]]]) -> list[float]:
    """The whole context and all logits for each option, one at a time."""
    found = []
    for context, options in asked:
        front = lm.encode(context)
        for option in options:
            answer = lm.answer_ids(option)
            ids_BT = torch.tensor([[*front, *answer]], device=lm.device)
            logprob_TV = lm.model(input_ids=ids_BT).logits[0, len(front) - 1 : -1].log_softmax(-1)
            found.append(float(logprob_TV.gather(1, ids_BT[0, len(front) :, None]).sum()))
    return found


def check(mine: list[float], other: list[float]) -> None:
    """Equal to what fp32 sums differ by."""
    torch.testing.assert_close(torch.tensor(mine), torch.tensor(other), atol=2e-3, rtol=0)


def main() -> None:
    options = options_of(__doc__)
    results = Results("choices", options)
    folder = stand_ins.lm("tiny" if options.quick else "small")
    lm = CausalLM.load(folder, precision="fp32", device=options.device)
    asked = questions(lm, 2 if options.quick else 8)
    facts = {"count": len(asked), "unit": "questions", "num_choices": NUM_CHOICES}
    if options.peers == "none":
        compared = alternate(
            timed(lambda: ours(lm, asked)), timed(lambda: naive(lm, asked)), options, check
        )
        results.add(speed_row(f"7 choices vs {NAIVE}", compared, floor=None, **facts))
        return
    name = "7 choices vs lm-evaluation-harness"
    try:
        with Peer("lm-eval", "on_lm_eval", threads=options.threads) as peer:
            peer.call("load", folder=folder)
            pairs = [(context, f" {option}") for context, own in asked for option in own]
            theirs = peer.side("score", pairs=pairs)
            compared = alternate(timed(lambda: ours(lm, asked)), theirs, options, check)
            results.add(speed_row(name, compared, floor=FLOOR, precision="fp32", **facts))
            fast = resolve_precision("auto", options.device)
            if fast != "fp32":
                quick = CausalLM.load(folder, precision=fast, device=options.device)
                side = timed(lambda: ours(quick, asked))
                compared = alternate(side, theirs, options, lambda *_: None)
                called = f"{name}, as called ({fast} / fp32)"
                results.add(speed_row(called, compared, floor=FLOOR, precision=fast, **facts))
    except MissingPeerError as missing:
        results.add(missing_row(name, floor=FLOOR, unit="questions/CPU s", why=str(missing)))


if __name__ == "__main__":
    main()
