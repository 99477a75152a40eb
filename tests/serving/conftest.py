"""One endpoint for all tests of this folder that only ask it: three variants of the chain's run."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from chain import Chain, write_run
from client import Client
from process import free_port

from radit_ray.serving.config import Limits, ServeConfig

VARIANTS = ("replug", "closed-book", "tokens")


@pytest.fixture(scope="session")
def run(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_run(chain, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="package")  # its replicas hold the CPUs that other tests need
def served(run: str) -> Iterator[Client]:
    """The endpoint, on three index shards; exact precision, so that results can be compared."""
    from ray import serve

    from radit_ray.serving.gateway import plan

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    config = ServeConfig(
        run=run, variants=VARIANTS, precision="fp32", threads=1, limits=Limits(in_flight=16)
    )
    port = free_port()
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(plan(config).application, name="radit", route_prefix="/")
    yield Client(port)
    serve.shutdown()
