"""The questions that the paper leaves open, each a function from a `Job` to a result file."""
