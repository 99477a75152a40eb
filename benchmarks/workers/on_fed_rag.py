"""fed-rag in its own environment: scoring, RALT training, its in-memory store."""

from __future__ import annotations

import ctypes
import sys
import types
from typing import Any

import torch
from loop import peak_bytes, reset_peak, resident_bytes, serve


class FedRag:
    """What `benchmarks/{score,lm_ft,search}.py` ask."""

    def load_lm(self, folder: str) -> None:
        from fed_rag.generators.huggingface import HFPretrainedModelGenerator

        torch.set_num_threads(torch.get_num_threads())
        self.generator = HFPretrainedModelGenerator(
            model_name=folder, load_model_kwargs={"device_map": "cpu"}
        )

    def score(self, pairs: list[tuple[str, str]]) -> list[float]:
        """p(target | prompt) of each pair."""
        compute = self.generator.compute_target_sequence_proba
        return [float(compute(prompt=prompt, target=target)) for prompt, target in pairs]

    def load_store(self, file: str) -> None:
        """A store of the vectors of a .npy file, row number = node id."""
        import numpy as np
        from fed_rag.data_structures import KnowledgeNode
        from fed_rag.knowledge_stores.in_memory import InMemoryKnowledgeStore

        vectors = np.load(file)
        nodes = [
            KnowledgeNode(
                node_id=str(row), embedding=vector.tolist(), node_type="text", text_content="text"
            )
            for row, vector in enumerate(vectors)
        ]
        self.store = InMemoryKnowledgeStore.from_nodes(nodes)

    def search(self, queries: list[list[float]], k: int) -> list[list[int]]:
        """Row numbers of the k nearest of each query."""
        found = [self.store.retrieve(query, top_k=k) for query in queries]
        return [[int(node.node_id) for _, node in nodes] for nodes in found]

    def load_training(self, folder: str, template: str, examples: list[dict[str, Any]]) -> None:
        """The RALT collator over examples whose chunks are given: retrieval costs nothing here."""
        from fed_rag.data_collators.huggingface.ralt import DataCollatorForRALT

        self.load_lm(folder)
        self.model = self.generator.model.float().train()
        by_query = {example["query"]: example["chunks"] for example in examples}
        fake = _system(self.generator, by_query)
        self.collate = DataCollatorForRALT.model_construct(
            rag_system=fake, example_template=template, model_dtype=torch.float32
        )
        self.examples = [{"query": e["query"], "response": e["response"]} for e in examples]
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)

    @torch.no_grad()
    def first_loss(self) -> float:
        """Of the first instance, a mean over all its tokens."""
        return float(self.model(**self.collate(self.examples[:1])).loss)

    def train(self, size: int) -> float:
        """One optimiser step for each `size` examples; the last loss, a mean over all tokens."""
        loss = torch.zeros(())
        for start in range(0, len(self.examples), size):
            batch = self.collate(self.examples[start : start + size])
            loss = self.model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    def extra_bytes(self, size: int) -> int:
        """What a step holds beyond weights and optimizer states."""
        self.train(size)
        ctypes.CDLL(None).malloc_trim(0)
        before = resident_bytes()
        reset_peak()
        self.train(size)
        return peak_bytes() - before


def _system(generator: Any, by_query: dict[str, list[str]]) -> Any:
    """What the collator asks of a RAG system."""

    def node(text: str) -> Any:
        content = types.SimpleNamespace(get_content=lambda: {"text_content": text})
        return types.SimpleNamespace(score=1.0, node=content)

    return types.SimpleNamespace(
        generator=generator, retrieve=lambda query: [node(text) for text in by_query[query]]
    )


if __name__ == "__main__":
    sys.setrecursionlimit(10_000)
    serve(FedRag())
