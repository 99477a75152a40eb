"""Contract of `make test-data`: every split of every task and every corpus below the data folder is
read, and what nothing reads is named in docs/evaluation.md.

A split whose files are not there is a visible skip; a folder without any data is a failure.
"""

from __future__ import annotations

import itertools
import re
import tarfile
import zipfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from real_data import DATA

from radit_ray.core.templates import eval_prompt, gold_answer, options, train_prompt
from radit_ray.data.examples import read_examples
from radit_ray.data.native_files import archive_parts
from radit_ray.data.readers import iter_documents
from radit_ray.data.rows import own_score
from radit_ray.data.tasks import TASKS, local_files

NUM = 200  # rows looked at more closely, and documents of a corpus
SPLITS = [(task.name, s) for task in TASKS.values() for s in task.splits if task.files_of(s)[0]]
with pytest.MonkeyPatch.context() as patch:
    patch.setenv("RADIT_DATA", str(DATA))
    HERE = {name: [s for s in task.splits if local_files(task, s)] for name, task in TASKS.items()}
CORPORA = sorted(path for path in (DATA / "corpus").glob("*") if path.is_file())
CORPORA += [DATA / "squad_open" / "corpus.jsonl.gz"]
# what `native_files.joined` reads with another file, and what tells people about files
BESIDE = ("*/base_prompt.txt", "*/valid-labels.lst", "*/test_ground_truth.json", "*README.md")
ABOUT = ("MANIFEST.json", "README.md", "SOURCES.json")
DOCUMENT = Path(__file__).parents[2] / "docs" / "evaluation.md"

pytestmark = pytest.mark.data


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package looks where the tests do, wherever pytest was started."""
    monkeypatch.setenv("RADIT_DATA", str(DATA))


def test_there_is_data() -> None:
    assert any(HERE.values()), (
        f"no question set below {DATA}; set RADIT_DATA to the folder of the native files"
    )
    assert any(path.exists() for path in CORPORA), f"no corpus below {DATA}"


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_every_split_that_lies_here_is_read_and_asked(name: str, split: str) -> None:
    task = TASKS[name]
    if split not in HERE[name]:
        pytest.skip(f"{DATA}: {task.files_of(split)[0]} is not there")
    measured = split == task.split
    rows = read_examples(f"task:{name}" if measured else f"task:{name}:{split}")
    assert len({row["id"] for row in rows}) == len(rows) > 0
    # a dev set that is measured stands in for the test set
    assert {row["split"] for row in rows} == {"eval" if measured and split == "dev" else split}
    for row in rows[:NUM]:
        assert row["task"] == name
        assert eval_prompt(row).text
        train_prompt(row, seed=0)
        if row["choices"]:
            assert len(options(row)) == len(row["choices"])
        elif task.metric != "regex":
            assert own_score(row, gold_answer(row)) == pytest.approx(1.0)


@pytest.mark.parametrize("name", [name for name, splits in HERE.items() if len(splits) > 1])
def test_splits_of_a_set_share_no_id(name: str) -> None:
    """Together in one spec, as demonstrations and questions are; a shared id is an InputError."""
    rows = read_examples(",".join(f"task:{name}:{split}" for split in HERE[name]))
    assert {row["split"] for row in rows} == set(HERE[name])


@pytest.mark.parametrize("path", CORPORA, ids=[path.name for path in CORPORA])
def test_every_corpus_that_lies_here_is_read(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    rows = list(itertools.islice(iter_documents(str(path)), NUM))
    assert len({row["id"] for row in rows}) == len(rows)
    assert len(rows) == NUM or rows == list(iter_documents(str(path)))
    assert all(row["text"].strip() and row["title"] for row in rows)


def members(path: Path) -> list[str]:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            return [item.filename for item in packed.infolist() if not item.is_dir()]
    with tarfile.open(path) as tar:
        return [member.name for member in tar if member.isfile()]


def lying() -> Iterator[str]:
    """Every file below the data folder; those inside an archive that tasks read, one by one."""
    archives = {archive_parts(path)[0] for path in read() if "!" in path}
    for path in sorted(DATA.rglob("*")):
        name = path.relative_to(DATA).as_posix()
        if name in archives:
            yield from (f"{name}!{member}" for member in members(path))
        elif path.is_file() and name not in ABOUT:
            yield name


def read() -> list[str]:
    """Paths and patterns of every task, and the corpora."""
    listed = [files for task in TASKS.values() for files in task.files.values()]
    corpora = [path.relative_to(DATA).as_posix() for path in CORPORA]
    return [*re.split(r" \| |, ", ", ".join(listed)), *corpora]


def test_what_nothing_reads_is_named_with_its_reason() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").partition("# Sets that are not read")[2]
    cells = re.findall(r"^\| (`.*`) \| .+ \|$", section, re.MULTILINE)
    left_out = [pattern for cell in cells for pattern in re.findall(r"`([^`]+)`", cell)]
    assert left_out

    def fits(name: str, patterns: list[str]) -> bool:
        return any(fnmatch(name, pattern) for pattern in patterns)

    names = [name for name in lying() if not fits(name, list(BESIDE))]
    assert names, f"no file below {DATA}"
    assert [name for name in names if not fits(name, [*read(), *left_out])] == []
    # and nothing is said to be left out that a task reads
    assert [name for name in names if fits(name, read()) and fits(name, left_out)] == []
