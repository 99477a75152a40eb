"""The sets of RA-DIT: what it evaluates (Tables 11 and 12) and what it trains on (Table 1).

Splits are ours (train, dev, eval = test). KILT's test answers are not public, so its dev sets are
what is measured, as in the paper's ablations.
"""

from __future__ import annotations

from radit_ray.data.task_spec import Task

DEV = {"dev": "validation"}
TRAIN = {"train": "train"}
TRAIN_DEV = {**TRAIN, **DEV}
ALL = {**TRAIN_DEV, "eval": "test"}
MC = "qa/multiple_choice/mc_llm_adapters.zip!"


def _kilt(name: str, file: str, category: str, metric: str, also: str = "", note: str = "") -> Task:
    """A KILT task: KILT's own files in kilt/, else another copy of the set's dev split."""
    own = f"kilt/{file}-dev-kilt.jsonl"
    return Task(
        name=name,
        paper="evaluation",
        category=category,
        metric=metric,
        scoring="nll_token" if metric in ("rouge-l", "f1") else "nll",
        split="dev",
        files={"train": f"kilt/{file}-train-kilt.jsonl", "dev": f"{own} | {also}" if also else own},
        notes={also: note} if also else {},
        hub=f"facebook/kilt_tasks:{file}",
        hub_splits=TRAIN_DEV,
    )


def _commonsense(name: str, template: str, scoring: str, hub: str, member: str = "") -> Task:
    """0-shot, without retrieval (Table 3); the members are LLM-Adapters' copies; those of
    the larger sets are passed on without their training files.
    """
    files = {"dev": f"{MC}{member}/test.json"} if member else {}
    if member in ("boolq", "ARC-Easy", "ARC-Challenge", "openbookqa"):
        files["train"] = f"{MC}{member}/train.json"
    test = member in ("ARC-Easy", "ARC-Challenge", "openbookqa")
    copy = f"a part of the official {'test' if test else 'dev'} set, in LLM-Adapters' wording"
    lost = ", without the passages" if member == "boolq" else ""
    return Task(
        name=name,
        paper="evaluation",
        category="multiple-choice",
        template=template,
        metric="accuracy",
        scoring=scoring,
        split="dev",
        files=files,
        notes={f"{member}/test.json": copy + lost} if member else {},
        hub=hub,
        hub_splits=TRAIN_DEV,
    )


def _trained(name: str, category: str, metric: str = "em", **fields: object) -> Task:
    both = fields.pop("fine_tunes", ("lm-ft",))
    spec = {"paper": "training", "split": "train", "hub_splits": TRAIN, **fields}
    return Task(name=name, category=category, metric=metric, fine_tunes=both, **spec)  # type: ignore[arg-type]


EVALUATION = (
    Task(
        name="mmlu",
        paper="evaluation",
        category="multiple-choice",
        metric="accuracy",
        files={"dev": "qa/mmlu/mmlu.zip!dev/*.csv", "eval": "qa/mmlu/mmlu.zip!test/*.csv"},
        notes={
            "dev/*.csv": "the five demonstrations of each subject, nothing to measure",
            "test/*.csv": "the official test set, beside the paper's dev figures too",
        },
        hub="cais/mmlu:all",
        hub_splits={"dev": "dev", "eval": "test"},
    ),
    Task(
        name="nq",
        paper="evaluation",
        files={
            "dev": "qa/nq_open/topics.dpr.nq.dev.txt.xz",
            "eval": "qa/nq_open/NQ-open.dev.jsonl.xz",  # what open-domain papers call its test
        },
        hub="google-research-datasets/nq_open",
        hub_splits={"train": "train", "eval": "validation"},
    ),
    Task(
        name="triviaqa",
        paper="evaluation",
        files={
            "dev": "qa/triviaqa/topics.dpr.trivia.dev.txt.xz",
            "eval": "qa/triviaqa/topics.dpr.trivia.test.txt.xz",
        },
        hub="mandarjoshi/trivia_qa:unfiltered.nocontext",
        hub_splits={"train": "train", "eval": "validation"},
    ),
    _kilt("eli5", "eli5", "open-domain-qa", "rouge-l"),
    _kilt(
        "hotpotqa",
        "hotpotqa",
        "open-domain-qa",
        "em",
        "qa/hotpotqa/hotpot_dev_v1_simplified.json.xz",
        "HotpotQA's own dev set, of which KILT's is a part",
    ),
    _kilt(
        "fever",
        "fever",
        "fact-checking",
        "accuracy",
        "qa/fever/paper_dev.jsonl.xz",
        "FEVER's own paper_dev, not KILT's dev set",
    ),
    _kilt("aida", "aidayago2", "entity-linking", "accuracy"),
    _kilt("zsre", "structured_zeroshot", "slot-filling", "accuracy"),
    _kilt(
        "t-rex",
        "trex",
        "slot-filling",
        "accuracy",
        "qa/trex/trex_lama.zip!TREx/*.jsonl",
        "LAMA's facts of T-REx, one answer each, not KILT's dev set",
    ),
    _kilt(
        "wow",
        "wow",
        "dialogue",
        "f1",
        "qa/wow_sample/faithdial_gold.zip!wow.csv",
        "FaithDial's audited sample: one turn each, without the dialogue before it",
    ),
    _commonsense("boolq", "boolq", "nll_compl", "google/boolq", "boolq"),
    Task(
        name="piqa",
        paper="evaluation",
        category="multiple-choice",
        template="question-answer",
        metric="accuracy",
        scoring="nll_char",
        split="dev",
        files={"dev": f"{MC}piqa_native/valid.jsonl"},
        hub="ybisk/piqa",
        hub_splits=TRAIN_DEV,
    ),
    _commonsense("siqa", "siqa", "nll_char", "allenai/social_i_qa", "social_i_qa"),
    _commonsense("hellaswag", "hellaswag", "nll_char", "Rowan/hellaswag"),
    _commonsense(
        "winogrande", "winogrande", "nll_char", "allenai/winogrande:winogrande_xl", "winogrande"
    ),
    _commonsense("arc-e", "question-answer", "nll_char", "allenai/ai2_arc:ARC-Easy", "ARC-Easy"),
    _commonsense(
        "arc-c", "question-answer", "nll_char", "allenai/ai2_arc:ARC-Challenge", "ARC-Challenge"
    ),
    _commonsense("obqa", "question-answer", "nll_compl", "allenai/openbookqa:main", "openbookqa"),
)

_BOTH = ("lm-ft", "r-ft")
_QA, _READ, _COT = "open-domain-qa", "reading-comprehension", "chain-of-thought"
_CSQA = "qa/commonsenseqa/{}_rand_split.jsonl.xz"
_WQ = "qa/webquestions/"

# Which ten sets R-ft used is not in the paper: the eight open-domain and dialogue sets, pubmed_qa
# and quarel add up to its 286k examples.
TRAINING = (
    _trained(
        "oasst1",
        "dialogue",
        "f1",
        fine_tunes=_BOTH,
        files={"train": "qa/openassistant/en_100_tree.jsonl.xz"},
        hub="OpenAssistant/oasst1",
    ),
    _trained(
        "commonsense_qa",
        _QA,
        "accuracy",
        fine_tunes=_BOTH,
        files={"train": _CSQA.format("train"), "dev": _CSQA.format("dev")},
        hub="tau/commonsense_qa",
        hub_splits=TRAIN_DEV,
    ),
    _trained(
        "math_qa",
        _QA,
        "accuracy",
        fine_tunes=_BOTH,
        files={"eval": f"{MC}mathqa/test.json"},
        hub="allenai/math_qa",
        hub_splits=ALL,
    ),
    _trained(
        "web_questions",
        _QA,
        fine_tunes=_BOTH,
        files={
            "train": f"{_WQ}trainmodel.json.xz, {_WQ}val.json.xz, {_WQ}devtest.json.xz",
            "eval": f"{_WQ}test.json.xz",
        },
        hub="stanfordnlp/web_questions",
        hub_splits={"train": "train", "eval": "test"},
    ),
    _trained("wiki_qa", _QA, "f1", fine_tunes=_BOTH, hub="microsoft/wiki_qa", hub_splits=ALL),
    _trained("yahoo_answers_qa", _QA, "f1", fine_tunes=_BOTH, hub="yahoo_answers_qa"),
    _trained("freebase_qa", _QA, fine_tunes=("r-ft",), hub="microsoft/freebase_qa", hub_splits=ALL),
    _trained("ms_marco", _QA, "f1", fine_tunes=("r-ft",), hub="microsoft/ms_marco:v1.1"),
    _trained("coqa", _READ, "f1", hub="stanfordnlp/coqa", hub_splits=TRAIN_DEV),
    _trained("drop", _READ, "f1", hub="ucinlp/drop", hub_splits=TRAIN_DEV),
    _trained("narrativeqa", _READ, "rouge-l", hub="deepmind/narrativeqa", hub_splits=ALL),
    _trained("newsqa", _READ, "f1", hub="lucadiliello/newsqa", hub_splits=TRAIN_DEV),
    _trained(
        "pubmed_qa",
        _READ,
        "accuracy",
        fine_tunes=_BOTH,
        files={"train eval": "qa/pubmedqa/ori_pqal.shared.json.xz"},
        hub="qiaojin/PubMedQA:pqa_labeled",
    ),
    _trained(
        "quail",
        _READ,
        "accuracy",
        files={"dev": "qa/quail/quail_1.3_dev.xml.xz", "eval": "qa/quail/challenge.jsonl.xz"},
        hub="textmachinelab/quail",
        hub_splits={**TRAIN_DEV, "eval": "challenge"},
    ),
    _trained(
        "quarel",
        _READ,
        "accuracy",
        fine_tunes=_BOTH,
        hub="community-datasets/quarel",
        hub_splits=ALL,
    ),
    _trained(
        "squad_v2",
        _READ,
        "f1",
        files={"dev": "qa/squad/dev-v2.0.shared.json.xz"},
        hub="rajpurkar/squad_v2",
        hub_splits=TRAIN_DEV,
    ),
    _trained(
        "cnn_dailymail",
        "summarization",
        "rouge-l",
        hub="abisee/cnn_dailymail:3.0.0",
        hub_splits=ALL,
    ),
    _trained(
        "aqua_rat",
        _COT,
        "ends",
        files={"dev": "qa/aqua/dev.json", "eval": "qa/aqua/test.json"},
        hub="deepmind/aqua_rat:raw",
        hub_splits=ALL,
    ),
    _trained("ecqa", _COT, "ends", hub="yangdong/ecqa", hub_splits=ALL),
    _trained(
        "gsm8k",
        _COT,
        "ends",
        files={"train": "qa/gsm8k/train.jsonl.xz", "eval": "qa/gsm8k/test.jsonl.xz"},
        hub="openai/gsm8k:main",
        hub_splits={"train": "train", "eval": "test"},
    ),
    _trained(
        "competition_math",
        _COT,
        "ends",
        hub="qwedsacf/competition_math",
    ),
    _trained(
        "strategyqa",
        _COT,
        "ends",
        files={"train": "qa/strategyqa/train.json.xz", "dev": "qa/strategyqa/dev.json.xz"},
        hub="ChilleD/StrategyQA",
        hub_splits={"train": "train", "eval": "test"},
    ),
)
