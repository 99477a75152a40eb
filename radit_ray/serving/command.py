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
from typing import Any

import ray

from radit_ray.core.errors import InputError
from radit_ray.serving.config import NAME, ServeConfig, is_loopback, read_token

CONTROLLER = "SERVE_CONTROLLER_ACTOR"


def serve_run(config: ServeConfig, *, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serves a run at an address, and returns when a signal has stopped it."""
    check_address(host, port, config)
    from radit_ray.engines.connect import connect
    from radit_ray.serving.gateway import application, variants_of

    names, bound = variants_of(config), application(config)

    stop = threading.Event()
    connect()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    _say(f"loading {', '.join(names)} of {config.run}")
    try:
        handle = _start(bound, config, host, port)
        shown = f"[{host}]" if ":" in host else host
        print(
            f"radit: http://{shown}:{port}/ answers; Ctrl-C stops it", file=sys.stderr, flush=True
        )
        stop.wait()
        _say("stopping, what runs is finished first")
        with contextlib.suppress(TimeoutError):
            handle.drain.remote().result(timeout_s=config.limits.request_s)
    finally:
        _stop()


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


def _start(bound: Any, config: ServeConfig, host: str, port: int) -> Any:
    from ray import serve

    if _is_running():
        raise InputError(
            "Ray Serve runs already on this cluster, with an address of its own; use "
            "`serve deploy jobs/serve.yaml`"
        )
    serve.start(
        proxy_location="HeadOnly",
        http_options={
            "host": host,
            "port": port,
            "request_timeout_s": config.limits.evaluate_s + config.limits.request_s,
        },
    )
    return serve.run(bound, name=NAME, route_prefix="/")


def _is_running() -> bool:
    try:
        ray.get_actor(CONTROLLER, namespace="serve")
    except ValueError:
        return False
    return True


def _stop() -> None:
    """Serve and, where it is private, Ray."""
    from ray import serve

    with contextlib.suppress(Exception):  # a cluster that is gone has stopped
        serve.shutdown()
    if not os.environ.get("RAY_ADDRESS"):
        ray.shutdown()
