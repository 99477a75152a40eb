"""The Ray Serve application of a finished run: HTTP endpoints and a page. docs/serving.md."""
