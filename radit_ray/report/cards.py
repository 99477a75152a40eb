"""Questions of a finished run as HTML: what two variants saw and said, side by side.

In: cards of questions.py. Out: HTML. Texts of a corpus stay texts.
"""

from __future__ import annotations

from collections.abc import Sequence

from radit_ray.core.metrics import exact_match
from radit_ray.data.rows import hits_of
from radit_ray.report.markup import Html, details, join, tag
from radit_ray.report.plots import bar
from radit_ray.report.questions import EXCERPT, Card, Row, Side, excerpt, marks, mixed, right, wins
from radit_ray.report.words import parts_of


def examples(cards: Sequence[Card]) -> Html:
    """All cards, the first one open; one line where there are none."""
    if not cards:
        return tag("p", "This run's folder holds no predictions to compare.", class_="note")
    return join([_card(card, is_open=not number) for number, card in enumerate(cards)])


def _card(card: Card, *, is_open: bool) -> Html:
    """One question: the right answer, two variants side by side, what every variant said."""
    asked = card.sides[0].prediction
    gold = [tag("strong", asked["answers"][0])]
    if others := asked["answers"][1:4]:
        gold.append(tag("span", f" (also: {', '.join(others)})", class_="note"))
    said = [
        tag("li", tag("span", name, class_="name"), " ", _answer(row["prediction"], right(row)))
        for name, row in card.said.items()
    ]
    return tag(
        "details",
        tag(
            "summary",
            tag("span", card.title, class_="kind"),
            tag("h3", asked["question"]),
        ),
        tag("p", "Right answer: ", *gold),
        tag("div", *map(_side, card.sides), class_="sides"),
        tag("p", "What every variant answers:", class_="note"),
        tag("ul", *said, class_="said"),
        class_="card",
        **({"open": "open"} if is_open else {}),
    )


def _answer(text: str, is_right: bool) -> Html:
    mark = tag("span", "right" if is_right else "wrong", class_="right" if is_right else "wrong")
    return join([tag("q", text) if text else tag("i", "no answer"), " ", mark])


def _side(side: Side) -> Html:
    """What one variant saw and said."""
    prediction, ranked = side.prediction, side.ranked
    lm, finder = parts_of(side.variant)
    answers, num = prediction["answers"], len(prediction["chunk_ids"])
    weights, alone = prediction["p_r"], prediction["chunk_answers"]
    each = len(weights) == num  # else all chunks stood in one prompt
    hits = hits_of(ranked) if ranked else []
    chunks = []
    for place, chunk in enumerate(prediction["chunk_ids"]):
        title, text = (ranked["titles"][place], ranked["texts"][place]) if ranked else (chunk, "")
        head = [tag("b", title or chunk)]
        if place < len(hits) and hits[place]:
            head.append(tag("span", "a right chunk", class_="right"))
        parts = [tag("div", *head, class_="head")]
        if each:
            small = 0 < weights[place] < 0.005
            shown = "p_R <0.01" if small else f"p_R {weights[place]:.2f}"
            parts.append(tag("div", bar(weights[place], shown), tag("span", shown), class_="p_r"))
        parts.append(_text(text, answers))
        if each and place < len(alone):
            own = [_answer(alone[place], bool(exact_match(alone[place], answers)))]
            if wins(prediction, place):
                own += [Html(" "), tag("span", "this answer wins", class_="wins")]
            parts.append(tag("p", "alone it gives ", *own, class_="alone"))
        chunks.append(tag("li", *parts))
    heading = tag("h4", tag("span", side.variant, class_="name"), f" {lm} + {finder}" if lm else "")
    final = tag("p", "answers ", _answer(prediction["prediction"], right(prediction)))
    return tag("section", heading, final, *_mixed(prediction), tag("ol", *chunks), class_="side")


def _mixed(prediction: Row) -> list[Html]:
    """The probabilities that decided between several answers."""
    shown = ", ".join(f"{text} {share:.2g}" for text, share in mixed(prediction))
    words = f"Probability under all its chunks together: {shown}."
    return [tag("p", words, class_="note")] if shown else []


def _text(text: str, answers: Sequence[str]) -> Html:
    """A chunk's text with the answers marked; a long one as the part around the first of them."""
    if len(text) <= EXCERPT:
        return tag("p", highlighted(text, marks(text, answers)))
    short, whole = (
        tag("p", highlighted(shown, marks(shown, answers)))
        for shown in (excerpt(text, answers), text)
    )
    return join([short, details("the whole chunk", whole)])


def highlighted(text: str, spans: Sequence[tuple[int, int]]) -> Html:
    """The text with <mark> around the spans."""
    parts, end = [], 0
    for start, stop in spans:
        parts += [text[end:start], tag("mark", text[start:stop])]
        end = stop
    return join([*parts, text[end:]])
