"""Turns outcomes into a table on a terminal, JSON, and a chart."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from .measure import Sample
from .runner import FOREIGN_LIMIT, Outcome
from .scenarios import Bar

# Metric: heading, format. Explained at the end of the table by LEGEND.
COLUMNS = {
    "rate": ("req/s", "{:,.0f}"),
    "p50": ("p50 us", "{:,.0f}"),
    "p99": ("p99 us", "{:,.0f}"),
    "cpu": ("CPU us", "{:.2f}"),
    "pss": ("PSS MiB", "{:,.1f}"),
    "origin": ("miss %", "{:.2f}"),
    "stored": ("stored %", "{:.0f}"),
    "miss_rate": ("miss req/s", "{:,.0f}"),
    "miss_p99": ("miss p99 ms", "{:,.0f}"),
    "kept": ("kept %", "{:.0f}"),
    "logged": ("logged %", "{:.1f}"),
    "first": ("first answer ms", "{:,.0f}"),
}
LEGEND = """\
Medians of the rounds. spread: least and most of the first column. x nginx: ratio of the medians.
CPU us: user and system time of the server's processes per request.
PSS MiB: memory of the server's processes, shared pages counted once.
load %: how busy the load generator was. Near 100 it is the limit: then CPU us is what tells.
others %: time that other programs or the host took from the more disturbed core; above 5: marked !
kept %: rate with the idle connections as a share of the rate without them.
stored %: misses that were hits when asked for again. miss %: hits that were none.
logged %: answers that are in the access log after the server's end.
"""
COLOURS = {
    "relay": "#0b6e4f",
    "nginx": "#9aa5b1",
    "haproxy": "#7b8794",
    "varnish": "#b8c1cc",
    "squid": "#cbd2d9",
    "seed": "#d64545",
}


def median(samples: Sequence[Sample], metric: str) -> float | None:
    """The median of a metric, None when no sample has it."""
    values = [sample[metric] for sample in samples if metric in sample]
    return statistics.median(values) if values else None


def _ratio(outcome: Outcome, label: str, peer: str, metric: str) -> float | None:
    own = median(outcome.samples.get(label, ()), metric)
    other = median(outcome.samples.get(peer, ()), metric)
    return own / other if own is not None and other else None


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _row(outcome: Outcome, label: str) -> list[str]:
    samples = outcome.samples[label]
    first, *others = outcome.scenario.columns
    form = COLUMNS[first][1]
    values = [sample[first] for sample in samples]
    row = [
        label,
        form.format(statistics.median(values)),
        f"({form.format(min(values))} .. {form.format(max(values))})",
        _cell(_ratio(outcome, label, "nginx", first), "{:.2f}"),
        _cell(_ratio(outcome, label, "haproxy", first), "{:.2f}"),
    ]
    row += [_cell(median(samples, metric), COLUMNS[metric][1]) for metric in others]
    row.append(_cell(median(samples, "generator_busy"), "{:.0f}"))
    foreign = median(samples, "foreign")
    row.append(_cell(foreign, "{:.0f}") + ("!" if (foreign or 0) > FOREIGN_LIMIT else ""))
    return row


def verdict(outcome: Outcome, bar: Bar, label: str) -> tuple[str, bool | None]:
    """What a bar asks and what was reached, and whether that is enough (None: cannot be told)."""
    reached = median(outcome.samples.get(label, ()), bar.metric)
    name = COLUMNS[bar.metric][0]
    asked = f"{name} {'at least' if bar.at_least else 'at most'} {bar.factor:.3g}"
    if bar.peer:
        asked += f" x {bar.peer}"
        reached = _ratio(outcome, label, bar.peer, bar.metric)
    if reached is None:
        return f"{asked}: cannot be told", None
    met = reached >= bar.factor if bar.at_least else reached <= bar.factor
    return f"{asked}: {reached:,.3g}, {'met' if met else 'MISSED'}", met


def relays(outcome: Outcome) -> list[str]:
    """The labels that the bars are for."""
    return [label for label in outcome.samples if label.partition("@")[0] == "relay"]


def table(outcome: Outcome) -> str:
    """The scenario as text."""
    scenario = outcome.scenario
    headings = [COLUMNS[metric][0] for metric in scenario.columns]
    rows = [
        [
            "server",
            headings[0],
            "(spread)",
            "x nginx",
            "x haproxy",
            *headings[1:],
            "load %",
            "others %",
        ]
    ]
    rows += [_row(outcome, label) for label in outcome.samples]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"{scenario.name}: {scenario.title}"]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        lines.append("  " + "  ".join(cells))
    lines += [f"  {label}: not measured, {why}" for label, why in outcome.absent.items()]
    lines += [f"  {label}: {text}" for label, text in _errors(outcome)]
    for label in relays(outcome):
        lines += [f"  bar, {label}: {verdict(outcome, bar, label)[0]}" for bar in scenario.bars]
    return "\n".join(lines) + "\n"


def _errors(outcome: Outcome) -> list[tuple[str, str]]:
    found = []
    for label, samples in outcome.samples.items():
        failed = sum(sample.get("errors", 0) for sample in samples)
        if failed:
            found.append((label, f"{failed:,.0f} failed requests"))
    return found


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The scenario with every sample, for machines."""
    scenario = outcome.scenario
    return {
        "title": scenario.title,
        "servers": {
            label: {
                "median": {metric: median(samples, metric) for metric in samples[0]},
                "samples": samples,
            }
            for label, samples in outcome.samples.items()
        },
        "absent": outcome.absent,
        "bars": [
            {"server": label, "text": text, "met": met}
            for label in relays(outcome)
            for text, met in (verdict(outcome, bar, label) for bar in scenario.bars)
        ],
    }


# --- chart -------------------------------------------------------------------------------------

WIDTH, LEFT, BAR, GAP, TOP = 860, 250, 14, 22, 56
FULL = 460  # length of the longest bar


def chart(outcomes: Sequence[Outcome], subtitle: str) -> str:
    """An SVG: per scenario and server a bar, requests per second as a multiple of nginx's."""
    groups = [_group(outcome) for outcome in outcomes]
    groups = [group for group in groups if group[1]]
    longest = max((ratio for _, bars in groups for _, ratio, _ in bars), default=1.0)
    scale = FULL / max(longest, 1.0)
    parts: list[str] = []
    y = TOP
    for title, bars in groups:
        parts.append(_text(8, y + 12, title, weight="bold"))
        y += GAP
        for label, ratio, rate in bars:
            colour = COLOURS.get(label.partition("@")[0], "#e4e7eb")
            parts.append(_text(LEFT - 8, y + 11, label, anchor="end"))
            length = max(1.0, ratio * scale)
            parts.append(
                f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR - 2}"'
                f' fill="{colour}"/>'
            )
            parts.append(_text(LEFT + length + 6, y + 11, f"{ratio:.2f}  ({rate:,.0f}/s)"))
            y += BAR
        y += 10
    line = LEFT + scale
    parts.append(
        f'<line x1="{line:.1f}" y1="{TOP}" x2="{line:.1f}" y2="{y}" stroke="#52606d"'
        ' stroke-dasharray="3 3"/>'
    )
    head = _text(8, 22, "Requests per second on one core, nginx = 1", size=16, weight="bold")
    head += _text(8, 40, subtitle, colour="#52606d")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}"'
        f' height="{y + 10}" font-family="sans-serif" role="img"'
        ' aria-label="Requests per second of each server, as a multiple of nginx">'
        f'<rect width="100%" height="100%" fill="white"/>{head}{"".join(parts)}</svg>\n'
    )


def _group(outcome: Outcome) -> tuple[str, list[tuple[str, float, float]]]:
    bars = []
    for label, samples in outcome.samples.items():
        ratio = _ratio(outcome, label, "nginx", "rate")
        rate = median(samples, "rate")
        if ratio is not None and rate is not None:
            bars.append((label, ratio, rate))
    return outcome.scenario.title, bars


def _text(
    x: float,
    y: float,
    text: str,
    anchor: str = "start",
    size: int = 11,
    weight: str = "normal",
    colour: str = "#1f2933",
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}"'
        f' text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'
    )
