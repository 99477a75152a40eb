"""The method as equations: functions on tensors, arrays and strings; no files, Ray or models."""
