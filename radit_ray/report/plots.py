"""Intervals and shares as inline SVG, one strip a row, so that the words beside stay text.

In: numbers, and a `Scale` that the strips of one plot share. Out: `Html`. Positions are percentages
and sizes pixels: a strip fills whatever width it gets, and neither dots nor letters are stretched.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from radit_ray.report.markup import Html, tag

MIDDLE = "15"  # pixels from the top of a strip, half its height in page.css


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """The values at the left and right edge of a strip."""

    low: float
    high: float

    def place(self, value: float) -> str:
        """Where a value stands, from the left edge.

        >>> Scale(low=-1.0, high=1.0).place(0.5)
        '75.00%'
        """
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def scale_of(values: Iterable[float]) -> Scale:
    """A scale that holds the values and 0, with room for dots and end labels."""
    found = [0.0, *values]
    low, high = min(found), max(found)
    room = 0.06 * (high - low) or 1.0
    return Scale(low=low - room, high=high + room)


def ticks(scale: Scale, about: int = 5) -> list[float]:
    """Round numbers inside a scale, steps of 1, 2, 2.5 or 5.

    >>> ticks(Scale(low=-12.0, high=61.0))
    [0.0, 20.0, 40.0, 60.0]
    """
    rough = (scale.high - scale.low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough)
    first, last = math.ceil(scale.low / step), math.floor(scale.high / step)
    return [round(number * step, 10) for number in range(first, last + 1)]


def strip(
    low: float, value: float, high: float, scale: Scale, *, kind: str, label: str, band: float = 0.0
) -> Html:
    """A dot with its interval, a line at 0, and a band of -band to +band around it. `kind` is the
    class that colours it.
    """
    parts = []
    if band:
        left, right = (max(scale.low, min(scale.high, edge)) for edge in (-band, band))
        width = f"{100 * (right - left) / (scale.high - scale.low):.2f}%"
        parts.append(tag("rect", x=scale.place(left), y="3", width=width, height="24"))
    parts.append(_line(scale.place(0.0), "0", scale.place(0.0), "100%", "zero"))
    x1, x2 = scale.place(low), scale.place(high)
    parts.append(_line(x1, MIDDLE, x2, MIDDLE, "whisker"))
    parts += [_line(x, "11", x, "19", "whisker") for x in (x1, x2)]
    parts.append(tag("circle", cx=scale.place(value), cy=MIDDLE, r="4.5"))
    return tag("svg", *parts, class_=f"strip {kind}", role="img", aria_label=label)


def axis(scale: Scale, unit: str) -> Html:
    """The numbers under the strips of one plot."""
    parts = []
    for value in ticks(scale):
        x = scale.place(value)
        parts.append(_line(x, "0", x, "5", "tick"))
        parts.append(tag("text", f"{value:g}", x=x, y="18", text_anchor="middle"))
    return tag("svg", *parts, class_="axis", role="img", aria_label=f"axis in {unit}")


def bar(share: float, label: str) -> Html:
    """A bar of `share` (0 to 1) of the room there is."""
    width = f"{100 * max(0.0, min(1.0, share)):.1f}%"
    rect = tag("rect", x="0", y="0", width=width, height="100%")
    return tag("svg", rect, class_="bar", role="img", aria_label=label)


def _line(x1: str, y1: str, x2: str, y2: str, kind: str) -> Html:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)
