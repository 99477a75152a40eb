"""Question-answering, reading, dialogue, fact and text sets in their own fields in, fields that
`native_examples` knows out. Each function takes one native row and yields none, one or several.

| set | what is different |
|---|---|
| KILT | `input`, `output`: [{"answer"}] |
| FEVER, HoVer | `claim`, `label`: yes or no here; not enough info is left out, as in KILT |
| HotpotQA | `context` is a list of paragraphs, which would be gold: left out |
| PopQA, RetrievalQA, FreshQA | `possible_answers`; `ground_truth`; `answer_0` ... `answer_9` |
| PAT-Questions | `text answers`; a question without one is left out |
| SituatedQA | `edited_question`; ids repeat, so they become the `group` |
| ExpertQA | the ids of its splits repeat: left out |
| TimeQA, QED, NQ + gold paragraph | questions of a page; `question_text`; `nq_annotated_gold` |
| MS MARCO, WikiQA, FreebaseQA, NewsQA | question-answer pairs only; wrong candidates are left out |
| SQuAD v2, CoQA, DROP, NarrativeQA, PubMedQA | the context they are read with |
| CNN/DailyMail | `article`, `highlights` |
| T-REx (LAMA), TemporalWiki | triples, asked as "subject [SEP] relation" |
| OpenAssistant, CMU_DoG, FaithDial | conversations: one line a turn, the next turn is the answer |
| LegalBench | fields to be filled into `base_prompt`, whose demonstrations are left out |
| P3/T0, Self-Instruct | `prompt`, `completion`; `instruction`, `instances` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from radit_ray.core.errors import InputError

Native = Mapping[str, Any]
UNANSWERABLE = "I don't know"  # RA-DIT's footnote 3: what SQuAD v2's unanswerable questions get


def as_text(value: object) -> str:
    """A text or a number as text; TypeError for what would only read as one, such as None."""
    if not isinstance(value, str | int | float):
        raise TypeError(f"{str(value)[:40]!r} where a text is expected")
    return str(value)


def one_line(value: object) -> str:
    return " ".join(as_text(value).split())


# --- open questions and claims ---


def kilt(row: Native) -> Iterator[Native]:
    answers = [item["answer"] for item in row["output"] or () if item.get("answer")]
    if answers and answers[0] in _VERDICTS:
        yield from claim({"id": row["id"], "claim": row["input"], "label": answers[0]})
        return
    yield {"id": row["id"], "question": row["input"], "answers": answers}


_VERDICTS = {"SUPPORTS": "yes", "REFUTES": "no", "SUPPORTED": "yes", "NOT_SUPPORTED": "no"}


def claim(row: Native) -> Iterator[Native]:
    label = row["label"]
    if label == "NOT ENOUGH INFO":
        return
    if label not in _VERDICTS:
        raise InputError(f"unknown label {label!r}; expected one of: {', '.join(_VERDICTS)}")
    yield {
        "id": row.get("uid") or row.get("id"),
        "question": row["claim"],
        "choices": ["yes", "no"],
        "answers": [_VERDICTS[label]],
    }


def hotpotqa(row: Native) -> Iterator[Native]:
    yield {"id": row.get("_id") or row["id"], "question": row["question"], "answer": row["answer"]}


def popqa(row: Native) -> Iterator[Native]:
    found = row["possible_answers"]
    answers = json.loads(found) if isinstance(found, str) else found
    yield {"id": row.get("id"), "question": row["question"], "answers": answers}


def retrievalqa(row: Native) -> Iterator[Native]:
    found = {"question": row["question"], "answers": row["ground_truth"]}
    yield {"id": row["question_id"], "article": row["data_source"], **found}


def freshqa(row: Native) -> Iterator[Native]:
    answers = [row[f"answer_{number}"] for number in range(10) if row.get(f"answer_{number}")]
    names = ("id", "question", "split")
    found = {**{name: row[name] for name in names}, "answers": answers}
    yield {**found, "date": row["effective_year"], "article": row["fact_type"]}


def pat_questions(row: Native) -> Iterator[Native]:
    if row["text answers"]:
        name = f"{'multi' if 'intermediate entities' in row else 'single'}-{row['uniq_id']}"
        yield {"id": name, "question": row["question"], "answers": row["text answers"]}


def situatedqa(row: Native) -> Iterator[Native]:
    yield {**row, "question": row["edited_question"], "id": None, "group": row.get("id")}


def expertqa(row: Native) -> Iterator[Native]:
    """Its `example_id` counts the rows of one file, so that all splits would have the same ids."""
    name = row["example_id"] if isinstance(row["example_id"], str) else None
    yield {**row, "example_id": None, "id": name}


def timeqa(row: Native) -> Iterator[Native]:
    title = row["paras"][0] if row["paras"] else ""
    for question, found in row["questions"]:
        answers = [item["answer"] for item in found if item["answer"]]
        if answers:
            yield {"question": question, "answers": answers, "title": title, "group": row["index"]}


def qed(row: Native) -> Iterator[Native]:
    yield {
        "id": str(row["example_id"]),
        "question": row["question_text"],
        "context": row["paragraph_text"],
        "answers": [" ".join(s["string"] for s in spans) for spans in row["original_nq_answers"]],
        "title": row["title_text"],
    }


def nq_oracle(row: Native) -> Iterator[Native]:
    """NQ-open with the gold paragraph of Natural Questions ("Lost in the Middle")."""
    gold = next((chunk for chunk in row["ctxs"] if chunk["isgold"]), None)
    if gold is None:
        raise InputError("no chunk of `ctxs` has `isgold` true; drop the row")
    found = {"question": row["question"], "answers": row["answers"]}
    yield {**found, "context": gold["text"], "title": gold["title"]}


def ms_marco(row: Native) -> Iterator[Native]:
    answers = [text for text in row["answers"] if text != "No Answer Present."]
    if answers:
        yield {"id": str(row["query_id"]), "question": row["query"], "answers": answers}


def wiki_qa(row: Native) -> Iterator[Native]:
    """A row a candidate sentence; only those that answer. A question may have several."""
    if row["label"] == 1:
        found = {"question": row["question"], "answers": [row["answer"]]}
        yield {**found, "group": row["question_id"], "title": row["document_title"]}


def freebase_qa(row: Native) -> Iterator[Native]:
    """`{"Questions": [...]}` of the authors, or one question of the hub's columns."""
    for item in row.get("Questions") or [row]:
        found = item["Parses"]
        found = found["Answers"] if isinstance(found, Mapping) else [p["Answers"] for p in found]
        names = [name for answers in found for name in _names(answers)]
        yield {"id": item["Question-ID"], "question": item["RawQuestion"], "answers": names}


def _names(found: Any) -> Iterator[str]:
    for item in [found] if isinstance(found, Mapping) else found:
        for names in item["AnswersName"]:
            yield from [names] if isinstance(names, str) else names


# --- reading, summaries ---


def squad_row(row: Native, category: str = "") -> Iterator[Native]:
    """SQuAD on the hub. Unanswerable ones only for reading comprehension, as RA-DIT trains them."""
    if row["answers"]["text"]:
        yield row
    elif category == "reading-comprehension":
        yield {**row, "answers": [UNANSWERABLE]}


def coqa(row: Native) -> Iterator[Native]:
    """A conversation about a story. Each question stands behind those before it, with answers."""
    for story in row.get("data") or [row]:
        asked, said = story["questions"], story["answers"]
        if isinstance(said, Mapping):  # the hub's columns
            said = said["input_text"]
        said = [item if isinstance(item, str) else item["input_text"] for item in said]
        asked = [item if isinstance(item, str) else item["input_text"] for item in asked]
        before = ""
        for number, (question, answer) in enumerate(zip(asked, said, strict=True)):
            yield {
                "id": f"{story['id']}-{number}" if story.get("id") else None,
                "question": f"{before}{question}",
                "context": story["story"],
                "answers": [answer],
                "group": story.get("id"),
            }
            before += f"{one_line(question)} {one_line(answer)} "


def drop_row(row: Native) -> Iterator[Native]:
    found = {"question": row["question"], "answers": row["answers_spans"]["spans"]}
    yield {**found, "id": row["query_id"], "context": row["passage"], "group": row["section_id"]}


def drop(row: Native) -> Iterator[Native]:
    """A section of the native file: numbers, dates and spans; several spans are one answer."""
    for item in row["qa_pairs"]:
        answer = item["answer"]
        date = " ".join(answer["date"].get(part, "") for part in ("day", "month", "year")).strip()
        text = answer["number"] or ", ".join(answer["spans"]) or " ".join(date.split())
        found = {"id": item["query_id"], "question": item["question"], "answers": [text]}
        yield {**found, "context": row["passage"], "group": row.get("key")}


def narrativeqa(row: Native) -> Iterator[Native]:
    yield {
        "question": row["question"]["text"],
        "context": row["document"]["summary"]["text"],
        "answers": [item["text"] for item in row["answers"]],
        "group": row["document"].get("id"),
    }


def pubmed_qa(row: Native) -> Iterator[Native]:
    """The authors' file, keyed by PubMed id, or the hub's columns."""
    if "QUESTION" in row:
        name, question = row["key"], row["QUESTION"]
        texts, answer, date = row["CONTEXTS"], row["final_decision"], row.get("YEAR")
    else:
        name, question = str(row["pubid"]), row["question"]
        texts, answer, date = row["context"]["contexts"], row["final_decision"], None
    yield {
        "id": name,
        "question": question,
        "context": " ".join(texts),
        "choices": ["yes", "no", "maybe"],
        "answers": [answer],
        "date": date,
        "split": row.get("split"),
    }


def cnn_dailymail(row: Native) -> Iterator[Native]:
    found = {"question": "Summarize this article:", "answers": [one_line(row["highlights"])]}
    yield {**found, "id": row.get("id"), "context": row["article"]}


# --- triples ---

_RELATIONS = dict(  # labels of Wikidata, of the 41 relations in LAMA's T-REx
    line.split(" ", 1)
    for line in """P1001 applies to jurisdiction|P101 field of work|P103 native language
P106 occupation|P108 employer|P127 owned by|P1303 instrument|P1376 capital of|P138 named after
P131 located in the administrative territorial entity|P136 genre|P140 religion|P159 headquarters
P1412 languages spoken, written or signed|P17 country|P176 manufacturer|P178 developer
P19 place of birth|P190 twinned administrative body|P20 place of death|P264 record label
P27 country of citizenship|P276 location|P279 subclass of|P30 continent|P31 instance of|P36 capital
P361 part of|P364 original language of film or TV show|P37 official language|P39 position held
P407 language of work or name|P413 position played on team|P449 original network|P463 member of
P47 shares border with|P495 country of origin|P527 has part|P530 diplomatic relation
P740 location of formation|P937 work location""".replace("\n", "|").split("|")
)


def lama(row: Native) -> Iterator[Native]:
    code = as_text(row["predicate_id"])
    question = f"{as_text(row['sub_label'])} [SEP] {_RELATIONS.get(code, code)}"
    yield {"question": question, "answers": [row["obj_label"]], "article": code}


def triple(row: Native) -> Iterator[Native]:
    question = " [SEP] ".join(as_text(row[name]) for name in ("subject", "relation"))
    yield {"question": question, "answers": [row["object"]]}


# --- conversations ---


def openassistant(row: Native) -> Iterator[Native]:
    """A tree of messages: along its best replies, each reply with what was said before it."""
    message, before = row["prompt"], [one_line(row["prompt"]["text"])]
    while replies := message.get("replies"):
        message = min(replies, key=lambda reply: (reply.get("rank") is None, reply.get("rank")))
        text = message["text"]
        if message["role"] == "assistant":
            found = {"id": message["message_id"], "question": "\n".join(before), "answers": [text]}
            yield {**found, "group": row.get("message_tree_id")}
        before.append(one_line(text))


def cmu_dog(row: Native) -> Iterator[Native]:
    """One conversation about a film; the messages of one person in a row are one turn."""
    lines: list[str] = []
    speaker = None
    for message in row["history"]:
        text = one_line(message["text"])
        if text and message["uid"] == speaker:
            lines[-1] += f" {text}"
        elif text:
            lines.append(text)
            speaker = message["uid"]
    if len(lines) > 1:
        yield {"question": "\n".join(lines[:-1]), "answers": lines[-1:]}


def faithdial(row: Native) -> Iterator[Native]:
    if row["history"].strip() and row["response"].strip():
        yield {"question": one_line(row["history"]), "answers": [row["response"]]}


# --- instructions ---

_BLANK = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_ASKS = re.compile(r"^(?:Q|Question):\s*")
_WAITS = re.compile(r"\n([^\n]{1,40}:)\s*$")  # the line that waits for the answer: "Label:"


def legalbench(row: Native) -> Iterator[Native]:
    """The instruction and the last, open question of `base_prompt`. The demonstrations between
    them are the very rows of train.tsv."""
    blocks = re.split(r"\n\s*\n", as_text(row["base_prompt"]).strip())
    first = next((number for number, block in enumerate(blocks) if _BLANK.search(block)), None)
    if first is None:
        raise InputError("`base_prompt` has no {{field}} to fill; expected LegalBench's text")
    asked = "\n\n".join(blocks[first:])
    marker = _WAITS.search(f"\n{asked}")
    head = blocks[0] if first else ""
    if marker and f"\n{marker[1]}" in head:  # no instruction, the demonstrations open it
        head = ""
    asked = _BLANK.sub(lambda blank: as_text(row[blank[1]]), _WAITS.sub("", asked))
    asked = _ASKS.sub("", asked).strip()
    found = {"question": f"{head}\n{asked}".strip(), "answers": [row["answer"]]}
    yield {**found, "query": asked, "article": row["subtask"], "group": row["subtask"]}


def t0(row: Native) -> Iterator[Native]:
    # the EOS of the LM that it was collected for
    completion = row["completion"].strip().removesuffix("<|endoftext|>").strip()
    if row["prompt"].strip() and completion:
        yield {"question": row["prompt"].strip(), "answers": [completion]}


def self_instruct(row: Native) -> Iterator[Native]:
    for number, item in enumerate(row["instances"]):
        question = "\n".join(part for part in (row["instruction"], item["input"]) if part)
        yield {"id": f"{row['id']}-{number}", "question": question, "answers": [item["output"]]}
