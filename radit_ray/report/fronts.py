"""A metric against its cost as inline SVG, and as a table.

In: a `Front` figure. Out: `Html`. The axis of costs is logarithmic where they differ by more than
WIDE.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from radit_ray.report.figures import Front, Spot, looks
from radit_ray.report.frames import (
    LEFT,
    LINE,
    RIGHT,
    TOP,
    WIDTH,
    below,
    figure,
    height_of,
    labels_beside,
    legend,
    mark,
    points_of,
    scale_of,
    stops,
    style,
    told,
    upright,
)
from radit_ray.report.markup import Html, details, join, table, tag
from radit_ray.report.plots import Scale, ticks
from radit_ray.report.words import ABSENT

HEIGHT, BOTTOM = 380.0, 40.0 + LINE
WIDE = 8.0  # times the cheapest


def picture(plot: Front) -> Html:
    """The plot with its title, axes, labels and legend."""
    scale = scale_of([spot.cell for spot in plot.spots])
    costs = cost_scale([spot.cost for spot in plot.spots])
    spots = [
        (_x(spot.cost, costs), height_of(spot.cell[0], scale, HEIGHT, BOTTOM))
        for spot in plot.spots
    ]
    best = {x: y for (x, y), spot in zip(spots, plot.spots, strict=True) if spot.best}
    stairs = stops(best, WIDTH - RIGHT)
    parts = [
        upright(scale, plot.upright, HEIGHT, BOTTOM),
        _below(costs, plot.axis),
        tag("polyline", points=points_of(stairs), class_="stairs"),
    ]
    known = looks(spot.series for spot in plot.spots)
    for (x, y), spot in zip(spots, plot.spots, strict=True):
        ends = [f"{height_of(edge, scale, HEIGHT, BOTTOM):.1f}" for edge in spot.cell[1:]]
        bar = tag("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=ends[0], y2=ends[1], class_="reach")
        words = f"{spot.name}: {told(spot.cell)} for {spot.cost:.3g} s"
        dot = mark(known[spot.series], x, y, words, kind="dot" if spot.best else "dot hollow")
        parts.append(tag("g", bar, dot, class_=style(known[spot.series])))
    parts += _words(plot.spots, spots, stairs)
    names = list(dict.fromkeys(spot.series for spot in plot.spots))
    return figure(plot.title, plot.title, HEIGHT, parts, legend(names, line=False))


def listing(plot: Front) -> Html:
    """The same as a table that opens, cheapest first."""
    rows = [
        [
            tag("span", spot.name, class_="name"),
            "yes" if spot.best else ABSENT,
            f"{spot.cost:.3g}",
            told(spot.cell),
        ]
        for spot in plot.spots
    ]
    head = ["", "on the front", "device s", plot.upright]
    whole = table(head, rows, label=plot.title, texts=2)
    return details(f"All {len(rows)} of {plot.upright}", whole)


def cost_scale(costs: Sequence[float]) -> tuple[Scale, bool]:
    """(from where to where, whether by factors); from 0 where it is not."""
    low, high = min(costs), max(costs)
    if low > 0 and high / low > WIDE:
        room = 0.13 * math.log10(high / low)  # for a name beside the first and the last
        ends = (math.log10(low) - room, math.log10(high) + 1.6 * room)
        return Scale(low=10 ** ends[0], high=10 ** ends[1]), True
    return Scale(low=0.0, high=1.2 * high), False


def cost_ticks(scale: Scale, by_factors: bool) -> list[float]:
    """Round numbers: 1, 2, 5 of every power, or only powers where those would be many.

    >>> cost_ticks(Scale(low=0.03, high=1.2), True)
    [0.05, 0.1, 0.2, 0.5, 1.0]
    """
    if not by_factors:
        return ticks(scale)
    powers = range(math.floor(math.log10(scale.low)), math.ceil(math.log10(scale.high)) + 1)
    steps = (1, 2, 5) if len(powers) < 5 else (1,)
    every = [round(step * 10.0**power, 12) for power in powers for step in steps]
    return [value for value in every if scale.low <= value <= scale.high]


def _x(cost: float, costs: tuple[Scale, bool]) -> float:
    scale, by_factors = costs
    of = math.log10 if by_factors else float
    share = (of(cost) - of(scale.low)) / (of(scale.high) - of(scale.low))
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _below(costs: tuple[Scale, bool], title: str) -> Html:
    floor = HEIGHT - BOTTOM
    parts = [
        tag("line", x1=f"{LEFT:g}", x2=f"{WIDTH - RIGHT:g}", y1=f"{floor:g}", y2=f"{floor:g}",
            class_="floor"),
        below(f"{title}{', log scale' if costs[1] else ''}", HEIGHT),
    ]  # fmt: skip
    for value in cost_ticks(*costs):
        x = f"{_x(value, costs):.1f}"
        parts.append(tag("line", x1=x, x2=x, y1=f"{floor:g}", y2=f"{floor + 5:g}", class_="floor"))
        y = f"{floor + LINE:g}"
        parts.append(tag("text", f"{value:g}", x=x, y=y, text_anchor="middle"))
    return join(parts)


def _words(
    spots: Sequence[Spot],
    places: Sequence[tuple[float, float]],
    stairs: Sequence[tuple[float, float]],
) -> list[Html]:
    """Names beside the spots, those on the front first, where there is room."""
    order = sorted(range(len(spots)), key=lambda number: not spots[number].best)
    texts = [spots[n].name if spots[n].best or not spots[n].label else "" for n in order]
    room = (LEFT, TOP - LINE / 2, WIDTH, HEIGHT - BOTTOM)
    found = labels_beside([places[n] for n in order], texts, room=room, lines=stairs)
    return [
        tag("text", text, x=f"{x:.1f}", y=f"{y:.1f}", dy="5", text_anchor=anchor, class_="named")
        for text, place in zip(texts, found, strict=True)
        if place
        for x, y, anchor in [place]
    ]
