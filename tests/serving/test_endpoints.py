"""Contract of the endpoints on a real Ray Serve: what comes over HTTP is what the same call gives
in this process; variants share what is equal; bad input gets the right status and says what to
change.
"""

from __future__ import annotations

import json
import math
import re
import time
from typing import Any

import numpy as np
import pytest
from chain import Chain
from client import Client
from tiny import questions

from radit_ray.data.artifacts import read_shard, shard_names
from radit_ray.data.storage import join
from radit_ray.engines.answering import answer_batch
from radit_ray.engines.asking import Opened, ask, open_variant, question_row
from radit_ray.engines.measuring import measure
from radit_ray.engines.plain_text import continuation_logprobs, continuations
from radit_ray.engines.ranking import rank
from radit_ray.serving.deployments import resident_bytes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ASKED = [row["question"] for row in questions()["eval"]]
PROMPT = f"Q: {ASKED[0]}\nA:"


@pytest.fixture(scope="module")
def opened(run: str, served: Client) -> Opened:
    return open_variant(run, "replug")


def test_an_answer_is_that_of_radit_ask_and_adds_up(served: Client, run: str) -> None:
    reply = served.post("/v1/answer", question=ASKED[0])
    assert reply.status == 200, reply.body
    found, expected = reply.json, ask(run, ASKED[0], variant="replug")
    assert found["model"] == "replug"  # the first one loaded
    assert found["answer"] == expected["prediction"]
    assert [chunk["id"] for chunk in found["chunks"]] == expected["chunk_ids"]
    assert [chunk["text"] for chunk in found["chunks"]] == expected["texts"]
    assert [chunk["answer"] for chunk in found["chunks"]] == expected["chunk_answers"]
    weights = [chunk["p_r"] for chunk in found["chunks"]]
    assert weights == pytest.approx(expected["p_r"], abs=1e-5)
    given = [chunk["answer_probability"] for chunk in found["chunks"]]
    assert found["probability"] == pytest.approx(float(np.dot(weights, given)))
    best = max(found["candidates"], key=lambda one: one["logprob"])
    assert best["answer"] == found["answer"]
    assert math.log(found["probability"]) == pytest.approx(best["logprob"], abs=1e-3)
    for chunk in found["chunks"]:
        if chunk["answer"] == found["answer"]:
            assert chunk["probability"] == pytest.approx(chunk["answer_probability"], rel=1e-4)
    assert found["timings"]["total_ms"] > 0


def test_questions_at_once_get_their_own_answers(served: Client, opened: Opened) -> None:
    from concurrent.futures import ThreadPoolExecutor

    rows = [{**question_row(text), "id": text} for text in ASKED]
    ranked = rank(rows, opened.encoder, opened.index, k=3)
    expected, _ = answer_batch(opened.lm, ranked, opened.variant, t_r=opened.variant.t_r)
    with ThreadPoolExecutor(12) as pool:
        found = list(pool.map(lambda text: served.post("/v1/answer", question=text), ASKED))
    assert [reply.status for reply in found] == [200] * len(ASKED)
    assert [r.json["answer"] for r in found] == [row["prediction"] for row in expected]
    assert [[c["id"] for c in r.json["chunks"]] for r in found] == [
        row["chunk_ids"] for row in expected
    ]


def test_retrieval_over_three_shards_is_that_of_one_index(served: Client, opened: Opened) -> None:
    for k in (1, 7, 45):  # more than the 40 there are
        found = served.post("/v1/retrieve", question=ASKED[1], k=k).json
        (row,) = rank([question_row(ASKED[1])], opened.encoder, opened.index, k=k)
        assert [chunk["id"] for chunk in found["chunks"]] == row["chunk_ids"]
        assert found["k"] == min(k, 40)
        assert sum(chunk["p_r"] for chunk in found["chunks"]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("fields", "own"),
    [({"ensemble": "concat"}, False), ({"ensemble": "tokens"}, False), ({"k": 1}, True)],
)
def test_a_request_may_choose_k_and_ensemble(
    served: Client, opened: Opened, fields: dict[str, Any], own: bool
) -> None:
    import dataclasses

    found = served.post("/v1/answer", question=ASKED[2], **fields).json
    variant = dataclasses.replace(opened.variant, **fields)
    ranked = rank([question_row(ASKED[2])], opened.encoder, opened.index, k=variant.k)
    ((expected,), _) = answer_batch(opened.lm, ranked, variant, t_r=variant.t_r)
    assert found["answer"] == expected["prediction"]
    assert found["ensemble"] == variant.ensemble
    assert len(found["chunks"]) == variant.k
    assert all((chunk["answer"] is not None) == own for chunk in found["chunks"])


def test_scores_are_the_weighted_probabilities_of_the_choices(
    served: Client, opened: Opened
) -> None:
    choices = ["Anna Boris", "Clara", "1200"]
    found = served.post("/v1/score", question=ASKED[0], choices=choices).json
    context = f"Q: {ASKED[0]}\nA:"
    ids = [(opened.lm.encode(context), opened.lm.answer_ids(choice)) for choice in choices]
    expected = continuation_logprobs(opened, [context] * 3, ids)
    scores = [one["score"] for one in found["choices"]]
    assert scores == pytest.approx([logprob for logprob, _ in expected], abs=1e-3)
    assert found["answer"] == choices[int(np.argmax(scores))]
    assert sum(one["share"] for one in found["choices"]) == pytest.approx(1)
    letters = served.post(
        "/v1/score", question=ASKED[0], choices=choices, template="mmlu", scoring="nll_char"
    )
    assert letters.status == 200
    assert letters.json["answer"] in choices


def test_variants_share_what_is_equal(served: Client) -> None:
    listed = served.get("/v1/models").json
    assert [model["id"] for model in listed["data"]] == ["replug", "closed-book", "tokens"]
    for part in ("lm", "query_encoder", "index"):
        assert len({model["radit"][part] for model in listed["data"]}) == 1
    found = served.post("/v1/answer", question=ASKED[0], model="closed-book").json
    assert found["k"] == 0
    assert found["chunks"] == []
    assert 0 <= found["probability"] <= 1


BAD = [
    ({}, "question: is missing"),
    ({"question": ""}, "question: is empty"),
    ({"question": " \n"}, "question: expected some text"),
    ({"question": "a\x00b"}, "NUL"),
    ({"question": "x" * 4001}, "4000 characters"),
    ({"question": 5}, "question: got 5, expected a valid string"),
    ({"question": ["x"]}, "question: expected a valid string"),
    ({"question": "x", "k": 0}, "k: got 0, expected greater than or equal to 1"),
    ({"question": "x", "k": -1}, "closed-book"),
    ({"question": "x", "k": 10**9}, "1 to 50 are allowed"),
    ({"question": "x", "k": "3"}, "k: expected a valid integer"),
    ({"question": "x", "k": 2.5}, "k: got 2.5"),
    ({"question": "x", "ensemble": "best"}, "'answers', 'tokens' or 'concat'"),
    ({"question": "x", "qestion": "x"}, "qestion: unknown field"),
    ({"question": "word " * 700}, "too long for the LM's context; shorten it"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_a_bad_field_is_named_with_what_to_change(
    served: Client, body: dict[str, Any], message: str
) -> None:
    reply = served.post("/v1/answer", **body)
    assert reply.status == 422, reply.body
    assert message in reply.error


def test_bad_requests_get_their_status(served: Client) -> None:
    as_json = {"content-type": "application/json"}
    for body, headers, status, message in (
        (b'{"question": ', as_json, 422, "the body is no JSON"),
        (b"\xff\xfe\x00", as_json, 422, "no JSON in UTF-8"),
        (b'{"question": "\\ud800"}', as_json, 422, "question:"),
        (b"[1, 2]", as_json, 422, "expected a JSON object"),
        (b'{"question": "x"}', {}, 422, "content-type: application/json"),
        (b'{"question": "' + b"x" * 1_000_000 + b'"}', as_json, 413, "1000000 bytes"),
        ((b"x" * 10_000 for _ in range(200)), as_json, 413, "1000000 bytes"),
        (b'{"question": "x", "model": "raddit"}', as_json, 404, "one of: closed-book"),
        (b'{"question": "x", "model": "replag"}', as_json, 404, "did you mean 'replug'"),
        (b'{"question": "x", "model": "../../etc"}', as_json, 404, "is not loaded"),
    ):
        reply = served.request("POST", "/v1/answer", body, headers)
        assert (reply.status, message in reply.error) == (status, True), reply.body
    for method, path, status in (
        ("GET", "/v1/answer", 405),
        ("POST", "/v1/nothing", 404),
        ("GET", "/page/../app.py", 404),
        ("GET", "/page/app.py", 404),
        ("GET", "/page/..%2fapp.py", 404),
    ):
        reply = served.request(method, path)
        assert reply.status == status
        assert reply.error
    outside = {"origin": "http://evil.example", **as_json}
    assert served.request("POST", "/v1/answer", b"{}", outside).status == 403
    assert served.get("/v1/models", host="evil.example").status == 403
    mixed = served.post("/v1/answer", question="من hello שלום \u202e abc 🜚")
    assert mixed.status == 200


def test_completions_are_those_of_the_harness_adapter(served: Client, opened: Opened) -> None:
    prompts = [f"Q: {text}\nA:" for text in ASKED[:3]]
    asked = {"model": "replug", "prompt": prompts, "max_tokens": 6, "stop": ["\n"]}
    found = served.post("/v1/completions", **asked).json
    expected = continuations(opened, prompts, max_new_tokens=6, until=["\n"])
    assert [choice["text"] for choice in found["choices"]] == expected
    retrieved = found["radit"]["retrieved"]
    assert [one["query"] for one in retrieved] == ASKED[:3]
    ids = [opened.lm.encode(prompt) for prompt in prompts]
    again = served.post("/v1/completions", **{**asked, "prompt": ids}).json
    assert again["choices"] == found["choices"]
    assert again["usage"] == found["usage"]
    assert found["usage"]["prompt_tokens"] == sum(map(len, ids))
    other = served.post("/v1/completions", **asked, query="something else").json
    assert [one["query"] for one in other["radit"]["retrieved"]] == ["something else"] * 3


def test_chat_answers_the_last_message(served: Client) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ASKED[1]},
        {"role": "assistant", "content": "I do not know."},
        {"role": "user", "content": [{"type": "text", "text": ASKED[0]}]},
    ]
    found = served.post("/v1/chat/completions", model="tokens", messages=messages).json
    prompt = f"Be brief.\n\nQ: {ASKED[1]}\nA: I do not know.\nQ: {ASKED[0]}\nA:"
    plain = served.post(
        "/v1/completions", model="tokens", prompt=prompt, max_tokens=6, stop=["\n"]
    ).json
    (choice,) = found["choices"]
    assert choice["message"]["content"] == plain["choices"][0]["text"].strip()
    assert found["radit"]["retrieved"][0]["query"] == ASKED[0]
    pieces = served.post(
        "/v1/chat/completions", model="tokens", messages=messages, stream=True
    ).events
    assert pieces[-1] == "[DONE]"
    deltas = [piece["choices"][0]["delta"].get("content", "") for piece in pieces[:-1]]
    assert "".join(deltas).strip() == choice["message"]["content"]
    assert pieces[-2]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert pieces[-2]["radit"] == found["radit"]
    ends = served.post("/v1/chat/completions", model="tokens", messages=messages[:3])
    assert (ends.status, "end with one" in ends.error) == (422, True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": 0.7}, "decoding is greedy; leave it out or set 0"),
        ({"n": 2}, "one answer"),
        ({"prompt": []}, "0 prompts, expected 1 to 128"),
        ({"prompt": ""}, "a prompt is empty"),
        ({"prompt": [10**6]}, "token id 1000000, expected 0 to 499"),
        ({"prompt": "word " * 400}, "shorten the prompt or ask for fewer"),
        ({"max_tokens": 10**9}, "max_tokens: got 1000000000"),
        ({"stop": ["x"] * 9}, "stop:"),
        ({"prompt": ["a", "b"], "stream": True}, "leave stream out"),
        ({"best": 1}, "best: got 1, unknown field"),
    ],
)
def test_a_completion_that_cannot_be_had_says_why(
    served: Client, fields: dict[str, Any], message: str
) -> None:
    reply = served.post("/v1/completions", **{"model": "replug", "prompt": PROMPT, **fields})
    assert reply.status == 422, reply.body
    assert message in reply.error


def test_the_official_client_works_unchanged(served: Client, opened: Opened) -> None:
    openai = pytest.importorskip("openai")
    client = openai.OpenAI(base_url=f"{served.base}/v1", api_key="none", max_retries=0)
    with client:
        assert next(iter(client.models.list())).id == "replug"
        asked = {"model": "replug", "prompt": PROMPT, "max_tokens": 5, "temperature": 0}
        whole = client.completions.create(**asked)
        ids = opened.lm.encode(PROMPT)
        echoed = client.completions.create(
            **{**asked, "prompt": ids, "max_tokens": 1}, echo=True, logprobs=1, seed=7
        )
        stream = client.completions.create(
            **asked, stream=True, stream_options={"include_usage": True}
        )
        pieces = list(stream)
        chat = client.chat.completions.create(
            model="replug",
            messages=[{"role": "user", "content": ASKED[0]}],
            extra_body={"query": ASKED[1], "k": 2},
        )
        with pytest.raises(openai.NotFoundError, match="is not loaded"):
            client.completions.create(model="gpt-4", prompt="x")
    assert "".join(piece.choices[0].text for piece in pieces[:-1]) == whole.choices[0].text
    assert pieces[-1].usage == whole.usage
    logprobs = echoed.choices[0].logprobs
    assert len(logprobs.token_logprobs) == len(ids) + 1
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert chat.radit["retrieved"][0]["query"] == ASKED[1]
    assert len(chat.radit["retrieved"][0]["chunks"]) == 2


def test_evaluate_measures_the_runs_own_questions(
    served: Client, chain: Chain, opened: Opened
) -> None:
    tasks = served.get("/v1/tasks").json["tasks"]
    assert (tasks[0]["name"], tasks[0]["questions"]) == ("tiny", 12)
    body = {"task": "tiny", "limit": 5, "models": ["replug", "closed-book"]}
    events = served.post("/v1/evaluate", **body).events
    assert [event["done"] for event in events] == [*range(11), 10]
    assert {event["total"] for event in events} == {10}
    result = events[-1]["result"]
    asked = {one["question"] for one in result["questions"]}
    tables = [read_shard(join(chain.ranked, name)) for name in shard_names(chain.ranked)]
    rows = [row for table in tables for row in table.to_pylist() if row["question"] in asked]
    rows = rank(rows, opened.encoder, opened.index, k=5)  # the chain's have 4, too few for recall@5
    predictions, _ = answer_batch(opened.lm, rows, opened.variant, t_r=opened.variant.t_r)
    expected = measure({"replug": predictions})["variants"]["replug"]
    for metric, cell in expected.items():
        assert result["variants"]["replug"][metric]["value"] == pytest.approx(
            cell["value"], abs=1e-3
        )
    assert set(result["contrasts"]) == {"replug-minus-closed-book"}
    again = served.post("/v1/evaluate", **body).events[-1]["result"]
    # requests at once fall into other batches, whose fp32 sums differ in the last digits
    for name, cells in result["variants"].items():
        for metric, cell in cells.items():
            assert again["variants"][name][metric] == pytest.approx(cell, rel=1e-3, abs=1e-5)


def test_evaluate_takes_examples_and_nothing_else_that_names_files(served: Client) -> None:
    rows = [
        {"question": ASKED[0], "answers": ["Anna"], "group": "a"},
        {"question": "Which one?", "answers": ["b"], "choices": ["a", "b"]},
    ]
    result = served.post("/v1/evaluate", examples=rows, models=["replug"]).events[-1]["result"]
    assert result["num_questions"] == 2
    for body, status, message in (
        ({"task": "/etc/passwd"}, 404, "no task"),
        ({"task": "hf:squad"}, 404, "no task"),
        ({}, 422, "either task or examples"),
        ({"task": "tiny", "examples": rows}, 422, "either task or examples"),
        ({"task": "tiny", "limit": 0}, 422, "limit: got 0"),
        ({"examples": [{"question": "x", "answers": ["the"]}]}, 422, "normalises to nothing"),
        ({"examples": [{**rows[1], "answers": ["c"]}]}, 422, "one of its 2 choices"),
        ({"task": "tiny", "models": ["other"]}, 404, "is not loaded"),
    ):
        reply = served.post("/v1/evaluate", **body)
        assert (reply.status, message in reply.error) == (status, True), reply.body


def test_closing_the_connection_ends_an_evaluation(served: Client) -> None:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)
    body = json.dumps({"task": "tiny", "limit": 12})
    connection.request("POST", "/v1/evaluate", body, {"content-type": "application/json"})
    response = connection.getresponse()
    assert b'"total": 36' in response.readline()
    busy = served.post("/v1/evaluate", task="tiny", limit=1)
    assert (busy.status, busy.headers["retry-after"]) == (429, "10")
    response.close()
    connection.close()
    until = time.monotonic() + 30
    while (reply := served.post("/v1/evaluate", task="tiny", limit=1)).status == 429:
        assert time.monotonic() < until
        time.sleep(0.1)
    assert reply.events[-1]["result"]["num_questions"] == 1


def test_health_metrics_and_the_page(served: Client) -> None:
    assert served.get("/healthz").json == {"status": "ok"}
    assert served.get("/readyz").json == {"status": "ready"}
    text = served.get("/metrics").body.decode()
    counted = re.search(
        r'radit_requests_total\{method="POST",path="/v1/answer",status="200"\} (\S+)', text
    )
    assert counted is not None
    assert float(counted[1]) > 0
    assert "radit_requests_in_flight 0.0" in text
    for path, kind in (
        ("/", "text/html"),
        ("/docs", "text/html"),
        ("/page/page.js", "text/javascript"),
        ("/page/page.css", "text/css"),
        ("/page/icon.svg", "image/svg+xml"),
    ):
        reply = served.get(path)
        assert reply.status == 200
        assert reply.headers["content-type"].startswith(kind)
        assert "default-src 'self'" in reply.headers["content-security-policy"]
        assert "access-control-allow-origin" not in reply.headers
        elsewhere = re.findall(r"(?:https?:)?//[\w.-]+", reply.body.decode())
        assert set(elsewhere) <= {"http://www.w3.org"}  # the name of SVG's namespace
    paths = served.get("/openapi.json").json["paths"]
    assert {"/v1/retrieve", "/v1/answer", "/v1/score", "/v1/evaluate", "/v1/models"} <= set(paths)


def test_memory_is_told() -> None:
    assert resident_bytes() > 10_000_000
