"""What `radit serve` costs and bears: its overhead over the same call in process, throughput with
many clients, what a second variant adds in memory, a replica killed under load, a flood.

In: the folder of a finished run. Out: benchmarks/results/serve.json and the part of
docs/results/serve.md below its marker. The endpoint is a process of its own, started as a user
does; all ways ask the same questions.

    python -m benchmarks.serve runs/demo
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import psutil
import torch

from benchmarks.publish import ROOT, measured_by, write_below
from benchmarks.serve_bare import bare, flood
from benchmarks.serve_page import page
from radit_ray.data import storage
from radit_ray.data.artifacts import artifact_input, read_shard, shard_names
from radit_ray.engines.answering import answer_batch
from radit_ray.engines.asking import Opened, open_variant, question_row, variant_parts
from radit_ray.engines.ranking import rank

FILE = ROOT / "benchmarks" / "results" / "serve.json"
PAGE = ROOT / "docs" / "results" / "serve.md"
CLIENTS = (1, 2, 4, 8, 16, 32)
THROUGHPUT_FLOOR, OVERHEAD_FLOOR_MS = 2.5, 15.0
MEMORY_FLOOR = 1.1  # encoder and index with two variants over those with one
AT_ONCE = 32  # questions of one call, where batches are measured without a server
LOADING_S = 300.0
FLOODS = (100, 200, 1000)  # requests at once


class Endpoint:
    """A running `radit serve` and how it is asked."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, model: str) -> None:
        self.process, self.port, self.model = process, port, model
        self.local = threading.local()  # a connection for each client, as keep-alive clients have

    def ask(self, question: str) -> tuple[int, float, str]:
        """(status, seconds, answer) of one question."""
        started = time.perf_counter()
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        asked = {"question": question, "model": self.model, "probabilities": False}
        self.local.connection.request(
            "POST", "/v1/answer", json.dumps(asked), {"content-type": "application/json"}
        )
        reply = self.local.connection.getresponse()
        body = reply.read()
        answer = json.loads(body)["answer"] if reply.status == 200 else ""
        return reply.status, time.perf_counter() - started, answer

    def parts(self) -> dict[str, psutil.Process]:
        """Its processes by name: Serve's replicas, the proxy, and Ray's own as "ray"."""
        found: dict[str, psutil.Process] = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                title = " ".join(child.cmdline())
                if "ServeReplica:radit:" in title:
                    name = title.partition("ServeReplica:radit:")[2].split()[0]
                    found[name.partition(".")[0]] = child  # while it works: NAME.METHOD
        return found


@contextlib.contextmanager
def endpoint(run: str, port: int, variants: Sequence[str], threads: int) -> Iterator[Endpoint]:
    """`radit serve` from the moment it answers until SIGTERM has stopped it."""
    words = [sys.executable, "-m", "radit_ray.cli", "serve", run, "--port", str(port)]
    words += ["--precision", "fp32", "--threads", str(threads), "--variant", *variants]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with tempfile.NamedTemporaryFile(suffix=".log") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, env=env)
        try:
            until = time.monotonic() + LOADING_S
            while "answers;" not in Path(log.name).read_text():
                if process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(Path(log.name).read_text()[-2000:])
                time.sleep(0.2)
            yield Endpoint(process, port, variants[0])
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=LOADING_S)


def questions_of(run: str, variant: str) -> list[str]:
    """The questions that the run was evaluated on."""
    source = artifact_input(variant_parts(run, variant).ranked, "retrieve")
    tables = (read_shard(source.file(name), ["question", "split"]) for name in shard_names(source))
    rows = [row for table in tables for row in table.to_pylist()]
    return [row["question"] for row in rows if row["split"] == "eval"]


def in_process(opened: Opened, question: str) -> tuple[float, str]:
    """(seconds, answer) of the same call without a server."""
    started = time.perf_counter()
    variant = opened.variant
    ranked = rank([question_row(question)], opened.encoder, opened.index, k=max(1, variant.k))
    found, _ = answer_batch(opened.lm, ranked, variant, t_r=variant.t_r)
    return time.perf_counter() - started, found[0]["prediction"]


def overhead(served: Endpoint, opened: Opened, questions: Sequence[str]) -> dict[str, Any]:
    """HTTP and Serve at one client: each question is asked both ways, by turns."""
    pairs, same = [], 0
    for question in questions:
        seconds, answer = in_process(opened, question)
        status, http_s, over_http = served.ask(question)
        assert status == 200, status
        pairs.append((1000 * http_s, 1000 * seconds))
        same += answer == over_http
    both = [median(values) for values in zip(*pairs, strict=True)]
    extra = median(a - b for a, b in pairs)
    return {
        "name": "HTTP and Serve over the same call in process, one client",
        "ours": both[0],
        "peer": both[1],
        "ratio": extra,
        "floor": OVERHEAD_FLOOR_MS,
        "better": "lower",
        "unit": "ms",
        "num_questions": len(pairs),
        "same_answers": same,
    }


def load(
    ask: Callable[[str], tuple[int, float, str]],
    questions: Sequence[str],
    clients: int,
    seconds: float,
) -> dict[str, float]:
    """Closed loop: each client asks its next question once it has its answer."""
    order = itertools.cycle(questions)
    lock, until, spent = threading.Lock(), time.perf_counter() + seconds, []

    def client(_: int) -> None:
        while time.perf_counter() < until:
            with lock:
                question = next(order)
            status, took, _answer = ask(question)
            assert status == 200, status
            spent.append(took)

    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    cuts = quantiles(spent, n=20)
    wall = time.perf_counter() - started
    return {"per_s": len(spent) / wall, "p50_ms": 1000 * cuts[9], "p95_ms": 1000 * cuts[18]}


def batch_gain(opened: Opened, questions: Sequence[str], repeats: int) -> float:
    """How many times faster questions are answered in one call than one by one, without a server:
    what batches can bring here at most.
    """
    some = list(itertools.islice(itertools.cycle(questions), AT_ONCE))
    rows = [question_row(question) for question in some]
    variant, gains = opened.variant, []
    for _ in range(repeats):
        alone = sum(in_process(opened, question)[0] for question in some)
        started = time.perf_counter()
        ranked = rank(rows, opened.encoder, opened.index, k=max(1, variant.k))
        answer_batch(opened.lm, ranked, variant, t_r=variant.t_r)
        gains.append(alone / (time.perf_counter() - started))
    return median(gains)


def bound(gain: float, opened: Opened, threads: int) -> dict[str, str]:
    """The sentence of a row whose floor batches cannot reach."""
    prompts = max(1, opened.variant.k)
    return {
        "bound": f"What batches can bring: a question is a batch of {prompts} prompts already, and "
        f"without a server {AT_ONCE} questions in one call are {gain:.2f} times as fast as one by "
        f"one on {threads} thread(s); beyond that only more cores, replicas or a GPU help."
    }


def throughput(
    served: Endpoint, opened: Opened, questions: Sequence[str], args: argparse.Namespace
) -> dict[str, Any]:
    """Questions a second by clients, all of them by turns, the median over the repeats."""
    found: dict[int, list[dict[str, float]]] = {clients: [] for clients in CLIENTS}
    for _, clients in itertools.product(range(args.repeats), CLIENTS):
        found[clients].append(load(served.ask, questions, clients, args.seconds))
    table = [
        {"clients": n, **{key: median(one[key] for one in runs) for key in runs[0]}}
        for n, runs in found.items()
    ]
    ratio = table[-1]["per_s"] / table[0]["per_s"]
    gain = batch_gain(opened, questions, args.repeats)
    return {
        "name": f"throughput, {CLIENTS[-1]} clients over one",
        "ours": table[-1]["per_s"],
        "peer": table[0]["per_s"],
        "ratio": ratio,
        "floor": THROUGHPUT_FLOOR,
        "better": "higher",
        "unit": "questions/s",
        "batch_gain": gain,
        "table": table,
        **(bound(gain, opened, args.threads) if ratio < THROUGHPUT_FLOOR else {}),
    }


def memory(served: Endpoint) -> dict[str, float]:
    """MB of each replica: what it holds for itself, and its share of what is shared."""
    return {name: one.memory_full_info().pss / 1e6 for name, one in sorted(served.parts().items())}


def resident(served: Endpoint) -> dict[str, float]:
    """MB of each replica, all that is mapped into it."""
    return {name: one.memory_info().rss / 1e6 for name, one in sorted(served.parts().items())}


def shared(one: dict[str, float], both: dict[str, float]) -> dict[str, Any]:
    """Resident memory of query encoder, index and chunks: a second variant adds its LM and nothing
    else.
    """
    peer, ours = (
        sum(mb for name, mb in found.items() if name.startswith(("retriever", "index")))
        for found in (one, both)
    )
    return {
        "name": "memory of encoder, index and chunks with a second variant over one",
        "ours": ours,
        "peer": peer,
        "ratio": ours / peer,
        "floor": MEMORY_FLOOR,
        "better": "lower",
        "unit": "MB",
        "resident_mb": {"one": one, "two": both},
    }


def killed(served: Endpoint, questions: Sequence[str], part: str) -> dict[str, Any]:
    """A replica is killed while eight clients ask; what was lost, and when it is whole again."""
    victim = served.parts()[part]
    expected = [served.ask(question)[2] for question in questions]
    threading.Timer(0.2, victim.kill).start()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(served.ask, questions))
    started = time.monotonic()
    while served.parts().get(part, victim).pid == victim.pid:
        time.sleep(0.1)
    lost = sum(status != 200 for status, _, _ in replies)
    other = sum(reply[2] != answer for reply, answer in zip(replies, expected, strict=True))
    slowest = max(seconds for _, seconds, _ in replies)
    return {
        "part": part,
        "asked": len(replies),
        "lost": lost,
        "other_answers": other,
        "slowest_s": slowest,
        "whole_after_s": time.monotonic() - started,
    }


def bare_ms(opened: Opened, questions: Sequence[str], port: int) -> float:
    """Milliseconds of a request to the same deployments with nothing in them, at the median; the
    call in process runs between two of them, as it does for `overhead`.
    """
    spent = []
    with bare(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        for question in questions:
            in_process(opened, question)
            started = time.perf_counter()
            connection.request("POST", "/", b"{}")
            reply = connection.getresponse()
            reply.read()
            assert reply.status == 200, reply.status
            spent.append(1000 * (time.perf_counter() - started))
        connection.close()
    return median(spent)


def bounded(row: dict[str, Any], bare: float) -> dict[str, Any]:
    """The row of `overhead` with Serve's own share, which bounds it where it misses its floor."""
    bound = (
        f"Ray Serve's own share: the same chain of deployments (HTTP, gateway, retriever, shard, "
        f"LM) with nothing in them takes {bare:.1f} ms here."
    )
    return {**row, "bare_ms": bare, **({"bound": bound} if row["ratio"] > row["floor"] else {})}


def measure(run: str, variants: Sequence[str], args: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(args.threads)
    opened = open_variant(run, variants[0])
    found: dict[str, Any] = {"memory_mb": {}}
    with endpoint(run, args.port, variants[:1], args.threads) as served:
        questions = questions_of(run, variants[0])[: args.num_questions]
        for question in questions[:20]:  # what is loaded at the first call stays
            served.ask(question)
            in_process(opened, question)
        found["rows"] = [overhead(served, opened, questions)]
        found["rows"].append(throughput(served, opened, questions, args))
        found["memory_mb"][variants[0]] = memory(served)
        alone = resident(served)
    with endpoint(run, args.port, variants, args.threads) as served:
        for question in questions[:20]:
            served.ask(question)
        found["memory_mb"][", ".join(variants)] = memory(served)
        found["rows"].append(shared(alone, resident(served)))
        parts = sorted(served.parts())
        found["killed"] = [
            killed(served, questions[:48], part) for part in parts if not part.startswith("gateway")
        ]
        url, body = f"http://127.0.0.1:{args.port}/v1/answer", {"question": questions[0]}
        before = memory(served)["gateway"]
        flood(url, body, FLOODS[-1])  # the first one warms up
        found["floods"] = [flood(url, body, at_once) for at_once in FLOODS]
        found["gateway_grew_mb"] = memory(served)["gateway"] - before
    found["rows"][0] = bounded(found["rows"][0], bare_ms(opened, questions, args.port))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("run", help="folder of a finished run")
    parser.add_argument("--variants", nargs=2, default=["lm-ft", "replug"])
    parser.add_argument("--num-questions", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each model")
    parser.add_argument("--port", type=int, default=8123)
    args = parser.parse_args()
    found = measure(args.run, args.variants, args)
    found = {**measured_by("serve"), **found}
    storage.write_json(str(FILE), found)
    write_below(PAGE, page(found))
    print(page(found))


if __name__ == "__main__":
    main()
