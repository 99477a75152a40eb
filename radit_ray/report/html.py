"""A finished run as one self-contained page: no script, no request, nothing to install.

In: what `results.json` and `run.json` hold, and the questions chosen of its predictions. Out: the
text of `report.html`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from radit_ray.report.breakdowns import articles, seeds, tasks
from radit_ray.report.cards import examples
from radit_ray.report.comparisons import ablation, grid, halves, who
from radit_ray.report.costs import answers, times
from radit_ray.report.markup import Html, details, join, table, tag
from radit_ray.report.questions import Card
from radit_ray.report.table import r_ft_dev
from radit_ray.report.words import GLOSSARY, seconds

Results = Mapping[str, Any]


def page(results: Results, record: Mapping[str, Any], cards: Sequence[Card]) -> str:
    """The whole page as text. `record` is what `run.json` holds, `cards` are its questions."""
    sections = [("run", "This run", _run(results, record))]
    if results["variants"]:
        sections += [
            ("halves", "What each half brought", halves(results, _counted_tasks(record))),
            ("variants", "All variants", _variants(results)),
            ("answers", "What an answer costs", answers(results)),
            ("questions", "Questions, before and after", _questions(results, cards)),
        ]
    else:
        sections.append(("r-ft", "What R-ft changed", _corpus_only(results)))
    sections += [
        ("time", "Where the time went", times(results)),
        ("made", "How it was made", _made(results, record)),
    ]
    return document(f"RA-DIT: {results['recipe']}", sections)


def document(title: str, sections: Sequence[tuple[str, str, Html]]) -> str:
    """A whole page of (anchor, heading, content): style inside, nothing from outside."""
    links = [tag("a", name, href=f"#{anchor}") for anchor, name, _ in sections]
    parts = [
        tag("section", tag("h2", name), content, id=anchor) for anchor, name, content in sections
    ]
    css = resources.files("radit_ray.report").joinpath("page.css").read_text(encoding="utf-8")
    # nothing may be loaded or run, whatever a corpus holds
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        tag("style", Html(css)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("nav", *links, aria_label="parts of this page")),
        tag("main", *parts),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, body, lang='en')}\n"


def _run(results: Results, record: Mapping[str, Any]) -> Html:
    """What RA-DIT does, what was run, and who is who."""
    recipe, made = record["recipe"], results["environment"]
    about = (
        "RA-DIT (arXiv 2310.01352) takes a language model and a retriever that were not made for "
        "each other and tunes each one lightly. ",
        tag("strong", "LM-ft"),
        " teaches the LM to answer with retrieved chunks of text in front of the question, and "
        "to ignore bad ones. ",
        tag("strong", "R-ft"),
        " teaches the retriever to find the chunks that help the LM. This page shows what each "
        "half brought, measured on the same questions.",
    )
    facts = {
        "recipe": results["recipe"],
        "questions": f"{results['num_questions']:,}" if results["variants"] else "none",
        "LM": short(recipe["lm"]),
        "retriever": short(recipe["retriever"]),
        "training seeds": counted(results["seeds"]),
        "time": seconds(results["wall_s"]),
        "hardware": made["hardware"],
        "commit": made["versions"].get("commit", "unknown"),
        "command": tag("code", made["command"]),
    }
    told = tag("div", tag("p", *about, class_="lead"), listed(facts, class_="facts"))
    glossary = details("Words used on this page", listed(GLOSSARY))
    if results["variants"]:
        overview = tag("div", told, grid(results), class_="overview")
        return join([overview, tag("h3", "The variants"), who(results), glossary])
    words = (
        "This run had no questions with answers: only the retriever was tuned, on the corpus "
        "alone, and no variants were compared."
    )
    return join([told, tag("p", words), glossary])


def _counted_tasks(record: Mapping[str, Any]) -> Sequence[str]:
    """The tasks that the recipe's table is about; empty for all."""
    return tuple(record["recipe"]["evaluate"]["tasks"])


def counted(seeds: Sequence[int]) -> str:
    """
    >>> counted([0]), counted([0, 1, 2])
    ('1 (seed 0)', '3 (seeds 0, 1, 2)')
    """
    return f"{len(seeds)} (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"


def short(spec: str) -> str:
    """The last two names of a path, a Hugging Face id as it is; also of each of a list."""
    return ", ".join("/".join(path.rstrip("/").split("/")[-2:]) for path in spec.split(","))


def listed(entries: Mapping[str, str], **attributes: str) -> Html:
    pairs = [tag("div", tag("dt", name), tag("dd", value)) for name, value in entries.items()]
    return tag("dl", *pairs, **attributes)


def _variants(results: Results) -> Html:
    parts = (ablation(results), tasks(results), seeds(results), articles(results))
    return join(parts)


def _questions(results: Results, cards: Sequence[Card]) -> Html:
    words = (
        "Chosen by the hash of their ids, not by hand. Each chunk answers alone; p_R says how much "
        "its answer weighs in the final one. Marked: the right answer in the text."
    )
    if len(results["seeds"]) > 1:
        words += f" Models of training seed {results['seeds'][0]}."
    return join([tag("p", words, class_="note"), examples(cards)])


def _corpus_only(results: Results) -> Html:
    """R-ft on its dev examples, before and after."""
    head, rows = r_ft_dev(results)
    if not rows:
        return tag("p", "R-ft was not run.", class_="note")
    words = "Measured on examples cut from the corpus that R-ft was not trained on."
    return join([tag("p", words), table(head, rows, label="R-ft on dev", texts=2)])


def _made(results: Results, record: Mapping[str, Any]) -> Html:
    """Versions, the stages' identities and metrics, and every field of the recipe."""
    versions = results["environment"]["versions"]
    rows = [
        [
            tag("span", name, class_="name"),
            tag("code", stage["fingerprint"][:12]),
            f"{stage['rows']:,}",
            ", ".join(f"{key} {value}" for key, value in flat(stage.get("metrics", {})).items()),
        ]
        for name, stage in results["stages"].items()
    ]
    head = ["stage", "fingerprint", "rows", "metrics"]
    fields = [[name, value] for name, value in flat(record["recipe"]).items()]
    recipe = table(["field", "value"], fields, label="fields of the recipe", texts=2)
    words = (
        "A fingerprint is the hash of a stage's settings and of everything that went into it; "
        "hardware and paths are no part of it."
    )
    return join(
        [
            tag("p", words),
            table(head, rows, label="stages", texts=4, class_="made"),
            tag("h3", "Versions"),
            listed({name: str(version) for name, version in versions.items()}),
            details(f"All {len(fields)} fields of the recipe", recipe),
        ]
    )


def flat(record: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values by dotted name, as text.

    >>> flat({"dev": {"nll": 2.6868925}, "tasks": ["a", "b"]})
    {'dev.nll': '2.687', 'tasks': 'a, b'}
    """
    found: dict[str, str] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        elif isinstance(value, float):
            found[prefix + name] = f"{value:.4g}"
        elif isinstance(value, list):
            found[prefix + name] = ", ".join(map(str, value))
        else:
            found[prefix + name] = str(value)
    return found
