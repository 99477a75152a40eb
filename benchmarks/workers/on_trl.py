"""TRL's SFTTrainer in its own environment."""

from __future__ import annotations

import tempfile

import torch
from loop import serve


class Trl:
    """What `benchmarks/lm_ft.py` asks."""

    def load(self, folder: str, pairs: list[tuple[str, str]], size: int, as_called: bool) -> None:
        """A trainer over prompts and completions; as_called: precision and checkpointing are its
        defaults, else fp32 without recomputation.
        """
        from datasets import Dataset
        from transformers import AutoModelForCausalLM
        from trl import SFTConfig, SFTTrainer

        plain = {} if as_called else {"bf16": False, "gradient_checkpointing": False}
        arguments = SFTConfig(
            output_dir=tempfile.mkdtemp(),
            use_cpu=True,
            completion_only_loss=True,
            packing=False,
            per_device_train_batch_size=size,
            num_train_epochs=1,
            learning_rate=1e-5,
            max_length=2048,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            **plain,
        )
        rows = [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=Dataset.from_list(rows)
        )
        self.size = size

    @torch.no_grad()
    def first_loss(self) -> float:
        """The mean over completion tokens of as many instances as a step has, in order."""
        dataset = self.trainer.train_dataset
        batch = self.trainer.data_collator([dataset[i] for i in range(self.size)])
        known = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "labels")}
        return float(self.trainer.model.eval()(**known).loss)

    def train(self) -> None:
        """One pass over the rows."""
        self.trainer.train()


if __name__ == "__main__":
    serve(Trl())
