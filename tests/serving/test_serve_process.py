"""Contract of `radit serve` as a process: replicas that are killed lose no question, floods are
refused in time and leave nothing behind, a signal finishes what runs and stops everything; the
OpenAPI document holds against schemathesis; lm-evaluation-harness and a browser work against it.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from browser import OVERFLOW, Browser, browser, find
from chain import Chain
from client import Client, Reply
from process import Endpoint, endpoint, free_port
from tiny import questions, write_jsonl

from radit_ray.engines.asking import open_variant
from radit_ray.engines.plain_text import continuation_logprobs

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(1800)]
ASKED = [row["question"] for row in questions()["eval"]]
VARIANTS = ("--variant", "replug", "tokens", "closed-book")


@pytest.fixture(scope="module")
def served(run: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("endpoint")
    with endpoint(run, free_port(), folder, *VARIANTS, "--precision", "fp32") as made:
        yield made


def ask(client: Client, number: int) -> Reply:
    question = ASKED[number % len(ASKED)]
    return client.post("/v1/answer", question=question, model="replug")


@pytest.mark.parametrize("part", ["lm-0", "retriever-0", "index-0-shard-1"])
def test_a_killed_replica_loses_no_question_and_is_replaced(served: Endpoint, part: str) -> None:
    expected = [ask(served.client, number).json["answer"] for number in range(len(ASKED))]
    victim = served.parts()[part]

    def kill() -> None:
        time.sleep(0.3)
        victim.kill()

    threading.Thread(target=kill).start()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: ask(served.client, number), range(24)))
    assert Counter(reply.status for reply in found) == {200: 24}
    assert [reply.json["answer"] for reply in found] == [
        expected[n % len(ASKED)] for n in range(24)
    ]
    until = time.monotonic() + 120
    while part not in served.parts() or served.client.get("/readyz").status != 200:
        assert time.monotonic() < until
        time.sleep(0.5)
    assert served.parts()[part].pid != victim.pid


def test_a_stream_goes_on_where_its_replica_is_killed(served: Endpoint) -> None:
    asked = {"model": "tokens", "prompt": f"Q: {ASKED[0]}\nA:", "max_tokens": 160}
    whole = served.client.post("/v1/completions", **asked).json["choices"][0]["text"]
    victim = served.parts()["lm-0"]
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
    body = json.dumps({**asked, "stream": True})
    connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
    response = connection.getresponse()
    begun = response.readline()
    victim.kill()
    found = Reply(response.status, {}, begun + response.read()).events
    connection.close()
    assert found[-1] == "[DONE]"
    assert "".join(event["choices"][0]["text"] for event in found[:-1]) == whole
    until = time.monotonic() + 120
    while served.parts().get("lm-0", victim).pid == victim.pid:
        assert time.monotonic() < until
        time.sleep(0.5)


def test_what_a_client_has_left_is_not_computed(served: Endpoint) -> None:
    """Long texts asked for and left: who comes next does not wait for them."""
    asked = {"model": "replug", "prompt": [f"Q: {text}\nA:" for text in ASKED], "max_tokens": 150}
    started = time.perf_counter()
    assert served.client.post("/v1/completions", **asked).status == 200
    alone = time.perf_counter() - started
    one = {**asked, "model": "tokens", "prompt": "Q: a", "stream": True}
    for body in (json.dumps(asked), json.dumps(one)):
        left = []
        for _ in range(12):
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=120)
            connection.request(
                "POST", "/v1/completions", body, {"content-type": "application/json"}
            )
            left.append(connection)
        time.sleep(0.3)
        for connection in left:
            connection.close()
        started = time.perf_counter()
        assert ask(served.client, 0).status == 200
        # what computes already is finished, what waited is not begun
        assert time.perf_counter() - started < 5 * alone + 2
        until = time.monotonic() + 5
        while "radit_requests_in_flight 0.0" not in served.client.get("/metrics").body.decode():
            assert time.monotonic() < until
            time.sleep(0.1)


def flood(client: Client, number: int) -> list[tuple[Reply, float]]:
    """(reply, seconds) of so many requests at once."""
    ready = threading.Barrier(number)

    def one(place: int) -> tuple[Reply, float]:
        ready.wait()
        started = time.perf_counter()
        reply = ask(client, place)
        return reply, time.perf_counter() - started

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(one, range(number)))


def test_a_flood_is_refused_and_leaves_nothing_behind(served: Endpoint) -> None:
    flood(served.client, 300)  # what is loaded and cached by the first one stays
    before = served.resident("gateway", "proxy")
    for _ in range(2):
        found = flood(served.client, 1000)
        counts = Counter(reply.status for reply, _ in found)
        assert set(counts) <= {200, 429, 503}, counts
        assert counts[200] >= 64
        for reply, _ in found:
            assert reply.status == 200 or int(reply.headers["retry-after"]) >= 1
    assert ask(served.client, 0).status == 200
    grown = served.resident("gateway", "proxy") - before
    assert grown < 100_000_000, grown
    metrics = served.client.get("/metrics").body.decode()
    assert "radit_requests_in_flight 0.0" in metrics


def test_odd_connections_harm_nobody(served: Endpoint) -> None:
    body = json.dumps({"question": ASKED[0]}).encode()
    head = b"POST /v1/answer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    length = b"Content-Length: %d\r\n\r\n" % len(body)

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", served.port), timeout=60)

    unfinished = [connect() for _ in range(50)]
    for number, waiting in enumerate(unfinished):
        waiting.sendall((head + length + body[:5])[: 20 + 4 * number])  # and says no more
    half_closed = connect()
    half_closed.sendall(head + length + body)
    half_closed.shutdown(socket.SHUT_WR)
    gone = connect()
    gone.sendall(head + length + body)
    gone.close()
    assert ask(served.client, 1).status == 200
    slow = connect()
    slow.sendall(head + length)
    assert b" 408 " in slow.recv(1 << 16).split(b"\r\n")[0]
    half_closed.recv(1 << 16)  # an answer, or nothing: whoever closes does not wait
    for one in (*unfinished, half_closed, slow):
        one.close()
    assert ask(served.client, 2).status == 200
    until = time.monotonic() + 60
    while "radit_requests_in_flight 0.0" not in served.client.get("/metrics").body.decode():
        assert time.monotonic() < until
        time.sleep(0.5)


# an evaluation takes its time, and one runs at a time
@pytest.mark.parametrize(("which", "examples"), [("exclude", 15), ("include", 8)])
def test_the_openapi_document_holds(
    served: Endpoint, tmp_path: Path, which: str, examples: int
) -> None:
    pytest.importorskip("schemathesis")
    command = [str(Path(sys.executable).with_name("st")), "run"]
    command += [f"{served.client.base}/openapi.json", "--max-examples", str(examples)]
    command += ["--seed", "1", f"--{which}-path", "/v1/evaluate"]
    command += ["--request-timeout", "300", "--no-color"]
    # a question may fit its field and not the LM's context; either task or examples are given
    command += ["--exclude-checks", "positive_data_acceptance"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


def test_the_harness_scores_over_http_what_its_adapter_scores_token_by_token(
    served: Endpoint, run: str, chain: Chain, tmp_path: Path
) -> None:
    """local-completions against an endpoint without chunks is exact: there the mixture is one."""
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-evaluation-harness is not installed")
    import yaml

    rows = []
    for row in questions()["eval"][:6]:
        choices = [row["answers"][0], "Boris Clara", "1777"]
        rows.append({"question": row["question"], "choices": choices})
    asked = write_jsonl(tmp_path / "asked.jsonl", rows)
    task = {
        "task": "tiny_choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": asked}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "Q: {{question}}\nA:",
        "doc_to_choice": "choices",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc"}],
    }
    (tmp_path / "tiny_choice.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    model = f"base_url={served.client.base}/v1/completions,model=closed-book,tokenizer={chain.lm},"
    model += "max_length=200,num_concurrent=4,max_retries=1,tokenizer_backend=huggingface"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"]
    command += ["--model_args", model, "--include_path", str(tmp_path), "--tasks", "tiny_choice"]
    command += ["--output_path", str(tmp_path / "out"), "--log_samples"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = (tmp_path / "out").rglob("samples_tiny_choice*.jsonl")
    samples = sorted(
        (json.loads(line) for line in file.read_text().splitlines()), key=lambda s: s["doc_id"]
    )
    opened = open_variant(run, "closed-book")
    for row, sample in zip(rows, samples, strict=True):
        context = f"Q: {row['question']}\nA:"
        ids = [
            (opened.lm.encode(context), opened.lm.encode(f"{context} {choice}"))
            for choice in row["choices"]
        ]
        pairs = [(before, whole[len(before) :]) for before, whole in ids]
        expected = continuation_logprobs(opened, [context] * len(pairs), pairs)
        found = [float(logprob) for ((logprob, _),) in sample["resps"]]
        assert found == pytest.approx([logprob for logprob, _ in expected], abs=1e-3)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not find():
        pytest.skip("no Chromium here (apt-get install chromium)")
    with browser(tmp_path_factory.mktemp("profile")) as made:
        yield made


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_the_page_in_a_browser(
    served: Endpoint, tab: Browser, tmp_path: Path, width: int, dark: bool
) -> None:
    answer = ask(served.client, 0).json
    tab.open(f"{served.client.base}/", width=width, dark=dark)
    tab.wait("document.querySelector('#question').placeholder")
    # by the keyboard alone
    tab.value("document.querySelector('#question').focus()")
    tab.type(ASKED[0])
    tab.press("Enter", 13)
    tab.wait("document.querySelectorAll('#answers article').length === 2")
    first = "document.querySelector('#answers article[data-model=replug]')"
    assert tab.value(f"{first}.querySelector('.answer').textContent") == answer["answer"]
    assert tab.value(f"{first}.querySelectorAll('li').length") == 3
    shown = tab.value(f"[...{first}.querySelectorAll('.bar')].map(e => e.textContent)")
    assert shown == [f"p_R {100 * chunk['p_r']:.1f}%" for chunk in answer["chunks"]]
    said = tab.value(f"[...{first}.querySelectorAll('li strong')].map(e => e.textContent)")
    assert said == [chunk["answer"] for chunk in answer["chunks"]]
    assert tab.value("innerWidth") == width
    assert tab.value(OVERFLOW) == []
    tab.picture(tmp_path / "ask.png")
    # another number of chunks, by the arrow keys
    tab.value("document.querySelector('#k').focus()")
    tab.press("ArrowRight", 39)
    assert tab.value("document.querySelector('#k-shown').textContent") == "4"
    tab.value("document.querySelector('#question').focus()")
    tab.press("Enter", 13)
    tab.wait(f"{first}.querySelectorAll('li').length === 4")
    # the other tab
    tab.value("document.querySelector('#tab-ask').focus()")
    tab.press("ArrowRight", 39)
    tab.value("document.querySelector('#limit').value = 4")
    tab.value("document.querySelector('#measure-button').click()")
    tab.wait("document.querySelectorAll('#results svg').length >= 2", seconds=120)
    rows = tab.value("document.querySelectorAll('#results table:last-of-type tbody tr').length")
    assert rows >= 4
    assert tab.value(OVERFLOW) == []
    tab.picture(tmp_path / "measure.png")
    tab.value("document.querySelector('#limit').value = 12")
    tab.value("document.querySelector('#measure-button').click()")
    tab.value("document.querySelector('#stop-button').click()")
    tab.wait("document.querySelector('#measure-status').textContent === 'stopped'")
    assert tab.complaints() == []
    tab.open(f"{served.client.base}/docs", width=width, dark=dark)
    tab.wait("document.querySelectorAll('#endpoints article').length > 8")
    assert tab.value(OVERFLOW) == []
    paper = tab.value("getComputedStyle(document.body).backgroundColor")
    assert paper == ("rgb(20, 22, 26)" if dark else "rgb(255, 255, 255)")


def test_the_page_takes_a_token_and_forgets_one_that_no_header_can_carry(
    run: str, tab: Browser, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("a-secret-of-this-test-alone\n")
    options = ("--variant", "replug", "--token-file", str(token), "--log-contents")
    with endpoint(run, free_port(), tmp_path, *options) as guarded:
        tab.open(f"{guarded.client.base}/", width=1280, dark=False)
        for stored in ("", "caf\u00e9-\u4f60\u597d-0123456789"):
            tab.value(f"sessionStorage.setItem('radit-token', {json.dumps(stored)})")
            tab.open(f"{guarded.client.base}/?{len(stored)}", width=1280, dark=False)
            tab.wait("document.querySelector('#token-dialog').open")
        tab.value("document.querySelector('#token').focus()")
        tab.type(stored)
        tab.press("Enter", 13)
        assert tab.value("document.querySelector('#token').validity.patternMismatch")
        assert tab.value("document.querySelector('#token-dialog').open")
        tab.value("document.querySelector('#token').value = ''")
        tab.type(token.read_text().strip())
        tab.picture(tmp_path / "token.png")
        tab.press("Enter", 13)
        tab.wait("document.querySelector('#question').placeholder")
        assert tab.value("sessionStorage.getItem('radit-token')") == token.read_text().strip()


def test_a_signal_while_models_load_ends_it(run: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "radit_ray.cli", "serve", run, "--port", str(free_port())]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen([*command, "--variant", "replug"], stderr=out, env=env)
    until = time.monotonic() + 300
    while "loading" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until
        time.sleep(0.1)
    time.sleep(1)  # replicas are being started
    children = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(timeout=60) == 128 + 15, log.read_text()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert log.read_text().splitlines()[-1] == "radit: stopped before it answered"


def test_more_than_the_machine_has_is_refused(run: str) -> None:
    command = [sys.executable, "-m", "radit_ray.cli", "serve", run, "--lm.gpus", "64"]
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [*command, "--port", str(free_port())], capture_output=True, text=True, env=env
    )
    assert done.returncode == 2
    assert "a replica of lm-0 asks for 64 GPUs" in done.stderr.splitlines()[-1]


def test_a_signal_finishes_what_runs_and_stops_everything(
    run: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text("a-secret-of-this-test-alone\n")
    options = ("--variant", "replug", "--host", "127.0.0.1", "--token-file", str(token))
    with endpoint(run, free_port(), tmp_path, *options) as served:
        assert served.client.get("/v1/models").status == 401
        served.client.headers["authorization"] = f"Bearer {token.read_text().strip()}"
        assert served.client.get("/v1/models").status == 200
        children = psutil.Process(served.process.pid).children(recursive=True)
        with ThreadPoolExecutor(8) as pool:
            running = [pool.submit(ask, served.client, number) for number in range(8)]
            while "in_flight 0.0" in served.client.get("/metrics").body.decode():
                time.sleep(0.01)
            code = served.stop()
            found = [one.result() for one in running]
    assert code == 0
    # taken before the signal: answered; after it: refused, with a word on when to come back
    assert {reply.status for reply in found} <= {200, 503}
    assert any(reply.status == 200 for reply in found)
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    assert token.read_text().strip() not in served.log.read_text()


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_open_address_without_a_token_ends_before_ray_starts(run: str, host: str) -> None:
    command = [sys.executable, "-m", "radit_ray.cli", "serve", run, "--host", host]
    nowhere = {**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}  # whoever connects says so instead
    done = subprocess.run(command, capture_output=True, text=True, env=nowhere)
    assert done.returncode == 2
    assert f"--host {host} is reached from other machines" in done.stderr.splitlines()[-1]
