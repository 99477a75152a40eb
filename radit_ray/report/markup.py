"""HTML out of Python values, escaped unless it is HTML already.

In: names, texts and attributes. Out: `Html`. A plain string that goes into `tag` is escaped, so a
question or a chunk cannot become markup by being forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

VOID = ("meta", "link", "br")  # elements without content and without an end tag


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *content: str, **attributes: str) -> Html:
    """One element. `class_` is class, `aria_label` is aria-label.

    >>> tag("p", "1 < 2", tag("b", "&"), class_="note")
    '<p class="note">1 &lt; 2<b>&amp;</b></p>'
    """
    words = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
    )
    return Html(f"<{name}{words}>" if name in VOID else f"<{name}{words}>{join(content)}</{name}>")


def join(parts: Sequence[str]) -> Html:
    """Parts one after the other, each escaped where it is plain text."""
    return Html("".join(part if isinstance(part, Html) else escape(part) for part in parts))


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    label: str,
    texts: int = 1,
    foot: Sequence[str] = (),
    class_: str = "",
) -> Html:
    """A table in a box of its own that scrolls sideways, also by keyboard; a row's first cell is
    its header. The first `texts` columns are words, the others numbers. `label` says what it holds.
    """

    def cells(row: Sequence[str]) -> Html:
        first = tag("th", row[0], scope="row")
        kinds = ["word" if place < texts else "number" for place in range(1, len(row))]
        return join([first, *(tag("td", c, class_=k) for c, k in zip(row[1:], kinds, strict=True))])

    kinds = ["word" if place < texts else "number" for place in range(len(head))]
    top = [tag("th", c, scope="col", class_=k) for c, k in zip(head, kinds, strict=True)]
    parts = [tag("thead", tag("tr", *top)), tag("tbody", *(tag("tr", cells(row)) for row in rows))]
    if foot:
        parts.append(tag("tfoot", tag("tr", cells(foot))))
    whole = tag("table", *parts, class_=class_) if class_ else tag("table", *parts)
    return tag("div", whole, class_="scroll", role="region", aria_label=label, tabindex="0")


def details(summary: str, *content: str, is_open: bool = False) -> Html:
    """A part that opens and closes."""
    attributes = {"open": "open"} if is_open else {}
    return tag("details", tag("summary", summary), *content, **attributes)
