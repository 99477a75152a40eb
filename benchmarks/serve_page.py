"""What benchmarks/serve.py found, as the part of docs/results/serve.md below its marker."""

from __future__ import annotations

from typing import Any

from radit_ray.report.table import text_table
from radit_ray.serving.config import Limits


def page(found: dict[str, Any]) -> str:
    """The figures as Markdown."""
    how = f"`{found['command']}`, commit {found['commit']}, {found['hardware']}."
    over, through, both = found["rows"]
    parts = [
        how,
        f"One client: {over['ours']:.1f} ms over HTTP, {over['peer']:.1f} ms for the same call in "
        f"process; the difference is {over['ratio']:.1f} ms at the median of "
        f"{over['num_questions']} questions ({over['same_answers']} equal answers). "
        f"{over.get('bound', '')}".strip(),
        f"{through['name']}: {through['ratio']:.2f} x. {through.get('bound', '')}".strip(),
        f"Resident memory of encoder, index and chunks: {both['peer']:.0f} MB with one variant, "
        f"{both['ours']:.0f} MB with two.",
    ]
    rows = [
        [f"{row[k]:.0f}" if k == "clients" else f"{row[k]:.1f}" for k in row]
        for row in through["table"]
    ]
    parts.append(text_table(["clients", "questions/s", "p50 ms", "p95 ms"], rows, markdown=True))
    names = sorted({part for one in found["memory_mb"].values() for part in one})
    rows = [
        [
            variants,
            *(f"{one[n]:.0f}" if n in one else "-" for n in names),
            f"{sum(one.values()):.0f}",
        ]
        for variants, one in found["memory_mb"].items()
    ]
    parts.append("Memory of the replicas, MB (proportional set size):")
    parts.append(text_table(["variants", *names, "all"], rows, markdown=True))
    parts.append("A replica killed with SIGKILL while eight clients ask:")
    columns = ("part", "asked", "lost", "other_answers", "slowest_s", "whole_after_s")
    rows = [
        [f"{one[c]:.1f}" if c.endswith("_s") else str(one[c]) for c in columns]
        for one in found["killed"]
    ]
    parts.append(text_table([c.replace("_", " ") for c in columns], rows, markdown=True))
    parts.append(
        f"Requests at once, each on a connection of its own, where {Limits().in_flight} are "
        f"answered; the gateway grew by {found['gateway_grew_mb']:.1f} MB over all of them:"
    )
    rows = [
        [
            str(one["at_once"]),
            ", ".join(f"{n} x {status}" for status, n in sorted(one["statuses"].items())),
            f"{one['refused_p50_s'] or 0:.2f}",
            f"{one['refused_slowest_s'] or 0:.2f}",
        ]
        for one in found["floods"]
    ]
    columns = ("at once", "answers", "refused after s, median", "slowest")
    parts.append(text_table(columns, rows, markdown=True))
    return "\n\n".join(parts)
