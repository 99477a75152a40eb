"""FlashRAG beside fed-rag's environment: its encoder and its REPLUG decoding."""

from __future__ import annotations

from typing import Any

import torch
from loop import serve


class FlashRag:
    """What `benchmarks/{embed,tokens}.py` ask."""

    def load_encoder(self, folder: str) -> None:
        from flashrag.retriever.encoder import Encoder

        self.encoder = Encoder("e5", folder, "mean", 256, use_fp16=False, silent=True)
        # its name makes it put "passage: " in front, which is no part of this model
        self.encoder.model_name = "plain"

    def encode(self, texts: list[str]) -> list[list[float]]:
        """One vector a text."""
        vectors: Any = self.encoder.encode(texts, batch_size=32, is_query=False)
        return vectors.tolist()  # type: ignore[no-any-return]

    def load_lm(self, folder: str) -> None:
        from flashrag.pipeline.replug_utils import load_replug_model
        from transformers import AutoTokenizer

        self.model = load_replug_model(folder).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")

    @torch.inference_mode()
    def decode(
        self, questions: list[list[list[int]]], weights: list[list[float]], num_new: int
    ) -> list[list[int]]:
        """The mixture's greedy tokens of each question, one question at a time as its pipeline."""
        from flashrag.pipeline.replug_utils import REPLUGLogitsProcessor
        from transformers import LogitsProcessorList

        found = []
        for prompts, p_r in zip(questions, weights, strict=True):
            batch = self.tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
            processor = REPLUGLogitsProcessor(torch.tensor(p_r))
            output = self.model.generate(
                **batch,
                max_new_tokens=num_new,
                do_sample=False,
                logits_processor=LogitsProcessorList([processor]),
            )
            found.append(output[0, batch["input_ids"].shape[1] :].tolist())
        return found


if __name__ == "__main__":
    serve(FlashRag())
