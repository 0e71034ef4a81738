"""Turns outcomes into a table on a terminal, and JSON."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from .measure import Sample
from .runner import FOREIGN_LIMIT, Outcome
from .scenarios import Bar
from .servers import kind_of

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


def shown(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def verdict(outcome: Outcome, bar: Bar, label: str) -> tuple[str, bool | None]:
    """What a bar asks and what was reached, and whether that is enough (None: cannot be told)."""
    reached = median(outcome.samples.get(label, ()), bar.metric)
    name = COLUMNS[bar.metric][0]
    asked = f"{name} {'at least' if bar.at_least else 'at most'} {shown(bar.factor)}"
    if bar.peer:
        asked += f" x {bar.peer}"
        reached = _ratio(outcome, label, bar.peer, bar.metric)
    if reached is None:
        return f"{asked}: cannot be told", None
    met = reached >= bar.factor if bar.at_least else reached <= bar.factor
    return f"{asked}: {shown(reached)}, {'met' if met else 'MISSED'}", met


def relays(outcome: Outcome) -> list[str]:
    """The labels that the bars are for."""
    return [label for label in outcome.samples if kind_of(label) == "relay"]


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
