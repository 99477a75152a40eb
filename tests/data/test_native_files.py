"""Contract of `data.native_files`: every kind of file that is more than rows of JSON becomes the
right rows, through `read_examples` or its task; a malformed one is one line that names the file,
and the line where it can be known. Archives themselves: `test_native_archives`.

All files are written here, in the layout of the set's authors.
"""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from written import PACKERS, fails, fields, jsonl, table, write, zipped

from radit_ray.data.examples import read_examples


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of our own."""
    monkeypatch.setenv("RADIT_DATA", str(tmp_path))
    return tmp_path


# --- QuAIL ----------------------------------------------------------------------------------------

QUAIL = """<data>
 <text domain="fiction" id="f1">
  <text_body>
   Ann sold &quot;tea&quot;.
  </text_body>
  <questions>
   <q id="1" type="Causality">
    Why did Ann go?
    <a id="1" correct="False">
     To read
    </a>
    <a id="2" correct="True">
     To sell
    </a>
   </q>
   <q id="2" type="Factual">
    What?
    <a id="1" correct="True">tea</a>
    <a id="2" correct="False">ink</a>
   </q>
  </questions>
 </text>
</data>
"""


@pytest.mark.parametrize("packer", [bytes, lzma.compress])
def test_quail(data: Path, packer: Callable[[bytes], bytes]) -> None:
    file = data / "qa" / "quail" / "quail_1.3_dev.xml.xz"
    write(file, packer(QUAIL.encode()))
    first, second = read_examples("task:quail:dev")
    assert (first["id"], first["split"], first["group"]) == ("quail/f1_1", "dev", "f1")
    assert (first["context"], first["question"]) == ('Ann sold "tea".', "Why did Ann go?")
    assert (first["choices"], first["answers"]) == (["To read", "To sell"], ["To sell"])
    assert second["answers"] == ["tea"]
    (plain, _) = read_examples(str(file))
    assert (plain["id"], plain["category"]) == ("f1_1", "multiple-choice")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</text_body>", "</text>", ":5: broken XML (mismatched tag, column 5)"),
        ("</data>\n", "", ":23: broken XML (no element found"),
        ("&quot;tea&quot;", "&tea;", ":4: broken XML (undefined entity"),
        ("&quot;tea&quot;", "\x01", ":4: broken XML (not well-formed"),
        ('correct="True">\n', 'correct="False">\n', ":7: label 'none' is no index of 2 choices"),
        ('<a id="2" correct="False">', '<a id="2" correct="True">', ":16: label 'none' is no"),
        ("<text_body>\n   Ann sold &quot;tea&quot;.\n", "<text_body>", ":5: its <text> has no <te"),
        ("<data>", '<!DOCTYPE d [<!ENTITY t "x">]><data>', ":1: the XML declares entities"),
        (QUAIL, "<data><text/></data>", ":1: the file holds no rows"),
        (QUAIL, "no XML", ":1: broken XML (syntax error"),
    ],
)
def test_broken_quail(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in QUAIL
    path = write(tmp_path / "x.xml", QUAIL.replace(old, new))
    assert fails(path).startswith(f"{path}{message}")


def test_quail_in_another_encoding(tmp_path: Path) -> None:
    text = f'<?xml version="1.0" encoding="{{}}"?>\n{QUAIL.replace("Ann", "Zoë")}'
    path = write(tmp_path / "x.xml", text.format("ISO-8859-1").encode("latin-1"))
    assert fails(path).startswith(f"{path}:5: not UTF-8 (byte 0xeb); convert it with `iconv")
    path = write(tmp_path / "x.xml", text.format("UTF-16").encode("utf-16"))
    assert fails(path).startswith(f"{path}:1: not UTF-8 but UTF-16")
    path = write(tmp_path / "x.xml", text.format("UTF-8"))
    assert read_examples(path)[0]["question"] == "Why did Zoë go?"


# --- tables ---------------------------------------------------------------------------------------

TREC = "7\ttrec\tWho wrote it\\t?\tAnn( B\\.)? Lee\n9\ttrec\tWhen?\t19[0-9]9\n"


def test_curatedtrec(data: Path) -> None:
    file = data / "qa" / "curatedtrec" / "curated-train.tsv"
    write(file, TREC.replace("\\t", ""))
    first, second = read_examples("task:curatedtrec:train")
    assert fields([first], "id", "question", "metric", "split") == [
        ("curatedtrec/7", "Who wrote it?", "regex", "train")
    ]
    # a text that fits, to be shown or trained on, stands before the pattern
    assert first["answers"] == ["Ann Lee", "Ann( B\\.)? Lee"]
    assert second["answers"][-1] == "19[0-9]9"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("8\ttrec\tWhen?", "3 fields, not 4: id, type, question, pattern"),
        ("8\ttrec\tWhen?\tx\ty", "5 fields, not 4: id, type, question, pattern"),
        ("8\ttrec\tWhen?\t(x", "is no regular expression as RE2 reads them"),
        ("8\ttrec\t\tx", "has no question"),
        ("8\ttrec\tWhen?\t", "has no answer"),
        (b"8\ttrec\tWhen\xff?\tx", "not UTF-8 (byte 0xff)"),
    ],
)
def test_broken_curatedtrec(data: Path, line: str | bytes, message: str) -> None:
    line = line.encode() if isinstance(line, str) else line
    path = write(data / "qa/curatedtrec/curated-train.tsv", TREC.encode() + line + b"\n")
    found = fails("task:curatedtrec:train")
    assert found.startswith(f"{path}:3: ")
    assert message in found


@pytest.mark.parametrize(("delimiter", "ending"), [(",", "csv"), ("\t", "tsv"), ("\t", "txt")])
def test_a_table_with_a_header(tmp_path: Path, delimiter: str, ending: str) -> None:
    long = "x" * 200_000  # longer than a field of the csv module's own limit
    content = table(
        delimiter,
        ["id", "Question", "answer", "note"],
        ["1", 'who, or "what"?', "Ann", "two\nlines"],
        ["2", "and\ttabs?", long, ""],
    ).replace("Question", "question")
    rows = read_examples(write(tmp_path / f"x.{ending}", "\ufeff" + content))
    assert fields(rows, "id", "question", "answers") == [
        ("1", 'who, or "what"?', ["Ann"]),
        ("2", "and\ttabs?", [long]),
    ]
    windows = content.replace("\n", "\r\n")
    assert read_examples(write(tmp_path / f"w.{ending}", windows)) == rows


def test_a_wrong_row_of_a_table_is_named_by_its_last_line(tmp_path: Path) -> None:
    good = 'question,answer\n"one\nline more?",1\n'
    path = write(tmp_path / "x.csv", f"{good}two?,2,3\n")
    assert fails(path) == f"{path}:4: 3 fields, the header has 2: question, answer"
    kept: list[dict[str, Any]] = []
    path = write(tmp_path / "y.csv", f"{good}two?\nthree?,3\n")
    rows = read_examples(path, on_bad_row="quarantine", quarantine=kept.append)
    assert [row["answers"] for row in rows] == [["1"], ["3"]]
    assert [entry["line"] for entry in kept] == [4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('question,answer\none?,1\ntwo?,"2\nthree?,3\n', ":2: broken table after this line"),
        ('question,answer\none?,"1"2\n', ":1: broken table after this line"),
        (b"question,answer\none?,1\ntwo\xe9?,2\n", ":3: not UTF-8 (byte 0xe9)"),
        (b"question\xe9,answer\none?,1\n", ":1: not UTF-8 (byte 0xe9)"),
        ("question,answer\none?,1\n".encode("utf-16"), ":1: not UTF-8 but UTF-16"),
        ("question,answer\n", ":1: the file holds no rows"),
        ("question,answer,answer\none?,1,2\n", ":1: the header has column 'answer' twice"),
        ("question,reply\none?,1\n", ":2: example 'x:2' has no answer"),
    ],
)
def test_broken_tables(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = write(tmp_path / "x.csv", content)
    assert fails(path).startswith(f"{path}{message}")


def test_mmlus_tables(data: Path) -> None:
    """Two files of one subject are one article, and the answer is an index."""
    header = ["question", *(f"choice{n}" for n in range(4)), "answer"]
    rows = [["What, then?", "a", "b", "c", "d", "2"]]
    parts = {f"{part}/law_{part}.csv": table(",", header, *rows) for part in ("dev", "test")}
    file = data / "qa" / "mmlu" / "mmlu.zip"
    write(file, zipped(parts))
    for split in ("dev", "eval"):
        (row,) = read_examples(f"task:mmlu:{split}")
        assert (row["article"], row["answers"], row["choices"][3]) == ("law", ["c"], "d")
    rows[0][-1] = "4"
    write(file, zipped({"test/law_test.csv": table(",", header, *rows)}))
    assert fails("task:mmlu").startswith(f"{file}!test/law_test.csv:2: label '4' is no index of 4")


def test_dpr_lines(data: Path) -> None:
    """A few of the real rows are quoted as by the csv module."""
    content = 'who?\t[\'Ann "A" Lee\', "O\'Hara"]\n"say ""a""?"\t"[\'b\']"\n'
    file = data / "qa" / "nq_open" / "topics.dpr.nq.dev.txt.xz"
    write(file, lzma.compress(content.encode()))
    assert fields(read_examples("task:nq:dev"), "id", "question", "answers") == [
        ("nq/topics.dpr.nq.dev:1", "who?", ['Ann "A" Lee', "O'Hara"]),
        ("nq/topics.dpr.nq.dev:2", 'say "a"?', ["b"]),
    ]
    write(file, lzma.compress(content.encode() + b"when?\t['c'\n"))
    assert fails("task:nq:dev").startswith(f"{file}:3: not `question<TAB>['answer', ...]`")
    write(file, lzma.compress(content.encode() + b"wh\xffo?\t['c']\n"))
    assert fails("task:nq:dev").startswith(f"{file}:3: not UTF-8")


@pytest.mark.parametrize("packing", list(PACKERS))
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.txt", "x.xml"])
def test_a_packed_file_that_breaks_off(tmp_path: Path, name: str, packing: str) -> None:
    draw = random.Random(name)
    words = [f"{draw.random()} {draw.random()}" for _ in range(2000)]
    rows = [{"question": f"{word}?", "answer": word} for word in words]
    content = {
        "x.jsonl": jsonl(*rows),
        "x.json": json.dumps(rows),
        "x.csv": table(",", ["question", "answer"], *([r["question"], "x"] for r in rows)),
        "x.tsv": "".join(f"{n}\ttrec\t{word}?\tx\n" for n, word in enumerate(words)),
        "x.txt": "".join(f"{word}?\t['x']\n" for word in words),
        "x.xml": QUAIL.replace("Ann", " ".join(words)),
    }[name]
    packed = PACKERS[packing](content.encode())
    path = write(tmp_path / f"{name}{packing}", packed)
    assert read_examples(path)
    write(tmp_path / f"{name}{packing}", packed[: len(packed) // 2])
    message = fails(path)
    assert message.startswith(f"{path}:")
    assert "breaks off or is damaged" in message
    broken = bytearray(packed)
    for place in range(len(packed) // 3, len(packed) // 3 + 40):
        broken[place] ^= 0x55
    write(tmp_path / f"{name}{packing}", bytes(broken))
    assert fails(path).startswith(f"{path}:")


# --- what stands beside a file --------------------------------------------------------------------

GOALS = [{"goal": f"open {n}", "sol1": f"pull {n}", "sol2": f"push {n}"} for n in range(3)]
MC = "qa/multiple_choice/mc_llm_adapters.zip"


def piqa(labels: str, *rows: Any) -> bytes:
    folder = "piqa_native"
    return zipped(
        {
            f"{folder}/valid.jsonl": jsonl(*(rows or GOALS)),
            f"{folder}/valid-labels.lst": labels,
            f"{folder}/train-labels.lst": "1\n" * 9,
        }
    )


def test_piqa_and_its_labels(data: Path) -> None:
    write(data / MC, piqa("0\n1\n1\n"))
    rows = read_examples("task:piqa")
    assert [row["answers"] for row in rows] == [["pull 0"], ["push 1"], ["push 2"]]
    assert fields(rows[:1], "question", "choices", "scoring") == [
        ("open 0", ["pull 0", "push 0"], "nll_char")
    ]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("0\n1\n", ": 3 rows, but {lst} has 2 labels; mend one"),
        ("0\n1\n1\n0\n", ": 3 rows, but {lst} has 4 labels; mend one"),
        ("0\n2\n1\n", ":2: label '2' is no index of 2 choices"),
        ("0\nx\n1\n", ":2: label 'x' is no index of 2 choices"),
    ],
)
def test_labels_that_do_not_fit(data: Path, labels: str, message: str) -> None:
    member = write(data / MC, piqa(labels)) + "!piqa_native/valid"
    assert fails("task:piqa") == f"{member}.jsonl" + message.format(
        lst=f"{member}-labels.lst"
    ) or fails("task:piqa").startswith(f"{member}.jsonl{message}")


def test_labels_in_another_encoding_and_a_broken_row_before_them(tmp_path: Path) -> None:
    path = write(tmp_path / "valid.jsonl", jsonl(*GOALS))
    labels = write(tmp_path / "valid-labels.lst", b"0\n\xff1\n1\n")
    assert fails(path).startswith(f"{labels}:2: not UTF-8 (byte 0xff)")
    write(tmp_path / "valid-labels.lst", "0\n1\n1\n")
    write(tmp_path / "valid.jsonl", jsonl(GOALS[0]) + "{broken\n" + jsonl(GOALS[2]))
    kept: list[dict[str, Any]] = []
    rows = read_examples(path, on_bad_row="quarantine", quarantine=kept.append)
    # the broken row keeps its label
    assert [row["answers"] for row in rows] == [["pull 0"], ["push 2"]]
    assert [entry["line"] for entry in kept] == [2]


def test_labels_beside_a_file_of_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "valid.jsonl", jsonl(*GOALS))
    write(tmp_path / "valid-labels.lst", "1\n1\n0\n")
    monkeypatch.chdir(tmp_path)
    answers = [row["answers"] for row in read_examples("valid.jsonl")]
    assert answers == [["push 0"], ["push 1"], ["pull 2"]]


LEGAL = "qa/legalbench/legalbench_train.zip"
PROMPT = "Is it hearsay?\n\nText: He ran.\nLabel: No\n\nText: {{text}}\nLabel:"


def legal(prompt: str, rows: str) -> bytes:
    folder = "tasks/hearsay"
    return zipped({f"{folder}/base_prompt.txt": prompt, f"{folder}/train.tsv": rows})


def test_legalbench_and_its_prompt(data: Path) -> None:
    rows = table("\t", ["index", "answer", "text"], ["0", "Yes", 'She said "no".'])
    write(data / LEGAL, legal(PROMPT, rows))
    (row,) = read_examples("task:legalbench")
    assert row["question"] == 'Is it hearsay?\nText: She said "no".'
    assert (row["answers"], row["article"], row["group"]) == (["Yes"], "hearsay", "hearsay")


@pytest.mark.parametrize(
    ("prompt", "rows", "message"),
    [
        ("Is it?", "index\tanswer\ttext\n0\tYes\tx\n", ":2: `base_prompt` has no {{field}}"),
        (PROMPT, "index\tanswer\tnote\n0\tYes\tx\n", ":2: a row like those of legalbench with"),
        (PROMPT, "index\tanswer\ttext\n0\tYes\n", ":2: 2 fields, the header has 3"),
        (PROMPT, 'index\tanswer\ttext\n0\tYes\t"x\n', ":1: broken table after this line"),
        (PROMPT, "index\tanswer\ttext\n0\t\tx\n", ":2: example 'legalbench/tasks/hearsay/train:2"),
    ],
)
def test_broken_legalbench(data: Path, prompt: str, rows: str, message: str) -> None:
    path = write(data / LEGAL, legal(prompt, rows))
    assert fails("task:legalbench").startswith(f"{path}!tasks/hearsay/train.tsv{message}")


def test_legalbench_without_its_prompt_or_with_one_in_another_encoding(tmp_path: Path) -> None:
    path = write(tmp_path / "hearsay" / "train.tsv", "index\tanswer\ttext\n0\tYes\tx\n")
    assert "has no question" in fails(path)
    prompt = write(tmp_path / "hearsay" / "base_prompt.txt", PROMPT.encode() + b"\n\xe9")
    assert fails(path).startswith(f"{prompt}:8: not UTF-8 (byte 0xe9)")


PUBMED = "qa/pubmedqa/ori_pqal.shared.json.xz"


def abstract(question: str, answer: str = "yes") -> dict[str, Any]:
    found = {"QUESTION": question, "CONTEXTS": ["One.", "Two."], "YEAR": "2001"}
    return {**found, "final_decision": answer, "LONG_ANSWER": "Long."}


def pubmed(data: Path, rows: Any, truth: str = '{"2": "no", "3": "no"}') -> str:
    write(data / "qa" / "pubmedqa" / "test_ground_truth.json", truth)
    return write(data / PUBMED, lzma.compress(json.dumps(rows, indent=1).encode()))


def test_pubmedqa_and_its_test_ids(data: Path) -> None:
    pubmed(data, {"1": abstract("a?"), "2": abstract("b?", "no"), "4": abstract("c?", "maybe")})
    assert fields(read_examples("task:pubmed_qa"), "id", "question", "split", "answers") == [
        ("pubmed_qa/1", "a?", "train", ["yes"]),
        ("pubmed_qa/4", "c?", "train", ["maybe"]),
    ]
    (row,) = read_examples("task:pubmed_qa:eval")
    assert fields([row], "id", "context", "choices", "date") == [
        ("pubmed_qa/2", "One. Two.", ["yes", "no", "maybe"], "2001")
    ]


@pytest.mark.parametrize(
    ("rows", "truth", "file", "message"),
    [
        ({"1": abstract("a?"), "2": None}, "{}", PUBMED, ":1: "),
        (
            {"1": abstract("a?", "perhaps")},
            "{}",
            PUBMED,
            ":1: no answer of example 'pubmed_qa/1' ('perhaps')",
        ),
        ({"1": {"QUESTION": "a?"}}, "{}", PUBMED, ":1: "),
        ([1], "{}", PUBMED, ":2: item 1: a JSON int, not an object"),
        ({"1": abstract("a?")}, "7", "qa/pubmedqa/test_ground_truth.json", ": a JSON int, exp"),
        ({"1": abstract("a?")}, "{", "qa/pubmedqa/test_ground_truth.json", " is damaged or bre"),
    ],
)
def test_broken_pubmedqa(data: Path, rows: Any, truth: str, file: str, message: str) -> None:
    pubmed(data, rows, truth)
    assert fails("task:pubmed_qa").startswith(f"{data}/{file}{message}")


def test_other_rows_beside_the_test_ids_stay_as_they_are(tmp_path: Path) -> None:
    write(tmp_path / "test_ground_truth.json", '{"2": "no"}')
    row = {"question": "q?", "answers": ["x"], "meta": {"author": "Ann"}, "split": "dev"}
    (found,) = read_examples(write(tmp_path / "own.jsonl", jsonl(row)))
    assert (found["question"], found["split"]) == ("q?", "dev")


def test_trex_takes_its_relation_from_the_name_of_the_file(data: Path) -> None:
    members = {
        "TREx/P103_random.jsonl": jsonl({"sub_label": "Ann", "obj_label": "Dutch"}),
        "TREx/P36.jsonl": jsonl({"sub_label": "Peru", "obj_label": "Lima", "predicate_id": "P17"}),
        "TREx/P99999.jsonl": jsonl({"sub_label": "Peru", "obj_label": "x"}),
    }
    path = write(data / "qa" / "trex" / "trex_lama.zip", zipped(members))
    assert fields(read_examples("task:t-rex"), "question", "answers", "article") == [
        ("Ann [SEP] native language", ["Dutch"], "P103"),
        ("Peru [SEP] country", ["Lima"], "P17"),  # what the row says goes first
        ("Peru [SEP] P99999", ["x"], "P99999"),
    ]
    nameless = {"TREx/x.jsonl": members["TREx/P103_random.jsonl"]}
    write(data / "qa" / "trex" / "trex_lama.zip", zipped(nameless))
    assert fails("task:t-rex").startswith(f"{path}!TREx/x.jsonl:1: a row like those of lama with")


def test_messages_of_a_tree_stand_in_rows_one_after_the_other(tmp_path: Path) -> None:
    said = [("m1", None, "prompter", "Hi?"), ("m2", "m1", "assistant", "Ho.")]
    rows = [
        {"message_tree_id": "m1", "message_id": m, "parent_id": p, "role": r, "text": t}
        for m, p, r, t in said
    ]
    path = write(tmp_path / "x.jsonl", jsonl(*rows))
    assert fields(read_examples(path, category="dialogue"), "id", "question", "answers") == [
        ("m2", "Hi?", ["Ho."])
    ]
    path = write(tmp_path / "y.jsonl", jsonl({**rows[0], "message_id": ["m1"]}))
    assert fails(path).startswith(f"{path}:1: messages of one tree with another shape")
