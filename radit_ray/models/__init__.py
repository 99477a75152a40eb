"""Weights and indexes on one device: dual encoder, causal LM, LoRA, one FAISS shard."""
