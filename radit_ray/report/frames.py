"""What plots of two axes share as inline SVG: numbers and rules at the left, marks, the legend; and
where labels fit.

In: values in the unit of an axis. Out: `Html`, in units of a box that is WIDTH wide. On a phone the
box shrinks and page.css makes the letters larger inside it, so all room is measured for those.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence

from radit_ray.report.figures import Cell, Look, looks
from radit_ray.report.markup import Html, join, tag
from radit_ray.report.plots import Scale, ticks

WIDTH = 640.0
LEFT, RIGHT, TOP = 56.0, 16.0, 34.0
LETTER, LINE = 12.5, 22.0  # width and height of a letter on a phone
SHAPES = (  # corners of a mark around its middle; the first one is a circle
    "",
    "-4.2,-4.2 4.2,-4.2 4.2,4.2 -4.2,4.2",
    "0,-5.4 5.2,4 -5.2,4",
    "0,-6 6,0 0,6 -6,0",
    "0,5.4 5.2,-4 -5.2,-4",
    "-1.7,-5.2 1.7,-5.2 1.7,-1.7 5.2,-1.7 5.2,1.7 1.7,1.7 1.7,5.2 -1.7,5.2 -1.7,1.7 -5.2,1.7 "
    "-5.2,-1.7 -1.7,-1.7",
)


def scale_of(cells: Sequence[Cell], *, zero: bool = False) -> Scale:
    """All intervals with a little room; 0 only where it is asked for, since values are compared
    with each other.
    """
    edges = [edge for _, low, high in cells for edge in (low, high)] + [0.0] * zero
    room = 0.06 * (max(edges) - min(edges)) or 0.5
    return Scale(low=min(edges) - room, high=max(edges) + room)


def height_of(value: float, scale: Scale, height: float, bottom: float) -> float:
    """Where a value stands, from the top of a box of this height."""
    share = (value - scale.low) / (scale.high - scale.low)
    return height - bottom - share * (height - TOP - bottom)


def upright(scale: Scale, title: str, height: float, bottom: float) -> Html:
    """The numbers at the left with their rules, and above them what they are."""
    parts = [tag("text", title, x="0", y="16")]
    for value in ticks(scale):
        y = f"{height_of(value, scale, height, bottom):.1f}"
        ends = {"x1": f"{LEFT:g}", "x2": f"{WIDTH - RIGHT:g}", "y1": y, "y2": y}
        kind = "rule zero" if value == 0 and scale.low < 0 else "rule"
        parts.append(tag("line", class_=kind, **ends))
        parts.append(tag("text", f"{value:g}", x=f"{LEFT - 8:g}", y=y, dy="5", text_anchor="end"))
    return join(parts)


def below(title: str, height: float) -> Html:
    """What the axis below shows."""
    middle = f"{(LEFT + WIDTH - RIGHT) / 2:g}"
    return tag("text", title, x=middle, y=f"{height - 6:g}", text_anchor="middle")


def mark(look: Look, x: float, y: float, told: str = "", *, kind: str = "dot") -> Html:
    """One value; `told` is shown by a pointer that rests on it."""
    title = [tag("title", told)] if told else []
    if not SHAPES[look.mark]:
        return tag("circle", *title, cx=f"{x:.1f}", cy=f"{y:.1f}", r="4.6", class_=kind)
    moved = f"translate({x:.1f} {y:.1f})"
    return tag("polygon", *title, points=SHAPES[look.mark], transform=moved, class_=kind)


def style(look: Look) -> str:
    return f"line-{look.colour}" + " dashed" * look.dashed


def figure(title: str, label: str, height: float, parts: Sequence[Html], *below: Html) -> Html:
    """The plot with its title above and whatever stands below."""
    size = f"0 0 {WIDTH:g} {height:g}"
    plot = tag("svg", *parts, class_="curves", viewBox=size, role="img", aria_label=label)
    return tag("figure", tag("figcaption", title), plot, *below)


def legend(names: Sequence[str], *, line: bool = True) -> Html:
    """Every line's name with a piece of it."""
    keys = []
    for name, look in looks(names).items():
        piece = [tag("line", x1="0", x2="34", y1="7", y2="7", class_="line")] if line else []
        key = [*piece, mark(look, 17.0, 7.0)]
        drawn = tag("svg", *key, class_="key", viewBox="0 0 34 14", aria_hidden="true")
        keys.append(tag("li", drawn, tag("span", name), class_=style(look)))
    return tag("ul", *keys, class_="keys")


def wrapped(label: str, width: int, *, most: int = 4) -> list[str]:
    """A label in lines of at most `width` letters, broken after spaces, slashes and dashes where it
    can be.

    >>> wrapped("wiki-causal-minilm (22.7M)", 12)
    ['wiki-causal-', 'minilm', '(22.7M)']
    """
    width = max(width, 4)
    lines = [""]
    for part in re.findall(r".*?(?:[ /\-_]+|$)", label):
        while part.strip():
            if len((lines[-1] + part).strip()) <= width:
                lines[-1] += part
                break
            if lines[-1]:
                lines.append("")
                continue
            lines[-1], part = part[:width], part[width:]
    told = [line.strip() for line in lines if line.strip()]
    return told if len(told) <= most else [*told[: most - 1], "…"]


Box = tuple[float, float, float, float]  # left, top, right, bottom


def labels_beside(
    spots: Sequence[tuple[float, float]],
    texts: Sequence[str],
    *,
    room: Box,
    lines: Sequence[tuple[float, float]] = (),
    letter: float = LETTER,
    line: float = LINE,
    gap: float = 9.0,
) -> list[tuple[float, float, str] | None]:
    """(x of its anchor, y of its middle, anchor) of each spot's label, earlier ones first; None
    where it would cover a spot or another label. `lines` are the corners of stairs, crossed only
    where there is no other room.
    """
    half = 0.7 * gap
    taken: list[Box] = [(x - half, y - half, x + half, y + half) for x, y in spots]
    stairs = [
        (min(a[0], b[0]), min(a[1], b[1]), max(a[0], b[0]), max(a[1], b[1]))
        for a, b in itertools.pairwise(lines)
    ]
    found: list[tuple[float, float, str] | None] = []
    for (x, y), text in zip(spots, texts, strict=True):
        width = letter * len(text)
        beside: list[tuple[float, float, str]] = [
            (x + gap, y, "start"),
            (x - gap, y, "end"),
            (x - gap, y - line * 0.7, "end"),
            (x - gap, y + line * 0.7, "end"),
            (x + gap, y + line * 0.7, "start"),
            (x + gap, y - line * 0.7, "start"),
            (x, y - line / 2 - gap, "middle"),
            (x, y + line / 2 + gap, "middle"),
        ]
        free = [p for p in beside if _fits(_box(p, width, line), room, taken)]
        clear = [p for p in free if _fits(_box(p, width, line), room, stairs)]
        place = next(iter(clear or free), None)
        if text and place:
            taken.append(_box(place, width, line))
        found.append(place if text else None)
    return found


def _box(place: tuple[float, float, str], width: float, line: float) -> Box:
    x, y, anchor = place
    left = x - {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor] * width
    return left, y - line / 2, left + width, y + line / 2


def _fits(box: Box, room: Box, taken: Sequence[Box]) -> bool:
    inside = box[0] >= room[0] and box[1] >= room[1] and box[2] <= room[2] and box[3] <= room[3]
    return inside and not any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in taken
    )


def points_of(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def told(cell: Cell) -> str:
    """
    >>> told((38.5, 35.333, 41.8))
    '38.5 [35.3, 41.8]'
    """
    return f"{cell[0]:.3g} [{cell[1]:.3g}, {cell[2]:.3g}]"


def stops(front: Mapping[float, float], right: float) -> list[tuple[float, float]]:
    """The stairs through a Pareto front given as {x: y}, from left to right."""
    made: list[tuple[float, float]] = []
    for x, y in sorted(front.items()):
        if made:
            made.append((x, made[-1][1]))
        made.append((x, y))
    return [*made, (right, made[-1][1])] if made else []
