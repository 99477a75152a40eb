"""Contract of the example reader: every native question file, and splits that cut no group.

All files are written here, in each format's own layout; the tests marked `data` read real ones.
"""

from __future__ import annotations

import csv
import gzip
import json
import lzma
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from real_data import DATA

from radit_ray.core.errors import InputError
from radit_ray.data.examples import read_examples
from radit_ray.data.rows import EXAMPLE, example_row


def write(path: Path, data: bytes | str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def jsonl(*rows: dict) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def question(name: str, **fields) -> dict:
    return {"id": name, "question": f"Q {name}?", "answers": [f"A {name}"], **fields}


def fails(spec: str, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        read_examples(spec, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def splits(rows: list[dict]) -> dict[str, str]:
    return {row["id"]: row["split"] for row in rows}


# --- formats --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["jsonl", "json", "jsonl.gz", "jsonl.xz", "parquet"])
def test_own_rows_in_every_container(tmp_path, ending):
    rows = [
        question("1", context="c", date="2020", task="t", split="dev", group="g", query="q"),
        question("2", choices=["A 2", "x"], gold_ids=["d#1"], exclude_ids=["e#0"]),
    ]
    path = tmp_path / f"q.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist([example_row(row) for row in rows]), path)
    elif ending == "json":
        write(path, json.dumps(rows, indent=1))
    else:
        packers = {"jsonl.gz": gzip.compress, "jsonl.xz": lzma.compress, "jsonl": bytes}
        write(path, packers[ending](jsonl(*rows).encode()))
    # Parquet rows are full already: their category stays.
    category = "open-domain-qa" if ending == "parquet" else "multiple-choice"
    expected = [example_row(rows[0]), example_row({**rows[1], "category": category})]
    assert read_examples(str(path)) == expected
    assert pa.Table.from_pylist(expected, schema=EXAMPLE).num_rows == 2


def test_aliases_of_the_known_sets(tmp_path):
    native = [
        {"question": "nq", "answer": ["x", "y"]},
        {"question": "gsm8k", "answer": "x"},
        {"qId": "wq1", "qText": "webq", "answers": ["x"]},
        {
            "id": "s",
            "question": "squad hub",
            "answers": {"text": ["x", "x"], "answer_start": [1, 2]},
        },
        {"question_id": "t", "question": "trivia", "answer": {"value": "x", "aliases": ["y"]}},
        {"id": 7, "question": "pid", "answers": ["x"], "gold_pid": "d#1", "title": "T"},
        {"id": "st", "question": "strategy", "answer": True},
        {"id": "si", "question": "q", "edited_question": "q as of 2019", "answer": ["x"]},
    ]
    rows = read_examples(write(tmp_path / "x.jsonl", jsonl(*native)))
    assert [row["id"] for row in rows] == ["x:1", "x:2", "wq1", "s", "t", "7", "st", "x:8"]
    assert [row["question"] for row in rows][2:5] == ["webq", "squad hub", "trivia"]
    assert [row["answers"] for row in rows] == [
        *(["x", "y"], ["x"], ["x"], ["x"], ["x", "y"], ["x"], ["yes"], ["x"])
    ]
    assert (rows[5]["gold_ids"], rows[5]["group"]) == (["d#1"], "d#1")
    assert (rows[7]["question"], rows[7]["group"]) == ("q as of 2019", "si")
    assert {row["category"] for row in rows} == {"open-domain-qa"}


def test_choices_take_the_text_of_the_right_one(tmp_path):
    labelled = {"text": ["bank", "mall"], "label": ["A", "B"]}
    stem = {
        "stem": "csqa",
        "choices": [{"label": "A", "text": "bank"}, {"label": "B", "text": "mall"}],
    }
    native = [
        {"id": "mmlu", "question": "q", "choices": ["bank", "mall"], "answer": 1},
        {"id": "arc", "question": "q", "choices": labelled, "answerKey": "B"},
        {"id": "csqa", "question": stem, "answerKey": "B"},
        {"id": "letter", "question": "q", "choices": ["bank", "mall"], "answers": ["B"]},
        {"id": "text", "question": "q", "choices": ["A", "mall"], "answers": ["mall"]},
        {"id": "aqua", "question": "q", "options": ["A)bank", "B)mall"], "correct": "B"},
        {
            "question_id": "rt",
            "question_sentence": "q",
            "choices": ["0", "mall"],
            "answer": ["1"],
            "question_date": "2022/06/16",
        },
    ]
    rows = read_examples(write(tmp_path / "x.jsonl", jsonl(*native)))
    assert [row["answers"] for row in rows] == [["mall"]] * 7
    assert [row["choices"][1] for row in rows] == ["mall"] * 7
    assert {row["category"] for row in rows} == {"multiple-choice"}
    assert rows[2]["question"] == "csqa"
    assert rows[6]["date"] == "2022/06/16"


def test_dpr_question_files_equal_what_the_csv_module_wrote(tmp_path):
    pairs = [
        ("who sings", ["Linda Davis"]),
        ('the "girl" song?', ["Lucy", "the '70s", 'a "b"']),
        ("band?", ["AC\\DC"]),
    ]
    with open(tmp_path / "topics.txt", "w", newline="") as stream:
        csv.writer(stream, delimiter="\t").writerows((text, repr(a)) for text, a in pairs)
    path = tmp_path / "topics.dpr.txt.xz"
    path.write_bytes(lzma.compress((tmp_path / "topics.txt").read_bytes()))
    rows = read_examples(str(path))
    assert [(row["question"], row["answers"]) for row in rows] == pairs
    assert [row["id"] for row in rows] == ["topics.dpr:1", "topics.dpr:2", "topics.dpr:3"]


def squad(*titles: str) -> dict:
    return {
        "version": "2.0",
        "data": [
            {
                "title": title,
                "paragraphs": [
                    {
                        "context": f"{title} paragraph {number}",
                        "qas": [
                            {
                                "id": f"{title}{number}a",
                                "question": " why? ",
                                "answers": [{"text": "x", "answer_start": 0}],
                            },
                            {
                                "id": f"{title}{number}b",
                                "question": "how?",
                                "answers": [],
                                "is_impossible": True,
                            },
                        ],
                    }
                    for number in range(2)
                ],
            }
            for title in titles
        ],
    }


@pytest.mark.parametrize("indent", [None, 2])
def test_squad_json(tmp_path, indent):
    path = write(tmp_path / "dev.json", json.dumps(squad("T", "U"), indent=indent))
    rows = read_examples(path)
    assert [row["id"] for row in rows] == ["T0a", "T1a", "U0a", "U1a"]
    assert rows[1] == example_row(
        {
            "id": "T1a",
            "question": "why?",
            "answers": ["x"],
            "context": "T paragraph 1",
            "group": "T",
            "article": "T",
        }
    )
    rows = read_examples(path, category="reading-comprehension")
    assert {row["category"] for row in rows} == {"reading-comprehension"}
    assert rows[1]["answers"] == ["I don't know"]
    assert len(rows) == 8


def test_squad_of_one_article_is_grouped_by_paragraph(tmp_path):
    path = write(tmp_path / "dev.json", json.dumps(squad("T")))
    assert [row["group"] for row in read_examples(path)] == ["T#0", "T#1"]


def test_hugging_face_folders(tmp_path):
    import datasets

    data = datasets.Dataset.from_list([question("1"), question("2")])
    parts = {"train": data.select([0]), "test": data.select([1])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "d"))
    assert splits(read_examples(str(tmp_path / "d"))) == {"1": "train", "2": "eval"}
    assert splits(read_examples(f"dev=hf:{tmp_path}/d:test")) == {"2": "dev"}
    data.save_to_disk(str(tmp_path / "s"))
    assert splits(read_examples(str(tmp_path / "s"))) == {"1": "train", "2": "train"}


# --- splits ---------------------------------------------------------------------------------------


def test_folder_files_are_named_by_their_split(tmp_path):
    names = ("qa.train", "train-00000-of-00002", "validation", "dev", "test_v2", "pretraining")
    for name in names:
        write(tmp_path / f"{name}.jsonl", jsonl(question(name)))
    write(tmp_path / "corpus.jsonl", jsonl({"id": "d", "text": "t"}))
    assert splits(read_examples(str(tmp_path))) == {
        "qa.train": "train",
        "train-00000-of-00002": "train",
        "validation": "dev",
        "dev": "dev",
        "test_v2": "eval",
    }


def test_named_paths_and_their_order(tmp_path):
    a = write(tmp_path / "a.jsonl", jsonl(question("1", split="eval")))
    b = write(tmp_path / "b.jsonl", jsonl(question("2")))
    assert splits(read_examples(f"train={a},test={b}")) == {"1": "train", "2": "eval"}
    assert splits(read_examples(f"validation={b}")) == {"2": "dev"}
    assert splits(read_examples(a)) == {"1": "eval"}


@pytest.fixture
def grouped(tmp_path):
    rows = [question(f"{group}-{i}", title=f"T{group}") for group in range(40) for i in range(3)]
    return write(tmp_path / "x.jsonl", jsonl(*rows))


def test_shares_are_cut_by_group_and_seed(grouped):
    rows = read_examples(grouped, dev_share=0.1, eval_share=0.2, seed=1)
    split_of: dict[str, set[str]] = {}
    for row in rows:
        split_of.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in split_of.values())
    counts = Counter(min(found) for found in split_of.values())
    assert counts == {"train": 28, "dev": 4, "eval": 8}
    assert splits(rows) == splits(read_examples(grouped, dev_share=0.1, eval_share=0.2, seed=1))
    assert splits(rows) != splits(read_examples(grouped, dev_share=0.1, eval_share=0.2, seed=2))
    assert set(splits(read_examples(grouped)).values()) == {"train"}


def test_the_order_of_the_rows_does_not_change_their_split(grouped, tmp_path):
    lines = Path(grouped).read_text().splitlines(keepends=True)
    turned = write(tmp_path / "y.jsonl", "".join(reversed(lines)))
    first, second = (read_examples(path, dev_share=0.3) for path in (grouped, turned))
    assert splits(first) == splits(second)


def test_a_missing_dev_split_is_cut_out_of_train_only(grouped, tmp_path):
    test = write(tmp_path / "test.jsonl", jsonl(*[question(f"e{i}") for i in range(9)]))
    rows = read_examples(f"train={grouped},eval={test}", dev_share=0.25, eval_share=0.25)
    assert Counter(row["split"] for row in rows) == {"train": 90, "dev": 30, "eval": 9}
    assert all(row["id"].startswith("e") for row in rows if row["split"] == "eval")
    dev = write(tmp_path / "dev.jsonl", jsonl(question("d0")))
    rows = read_examples(f"train={grouped},dev={dev}", dev_share=0.25)
    assert Counter(row["split"] for row in rows) == {"train": 120, "dev": 1}


def test_a_small_share_of_few_groups_still_gives_one(tmp_path):
    path = write(tmp_path / "x.jsonl", jsonl(question("1"), question("2")))
    rows = read_examples(path, dev_share=0.01)
    assert Counter(row["split"] for row in rows) == {"train": 1, "dev": 1}
    message = fails(path, dev_share=0.01, eval_share=0.01)
    assert message.startswith("eval_share is 0.01, but train has 2 group(s) and keeps one")


def test_limit_is_per_split_and_seeded(grouped):
    rows = read_examples(grouped, eval_share=0.5, limit=7)
    assert Counter(row["split"] for row in rows) == {"train": 7, "eval": 7}
    everything = [row["id"] for row in read_examples(grouped)]
    assert [row["id"] for row in rows] == [name for name in everything if name in splits(rows)]
    assert splits(rows) == splits(read_examples(grouped, eval_share=0.5, limit=7))
    seeded = [splits(read_examples(grouped, limit=7, seed=seed)).keys() for seed in (0, 1)]
    assert seeded[0] != seeded[1]
    assert len(read_examples(grouped, limit=1000)) == 120


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "q"}, "example 'x:2' has no answer"),
        ({"question": "q", "answers": [""]}, "example 'x:2' has no answer"),
        ({"question": "", "answers": ["x"]}, "example 'x:2' has no question"),
        ({"question": "q", "answers": [1.5]}, "`answers[0]` is float '1.5', not a string"),
        ({"question": "q", "answers": ["x"], "split": "tran"}, "did you mean 'train'?"),
        ({"question": "q", "answers": ["x"], "choices": ["b"]}, "is one of its 1 choices"),
        ({"question": "q", "answer": 4, "choices": ["b"]}, "answer 4 is no index of 1 choices"),
        ({"question": "q", "answers": ["x"], "choices": "b"}, "`choices` is str, not a list"),
        ({"id": "1", "question": "q", "answers": ["x"]}, "id '1' is taken by {path}:1"),
        ({"data": [{"paragraphs": [{"qas": [{}]}]}]}, "SQuAD JSON with an unknown shape"),
        ("[1]", "a JSON list, not an object"),
        ("{broken", "broken JSON"),
    ],
)
def test_a_bad_row_names_its_place_or_goes_to_quarantine(tmp_path, row, reason):
    line = row if isinstance(row, str) else json.dumps(row)
    path = write(tmp_path / "x.jsonl", jsonl(question("1")) + line + "\n" + jsonl(question("3")))
    message = fails(path)
    assert message.startswith(f"{path}:2: ")
    assert reason.format(path=path) in message
    bad = []
    rows = read_examples(path, on_bad_row="quarantine", quarantine=bad.append)
    assert [row["id"] for row in rows] == ["1", "3"]
    assert [(entry["line"], entry["row"]) for entry in bad] == [(2, line)]


def test_an_id_repeated_in_another_split_is_a_leak(tmp_path):
    a = write(tmp_path / "a.jsonl", jsonl(question("1")))
    b = write(tmp_path / "b.jsonl", jsonl(question("2"), question("1")))
    message = fails(f"train={a},eval={b}")
    assert message == f"{b}:2: id '1' is taken by {a}:1; make ids unique"


def test_items_of_a_one_line_list_get_their_own_ids_and_places(tmp_path):
    rows = [{"question": "q", "answers": ["x"]}, {"question": "r", "answers": ["b"]}]
    path = write(tmp_path / "x.json", json.dumps(rows))
    assert [row["id"] for row in read_examples(path)] == ["x:1", "x:2"]
    path = write(tmp_path / "y.json", json.dumps([*rows, {"question": "s"}]))
    assert fails(path).startswith(f"{path}:1: item 3: example 'y:3' has no answer")


@pytest.mark.parametrize("line", ["who\t", "who", "a\tb\t['c']", "who\t['a", "who\t[1]", "who\t5"])
def test_bad_lines_of_dpr_files(tmp_path, line):
    path = write(tmp_path / "x.tsv", "ok?\t['a']\n" + line + "\n")
    assert fails(path).startswith(f"{path}:2: not `question<TAB>['answer', ...]`")


def test_files_that_are_not_there_or_not_examples(tmp_path):
    assert "no such file or folder" in fails(f"{tmp_path}/no.jsonl")
    assert "no such file or folder" in fails("train=")
    assert "empty string" in fails("")
    assert "0 example files, none named by its split" in fails(str(tmp_path))
    for name in ("a", "b"):
        write(tmp_path / f"{name}.jsonl", jsonl(question(name)))
    assert "2 example files, none named by its split" in fails(str(tmp_path))
    assert "unknown ending; expected .jsonl" in fails(write(tmp_path / "x.docx", "x"))
    empty = write(tmp_path / "e.jsonl", "")
    assert fails(empty).startswith(f"{empty}:1: the file is empty")
    blank = write(tmp_path / "blank.jsonl", "\n")
    assert fails(blank).startswith(f"{blank}:1: the file holds no rows")
    corpus = write(tmp_path / "corpus.jsonl", jsonl({"id": "d", "text": "t"}))
    assert fails(corpus).startswith(f"{corpus}:1: example 'd' has no question")
    assert "path of a local copy" in fails("hf:no-such-owner/no-such-set")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"dev_share": 1.0}, "dev_share is 1.0"),
        ({"eval_share": -0.1}, "eval_share is -0.1"),
        ({"dev_share": 0.5, "eval_share": 0.5}, "dev_share + eval_share is 1"),
        ({"limit": 0}, "limit is 0"),
        ({"category": "open-domain"}, "did you mean 'open-domain-qa'"),
        ({"on_bad_row": "skip"}, "on_bad_row is 'skip'"),
    ],
)
def test_arguments_are_checked(grouped, arguments, reason):
    assert reason in fails(grouped, **arguments)


def test_task_and_category_fill_what_the_rows_leave_open(tmp_path):
    rows = [question("1"), question("2", task="own", category="dialogue")]
    found = read_examples(write(tmp_path / "x.jsonl", jsonl(*rows)), task="nq", category="plain")
    assert [(row["task"], row["category"]) for row in found] == [
        ("nq", "plain"),
        ("own", "dialogue"),
    ]


# --- real files -----------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "num", "num_groups"),
    [
        ("squad_open", 16394, 3221),
        (
            "qa/nq_open/topics.dpr.nq.dev.txt.xz",
            8656,
            8656,
        ),  # two of 8658 have answers that say nothing
        ("qa/triviaqa/topics.dpr.trivia.dev.txt.xz", 8836, 8836),
        ("qa/nq_open/NQ-open.dev.jsonl.xz", 3102, 3102),
        ("qa/squad/dev-v1.1.shared.json.xz", 8457, 36),
        ("qa/webquestions/val.json.xz", 755, 755),
        ("qa/commonsenseqa/dev_rand_split.jsonl.xz", 971, 971),
    ],
)
def test_real_question_files_are_read_whole(name, num, num_groups):
    rows = read_examples(f"{DATA}/{name}")
    assert (len(rows), len({row["group"] for row in rows})) == (num, num_groups)
