"""Contract of the corpus readers: the rows of every native format, and bad ones by file:line.

All files are written here, in each format's own layout; the tests marked `data` read real ones.
"""

from __future__ import annotations

import bz2
import csv
import datetime
import gzip
import json
import lzma
import os
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from real_data import DATA

from radit_ray.core.chunking import chunk_document
from radit_ray.core.errors import InputError
from radit_ray.data.readers import iter_documents, iter_file, known_by, list_corpus_files

ROWS = [
    {
        "id": "1",
        "title": "Aaron",
        "text": 'He said "no".\nThen 東京.',
        "source": "w",
        "date": "2018",
    },
    {"id": "2", "title": "", "text": "Second text", "source": "", "date": ""},
    {"id": "3", "title": "C", "text": "Third", "source": "", "date": ""},
]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACKERS = {
    ".gz": gzip.compress,
    ".xz": lambda data: lzma.compress(data, preset=0),
    ".bz2": lambda data: bz2.compress(data, 1),  # blocks of 100 kB: several in a small file
    ".zst": zstd,
}


def write(path: Path, data: bytes | str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return str(path)


def fails(spec: str) -> str:
    with pytest.raises(InputError) as caught:
        list(iter_documents(spec))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["", *PACKERS])
def test_jsonl_plain_and_packed(tmp_path, ending):
    data = PACKERS[ending](JSONL) if ending else JSONL
    path = write(tmp_path / f"c.jsonl{ending}", data)
    assert list(iter_documents(path)) == ROWS


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_of_several_members_and_many_blocks(tmp_path, ending):
    rows = [{**ROWS[0], "id": str(i), "text": os.urandom(2000).hex()} for i in range(300)]
    lines = [(json.dumps(row) + "\n").encode() for row in rows]
    parts = [PACKERS[ending](b"".join(lines[:100])), PACKERS[ending](b"".join(lines[100:]))]
    path = write(tmp_path / f"c.jsonl{ending}", b"".join(parts))
    assert list(iter_documents(path)) == rows


def test_bom_crlf_and_blank_lines_are_no_part_of_the_rows(tmp_path):
    data = b"\xef\xbb\xbf" + JSONL.replace(b"\n", b"\r\n\r\n")
    assert list(iter_documents(write(tmp_path / "c.jsonl", data))) == ROWS


@pytest.mark.parametrize("indent", [None, 2])
def test_json_list_is_streamed_over_block_borders(tmp_path, indent, monkeypatch):
    monkeypatch.setattr("radit_ray.data.json_records.BLOCK", 7)
    path = write(tmp_path / "c.json", json.dumps(ROWS, indent=indent, ensure_ascii=False))
    assert list(iter_documents(path)) == ROWS


def test_a_long_json_list_needs_memory_for_blocks_not_for_the_file(tmp_path):
    row = json.dumps({"id": "1", "text": "x" * 1_000})
    path = write(tmp_path / "c.json", "[" + ",".join([row] * 15_000) + "]")
    tracemalloc.start()
    assert sum(1 for _ in iter_documents(path)) == 15_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6  # the file has 15 MB; a buffer is one block of 1 MiB and copies of it


def test_parquet_with_typed_columns_and_vectors(tmp_path):
    table = pa.table(
        {
            "id": pa.array([1, 2], pa.int64()),
            "title": ["A", None],
            "text": pa.array(["t", "u"], pa.large_string()),
            "date": [datetime.date(2018, 12, 20), None],
            "vector": pa.array([[0.5, 1.0], [1.0, 2.0]], pa.list_(pa.float32(), 2)),
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    assert list(iter_documents(str(tmp_path / "c.parquet"))) == [
        {"id": "1", "title": "A", "text": "t", "source": "", "date": "2018-12-20"},
        {"id": "2", "title": "", "text": "u", "source": "", "date": ""},
    ]


def test_dpr_tsv_equals_what_the_csv_module_wrote(tmp_path):
    rows = [
        ["1", 'Aaron ( or ; "Ahärôn") is a prophet', "Aaron"],
        ["2", '"Quoted" at the start', 'A "B" title'],
        ["3", "a tab\tinside", "T"],
    ]
    with open(tmp_path / "psgs_w100.tsv", "w", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerows([["id", "text", "title"], *rows])
    documents = list(iter_documents(str(tmp_path / "psgs_w100.tsv")))
    assert [[row["id"], row["text"], row["title"]] for row in documents] == rows


def test_dpr_tsv_keeps_a_loose_quote_and_the_lines_after_it(tmp_path):
    path = write(tmp_path / "p.tsv", 'id\ttext\ttitle\n1\t"Foo" is a bar\tT\n2\tplain\tU\n')
    assert [row["text"] for row in iter_documents(path)] == ['"Foo" is a bar', "plain"]


def test_atlas_rows_carry_the_section_in_the_title(tmp_path):
    rows = [
        {"id": "0", "title": "Aaron", "section": "Life", "text": "born"},
        {"id": "1", "title": "Aaron", "section": "", "text": "intro"},
    ]
    path = write(tmp_path / "text-list-100-sec.jsonl", "\n".join(map(json.dumps, rows)))
    assert [row["title"] for row in iter_documents(path)] == ["Aaron: Life", "Aaron"]


@pytest.mark.parametrize("nest", [False, True])
def test_kilt_page_becomes_plain_text_that_is_cut_at_its_headings(tmp_path, nest):
    text = ["Aaron\n", "Intro.\n", "Section::::Life.\n", "Born.\n", "Section::::Life.:Death.\n"]
    text.append("BULLET::::- Died.")
    page = {
        "_id": "290",
        "wikipedia_id": "290",
        "wikipedia_title": "Aaron",
        "text": {"paragraph": text} if nest else text,
        "anchors": [],
        "history": {"timestamp": "2019-07-01T00:00:00Z", "url": "https://en.wikipedia.org/a"},
    }
    (row,) = iter_documents(write(tmp_path / "kilt.json", json.dumps(page) + "\n"))
    assert row == {
        "id": "290",
        "title": "Aaron",
        "text": "Intro.\n== Life ==\nBorn.\n== Life: Death ==\n- Died.",
        "source": "https://en.wikipedia.org/a",
        "date": "2019-07-01T00:00:00Z",
    }
    assert len(chunk_document(row["text"], merge_short=False)) == 3


WIKI = """<doc id="12" url="https://en.wikipedia.org/wiki?curid=12" title="A "B" & C">
A "B" & C

First paragraph.

Second.
</doc>
<doc id="13" revid="5" url="u" title="Empty">
Empty

</doc>
<doc id="14" url="u2" title="D">
D
Text.
</doc>
"""


def test_wikiextractor_in_both_forms_leaves_out_pages_without_prose(tmp_path):
    write(tmp_path / "doc" / "AA" / "wiki_00", WIKI)
    text = 'A "B" & C'
    rows = [
        {"id": "12", "revid": "1", "url": "u", "title": text, "text": "First paragraph.\nSecond."},
        {"id": "13", "revid": "1", "url": "u", "title": "Empty", "text": ""},
    ]
    lines = "\n".join(map(json.dumps, rows)).encode()
    write(tmp_path / "json" / "AA" / "wiki_00.bz2", bz2.compress(lines))
    doc = list(iter_documents(str(tmp_path / "doc")))
    assert [(row["id"], row["title"], row["source"]) for row in doc] == [
        ("12", text, "https://en.wikipedia.org/wiki?curid=12"),
        ("14", "D", "u2"),
    ]
    assert [row["text"] for row in doc] == ["First paragraph.\n\nSecond.", "Text."]
    (row,) = iter_documents(str(tmp_path / "json"))
    assert (row["id"], row["text"]) == ("12", "First paragraph.\nSecond.")


def test_text_folder_ids_are_paths_and_titles_headings(tmp_path):
    write(tmp_path / "b" / "guide.md", "Intro\n\n## Set up ##\n\nPara 2\n")
    write(tmp_path / "a.v2.txt.gz", gzip.compress(b"One.\n\nTwo."))
    assert list(iter_documents(str(tmp_path))) == [
        {"id": "a.v2.txt.gz", "title": "a.v2", "text": "One.\n\nTwo.", "source": "", "date": ""},
        {
            "id": "b/guide.md",
            "title": "Set up",
            "text": "Intro\n\n## Set up ##\n\nPara 2\n",
            "source": "",
            "date": "",
        },
    ]


def test_a_file_is_known_by_what_its_rows_depend_on(tmp_path):
    for place in ("here", "there/below"):
        write(tmp_path / place / "a.jsonl", '{"id": "1", "text": "x"}\n')
        write(tmp_path / place / "texts" / "b.txt", "x")
    specs = [
        f"{tmp_path}/here/a.jsonl,{tmp_path}/there/below/texts",
        f"{tmp_path}/there/below/a.jsonl,{tmp_path}/here/texts",
    ]
    rows = [[known_by(file, s) for file in list_corpus_files(s)] for s in specs]
    assert [names[0] for names in rows] == ["a.jsonl", "a.jsonl"]
    assert [names[1] for names in rows] == ["there/below/texts/b.txt", "here/texts/b.txt"]
    ids = [row["id"] for s in specs for row in iter_documents(s) if row["id"] != "1"]
    assert ids == [names[1] for names in rows]


def test_text_ids_are_unique_over_several_folders_and_the_same_in_a_worker(tmp_path):
    write(tmp_path / "x" / "n.txt", "one")
    write(tmp_path / "y" / "n.txt", "two")
    spec = f"{tmp_path}/x,{tmp_path}/y/*.txt"
    assert [row["id"] for row in iter_documents(spec)] == ["x/n.txt", "y/n.txt"]
    files = list_corpus_files(spec)
    assert [next(iter_file(file, spec=spec))["id"] for file in files] == ["x/n.txt", "y/n.txt"]
    assert next(iter_file(files[0]))["id"] == "n.txt"


def test_saved_hugging_face_data_sets(tmp_path):
    import datasets

    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(
        str(tmp_path / "two")
    )
    assert list(iter_documents(str(tmp_path / "one"))) == ROWS
    assert list(iter_documents(f"hf:{tmp_path}/one")) == ROWS
    assert list(iter_documents(str(tmp_path / "two"))) == ROWS
    assert list(iter_documents(f"hf:{tmp_path}/two:test")) == [ROWS[1]]
    assert "no split 'dev'" in fails(f"hf:{tmp_path}/two:dev")


def test_a_saved_data_set_that_breaks_off_is_one_line(tmp_path):
    datasets = pytest.importorskip("datasets")
    folder = tmp_path / "saved"
    datasets.Dataset.from_list(ROWS * 50).save_to_disk(str(folder))
    (file,) = folder.glob("*.arrow")
    file.write_bytes(file.read_bytes()[:400])
    message = fails(str(folder))
    assert message.startswith(str(folder))
    assert "copy or save the folder again" in message
    (folder / "state.json").write_text('{"_data_fi')
    assert "cannot be read" in fails(str(folder))


def test_a_local_folder_through_load_dataset(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    write(tmp_path / "data" / "train.jsonl", JSONL)
    assert list(iter_documents(f"hf:{tmp_path}/data")) == ROWS


def test_a_hub_name_that_cannot_be_reached_asks_for_a_local_copy():
    message = fails("hf:no-such-owner/no-such-set")
    assert message.startswith("hf:no-such-owner/no-such-set:0: the data set cannot be read")
    assert "path of a local copy" in message


def test_uris_read_like_paths(tmp_path):
    write(tmp_path / "c.jsonl.gz", gzip.compress(JSONL))
    assert list(iter_documents(f"file://{tmp_path}/c.jsonl.gz")) == ROWS
    import fsspec

    with fsspec.open("memory://corpus/c.jsonl", "wb") as stream:
        stream.write(JSONL)
    assert list(iter_documents("memory://corpus")) == ROWS
    assert list(iter_documents("memory://corpus/*.jsonl")) == ROWS
    assert "unknown file system" in fails("nosuch://bucket/c.jsonl")


def test_five_megabytes_on_one_line(tmp_path):
    text = "word " * 1_000_000
    path = write(tmp_path / "c.jsonl", json.dumps({"id": "1", "text": text}))
    assert next(iter_documents(path))["text"] == text


# --- which files ---------------------------------------------------------------------------------


def test_files_are_sorted_each_once_and_only_data(tmp_path):
    for name in ("b.jsonl", "a.jsonl", "sub/c.parquet", "README.md", "notes.csv", ".x.jsonl"):
        write(tmp_path / name, JSONL)
    for name in ("_SUCCESS", "_tmp/d.jsonl", "manifest.json"):
        write(tmp_path / name, "{}")
    folder = [f"{tmp_path}/{name}" for name in ("a.jsonl", "b.jsonl", "sub/c.parquet")]
    assert list_corpus_files(str(tmp_path)) == folder
    spec = f"{tmp_path}/b.jsonl, {tmp_path}/*.jsonl"
    assert list_corpus_files(spec) == [folder[1], folder[0]]
    write(tmp_path / "x,y.jsonl", JSONL)
    assert list_corpus_files(f"{tmp_path}/x,y.jsonl") == [f"{tmp_path}/x,y.jsonl"]


def test_the_content_decides_where_the_name_says_nothing(tmp_path):
    pq.write_table(pa.table({"id": ["1"], "text": ["t"]}), tmp_path / "part0")
    assert next(iter_documents(str(tmp_path / "part0")))["id"] == "1"
    assert list(iter_documents(write(tmp_path / "dump", JSONL))) == ROWS
    assert next(iter_documents(write(tmp_path / "t", "id\ttext\ttitle\n7\ta\tb\n")))["id"] == "7"
    assert next(iter_documents(write(tmp_path / "w.txt", WIKI)))["id"] == "12"


def test_limit_counts_documents_and_reads_no_further(tmp_path):
    path = write(tmp_path / "c.jsonl", JSONL + b"broken\n")
    assert list(iter_documents(path, limit=2)) == ROWS[:2]
    assert list(iter_documents(path, limit=3)) == ROWS
    with pytest.raises(InputError, match="limit is 0"):
        list(iter_documents(path, limit=0))


# --- bad rows ------------------------------------------------------------------------------------

GOOD = '{"id": "1", "text": "t"}\n'
BAD_LINES = [
    ('{"id": "2", "text": ', "broken JSON"),
    ('["2", "t"]', "a JSON list, not an object"),
    ('{"id": "2"}', "no `text` (the row's fields: 'id')"),
    ('{"id": "2", "txt": "t"}', "no `text` (the row's fields: 'id', 'txt')"),
    ('{"text": "t"}', "no `id` (the row's fields: 'text')"),
    ('{"id": "", "text": "t"}', "no `id`"),
    ('{"id": "2", "text": ""}', "`text` is empty"),
    ('{"id": "2", "text": " \\n"}', "`text` is empty"),
    ('{"id": "2", "text": 5}', "`text` is int, not a string"),
    ('{"id": "2", "text": "t", "title": ["x"]}', "`title` is list, not a string"),
    ('{"id": ["2"], "text": "t"}', "`id` is list, not a string"),
    ('{"id": "2", "text": "t", "date": {}}', "`date` is dict, not a string"),
    ('{"id": "2", "text": "a\\u0000b"}', "`text` holds a NUL character"),
    ('{"id": "2", "text": "a\\ud83d"}', "`text` holds a lone surrogate (U+D83D)"),
    ('{"id": "2", "wikipedia_title": "T", "text": [1]}', "not a list of strings"),
    ("[" * 100_000, "broken JSON"),
]


@pytest.mark.parametrize(("line", "reason"), BAD_LINES)
def test_a_bad_row_fails_with_its_place_or_goes_to_quarantine(tmp_path, line, reason):
    path = write(tmp_path / "c.jsonl", GOOD + "\n" + line + "\n" + GOOD)
    message = fails(path)
    assert message.startswith(f"{path}:3: ")
    assert reason in message
    bad = []
    rows = list(iter_documents(path, on_bad_row="quarantine", quarantine=bad.append))
    assert [row["id"] for row in rows] == ["1", "1"]
    assert len(bad) == 1
    assert (bad[0]["file"], bad[0]["line"], bad[0]["row"]) == (path, 3, line[:2000])
    assert reason in bad[0]["reason"]
    json.dumps(bad[0], ensure_ascii=False).encode()  # can be written down


def test_not_utf8_names_the_line_and_the_fix(tmp_path):
    latin = '{"id": "2", "text": "café"}\n'.encode("latin-1")
    path = write(tmp_path / "c.jsonl", GOOD.encode() + latin + GOOD.encode())
    message = fails(path)
    assert message.startswith(f"{path}:2: not UTF-8 (byte 0xe9)")
    assert "iconv" in message
    bad = []
    assert len(list(iter_documents(path, on_bad_row="quarantine", quarantine=bad.append))) == 2
    assert bad[0]["line"] == 2
    text = write(tmp_path / "t.txt", b"one\ntwo\ncaf\xe9")
    assert fails(text).startswith(f"{text}:3: not UTF-8")
    listed = write(tmp_path / "l.json", b'[{"id": "1", "text": "t"},\n{"id": "2", "text": "\xe9"}]')
    assert fails(listed).startswith(f"{listed}:2: not UTF-8")
    wide = write(tmp_path / "w.jsonl", GOOD.encode("utf-16"))
    assert fails(wide).startswith(f"{wide}:1: not UTF-8 but UTF-16")


@pytest.mark.parametrize("ending", ["jsonl", "json", "txt", "tsv", "jsonl.gz"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_utf_16_is_named_with_the_command_that_converts_it(tmp_path, ending, encoding):
    content = ("" if encoding == "utf-16" else "\ufeff") + GOOD
    path = write(tmp_path / f"w.{ending}", content.encode(encoding))
    if ending.endswith(".gz"):
        Path(path).write_bytes(gzip.compress(content.encode(encoding)))
    expected = f"{path}:1: not UTF-8 but UTF-16; convert it with `iconv -f UTF-16 -t UTF-8 FILE > "
    assert fails(path).startswith(expected)


@pytest.mark.parametrize("encoding", ["UTF-16LE", "UTF-16BE"])
def test_utf_16_without_a_mark_is_told_by_its_zeros(tmp_path, encoding):
    path = write(tmp_path / "w.jsonl", GOOD.encode(encoding))
    assert f"UTF-16; convert it with `iconv -f {encoding} -t UTF-8 " in fails(path)
    short = write(tmp_path / "s.txt", "a\0")  # no more than a NUL in UTF-8
    assert "NUL character" in fails(short)


def test_bad_rows_of_the_other_formats(tmp_path):
    tsv = write(tmp_path / "p.tsv", "id\ttext\ttitle\n1\tt\tT\n2\tt\n")
    assert fails(tsv).startswith(f"{tsv}:3: 2 tab-separated fields, not 3")
    headless = write(tmp_path / "q.tsv", "1\tt\tT\n")
    assert fails(headless).startswith(f"{headless}:1: no header line")
    listed = write(tmp_path / "l.json", '[\n{"id": "1", "text": "t"},\n{"id": "2"}]')
    assert fails(listed).startswith(f"{listed}:3: item 2: no `text`")
    indented = write(tmp_path / "i.json", json.dumps([ROWS[0], {"id": "2"}], indent=1))
    assert fails(indented).startswith(f"{indented}:9: item 2: no `text`")
    cut = write(tmp_path / "cut.json", '[\n{"id": "1", "text": "t"},\n{"id": "2", "te')
    assert fails(cut).startswith(f"{cut}:3: broken JSON")
    unclosed = write(tmp_path / "u.json", '[\n{"id": "1", "text": "t"}\n')
    assert fails(unclosed).startswith(f"{unclosed}:3: the list is not closed")
    pq.write_table(pa.table({"id": ["1", "2"], "text": ["t", None]}), tmp_path / "n.parquet")
    assert fails(f"{tmp_path}/n.parquet").startswith(f"{tmp_path}/n.parquet:2: no `text`")
    wiki = write(tmp_path / "wiki_00", WIKI.replace('</doc>\n<doc id="14', '<doc id="14'))
    assert fails(wiki).startswith(f"{wiki}:8: <doc ...> without </doc> before the next one on line")
    tail = write(tmp_path / "wiki_01", WIKI.rstrip().removesuffix("</doc>"))
    assert fails(tail).startswith(f"{tail}:12: <doc ...> without </doc>; the file seems cut off")
    stray = write(tmp_path / "wiki_02", WIKI + "stray\n")
    assert fails(stray).startswith(f"{stray}:16: text outside of <doc ...>")
    blank = write(tmp_path / "blank.md", " \n")
    assert fails(blank).startswith(f"{blank}:1: `text` is empty")


def test_quarantine_goes_on_after_a_broken_wiki_page(tmp_path):
    path = write(tmp_path / "wiki_00", WIKI.replace('</doc>\n<doc id="14', '<doc id="14'))
    bad = []
    rows = list(iter_documents(path, on_bad_row="quarantine", quarantine=bad.append))
    assert [row["id"] for row in rows] == ["12", "14"]
    assert [row["line"] for row in bad] == [8]


@pytest.mark.parametrize("ending", PACKERS)
def test_a_truncated_archive_names_the_line_it_reached(tmp_path, ending):
    rows = [{"id": str(i), "text": os.urandom(2000).hex()} for i in range(150)]
    data = PACKERS[ending]("".join(json.dumps(row) + "\n" for row in rows).encode())
    path = write(tmp_path / f"c.jsonl{ending}", data[: len(data) // 2])
    for policy in ({}, {"on_bad_row": "quarantine", "quarantine": [].append}):
        seen = 0
        with pytest.raises(InputError, match="breaks off or is damaged") as caught:
            for seen, _ in enumerate(iter_documents(path, **policy), start=1):  # noqa: B007
                pass
        assert 0 < seen < 150
        assert str(caught.value).startswith(f"{path}:{seen}: ")
        assert "\n" not in str(caught.value)


def test_damage_inside_an_archive(tmp_path):
    data = bytearray(gzip.compress(os.urandom(300_000).hex().encode()))
    data[100_000] ^= 0xFF
    assert "breaks off or is damaged" in fails(write(tmp_path / "c.jsonl.gz", bytes(data)))


def test_files_that_are_not_there_or_not_readable(tmp_path):
    assert fails(f"{tmp_path}/no.jsonl") == f"{tmp_path}/no.jsonl: no such file or folder; " + (
        "check the path"
    )
    assert fails(f"{tmp_path}/*.jsonl").startswith(f"{tmp_path}/*.jsonl: no file matches")
    assert "no readable file in this folder" in fails(str(tmp_path))
    assert "empty string" in fails(" , ")
    empty = write(tmp_path / "e.jsonl", "")
    assert fails(empty).startswith(f"{empty}:1: the file is empty")
    packed = write(tmp_path / "e.jsonl.gz", gzip.compress(b""))
    assert fails(packed).startswith(f"{packed}:1: the file holds no rows")
    blank = write(tmp_path / "b.jsonl", "\n \n")
    assert fails(blank).startswith(f"{blank}:1: the file holds no rows")
    unknown = write(tmp_path / "x.docx", b"PK\x03\x04zip")
    assert fails(unknown).startswith(f"{unknown}:1: unknown format; expected JSONL")
    parquet = write(tmp_path / "x.parquet", b"PAR1 but no more")
    assert fails(parquet).startswith(f"{parquet}:1: not a readable Parquet file")
    with pytest.raises(InputError, match="no such file"):
        list(iter_file(f"{tmp_path}/gone.jsonl"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission(tmp_path):
    path = write(tmp_path / "c.jsonl", GOOD)
    os.chmod(path, 0)
    assert "check its permissions" in fails(path)


def test_quarantine_takes_empty_files_but_not_an_empty_result(tmp_path):
    write(tmp_path / "a.txt", "")
    write(tmp_path / "b.txt", "text")
    bad = []
    rows = list(iter_documents(str(tmp_path), on_bad_row="quarantine", quarantine=bad.append))
    assert [row["id"] for row in rows] == ["b.txt"]
    assert [(row["file"], row["line"]) for row in bad] == [(f"{tmp_path}/a.txt", 1)]
    path = write(tmp_path / "c.jsonl", "{}\n")
    with pytest.raises(InputError, match="no usable document in 1 file"):
        list(iter_documents(path, on_bad_row="quarantine", quarantine=bad.append))


def test_the_policy_itself_is_checked(tmp_path):
    path = write(tmp_path / "c.jsonl", GOOD)
    with pytest.raises(InputError, match="did you mean 'quarantine'"):
        list(iter_documents(path, on_bad_row="quarantin"))
    with pytest.raises(InputError, match="needs a `quarantine` function"):
        list(iter_documents(path, on_bad_row="quarantine"))


# --- real files ----------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "num"),
    [
        ("squad_open/corpus.jsonl.gz", 3221),
        ("corpus/dpr_wiki2018_passages.jsonl.xz", 13711),
        ("corpus/enwiki_2016_slice.jsonl.xz", 126),
    ],
)
def test_real_corpora_are_read_whole(name, num):
    rows = list(iter_documents(f"{DATA}/{name}"))
    assert len(rows) == len({row["id"] for row in rows}) == num
