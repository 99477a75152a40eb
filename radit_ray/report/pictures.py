"""The figures of a report as PNGs of WIDTH x HEIGHT pixels, for a slide or a Markdown page.

In: figures (figures.py). Out: bytes of a PNG. Needs matplotlib, the extra `plots`; without it a
report has its page and its Markdown all the same.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from typing import Any

from radit_ray.report.comparisons import dots_scale
from radit_ray.report.figures import Bars, Curves, Dots, Figure, Front, Look, axis_of, looks
from radit_ray.report.frames import labels_beside, stops, wrapped
from radit_ray.report.fronts import cost_scale, cost_ticks
from radit_ray.report.words import METRICS, seconds, shown_contrast, verdict

WIDTH, HEIGHT, DPI = 1600, 900, 160  # letters of 14 points: legible from the last row
LACKING = "no PNGs without matplotlib: pip install 'radit-ray[plots]'"
INK, SOFT, LINE, BAND = "#1b1f24", "#4c5661", "#d8dde3", "#e4e8ec"
# those of page.css on white, by the number of a Look
COLOURS = ("#383e46", "#c4840f", "#3da376", "#d357c2", "#0364fe", "#842600")
MARKS = ("o", "s", "^", "D", "v", "P")
VERDICTS = {"better": "#1762b8", "worse": "#b4420f", "unclear": "#5b6570"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 14,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "text.parse_math": False,  # a `$` in a name is a `$`
}


def available() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def png(figure: Figure) -> bytes:
    """One figure with its title above and its note below."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    draw: dict[type, Callable[[Any, Any], None]] = {
        Dots: _dots,
        Curves: _curves,
        Front: _front,
        Bars: _bars,
    }
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, layout="constrained")
        FigureCanvasAgg(canvas)
        note = textwrap.wrap(figure.note, 125)
        foot = 0.02 + 0.032 * len(note)
        canvas.get_layout_engine().set(rect=(0.015, foot, 0.97, 0.875 - foot))
        canvas.text(0.025, 0.955, figure.title, fontsize=18, fontweight="bold", va="center")
        canvas.text(0.025, 0.02, "\n".join(note), fontsize=10.5, color=SOFT, va="bottom")
        draw[type(figure)](canvas.add_subplot(), figure)
        file = io.BytesIO()
        canvas.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _dots(axes: Any, figure: Dots) -> None:
    """Intervals around 0, or values, the first row on top."""
    factor = METRICS[figure.metric].factor
    diff = figure.key == "diff"
    for row, cell in enumerate(figure.cells.values()):
        value, low, high = (factor * cell[key] for key in (figure.key, "low", "high"))
        kind = verdict(cell, figure.metric) if diff else "better"
        if diff and figure.bands:
            reach = factor * cell["mde"]
            axes.barh(row, 2 * reach, left=-reach, height=0.78, color=BAND, zorder=0)
        axes.plot([low, high], [row, row], color=VERDICTS[kind], linewidth=3, zorder=2)
        face = "white" if kind == "unclear" else VERDICTS[kind]
        axes.plot(
            value,
            row,
            marker="o",
            markersize=11,
            color=VERDICTS[kind],
            markerfacecolor=face,
            markeredgewidth=2.5,
            zorder=3,
        )
        shown = METRICS[figure.metric].number(cell[figure.key], "+" if diff else "")
        axes.annotate(shown, (1.02, row), xycoords=("axes fraction", "data"), va="center")
    labels = [shown_contrast(name) for name in figure.cells]
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    scale = dots_scale(figure)
    axes.set_xlim(scale.low, scale.high)
    if diff:
        axes.axvline(0.0, color=SOFT, linestyle="--", linewidth=1.2, zorder=1)
        lower = METRICS[figure.metric].lower_is_better
        left, right = ("better", "worse") if lower else ("worse", "better")
        axes.set_title(f"← {left}", loc="left", fontsize=12, color=SOFT)
        axes.set_title(f"{right} →", loc="right", fontsize=12, color=SOFT)
    axes.set_xlabel(axis_of(figure.metric, diff=diff))


def _curves(axes: Any, figure: Curves) -> None:
    """A line with its band for each variant."""
    for name, look in looks(figure.series).items():
        known = [(x, cell) for x, cell in enumerate(figure.series[name]) if cell is not None]
        places = [x for x, _ in known]
        value, low, high = zip(*(cell for _, cell in known), strict=True)
        colour = COLOURS[look.colour]
        axes.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)
        axes.plot(places, value, label=name, linewidth=2.5, markersize=9, **_drawn(look))
    width = int(92 / max(2, len(figure.labels)))
    axes.set_xticks(
        range(len(figure.labels)), ["\n".join(wrapped(text, width)) for text in figure.labels]
    )
    if figure.zero:
        axes.axhline(0.0, color=SOFT, linestyle="--", linewidth=1.2)
    axes.grid(axis="y")
    axes.set_xlabel(figure.axis)
    axes.set_ylabel(figure.upright)
    _legend(axes)


def _front(axes: Any, figure: Front) -> None:
    """Marks with their intervals, stairs through the best."""
    known = looks(spot.series for spot in figure.spots)
    named: set[str] = set()
    costs, by_factors = cost_scale([spot.cost for spot in figure.spots])
    if by_factors:
        axes.set_xscale("log")
    axes.set_xlim(costs.low, costs.high)
    axes.minorticks_off()
    steps = cost_ticks(costs, by_factors)
    axes.set_xticks(steps, [f"{step:g}" for step in steps])
    best = {spot.cost: spot.cell[0] for spot in figure.spots if spot.best}
    axes.plot(*zip(*stops(best, costs.high), strict=True), color=SOFT, linewidth=1.6, zorder=1)
    for spot in figure.spots:
        look, (value, low, high) = known[spot.series], spot.cell
        colour = COLOURS[look.colour]
        axes.plot([spot.cost] * 2, [low, high], color=colour, linewidth=2, alpha=0.7, zorder=2)
        axes.plot(
            spot.cost,
            value,
            marker=MARKS[look.mark],
            linestyle="none",
            markersize=11,
            color=colour,
            markerfacecolor=colour if spot.best else "white",
            markeredgewidth=2.2,
            zorder=3,
            label="" if spot.series in named else spot.series,
        )
        named.add(spot.series)
    axes.grid(axis="y")
    axes.set_xlabel(figure.axis + (", log scale" if by_factors else ""))
    axes.set_ylabel(figure.upright)
    if len(figure.spots) > len(known) or len(known) > 9:
        _legend(axes)
    _names(axes, figure)


def _names(axes: Any, figure: Front) -> None:
    """Names beside the marks, once the axes have their place."""
    from matplotlib.patheffects import withStroke

    axes.figure.draw_without_rendering()
    box = axes.get_window_extent()
    order = sorted(figure.spots, key=lambda spot: not spot.best)
    texts = [spot.name if spot.best or not spot.label else "" for spot in order]
    places = [tuple(axes.transData.transform((spot.cost, spot.cell[0]))) for spot in order]
    room = (box.x0, box.y0, box.x1, box.y1)
    best = {x: y for (x, y), spot in zip(places, order, strict=True) if spot.best}
    stairs = stops(best, box.x1)
    found = labels_beside(places, texts, room=room, lines=stairs, letter=16.5, line=32.0, gap=19.0)
    halo = [withStroke(linewidth=4, foreground="white")]
    align = {"start": "left", "middle": "center", "end": "right"}
    for text, place in zip(texts, found, strict=True):
        if place:
            x, y = axes.transData.inverted().transform(place[:2])
            axes.text(
                x,
                y,
                text,
                ha=align[place[2]],
                va="center",
                fontsize=12.5,
                zorder=4,
                path_effects=halo,
            )


def _bars(axes: Any, figure: Bars) -> None:
    """Two bars a stage."""
    longest = max((max(pair) for pair in figure.rows.values()), default=1.0) or 1.0
    size = 14 if len(figure.rows) <= 12 else 8
    for row, (wall_s, device_s) in enumerate(figure.rows.values()):
        first = row == 0
        wall, device = (row - 0.2, COLOURS[4], "wall"), (row + 0.2, "#9fc3e6", "device")
        for (place, colour, name), value in ((wall, wall_s), (device, device_s)):
            axes.barh(place, value, height=0.38, color=colour, label=name if first else "")
            told = f" {seconds(value)}"
            axes.text(value, place, told, va="center", fontsize=0.72 * size, color=SOFT)
    axes.set_yticks(range(len(figure.rows)), list(figure.rows), fontsize=size)
    axes.set_ylim(len(figure.rows) - 0.4, -0.6)
    axes.set_xlim(0, 1.12 * longest)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel("seconds")
    axes.legend(frameon=False, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, fontsize=12)


def _drawn(look: Look) -> dict[str, Any]:
    return {
        "color": COLOURS[look.colour],
        "marker": MARKS[look.mark],
        "linestyle": "--" if look.dashed else "-",
    }


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=12)
