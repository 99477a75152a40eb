"""Sets beyond the paper: other domains, other languages, questions whose answers change with time.

WebQuestions and PubMedQA are among the paper's training sets: `task:web_questions:eval`.
"""

from __future__ import annotations

from radit_ray.data.paper_tasks import MC, TRAIN_DEV
from radit_ray.data.task_spec import Task

_READ, _DIALOGUE = "reading-comprehension", "dialogue"
_TEST = {"eval": "test"}
XQUAD = ("ar", "de", "el", "en", "es", "hi", "ro", "ru", "th", "tr", "vi", "zh")
XCOPA = ("et", "ht", "id", "it", "qu", "sw", "ta", "th", "tr", "vi", "zh")
PAT_DATES = {"2021-12": "Dec2021", "2023-12": "Dec2023", "2024-03": "March2024"}


def _only(name: str, path: str, metric: str = "em", **fields: object) -> Task:
    """A set with one split, the one that is measured."""
    return Task(name=name, metric=metric, files={"eval": path}, **fields)  # type: ignore[arg-type]


def _splits(name: str, pattern: str, metric: str = "em", **fields: object) -> Task:
    """A set whose files differ in the split's name: `{}`."""
    names = {"train": "train", "dev": "dev", "eval": "test"}
    files = {split: pattern.format(word) for split, word in names.items()}
    return Task(name=name, metric=metric, files=files, **fields)  # type: ignore[arg-type]


OPEN = (
    Task(
        name="curatedtrec",
        metric="regex",
        files={
            "train": "qa/curatedtrec/curated-train.tsv",
            "eval": "qa/curatedtrec/topics.dpr.curated.test.jsonl",
        },
    ),
    _only(
        "popqa",
        "qa/activerag/data_popqa_sampled.jsonl.xz",
        hub="akariasai/PopQA",
        hub_splits=_TEST,
    ),
    _only("asqa", "qa/activerag/data_asqa_sampled.jsonl.xz", "rouge-l"),
    _only("2wikimultihopqa", "qa/activerag/data_mhqa_sampled.jsonl.xz"),
    Task(
        name="efficientqa",
        files={
            "dev": "qa/nq_open/NQ-open.efficientqa.dev.1.1.jsonl.xz",
            "eval": "qa/nq_open/NQ-open.efficientqa.test.1.1.jsonl.xz",
        },
    ),
    Task(
        name="squad_open",
        files={"train": "squad_open/qa.train.jsonl.gz", "eval": "squad_open/qa.dev.jsonl.gz"},
    ),
    Task(
        name="expertqa",
        metric="rouge-l",
        files={
            "train": "qa/expertqa/rand_lfqa_train.json.xz",
            "dev": "qa/expertqa/rand_lfqa_val.json.xz",
            "eval": "qa/expertqa/rand_lfqa_test.json.xz",
        },
    ),
    _only("legalbench", "qa/legalbench/legalbench_train.zip!tasks/*/train.tsv", "accuracy"),
    Task(
        name="fever-symmetric",
        category="fact-checking",
        metric="accuracy",
        files={
            "dev": "qa/fever/fever_symmetric_dev.jsonl.xz",
            "eval": "qa/fever/fever_symmetric_test.jsonl.xz",
        },
    ),
    Task(
        name="hover",
        category="fact-checking",
        metric="accuracy",
        split="dev",
        files={"dev": "qa/hover/hover_dev_release_v1.1.json.xz"},
    ),
)

READING = (
    *(
        _only(
            f"xquad-{language}",
            f"qa/xquad/xquad.{language}.json.xz",
            "f1",
            category=_READ,
            hub=f"google/xquad:xquad.{language}",
            hub_splits={"eval": "validation"},
        )
        for language in XQUAD
    ),
    _only("covidqa", "qa/covidqa/200423_covidQA.json.xz", "f1", category=_READ),
    Task(
        name="policyqa",
        category=_READ,
        metric="f1",
        files={"dev": "qa/policyqa/dev.json.xz", "eval": "qa/policyqa/test.json.xz"},
    ),
    Task(
        name="squad",
        category=_READ,
        metric="f1",
        split="dev",
        files={"dev": "qa/squad/dev-v1.1.shared.json.xz"},
        hub="rajpurkar/squad",
        hub_splits=TRAIN_DEV,
    ),
    *(
        _only(f"squadshifts-{part}", f"qa/squadshifts/{file}_v1.0.json.xz", "f1", category=_READ)
        for part, file in (
            ("amazon", "amazon_reviews"),
            ("wiki", "new_wiki"),
            ("reddit", "reddit"),
        )
    ),
    _only("nq-gold", "qa/nq_open/nq-open-oracle.shared.jsonl.gz", category=_READ),
    _only("qed", "qa/qed/qed-dev.jsonlines.xz", category=_READ),
    _splits("dream", "qa/dream/{}.json.xz", "accuracy", category=_READ),
)

TIME = (
    _splits("situatedqa-temp", "time/situatedqa/temp.{}.jsonl.xz"),
    _splits("situatedqa-geo", "time/situatedqa/geo.{}.jsonl.xz"),
    Task(name="freshqa", files={"dev eval": "time/freshqa_2023/freshqa.csv"}),
    _only(
        "realtimeqa",
        "time/realtimeqa/qa_2020-2026.jsonl.xz",
        "accuracy",
        category="multiple-choice",
    ),
    *(
        _only(
            f"pat-{date}",
            f"time/pat_questions/{folder}/PAT-singlehop.json.xz, "
            f"time/pat_questions/{folder}/PAT-multihop.json.xz",
            date=date,
        )
        for date, folder in PAT_DATES.items()
    ),
    _only("retrievalqa", "time/retrievalqa/retrievalqa_gpt4.jsonl.xz"),
    Task(
        name="timeqa",
        files={
            "train": "time/timeqa/human_annotated_train.json.xz",
            "eval": "time/timeqa/human_annotated_test.json.xz",
        },
    ),
    _only(
        "temporalwiki",
        "time/temporalwiki/twiki_changed_2021.zip!*_changed.csv",
        "accuracy",
        category="slot-filling",
    ),
)

OTHER = (
    _only("sciq", f"{MC}sciq/test.json", "accuracy", category="multiple-choice"),
    *(
        Task(
            name=f"xcopa-{language}",
            category="multiple-choice",
            template="question-answer",
            metric="accuracy",
            scoring="nll_char",
            files={
                "dev": f"qa/xcopa/xcopa.zip!{language}/val.*.jsonl",
                "eval": f"qa/xcopa/xcopa.zip!{language}/test.*.jsonl",
            },
            hub=f"cambridgeltl/xcopa:{language}",
            hub_splits={"dev": "validation", "eval": "test"},
        )
        for language in XCOPA
    ),
    Task(
        name="cmu_dog",
        category=_DIALOGUE,
        metric="f1",
        files={
            "train": "qa/cmu_dog/cmu_dog.tar.xz!Conversations/train/*.json",
            "dev": "qa/cmu_dog/cmu_dog.tar.xz!Conversations/valid/*.json",
            "eval": "qa/cmu_dog/cmu_dog.tar.xz!Conversations/test/*.json",
        },
    ),
    _only(  # as wow's, people's own replies out of FaithDial's audit
        "topical_chat", "qa/wow_sample/faithdial_gold.zip!topical.csv", "f1", category=_DIALOGUE
    ),
    Task(
        name="t0",
        category="plain",
        metric="rouge-l",
        split="train",
        files={"train": "instruct/t0_mix_50k.tar.xz!*.jsonl"},
    ),
    Task(
        name="self-instruct",
        category="plain",
        metric="rouge-l",
        files={
            "train": "instruct/seed_tasks.jsonl",
            "eval": "instruct/user_oriented_instructions.jsonl",
        },
    ),
)

BEYOND = (*OPEN, *READING, *TIME, *OTHER)
