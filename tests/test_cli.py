"""Contract of the command line: a bad value is one line that says what, where, what was expected
and the fix, exit code 2, no traceback, and nothing left that looks complete.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from chain import Chain
from disks import disk
from tiny import documents, questions, tiny_lm, write_jsonl

from radit_ray import __version__
from radit_ray.cli import HELP, STAGES, _dispatch, _guarded
from radit_ray.core.errors import IncompleteError
from radit_ray.data.artifacts import read_manifest
from radit_ray.recipes import RECIPES

SWEPT = ["--output", "x"]
DEMO = ("demo", "--output", "x", "--retriever", "x", "--set")


def radit(*arguments: str) -> int:
    """The command in this process; its exit code."""
    return _guarded(lambda: _dispatch(arguments))


def shell(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "radit_ray.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line for the user; progress bars aside there is nothing else on stderr."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if line.startswith("radit: ")]
    assert len(lines) == 1, err
    return lines[0]


# --- without a cluster ---


def test_help_tells_the_story_and_version_the_release(capsys: pytest.CaptureFixture[str]) -> None:
    assert radit("--help") == 0
    assert capsys.readouterr().out == HELP
    others = (
        "demo",
        "run",
        "ask",
        "predictions",
        "challenge",
        "few-shot",
        "world-lm",
        "overlap",
        "doctor",
    )
    for command in (*STAGES, *others):
        assert f"radit {command}" in HELP
    assert radit("--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize("command", [*STAGES, "run", "challenge", "world-lm"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["run", "own", "--help"] if command == "run" else [command, "--help"]
    with pytest.raises(SystemExit) as stop:
        _dispatch(arguments)
    assert not stop.value.code
    shown = capsys.readouterr().out
    assert "--output" in shown
    options = {
        "world-lm": ("size", "steps", "seed", "num-threads", "precision", "world.num-known"),
        "challenge": ("variants", "split", "limit", "texts", "seed", "resources.num-workers"),
    }
    others = ("lm", "retriever", "corpus", "examples", "set")
    for name in STAGES.get(command, options.get(command, others)):
        assert f"--{name}" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chunks"], "unknown command 'chunks'.*chunk"),
        (["run", "ownn"], "unknown recipe 'ownn'.*own"),
        (["run", "own"], "no --output given"),
        (["run", "own", "--output", "x"], "needs --lm"),
        (["run", "own", "--output", "x", "--set", "lm_ft.lrr=1"], "'lm_ft.lrr'.*lr"),
        (["run", "own", "--output", "x", "--set", "lm_ft.lr=fast"], "lm_ft.lr='fast'.*float"),
        (["run", "own", "--output", "x", "--set", "lm_ft.lr"], "expected field=value"),
        (["run", "own", "--output", "x", "--set", "k_infer=99", "--lm", "x"], "k_infer=99"),
        (["run", "own", "--output", "x", "--set", "variants=radit,raddit"], "'raddit'.*radit"),
        (["run", "own", "--output", "x", "--config", "no.toml"], "no.toml"),
        (["chunk", "--corpus", "x"], "output"),
        (["chunk", "--corpus", "x", "--output", "y", "--max-word", "3"], "max-word"),
        (["ask", "nowhere", "who?"], "nowhere: no run.json"),
        (["ask", "nowhere"], "your question, in quotes"),
        (["predictions", "nowhere", "radit"], "--output"),
        (["predictions", "nowhere", "radit", "--output", "x"], "nowhere: does not exist"),
        (["predictions", "nowhere", "x", "--output", "x", "--format", "csv"], "'jsonl', 'kilt'"),
        (["challenge", "nowhere", "--output", "x"], "nowhere: no run.json"),
        (["challenge", "nowhere"], "--output"),
        (["world-lm"], "--output"),
        (["world-lm", "--output", "x", "--size", "xl"], "'xl'.*'s', 'm', 'l'"),
        (["world-lm", "--output", "x", "--precision", "fp8"], "'fp8'.*'bf16', 'fp32'"),
        (["world-lm", "--output", "x", "--steps", "0"], "steps=0 .*at least 1"),
        (["world-lm", "--output", "x", "--num-threads", "0"], "num_threads=0 .*at least 1"),
        (["world-lm", "--output", "x", "--snapshot", "3"], "snapshot=3; expected 1 or 2"),
        (["world-lm", "--output", "x", "--world.num-eval", "0"], "num_eval=0 .*at least 1"),
        (["world-lm", "--output", "x", "--world.num-evl", "9"], "--world.num-eval"),
        (["world-lm", "--output", "s3://x/y"], "s3://x/y; expected a folder on this machine"),
        ([*DEMO, "world.num_evl=9"], "'world.num_evl'.*num_eval"),
        ([*DEMO, "world.num_train=0"], "num_train=0 .*at least 1"),
        ([*DEMO, "world.num_eval=many"], "world.num_eval='many'.*int"),
        ([*DEMO, "world.num_eval=50"], "num_distractors=60; expected at most num_eval=50"),
        ([*DEMO, "world.num_eval=5000"], "names of part 'eval' are used up.*lower num_eval"),
        ([*DEMO, "world.facts_per_chunk=1"], "room for 6 statements; expected at least 8"),
        ([*DEMO, "world.changed_share=nan"], "world.changed_share='nan'.*a finite one"),
        ([*DEMO, "world.chunks_per_subject=1001"], "chunks_per_subject=1001 .*4 to 1000"),
        ([*DEMO, "world.snapshot_dates=2023-01-01"], r"snapshot_dates='2023-01-01'.*str, str"),
        ([*DEMO, "snapshot=0"], "snapshot=0; expected 1 or 2"),
        ([*DEMO, "world.seed=1", "--corpus", "x"], "only `radit demo` without --corpus"),
        (
            ["sweep", "cycles", "demo", "--objective", "radit.em:max", "radit.em:min", *SWEPT],
            "objective 'radit.em' is given twice",
        ),
        (["run", "own", "--output", "x", "--set", "snapshot=2"], "only `radit demo` without"),
    ],
)
def test_wrong_words_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    monkeypatch.chdir(tmp_path)
    assert radit(*arguments) == 2
    assert re.search(message, one_line(capsys))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("run.json", ["ask", "{}", "who?"]),
        ("run.json", ["challenge", "{}", "--output", "x"]),
        ("sweep.json", ["report", "{}"]),
        ("results.json", ["report", "{}"]),
        ("suite.json", ["report", "{}"]),
    ],
)
def test_a_file_of_a_run_that_breaks_off_is_one_line(
    name: str,
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text('{"variants": {"radit": ')
    assert radit(*(word.format(tmp_path) for word in arguments)) == 2
    message = one_line(capsys)
    assert message.startswith(f"radit: {tmp_path / name} is damaged or breaks off (not JSON: ")
    assert "delete it and run what wrote it again" in message


def test_recipes_are_named_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _dispatch(["run", "--help"])
    shown = capsys.readouterr().out
    for name in RECIPES:
        assert name in shown


def test_a_process_of_its_own(tmp_path: Path) -> None:
    done = shell("run", "onw", "--output", str(tmp_path / "x"))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("radit: unknown recipe 'onw'")
    assert done.stderr.count("\n") == 1


# --- corpora, through Ray ---

GOOD = [json.dumps(row) for row in documents()[:3]]
LONE = json.dumps({"title": "t", "text": "some words"})
BAD_CORPORA = {
    "broken": ("\n".join([GOOD[0], '{"id": "x", "text": "y', GOOD[1]]).encode(), r"docs.jsonl:2: "),
    "no text": (f'{GOOD[0]}\n{{"id": "x", "title": "t"}}\n'.encode(), r"docs.jsonl:2: .*text"),
    "empty text": (b'{"id": "x", "title": "", "text": "  "}\n', r"docs.jsonl:1: .*text"),
    "latin-1": (f"{GOOD[0]}\n".encode() + b'{"id": "x", "text": "caf\xe9"}\n', r":2: .*UTF-8"),
    "twice": (f"{GOOD[0]}\n{GOOD[1]}\n{GOOD[0]}\n".encode(), r"duplicate document id 'doc-00'"),
}


@pytest.mark.ray
@pytest.mark.parametrize("kind", BAD_CORPORA)
def test_a_bad_corpus_is_one_line(
    kind: str, ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    content, message = BAD_CORPORA[kind]
    corpus, output = tmp_path / "docs.jsonl", tmp_path / "out"
    corpus.write_bytes(content)
    assert radit("chunk", "--corpus", str(corpus), "--output", str(output)) == 2
    assert re.search(message, one_line(capsys))
    assert read_manifest(str(output)) is None


@pytest.mark.ray
@pytest.mark.parametrize(
    ("kind", "message"),
    [("missing", "no such file|does not exist"), ("empty", "empty"), ("folder", "no ")],
)
def test_no_corpus_is_one_line(
    kind: str,
    message: str,
    ray_cluster: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    corpus, output = tmp_path / "docs.jsonl", tmp_path / "out"
    if kind == "empty":
        corpus.write_bytes(b"")
    if kind == "folder":
        corpus.mkdir()
    assert radit("chunk", "--corpus", str(corpus), "--output", str(output)) == 2
    line = one_line(capsys)
    assert re.search(message, line)
    assert str(corpus) in line
    assert read_manifest(str(output)) is None


@pytest.mark.ray
def test_another_identity_is_one_line(chain: Chain, capsys: pytest.CaptureFixture[str]) -> None:
    stamp = Path(chain.chunks, "manifest.json").stat().st_mtime_ns
    code = radit("chunk", "--corpus", chain.corpus, "--output", chain.chunks, "--max-words", "9")
    assert code == 2
    line = one_line(capsys)
    assert "max_words 200 there, 9 asked" in line
    assert "docs_per_shard 10 there, 2000 asked" in line
    assert Path(chain.chunks, "manifest.json").stat().st_mtime_ns == stamp


@pytest.mark.ray
def test_five_megabytes_in_one_line_and_json_output(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "alpha beta gamma delta " * (5 * 2**20 // 23)
    corpus = write_jsonl(tmp_path / "docs.jsonl", [{"id": "long", "title": "t", "text": words}])
    output = tmp_path / "out"
    assert os.path.getsize(corpus) > 5 * 10**6
    assert radit("chunk", "--corpus", corpus, "--output", str(output), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    num_words = len(words.split())
    assert found["path"] == str(output)
    assert found["rows"] == found["metrics"]["num_chunks"] == -(-num_words // 200)
    assert found["metrics"]["mean_words"] * found["rows"] == pytest.approx(num_words)


@pytest.mark.ray
def test_a_full_disk_and_a_read_only_one_are_one_line_and_the_rerun_completes(
    ray_cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": str(i), "title": "t", "text": " ".join(os.urandom(4).hex() for _ in range(150))}
        for i in range(3000)
    ]
    corpus = write_jsonl(tmp_path / "docs.jsonl", rows)
    with disk(tmp_path / "disk", "1m") as small:
        output = str(small.path / "out")
        words = ("chunk", "--corpus", corpus, "--output", output, "--docs-per-shard", "200")
        assert radit(*words) == 2
        assert "the disk is full" in one_line(capsys)
        assert read_manifest(output) is None
        assert not list(small.path.glob("**/*.tmp"))
        small.remount("ro")
        assert radit(*words) == 2
        assert "out cannot be written (Read-only file system)" in one_line(capsys)
        small.remount("rw,size=8m")
        assert radit(*words) == 0
        assert read_manifest(output) is not None


def test_lost_permission_and_storage_that_stays_away_are_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As a stage raises them on the driver (tests/engines/test_shards.py)."""

    def refused() -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/runs/x/part-1.parquet")

    def away() -> None:
        raise OSError(errno.EIO, "storage failed 5 times, at last with SlowDown: 503", "s3://b/x")

    assert _guarded(refused) == 2
    assert "no permission for /runs/x/part-1.parquet (Permission denied)" in one_line(capsys)
    assert _guarded(away) == 1
    assert "storage failed 5 times, at last with SlowDown: 503: 's3://b/x'" in one_line(capsys)


def test_a_sweep_with_lost_trials_leaves_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    """A script must see it; nothing of it is bad input."""

    def lost() -> None:
        raise IncompleteError("2 of 8 trials failed")

    assert _guarded(lost) == 1
    assert one_line(capsys) == "radit: 2 of 8 trials failed; the same command tries again"


# --- the other stages ---


@pytest.mark.ray
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("retrieve --index {index} --retriever {retriever} --examples {examples} --k 41", "k=41"),
        ("retrieve --index {index} --retriever {retriever}", "nothing to retrieve for"),
        ("retrieve --index {chunks} --retriever {retriever}", "made by `chunk`.*`index`"),
        ("retrieve --index {root}/none --retriever {retriever}", "does not exist.*radit index"),
        ("embed --chunks {chunks}", "no retriever given.*--retriever"),
        ("embed --chunks {chunks} --retriever no/such-thing", "no/such-thing.*with --preset"),
        (
            "embed --chunks {chunks} --retriever no/such-thing --preset e5",
            "no/such-thing.*reachable",
        ),
        ("embed --chunks {chunks} --retriever {retriever} --preset dragon", "dragon.*dragon-plus"),
        ("embed --chunks {chunks} --retriever {retriever} --precision bf61", "bf61.*bf16"),
        ("index --embeddings {embeddings} --kind ivfp", "ivfp.*ivfpq"),
        ("index --embeddings {embeddings} --num-shards 9", "num_shards=9, expected 1 to 4"),
        ("score --ranked {ranked} --lm {corpus}", "is a file, expected a folder"),
        ("score --ranked {ranked} --lm {lm} --corpus-share 2", "corpus_share=2.0, expected 0 to 1"),
        ("evaluate --ranked {ranked} --variants.0.ensemble token", "token|variants"),
    ],
)
def test_bad_values_of_stages_are_one_line(
    arguments: str,
    message: str,
    chain: Chain,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    words = [word.format(**vars(chain)) for word in arguments.split()]
    output = str(tmp_path / "out")
    assert radit(*words, "--output", output) == 2
    assert re.search(message, one_line(capsys))
    assert read_manifest(output) is None


@pytest.mark.ray
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "question": "Who?"}, r"qa.jsonl:2: .*answer"),
        ({"id": "a", "question": "Who?", "answers": []}, r"qa.jsonl:2: .*answer"),
        ({"id": "a", "question": " ", "answers": ["x"]}, r"qa.jsonl:2: .*question"),
        ({**questions()["train"][0], "question": "Twice?"}, r"qa.jsonl:2: id 'q-00-0' is taken by"),
    ],
)
def test_bad_examples_are_one_line(
    row: dict[str, object],
    message: str,
    chain: Chain,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    examples = write_jsonl(tmp_path / "qa.jsonl", [questions()["train"][0], row])
    output = str(tmp_path / "out")
    words = ["--examples", examples, "--index", chain.index, "--retriever", chain.retriever]
    assert radit("retrieve", *words, "--output", output) == 2
    assert re.search(message, one_line(capsys))
    assert read_manifest(output) is None


@pytest.mark.ray
def test_an_lm_without_an_end_token_is_one_line(
    chain: Chain, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lm = tiny_lm(tmp_path, shape="gpt2")
    for name in ("tokenizer_config.json", "special_tokens_map.json", "config.json"):
        file = Path(lm, name)
        if file.exists():
            kept = json.loads(file.read_text())
            for key in ("eos_token", "eos_token_id", "sep_token"):
                kept.pop(key, None)
            file.write_text(
                json.dumps({**kept, **({"eos_token_id": None} if "vocab_size" in kept else {})})
            )
    output = str(tmp_path / "out")
    assert radit("score", "--ranked", chain.ranked, "--lm", lm, "--output", output) == 2
    assert "eos_token" in one_line(capsys)
    assert read_manifest(output) is None


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    command = f"set -o pipefail; {sys.executable} -m radit_ray.cli tasks | head -n 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout == "evaluation of the paper\n"
