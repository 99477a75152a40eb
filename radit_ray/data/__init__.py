"""Bytes to rows: schemas, corpus and example readers, artifacts, the generated world, batches."""
