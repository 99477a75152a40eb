# Every target sets up what it needs: a virtual environment in .venv with this package and the extras bm25, cpu, dedup, demo, plots, dev.
PYTHON ?= python3
RUN = OMP_NUM_THREADS=1 .venv/bin/python -m
TIER = not slow and not data and not gpu

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-data test-slow test-harness test-s3 bench bench-quick lint clean

help: ; @echo "make demo | test (<= 12 min) | test-data (reads RADIT_DATA) | test-slow (kills, nodes, load) | test-harness (lm-evaluation-harness) | test-s3 (object storage) | bench (against peers, hours) | bench-quick (minutes) | lint | clean"

setup: .venv/.installed

demo: setup ; .venv/bin/radit demo

test: setup ; $(RUN) pytest -q -n 2 --dist loadgroup --no-loadscope-reorder -m "$(TIER)"

test-data: setup ; $(RUN) pytest -q -m "data and not gpu"

test-slow: setup ; $(RUN) pytest -q -m "slow and not gpu"

# the harness replaces python-dateutil by an older one: an environment of its own
test-harness: ; $(PYTHON) -m venv .venv.lm-eval && .venv.lm-eval/bin/python -m pip install --quiet --editable '.[cpu,demo,dev,lm-eval]' && OMP_NUM_THREADS=1 .venv.lm-eval/bin/python -m pytest -q -k harness tests/test_harness.py tests/serving/test_serve_process.py

# peers in environments of their own below .bench; writes benchmarks/results, docs/results/performance.md and README.md
bench: setup ; $(RUN) benchmarks.bench

bench-quick: setup ; $(RUN) benchmarks.bench --quick

lint: setup ; .venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy

# likewise botocore; beside the tests of S3 the storage tests of `make test`
test-s3: ; $(PYTHON) -m venv .venv.s3 && .venv.s3/bin/python -m pip install --quiet --editable '.[cpu,dev,s3]' && OMP_NUM_THREADS=1 .venv.s3/bin/python -m pytest -q tests/data/test_s3.py tests/test_multinode.py -k s3

clean: ; rm -rf .venv .venv.tmp .venv.lm-eval .venv.s3 .bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache

# .venv.tmp stands as long as an installation is unfinished. An interrupted one starts afresh, since pip takes a package for
# installed once its metadata lie there, whole or not; a finished one is only brought up to date.
.venv/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	@test ! -e .venv.tmp && .venv/bin/python -m pip --version >/dev/null 2>&1 || { mkdir -p .venv.tmp && $(PYTHON) -m venv --clear .venv; }
	@mkdir -p .venv.tmp
	.venv/bin/python -m pip install --quiet --editable '.[bm25,cpu,dedup,demo,plots,dev]'
	@touch $@ && rmdir .venv.tmp
