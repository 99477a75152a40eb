"""The lm-evaluation-harness in its own environment."""

from __future__ import annotations

from loop import serve


class LmEval:
    """What `benchmarks/choices.py` asks."""

    def load(self, folder: str) -> None:
        from lm_eval.models.huggingface import HFLM

        # without BOS, as our side is asked here: the same tokens
        self.lm = HFLM(
            pretrained=folder, device="cpu", batch_size=4, dtype="float32", add_bos_token=False
        )

    def score(self, pairs: list[tuple[str, str]]) -> list[float]:
        """log p(continuation | context)."""
        from lm_eval.api.instance import Instance

        requests = [
            Instance("loglikelihood", {}, (context, continuation), number)
            for number, (context, continuation) in enumerate(pairs)
        ]
        return [float(score) for score, _ in self.lm.loglikelihood(requests, disable_tqdm=True)]


if __name__ == "__main__":
    serve(LmEval())
