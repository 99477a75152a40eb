"""`radit serve RUN`: an endpoint until SIGTERM or Ctrl-C, which finish what runs and stop it all.

Whatever is wrong with the options is said before Ray starts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ray

from radit_ray.core.errors import InputError
from radit_ray.serving.config import NAME, Scale, ServeConfig, is_loopback, read_token

CONTROLLER = "SERVE_CONTROLLER_ACTOR"
# Serve protects its own event loop from user code that blocks; ours never does, and each thread
# between a request and its answer costs about a millisecond
ONE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
}


def serve_run(config: ServeConfig, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves a run at an address, and returns when a signal has stopped it."""
    check_address(host, port, config)
    from radit_ray.serving.gateway import plan

    planned = plan(config)
    with _ray(), _signals() as ready:
        # what runs there already is somebody else's: nothing below may touch it
        refuse_beside_another()
        check_resources(planned.sizes)
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        _say(f"loading {', '.join(planned.variants)} of {config.run}")
        try:
            handle = _start(planned.application, config, host, port)
            stop = ready()
            shown = f"[{host}]" if ":" in host else host
            _say(f"http://{shown}:{port}/ answers; Ctrl-C stops it")
            stop.wait()
            _say("stopping, what runs is finished first")
            with contextlib.suppress(TimeoutError):
                handle.drain.remote().result(timeout_s=config.limits.request_s)
        finally:
            _shutdown()


@contextlib.contextmanager
def _ray() -> Iterator[None]:
    """Ray, which goes again where it was started here."""
    from radit_ray.engines.connect import connect, no_chatter

    own = not (ray.is_initialized() or os.environ.get("RAY_ADDRESS"))
    if own:
        for name, value in ONE_LOOP.items():
            os.environ.setdefault(name, value)
    connect()
    try:
        yield
    finally:
        if own:
            with no_chatter():
                ray.shutdown()


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], threading.Event]]:
    """SIGTERM and Ctrl-C leave at once until `ready()` is called, and set the event that it returns
    from then on: models load for minutes, and a replica that finds no place waits for ever. Entered
    after Ray, which sets a handler of its own.
    """
    stop, loading, code = threading.Event(), True, 0

    def caught(number: int, _: Any) -> None:
        nonlocal loading, code
        stop.set()
        if loading:
            loading = False  # a second one does not break off the end
            code = 128 + number
            _say("stopped before it answered")
            raise SystemExit(code)

    def ready() -> threading.Event:
        nonlocal loading
        loading = False
        return stop

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, caught) for number in numbers]
    try:
        yield ready
    except SystemExit as left:
        raise SystemExit(code or left.code) from None  # Ray's core makes a 1 of every code
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _say(text: str) -> None:
    print(f"radit: {text}", file=sys.stderr, flush=True)


def check_address(host: str, port: int, config: ServeConfig) -> None:
    """InputError for an address that others reach without a token, and for a port in use."""
    token = read_token(config.token_file)
    if not is_loopback(host) and not token:
        raise InputError(
            f"--host {host} is reached from other machines; give --token-file FILE, or leave "
            "--host out (127.0.0.1)"
        )
    if not 0 < port < 65536:
        raise InputError(f"--port {port}, expected 1 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"--host {host} --port {port}: {error.strerror or error}; give another one"
            ) from None


def refuse_beside_another() -> None:
    """InputError where Ray Serve runs already."""
    try:
        ray.get_actor(CONTROLLER, namespace="serve")
    except ValueError:
        return
    raise InputError(
        "Ray Serve runs already on this cluster, with an address of its own; use "
        "`serve deploy jobs/serve.yaml`"
    )


def check_resources(sizes: Mapping[str, Scale]) -> None:
    """InputError where the deployments ask for more than the cluster has: Serve would wait for it
    without end.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    for what, field in (("CPU", "cpus"), ("GPU", "gpus")):
        there = [float(node.get(what, 0)) for node in nodes]
        for name, scale in sizes.items():
            if getattr(scale, field) > max(there):
                raise InputError(
                    f"a replica of {name} asks for {getattr(scale, field):g} {what}s, the largest "
                    f"node has {max(there):g}; change {field} of {name}"
                )
        asked = sum(scale.replicas * getattr(scale, field) for scale in sizes.values())
        if asked > sum(there):
            raise InputError(
                f"the deployments ask for {asked:g} {what}s together, the cluster has "
                f"{sum(there):g}; give fewer replicas, fewer {field} each, or fewer variants"
            )


def _start(bound: Any, config: ServeConfig, host: str, port: int) -> Any:
    from ray import serve

    serve.start(
        proxy_location="HeadOnly",
        http_options={
            "host": host,
            "port": port,
            "request_timeout_s": config.limits.evaluate_s + config.limits.request_s,
        },
    )
    return serve.run(bound, name=NAME, route_prefix="/")


def _shutdown() -> None:
    from ray import serve

    from radit_ray.engines.connect import no_chatter

    with no_chatter(), contextlib.suppress(Exception):  # a cluster that is gone has stopped
        serve.shutdown()
