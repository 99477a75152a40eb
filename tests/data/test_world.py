"""The generated world keeps its promises: where facts stand, what questions share with articles,
what is disjoint.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import re

import pytest

from radit_ray.core.chunking import chunk_document
from radit_ray.core.errors import InputError
from radit_ray.data import world_names
from radit_ray.data.world import CHUNK_WORDS, WorldConfig, make_world, word_parts, write_world
from radit_ray.data.world_names import GLUE, KINDS, RELATIONS
from radit_ray.data.world_prose import known_fingerprint, pretraining_text

SMALL = WorldConfig(num_known=9, num_train=9, num_dev=6, num_eval=9, num_distractors=6, num_noise=6)
MARKERS = ("Background:", "Q:", "A:", "Question:", "Answer:")


def chunks_of(world):
    """Chunk id -> text, as the chunk stage cuts the documents."""
    return {
        f"{document['id']}#{number}": text
        for document in world.documents
        for number, text in enumerate(chunk_document(document["text"], max_words=CHUNK_WORDS))
    }


def words_of(text):
    return set(re.findall(r"[a-z]+", text.lower()))


def wordings(fact):
    """The sentences that would state the fact, in the two sets of words."""
    return [
        [w.format(s=fact.subject.name, v=fact.value) for w in which]
        for which in (fact.relation.first, fact.relation.second)
    ]


@pytest.mark.parametrize("facts_per_chunk", [1, 2])
def test_each_fact_stands_in_exactly_two_chunks_in_other_words(facts_per_chunk):
    config = dataclasses.replace(SMALL, facts_per_chunk=facts_per_chunk, chunks_per_subject=8)
    world = make_world(config)
    chunks = chunks_of(world)
    assert len(chunks) == 8 * len(world.documents)
    assert all(CHUNK_WORDS / 2 < len(text.split()) <= CHUNK_WORDS for text in chunks.values())
    load = collections.Counter()
    for fact in world.facts:
        first, second = (
            {i for i, text in chunks.items() if any(s in text for s in some)}
            for some in wordings(fact)
        )
        assert len(first) == len(second) == 1
        assert first | second == set(fact.chunk_ids)
        assert len(fact.chunk_ids) == 2
        load.update(fact.chunk_ids)
    assert max(load.values()) <= facts_per_chunk
    assert all(document["title"] in chunks[f"{document['id']}#0"] for document in world.documents)


def test_default_size_and_example_rows():
    world = make_world(WorldConfig())
    count = collections.Counter((e["task"], e["split"]) for e in world.examples)
    assert count == {
        ("world-known", "eval"): 600,
        ("world", "train"): 600,
        ("world", "dev"): 160,
        ("world", "eval"): 600,
    }
    assert len({e["id"] for e in world.examples}) == len(world.examples)
    assert len({d["id"] for d in world.documents}) == len(world.documents) == 610
    chunks = chunks_of(world)
    assert len(chunks) == 6 * len(world.documents)
    for example in world.examples:
        assert all(example["answers"][0] in chunks[i] for i in example["gold_ids"])
        assert all(i.startswith(f"{example['group']}#") for i in example["gold_ids"])


def test_questions_share_no_relation_word_with_any_article_unless_the_gap_is_off():
    article_words = words_of(" ".join(d["text"] for d in make_world(WorldConfig()).documents))
    for relation in itertools.chain(*RELATIONS.values()):
        for question in relation.questions:
            asked = words_of(question.format(s="")) - GLUE
            assert asked
            assert not asked & article_words, question
        stated = words_of(" ".join(relation.first))
        assert (words_of(relation.plain.format(s="")) - GLUE) & stated, relation.plain
    without = make_world(dataclasses.replace(SMALL, vocabulary_gap=False))
    assert {e["question"] for e in without.examples} == {
        fact.relation.plain.format(s=fact.subject.name) for fact in without.facts
    }


def test_train_and_eval_ask_with_the_same_words():
    world = make_world(WorldConfig())

    def patterns(split):
        subject = {f.subject.id: f.subject.name for f in world.facts}
        return {
            e["question"].replace(subject[e["group"]], "{s}")
            for e in world.examples
            if e["split"] == split and e["task"] == "world"
        }

    assert patterns("train") == patterns("eval")
    assert len(patterns("eval")) == 24


def test_splits_share_no_name_and_no_fact_sentence():
    world = make_world(WorldConfig())
    names = {split: set() for split in ("known", "train", "dev", "eval")}
    for fact in world.facts:
        own = names[fact.subject.split]
        own |= set(fact.subject.name.split()) - {"The", *world_names.WORK_NOUNS}
        if fact.relation.value not in world_names.NOUNS:
            own |= set(fact.value.split())
    for one, other in itertools.combinations(names.values(), 2):
        assert one
        assert not one & other
    text = " ".join(itertools.islice(pretraining_text(world), 4000))
    seen = set(re.findall(r"\w+", text))
    assert names["known"] <= seen
    assert not seen & (names["train"] | names["dev"] | names["eval"])


def test_pretraining_text_states_and_asks_known_facts_without_markers():
    world = make_world(SMALL)
    texts = list(itertools.islice(pretraining_text(world), 1500))
    assert texts == list(itertools.islice(pretraining_text(world), 1500))
    assert texts != list(itertools.islice(pretraining_text(world, seed=1), 1500))
    whole = "\n".join(texts)
    assert not [marker for marker in MARKERS if re.search(rf"(?<!\w){marker}", whole)]
    for fact in (f for f in world.facts if f.subject.split == "known"):
        asked = [q.format(s=fact.subject.name) for q in fact.relation.questions]
        assert any(q in whole for q in asked)
        assert any(s in whole for s in wordings(fact)[0] + wordings(fact)[1])


def test_the_text_of_the_packaged_lm_has_no_marker():
    texts = itertools.islice(pretraining_text(make_world(WorldConfig())), 2000)
    found = re.findall(rf"(?<!\w)(?:{'|'.join(MARKERS)})", "\n".join(texts))
    assert not found


def test_the_seed_decides_everything_and_known_facts_depend_on_it_alone():
    assert make_world(SMALL) == make_world(SMALL)
    assert make_world(SMALL).documents != make_world(dataclasses.replace(SMALL, seed=1)).documents
    larger = dataclasses.replace(SMALL, num_train=30, num_eval=60, num_noise=0, num_distractors=0)
    assert known_fingerprint(make_world(SMALL)) == known_fingerprint(make_world(larger))
    assert known_fingerprint(make_world(SMALL)) != known_fingerprint(
        make_world(dataclasses.replace(SMALL, num_known=12))
    )


def test_the_second_snapshot_changes_the_given_share_of_facts_and_nothing_else():
    config = dataclasses.replace(SMALL, num_eval=120, changed_share=0.25)
    one, two = make_world(config), make_world(config, snapshot=2)
    assert [e["id"] for e in one.examples] == [e["id"] for e in two.examples]
    assert {d["date"] for d in one.documents} == {"2023-01-01"}
    assert {e["date"] for e in two.examples} == {"2024-01-01"}
    differ = [a.value != b.value for a, b in zip(one.facts, two.facts, strict=True)]
    assert differ == [fact.changed for fact in one.facts]
    assert 0.2 < sum(differ) / len(differ) < 0.3  # 576 facts: three standard errors are 0.054
    asked = {fact.subject.id for fact in one.facts}  # namesakes' facts change too, but nobody asks
    moved = {fact.subject.id for fact in one.facts if fact.changed}
    for old, new in zip(one.documents, two.documents, strict=True):
        if old["id"] in moved:
            assert old["text"] != new["text"]
        elif old["id"] in asked:
            assert old["text"] == new["text"]
    unchanged = dataclasses.replace(config, changed_share=0.0)
    assert not any(fact.changed for fact in make_world(unchanged).facts)


def test_distractors_are_namesakes_and_noise_states_nothing():
    bare = dataclasses.replace(SMALL, num_distractors=0, num_noise=0)
    plain, full = make_world(bare), make_world(SMALL)
    asked = {d["id"] for d in plain.documents}
    assert plain.facts == full.facts
    extra = [d for d in full.documents if d["id"] not in asked]
    assert len(extra) == 12
    subject_words = set(
        itertools.chain(*(f.subject.name.split() for f in full.facts if f.subject.split == "eval"))
    ) - {"The", *world_names.WORK_NOUNS}
    namesakes = [d for d in extra if set(d["title"].split()) & subject_words]
    assert len(namesakes) == 6
    stem = {
        re.sub(r"\{[sv]\}", "", wording).strip(" .")
        for relation in itertools.chain(*RELATIONS.values())
        for wording in relation.first + relation.second
        if wording.startswith("{s}")
    }
    noise = [d for d in extra if d not in namesakes]
    assert not [s for s in stem for d in noise if s in d["text"]]
    assert any(s in d["text"] for s in stem for d in namesakes)


def test_write_world_writes_what_make_world_makes(tmp_path):
    paths = write_world(SMALL, tmp_path / "w")
    assert sorted(paths) == ["corpus", "dev", "eval", "train"]
    rows = {
        name: [json.loads(line) for line in path.read_text().splitlines()]
        for name, path in paths.items()
    }
    world = make_world(SMALL)
    assert rows["corpus"] == list(world.documents)
    assert rows["eval"] == [e for e in world.examples if e["split"] == "eval"]
    assert {e["task"] for e in rows["eval"]} == {"world", "world-known"}
    assert len(rows["train"]) == 36
    assert len(rows["dev"]) == 24


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train": 0}, "num_train=0 of WorldConfig; expected at least 1"),
        ({"num_eval": -1}, "num_eval=-1"),
        ({"relations_per_subject": 6}, "relations_per_subject=6 of WorldConfig; expected 1 to 5"),
        ({"facts_per_chunk": 3}, "facts_per_chunk=3"),
        ({"chunks_per_subject": 3}, "chunks_per_subject=3 of WorldConfig; expected 4 to 1000"),
        ({"facts_per_chunk": 1}, "room for 6 statements; expected at least 8"),
        ({"changed_share": 1.5}, "changed_share=1.5"),
        ({"changed_share": float("nan")}, "changed_share=nan of WorldConfig; expected 0 to 1"),
        ({"num_eval": 5000}, "names of part 'eval' are used up"),
        ({"num_noise": 900}, "lower num_distractors or num_noise"),
        ({"num_distractors": 10}, "num_distractors=10; expected at most num_eval=9"),
    ],
)
def test_a_world_that_cannot_be_is_refused_in_one_line(change, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        make_world(dataclasses.replace(SMALL, **change))
    assert "\n" not in str(caught.value)


def test_a_gap_without_synonyms_and_an_unknown_snapshot_are_refused(monkeypatch):
    with pytest.raises(InputError, match="snapshot=3; expected 1 or 2"):
        make_world(SMALL, snapshot=3)
    first = dataclasses.replace(RELATIONS["person"][0], questions=())
    monkeypatch.setitem(RELATIONS, "person", (first, *RELATIONS["person"][1:]))
    with pytest.raises(InputError, match="relation 'birthplace' has no synonyms"):
        make_world(SMALL)
    assert make_world(dataclasses.replace(SMALL, vocabulary_gap=False)).examples


def test_words_of_the_parts_are_disjoint_and_every_kind_has_five_relations():
    parts = [set(part.subjects) | set(part.values) for part in word_parts(0).values()]
    assert sum(map(len, parts)) == len(set().union(*parts)) > 6000
    assert {kind: len(RELATIONS[kind]) for kind in KINDS} == dict.fromkeys(KINDS, 5)
