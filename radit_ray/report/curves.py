"""Lines with bands as inline SVG: a metric over what a sweep changed, one line a variant.

In: a `Curves` figure. Out: `Html`. Places on the x axis are equally far apart: what is swept is
often no number, and where it is one it doubles.
"""

from __future__ import annotations

from collections.abc import Sequence

from radit_ray.report.figures import Cell, Curves, Look, looks
from radit_ray.report.frames import (
    LEFT,
    LETTER,
    LINE,
    RIGHT,
    WIDTH,
    below,
    figure,
    height_of,
    legend,
    mark,
    points_of,
    scale_of,
    style,
    told,
    upright,
    wrapped,
)
from radit_ray.report.markup import Html, join, tag
from radit_ray.report.plots import Scale

HEIGHT, BOTTOM = 350.0, 40.0  # without the labels below


def lines(plot: Curves) -> Html:
    """A plot with its title, axes and legend; "" where there is no value at all."""
    cells = [cell for line in plot.series.values() for cell in line if cell is not None]
    if not cells:
        return Html("")
    letters = int(_slot(len(plot.labels)) / LETTER) - 1
    labels = [wrapped(label, letters) for label in plot.labels]
    bottom = BOTTOM + LINE * max(map(len, labels))
    height = HEIGHT + bottom - BOTTOM
    scale = scale_of(cells, zero=plot.zero)
    parts = [
        upright(scale, plot.upright, height, bottom),
        _labels(labels, height - bottom),
        below(plot.axis, height),
    ]
    for name, look in looks(plot.series).items():
        parts.append(_line(name, plot.series[name], look, scale, height, bottom))
    return figure(plot.title, plot.title, height, parts, legend(list(plot.series)))


def _slot(count: int) -> float:
    """How far apart two places are."""
    inside = WIDTH - LEFT - RIGHT
    return 0.5 * inside if count == 1 else 0.92 * inside / (count - 1)


def _x(place: int, count: int) -> float:
    inside = WIDTH - LEFT - RIGHT
    return LEFT + (0.5 * inside if count == 1 else 0.04 * inside + place * _slot(count))


def _labels(labels: Sequence[Sequence[str]], floor: float) -> Html:
    """What each place is, in one line or several."""
    parts = []
    for place, told_lines in enumerate(labels):
        x = _x(place, len(labels))
        # the outer ones may not reach beyond the plot
        half = LETTER * max(map(len, told_lines)) / 2
        x = min(max(x, half), WIDTH - half)
        for number, text in enumerate(told_lines):
            y = f"{floor + LINE * (number + 0.9):g}"
            parts.append(tag("text", text, x=f"{x:.1f}", y=y, text_anchor="middle"))
    return join(parts)


def _line(
    name: str,
    line: Sequence[Cell | None],
    look: Look,
    scale: Scale,
    height: float,
    bottom: float,
) -> Html:
    """The band of the intervals, the line, a mark at each value with its numbers."""
    known = [(_x(place, len(line)), cell) for place, cell in enumerate(line) if cell is not None]

    def run(which: int) -> list[tuple[float, float]]:
        return [(x, height_of(cell[which], scale, height, bottom)) for x, cell in known]

    band = points_of([*run(2), *reversed(run(1))])
    dots = [
        mark(look, x, y, f"{name}: {told(cell)}")
        for (x, y), (_, cell) in zip(run(0), known, strict=True)
    ]
    return tag(
        "g",
        tag("polygon", points=band, class_="band"),
        tag("polyline", points=points_of(run(0)), class_="line"),
        *dots,
        class_=style(look),
    )
