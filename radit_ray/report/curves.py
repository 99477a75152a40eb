"""Lines with bands as inline SVG: a metric over what a sweep changed, one line a variant.

In: x labels and, for each variant, (value, low, high) or None at each of them. Out: `Html`. Places
on the x axis are equally far apart: what is swept is often no number, and where it is one it
doubles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from radit_ray.report.markup import Html, join, tag
from radit_ray.report.plots import Scale, ticks

WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 52.0, 12.0, 12.0, 40.0
Cell = tuple[float, float, float] | None


def lines(
    labels: Sequence[str], series: Mapping[str, Sequence[Cell]], *, title: str, axis: str
) -> Html:
    """A plot with its legend; `title` says what it shows to those who do not see it."""
    cells = [cell for line in series.values() for cell in line if cell is not None]
    if not cells:
        return Html("")
    scale = _scale(cells)
    parts = [_grid(labels, scale, axis)]
    for number, (name, line) in enumerate(series.items()):
        parts.append(_line(name, line, labels, scale, number))
    size = f"0 0 {WIDTH:g} {HEIGHT:g}"
    plot = tag("svg", *parts, class_="curves", viewBox=size, role="img", aria_label=title)
    keys = [
        tag("li", _mark(number), name, class_=_style(number)) for number, name in enumerate(series)
    ]
    return tag("figure", tag("figcaption", title), plot, tag("ul", *keys, class_="keys"))


def _scale(cells: Sequence[tuple[float, float, float]]) -> Scale:
    """All intervals with a little room; not from 0, since curves are compared with each other."""
    low, high = min(c[1] for c in cells), max(c[2] for c in cells)
    room = 0.06 * (high - low) or 0.5
    return Scale(low=low - room, high=high + room)


def _x(place: int, count: int) -> float:
    inside = WIDTH - LEFT - RIGHT
    return LEFT + inside * (0.5 if count == 1 else 0.04 + 0.92 * place / (count - 1))


def _y(value: float, scale: Scale) -> float:
    share = (value - scale.low) / (scale.high - scale.low)
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _grid(labels: Sequence[str], scale: Scale, axis: str) -> Html:
    """The numbers at the left with their lines, the labels below."""
    parts = []
    for value in ticks(scale):
        y = f"{_y(value, scale):.1f}"
        parts.append(
            tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=y, y2=y, class_="rule")
        )
        parts.append(tag("text", f"{value:g}", x=f"{LEFT - 8:g}", y=y, dy="4", text_anchor="end"))
    for place, label in enumerate(labels):
        x = f"{_x(place, len(labels)):.1f}"
        parts.append(tag("text", label, x=x, y=f"{HEIGHT - BOTTOM + 16:g}", text_anchor="middle"))
    middle = f"{(LEFT + WIDTH - RIGHT) / 2:g}"
    parts.append(tag("text", axis, x=middle, y=f"{HEIGHT - 6:g}", text_anchor="middle"))
    return join(parts)


def _line(
    name: str, line: Sequence[Cell], labels: Sequence[str], scale: Scale, number: int
) -> Html:
    """The band of the intervals, the line, a dot at each value with its numbers."""
    known = [(_x(i, len(labels)), cell) for i, cell in enumerate(line) if cell is not None]
    upper = [f"{x:.1f},{_y(cell[2], scale):.1f}" for x, cell in known]
    lower = [f"{x:.1f},{_y(cell[1], scale):.1f}" for x, cell in reversed(known)]
    drawn = [f"{x:.1f},{_y(cell[0], scale):.1f}" for x, cell in known]
    dots = [
        tag(
            "circle",
            tag("title", f"{name}: {cell[0]:.3g} [{cell[1]:.3g}, {cell[2]:.3g}]"),
            cx=f"{x:.1f}",
            cy=f"{_y(cell[0], scale):.1f}",
            r="3.5",
        )
        for x, cell in known
    ]
    return tag(
        "g",
        tag("polygon", points=" ".join([*upper, *lower])),
        tag("polyline", points=" ".join(drawn)),
        *dots,
        class_=_style(number),
    )


def _style(number: int) -> str:
    """Five colours, then the same ones dashed."""
    return f"line-{number % 5}" + " dashed" * (number >= 5)


def _mark(number: int) -> Html:
    """A piece of the line, for the legend."""
    line = tag("line", x1="0", x2="26", y1="6", y2="6")
    dot = tag("circle", cx="13", cy="6", r="3.5")
    return tag("svg", line, dot, class_="key", viewBox="0 0 26 12", aria_hidden="true")
