"""Contract: one row of every known set, in its own fields, becomes the example it stands for.

The rows are made up here in each set's layout (files of the authors, rows of the hub).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from radit_ray.core.errors import InputError
from radit_ray.data.examples import read_examples
from radit_ray.data.native_examples import BY_CATEGORY, KEYED, SHAPES, partial_examples
from radit_ray.data.rows import example_row

COT, READ = "chain-of-thought", "reading-comprehension"


def tree(message: str, role: str, text: str, *replies: dict, rank: int | None = None) -> dict:
    fields = {"message_id": message, "role": role, "text": text, "rank": rank}
    return {**fields, "replies": list(replies)}


TREE = tree(
    "m1",
    "prompter",
    "How do I\nknit?",
    tree("m2", "assistant", "Badly.", rank=1),
    tree(
        "m3",
        "assistant",
        "With two\nneedles.",
        tree("m4", "prompter", "And then?", tree("m5", "assistant", "Pull.")),
        rank=0,
    ),
)
PROMPT = (
    "Is it hearsay?\n\nText: He ran.\nLabel: No\n\nText: {{text}}\nCircuit: {{circuit}}\nLabel:"
)
ADAPTERS = "Please choose the correct {} {}\n\nAnswer format: answer1/answer2"

# (set, category, native row, the examples' fields that matter)
ROWS: list[tuple[str, str, dict[str, Any], list[dict[str, Any]]]] = [
    (
        "mmlu csv",
        "",
        {
            **{"question": "q?", "answer": "2"},
            **{f"choice{n}": str(n) for n in range(4)},
        },
        [{"question": "q?", "choices": ["0", "1", "2", "3"], "answers": ["2"]}],
    ),
    (
        "mmlu hub",
        "",
        {"question": "q?", "subject": "law", "choices": ["a", "b"], "answer": 1},
        [{"choices": ["a", "b"], "answers": ["b"]}],
    ),
    (
        "boolq",
        "",
        {"question": "is it", "passage": "It is.", "answer": True, "title": "It"},
        [{"context": "It is.", "choices": ["yes", "no"], "answers": ["yes"], "article": "It"}],
    ),
    (
        "piqa",
        "",
        {"goal": "open it", "sol1": "pull", "sol2": "push", "label": 1},
        [{"question": "open it", "choices": ["pull", "push"], "answers": ["push"]}],
    ),
    (
        "siqa",
        "",
        {
            **{"context": "Ann left.", "question": "Why?", "label": "2"},
            **{"answerA": "x", "answerB": "y", "answerC": "z"},
        },
        [{"context": "Ann left.", "choices": ["x", "y", "z"], "answers": ["y"]}],
    ),
    (
        "hellaswag",
        "",
        {"ctx": "She opens", "endings": ["it.", "up."], "label": "1", "split": "val"},
        [{"question": "She opens", "answers": ["up."]}],
    ),
    (
        "winogrande",
        "",
        {"sentence": "It fell as _ slept.", "option1": "Al", "option2": "Bo", "answer": "2"},
        [{"question": "It fell as _ slept.", "choices": ["Al", "Bo"], "answers": ["Bo"]}],
    ),
    (
        "arc",
        "",
        {
            **{"id": "M1", "question": "q?", "answerKey": "2"},
            "choices": {"text": ["x", "y"], "label": ["1", "2"]},
        },
        [{"id": "M1", "answers": ["y"]}],
    ),
    (
        "openbookqa",
        "",
        {
            **{"id": "7", "question_stem": "The sun", "answerKey": "A"},
            "choices": {"text": ["x", "y"], "label": ["A", "B"]},
        },
        [{"question": "The sun", "choices": ["x", "y"], "answers": ["x"]}],
    ),
    (
        "xcopa",
        "",
        {
            **{"premise": "It broke.", "question": "cause", "label": 0, "idx": 3},
            **{"choice1": "It fell.", "choice2": "It sang."},
        },
        [{"question": "It broke. What was the cause?", "answers": ["It fell."]}],
    ),
    (
        "realtimeqa",
        "",
        {
            **{"question_id": "20220617_0", "question_date": "2022/06/16"},
            **{"question_sentence": "q?", "choices": ["x", "y", ""], "answer": ["1"]},
        },
        [{"id": "20220617_0", "choices": ["x", "y"], "answers": ["y"], "date": "2022/06/16"}],
    ),
    (
        "realtimeqa without an answer",
        "",
        {"question_id": "1", "question_sentence": "q?", "choices": ["x"], "answer": []},
        [],
    ),
    (
        "quail",
        READ,
        {
            **{"id": "f1_0", "question": "q?", "context": "Long.", "context_id": "f1"},
            **{"answers": ["x", "y"], "correct_answer_id": "1", "domain": "fiction"},
        },
        [{"id": "f1_0", "context": "Long.", "answers": ["y"], "group": "f1"}],
    ),
    (
        "dream",
        READ,
        {
            "dialogue": [
                ["M: Hi", "F: No"],
                [
                    {"question": "Who?", "choice": ["x", "y"], "answer": "y"},
                    {"question": "Why?", "choice": ["z", "w"], "answer": "z"},
                ],
                "5-1",
            ]
        },
        [
            {"id": "5-1-0", "context": "M: Hi\nF: No", "choices": ["x", "y"], "answers": ["y"]},
            {"id": "5-1-1", "question": "Why?", "answers": ["z"], "group": "5-1"},
        ],
    ),
    (
        "quarel",
        READ,
        {"id": "Q1", "question": "Ice is (A) warmer (B) colder", "answer_index": 1},
        [{"choices": ["warmer", "colder"], "answers": ["colder"]}],
    ),
    (
        "math_qa",
        "",
        {
            **{"Problem": "1 + 1", "Rationale": "two", "correct": "b"},
            "options": "a ) 1 , 000 , b ) 2 , c ) none of these",
        },
        [{"question": "1 + 1", "choices": ["1 , 000", "2", "none of these"], "answers": ["2"]}],
    ),
    (
        "llm-adapters, four answers",
        "",
        {
            "instruction": ADAPTERS.format(
                "answer to the question: q: what?\n\nAnswer1: x y", "Answer2: z"
            ),
            **{"input": "", "output": "the correct answer is answer2", "answer": "answer2"},
        },
        [{"question": "q: what?", "choices": ["x y", "z"], "answers": ["z"]}],
    ),
    (
        "llm-adapters, siqa",
        "",
        {
            "instruction": ADAPTERS.format(
                "answer to the question: Al ran. He fell. Why?\n\nAnswer1: x",
                "Answer2: y Answer3: z",
            ),
            **{"input": "", "output": "", "answer": "answer3"},
        },
        [{"context": "Al ran. He fell.", "question": "Why?", "answers": ["z"]}],
    ),
    (
        "llm-adapters, winogrande",
        "",
        {
            "instruction": "Please choose the correct answer to fill in the blank to complete the "
            "given sentence: It _ .\n\nOption1: x Option2: y Answer format: option1/option2",
            **{"input": "", "output": "", "answer": "option1"},
        },
        [{"question": "It _ .", "choices": ["x", "y"], "answers": ["x"]}],
    ),
    (
        "llm-adapters, boolq",
        "",
        {
            "instruction": "Please answer the following question with true or false, question: is "
            "it?\n\nAnswer format: true/false",
            **{"input": "", "output": "", "answer": "true"},
        },
        [{"question": "is it?", "choices": ["yes", "no"], "answers": ["yes"]}],
    ),
    (
        "llm-adapters, mathqa",
        "",
        {
            "instruction": "1 + 37 , The options: a ) 38 % , b ) 27.675 , c ) none of these",
            **{"input": "", "output": "", "answer": "38.0"},
        },
        [{"question": "1 + 37", "answers": ["38 %"]}],
    ),
    (
        "gsm8k",
        COT,
        {"question": "q?", "answer": "48/2 = <<48/2=24>>24 clips.\nSo 24.\n#### 24"},
        [{"question": "q?", "answers": ["48/2 = 24 clips. So 24. 24", "24"]}],
    ),
    (
        "aqua_rat",
        COT,
        {"question": "q?", "options": ["A)1", "B)2"], "rationale": "1 + 1\nB", "correct": "B"},
        [{"question": "q?\nA. 1\nB. 2", "query": "q?", "answers": ["1 + 1 B B", "B"]}],
    ),
    (
        "aqua_rat as choices",
        "",
        {"question": "q?", "options": ["A)1", "B)2"], "rationale": "1 + 1\nB", "correct": "B"},
        [{"question": "q?", "choices": ["1", "2"], "answers": ["2"]}],
    ),
    (
        "ecqa",
        COT,
        {
            **{"q_text": "q?", "q_ans": "v1", "taskB": "It is\nv1."},
            **{f"q_op{n}": f"v{n}" for n in range(1, 6)},
        },
        [
            {
                "question": "q?\nA. v1\nB. v2\nC. v3\nD. v4\nE. v5",
                "query": "q?",
                "answers": ["It is v1. v1", "v1"],
            }
        ],
    ),
    (
        "competition_math",
        COT,
        {"problem": "p", "solution": "So $\\boxed{1}$ or \\boxed{\\frac{1}{2}}.", "level": "1"},
        [
            {
                "question": "p",
                "answers": [
                    "So $\\boxed{1}$ or \\boxed{\\frac{1}{2}}. \\frac{1}{2}",
                    "\\frac{1}{2}",
                ],
            }
        ],
    ),
    (
        "strategyqa",
        COT,
        {"qid": "s1", "question": "q?", "answer": False, "facts": ["A is b.", "C is d."]},
        [{"id": "s1", "answers": ["A is b. C is d. no", "no"]}],
    ),
    (
        "strategyqa, the answer alone",
        "",
        {"qid": "s1", "question": "q?", "answer": False, "facts": ["A is b."]},
        [{"id": "s1", "answers": ["no"]}],
    ),
    (
        "kilt",
        "",
        {
            **{"id": "k1", "input": "Emma [SEP] author", "meta": {}},
            "output": [{"answer": "Austen"}, {"provenance": []}, {"answer": "J. Austen"}],
        },
        [{"id": "k1", "question": "Emma [SEP] author", "answers": ["Austen", "J. Austen"]}],
    ),
    (
        "kilt fever",
        "fact-checking",
        {"id": "k2", "input": "It is.", "output": [{"answer": "REFUTES", "provenance": []}]},
        [{"question": "It is.", "choices": ["yes", "no"], "answers": ["no"]}],
    ),
    (
        "fever",
        "fact-checking",
        {"id": 91, "label": "SUPPORTS", "claim": "It is.", "evidence": [[[1, 2, None, None]]]},
        [{"id": "91", "question": "It is.", "answers": ["yes"]}],
    ),
    (
        "expertqa",
        "",
        {"example_id": 11, "context": "", "question": "Why so?", "answer": "Because."},
        [{"id": None, "question": "Why so?", "answers": ["Because."]}],
    ),
    ("fever nei", "fact-checking", {"id": 9, "label": "NOT ENOUGH INFO", "claim": "It."}, []),
    (
        "hover",
        "fact-checking",
        {"uid": "u", "claim": "It is.", "label": "NOT_SUPPORTED", "num_hops": 2},
        [{"id": "u", "answers": ["no"]}],
    ),
    (
        "hotpotqa",
        "",
        {
            **{"_id": "h", "question": "q?", "answer": "x", "supporting_facts": []},
            "context": [["T", ["s."]]],
        },
        [{"id": "h", "answers": ["x"], "context": None}],
    ),
    (
        "popqa",
        "",
        {"id": 4, "question": "q?", "possible_answers": '["x", "y"]', "subj": "S"},
        [{"id": "4", "answers": ["x", "y"]}],
    ),
    (
        "activerag samples",
        "",
        {"question": "q?", "answers": ["x"], "passages": ["Document 1 (Title: T): t"]},
        [{"answers": ["x"]}],
    ),
    (
        "retrievalqa",
        "",
        {
            **{"data_source": "toolqa", "question_id": "t_1", "question": "q?"},
            **{"ground_truth": ["x"], "context": [{"title": "T", "text": "t"}]},
        },
        [{"id": "t_1", "answers": ["x"], "article": "toolqa", "context": None}],
    ),
    (
        "freshqa",
        "",
        {
            **{"id": "7", "split": "TEST", "question": "q?", "effective_year": "before 2022"},
            **{"false_premise": "TRUE", "fact_type": "slow-changing"},
            **{"answer_0": "x", "answer_1": "y", "answer_2": ""},
        },
        [{"id": "7", "answers": ["x", "y"], "date": "before 2022", "split": "TEST"}],
    ),
    (
        "situatedqa",
        "",
        {
            "id": 5,
            "question": "q",
            "edited_question": "q as of 2021",
            "date": "2021",
            "answer": ["x"],
        },
        [{"question": "q as of 2021", "group": "5", "date": "2021", "id": None}],
    ),
    (
        "pat-questions",
        "",
        {
            "q?": {"question": "q?", "text answers": ["x"], "uniq_id": 2, "relations": ["P1"]},
            "r?": {"question": "r?", "text answers": [], "uniq_id": 3},
            "s?": {
                **{"question": "s?", "text answers": ["y"], "uniq_id": 2},
                "intermediate entities": [],
            },
        },
        [{"id": "single-2", "answers": ["x"]}, {"id": "multi-2", "answers": ["y"]}],
    ),
    (
        "timeqa",
        "",
        {
            **{"index": "/wiki/A#P1", "paras": ["A", "A is."], "type": "P1"},
            "questions": [
                ["q?", [{"para": 1, "from": 0, "end": 1, "answer": "x"}]],
                ["r?", [{"para": 0, "from": 0, "end": 0, "answer": ""}]],
            ],
        },
        [{"question": "q?", "answers": ["x"], "article": "A", "group": "/wiki/A#P1"}],
    ),
    (
        "qed",
        READ,
        {
            **{"example_id": -7, "title_text": "F", "question_text": "q?", "paragraph_text": "P."},
            "original_nq_answers": [[{"string": "x", "start": 1}, {"string": "y"}]],
        },
        [{"id": "-7", "context": "P.", "answers": ["x y"], "article": "F"}],
    ),
    (
        "nq with its paragraph",
        READ,
        {
            **{"question": "q?", "answers": ["x"], "nq_annotated_gold": {}},
            "ctxs": [
                {"title": "N", "text": "n", "isgold": False},
                {"title": "T", "text": "t", "isgold": True},
            ],
        },
        [{"context": "t", "article": "T", "answers": ["x"]}],
    ),
    (
        "ms_marco",
        "",
        {"query_id": 3, "query": "q", "passages": {}, "answers": ["x"], "query_type": "entity"},
        [{"id": "3", "question": "q", "answers": ["x"]}],
    ),
    (
        "ms_marco without an answer",
        "",
        {"query_id": 3, "query": "q", "passages": {}, "answers": ["No Answer Present."]},
        [],
    ),
    (
        "wiki_qa",
        "",
        {
            **{"question_id": "Q1", "question": "q", "document_title": "T"},
            **{"answer": "x.", "label": 1},
        },
        [{"answers": ["x."], "group": "Q1", "article": "T"}],
    ),
    (
        "wiki_qa, a wrong candidate",
        "",
        {"question_id": "Q", "question": "q", "document_title": "T", "answer": "x", "label": 0},
        [],
    ),
    (
        "freebase_qa",
        "",
        {
            "Dataset": "FreebaseQA-train",
            "Questions": [
                {
                    **{"Question-ID": "F1", "RawQuestion": "q?"},
                    "Parses": [{"Answers": [{"AnswersMid": "m", "AnswersName": ["x", "y"]}]}],
                }
            ],
        },
        [{"id": "F1", "question": "q?", "answers": ["x", "y"]}],
    ),
    (
        "freebase_qa hub",
        "",
        {
            **{"Question-ID": "F1", "RawQuestion": "q?"},
            "Parses": {"Answers": [{"AnswersMid": [["m"]], "AnswersName": [["x", "y"]]}]},
        },
        [{"id": "F1", "answers": ["x", "y"]}],
    ),
    (
        "squad hub, unanswerable",
        READ,
        {"id": "s", "question": "q", "context": "c", "answers": {"text": [], "answer_start": []}},
        [{"answers": ["I don't know"], "context": "c"}],
    ),
    (
        "squad hub, unanswerable, open",
        "",
        {"id": "s", "question": "q", "context": "c", "answers": {"text": [], "answer_start": []}},
        [],
    ),
    (
        "coqa",
        READ,
        {
            "data": [
                {
                    **{"id": "c1", "story": "S."},
                    "questions": [
                        {"input_text": "Who?", "turn_id": 1},
                        {"input_text": "Why?", "turn_id": 2},
                    ],
                    "answers": [
                        {"input_text": "Ann", "turn_id": 1},
                        {"input_text": "Joy", "turn_id": 2},
                    ],
                }
            ]
        },
        [
            {"id": "c1-0", "question": "Who?", "context": "S.", "answers": ["Ann"]},
            {"id": "c1-1", "question": "Who? Ann Why?", "answers": ["Joy"], "group": "c1"},
        ],
    ),
    (
        "coqa hub",
        READ,
        {
            **{"source": "x", "story": "S.", "questions": ["Who?", "Why?"]},
            "answers": {"input_text": ["Ann", "Joy"], "answer_start": [0, 1]},
        },
        [{"question": "Who?"}, {"question": "Who? Ann Why?", "answers": ["Joy"]}],
    ),
    (
        "drop",
        READ,
        {
            "nfl_1": {
                "passage": "P.",
                "qa_pairs": [
                    {
                        **{"query_id": "d1", "question": "How many?"},
                        "answer": {"number": "3", "date": {}, "spans": []},
                    },
                    {
                        **{"query_id": "d2", "question": "Who?"},
                        "answer": {"number": "", "date": {}, "spans": ["x", "y"]},
                    },
                    {
                        **{"query_id": "d3", "question": "When?"},
                        "answer": {
                            **{"number": "", "spans": []},
                            "date": {"day": "3", "month": "", "year": "1900"},
                        },
                    },
                ],
            }
        },
        [
            {"id": "d1", "answers": ["3"], "context": "P.", "group": "nfl_1"},
            {"id": "d2", "answers": ["x, y"]},
            {"id": "d3", "answers": ["3 1900"]},
        ],
    ),
    (
        "drop hub",
        READ,
        {
            **{"section_id": "n", "query_id": "d", "passage": "P.", "question": "q?"},
            "answers_spans": {"spans": ["x"], "types": ["span"]},
        },
        [{"id": "d", "context": "P.", "answers": ["x"]}],
    ),
    (
        "narrativeqa",
        READ,
        {
            "document": {"id": "n", "summary": {"text": "S."}},
            "question": {"text": "q?", "tokens": []},
            "answers": [{"text": "x"}, {"text": "y"}],
        },
        [{"question": "q?", "context": "S.", "answers": ["x", "y"], "group": "n"}],
    ),
    (
        "pubmed_qa",
        READ,
        {
            "123": {
                **{"QUESTION": "q?", "CONTEXTS": ["A.", "B."], "final_decision": "maybe"},
                **{"YEAR": "2011", "LONG_ANSWER": "L", "split": "eval"},
            }
        },
        [{"id": "123", "context": "A. B.", "answers": ["maybe"], "date": "2011", "split": "eval"}],
    ),
    (
        "pubmed_qa hub",
        READ,
        {
            **{"pubid": 123, "question": "q?", "final_decision": "no", "long_answer": "L"},
            "context": {"contexts": ["A.", "B."], "labels": []},
        },
        [{"id": "123", "choices": ["yes", "no", "maybe"], "answers": ["no"], "context": "A. B."}],
    ),
    (
        "cnn_dailymail",
        "summarization",
        {"id": "c", "article": "Long.", "highlights": "Short.\nVery."},
        [{"context": "Long.", "answers": ["Short. Very."]}],
    ),
    (
        "lama",
        "slot-filling",
        {"sub_label": "Emma", "obj_label": "English", "predicate_id": "P407", "uuid": 3},
        [{"question": "Emma [SEP] language of work or name", "answers": ["English"]}],
    ),
    (
        "temporalwiki",
        "slot-filling",
        {"subject": "Emma", "relation": "author", "object": "Austen"},
        [{"question": "Emma [SEP] author", "answers": ["Austen"]}],
    ),
    (
        "openassistant",
        "dialogue",
        {"message_tree_id": "m1", "tree_state": "ready", "prompt": TREE},
        [
            {"id": "m3", "question": "How do I knit?", "answers": ["With two\nneedles."]},
            {
                **{"id": "m5", "group": "m1", "answers": ["Pull."]},
                "question": "How do I knit?\nWith two needles.\nAnd then?",
            },
        ],
    ),
    (
        "cmu_dog",
        "dialogue",
        {
            **{"date": "2018", "whoSawDoc": ["user1"]},
            "history": [
                {"uid": "u2", "text": "Hi", "docIdx": 0},
                {"uid": "u2", "text": "you\n", "docIdx": 0},
                {"uid": "u1", "text": "Ho", "docIdx": 0},
                {"uid": "u2", "text": "Bye", "docIdx": 0},
            ],
        },
        [{"question": "Hi you\nHo", "answers": ["Bye"]}],
    ),
    (
        "faithdial",
        "dialogue",
        {"evidence": "E", "history": "Say\nit", "response": "It.", "BEGIN": "x", "VRM": "y"},
        [{"question": "Say it", "answers": ["It."]}],
    ),
    (
        "legalbench",
        "",
        {
            **{"index": "0", "text": "She\n\nsaid.", "circuit": "First", "answer": "Yes"},
            **{"base_prompt": PROMPT, "subtask": "hearsay"},
        },
        [
            {
                "question": "Is it hearsay?\nText: She\n\nsaid.\nCircuit: First",
                "query": "Text: She\n\nsaid.\nCircuit: First",
                "answers": ["Yes"],
                "article": "hearsay",
            }
        ],
    ),
    (
        "t0",
        "plain",
        {"prompt": "Say it.\n", "completion": "It."},
        [{"question": "Say it.", "answers": ["It."]}],
    ),
    (
        "self-instruct",
        "plain",
        {
            **{"id": "t_0", "instruction": "Say:", "is_classification": False},
            "instances": [{"input": "x", "output": "X"}, {"input": "", "output": "Y"}],
        },
        [
            {"id": "t_0-0", "question": "Say:\nx", "answers": ["X"]},
            {"id": "t_0-1", "question": "Say:", "answers": ["Y"]},
        ],
    ),
    (
        "newsqa",
        READ,
        {"key": "n", "context": "C.", "question": "q?", "answers": ["x"], "labels": []},
        [{"context": "C.", "answers": ["x"]}],
    ),
    (
        "yahoo_answers_qa",
        "",
        {"id": "1", "question": "q", "answer": "x", "nbestanswers": ["x"], "main_category": "m"},
        [{"id": "1", "answers": ["x"]}],
    ),
]


@pytest.mark.parametrize(("name", "category", "native", "wanted"), ROWS, ids=[r[0] for r in ROWS])
def test_a_native_row(name: str, category: str, native: dict, wanted: list[dict]) -> None:
    found = list(partial_examples(native, category))
    assert len(found) == len(wanted)
    for partial, fields in zip(found, wanted, strict=True):
        assert {key: partial.get(key) for key in fields} == fields
        row = {**partial, "id": partial.get("id") or "x", "metric": "accuracy"}
        row["split"] = "eval"
        assert example_row(row)["answers"] == partial["answers"]


def test_every_shape_has_a_row_here() -> None:
    """A table line that nothing tests would be found here."""
    rest = [
        names
        for names, _ in (*SHAPES, *(s for shapes in BY_CATEGORY.values() for s in shapes))
        if not any(native.keys() >= set(names.split()) for _, _, native, _ in ROWS)
    ]
    assert rest == []
    inner = [next(iter(native.values())) for _, _, native, _ in ROWS]
    keys = [value.keys() for value in inner if isinstance(value, dict)]
    for names, _ in KEYED:
        wanted = {names} if names == "text answers" else set(names.split())
        assert any(found >= wanted for found in keys)


@pytest.mark.parametrize(
    ("category", "native", "message"),
    [
        ("", {"goal": "g", "sol1": "a", "sol2": "b", "label": "x"}, "label 'x' is no index of 2"),
        ("", {"goal": "g", "sol1": "a", "sol2": "b"}, "a split without labels cannot be used"),
        ("", {"ctx": "c", "endings": ["x"], "label": ""}, "label '' is no index of 1 choices"),
        (
            "",
            {"ctx": "c", "endings": 3, "label": "1"},
            "like those of hellaswag with another shape",
        ),
        ("", {"claim": "c", "label": "TRUE"}, "unknown label 'TRUE'; expected one of: SUPPORTS"),
        ("", {"input": "q", "output": [3]}, "like those of kilt with another shape"),
        (COT, {"question": "q", "answer": "no mark"}, "has no `#### NUMBER` at its end"),
        ("", {"problem": "p", "solution": "no box"}, "`solution` has no \\boxed{answer}"),
        ("", {"question": "q", "possible_answers": "[x"}, "popqa with another shape"),
        ("", {"history": [{}], "whoSawDoc": []}, "cmu_dog with another shape (KeyError('text'))"),
        (
            "",
            {"story": "s", "questions": ["a", "b"], "answers": {"input_text": ["c"]}},
            "coqa with another shape",
        ),
    ],
)
def test_a_row_of_another_shape_is_one_line(category: str, native: dict, message: str) -> None:
    with pytest.raises(InputError) as caught:
        list(partial_examples(native, category))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_hubs_flat_messages_become_trees(tmp_path: Any) -> None:
    def message(name: str, parent: str | None, role: str, text: str, rank: int | None) -> dict:
        fields = {"message_id": name, "parent_id": parent, "role": role, "text": text}
        return {**fields, "rank": rank, "message_tree_id": name[0]}

    rows = [
        message("a1", None, "prompter", "Hi", None),
        message("a2", "a1", "assistant", "worse", 1),
        message("a3", "a1", "assistant", "better", 0),
        message("b1", None, "prompter", "Ho", None),
        message("b2", "b1", "assistant", "only", None),
    ]
    path = tmp_path / "oasst.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_examples(str(path), category="dialogue")
    assert [(row["id"], row["question"], row["answers"], row["group"]) for row in found] == [
        ("a3", "Hi", ["better"], "a"),
        ("b2", "Ho", ["only"], "b"),
    ]
