"""Charts as SVG, drawn by pygal: bars by group and series, and lines over time."""

from __future__ import annotations

from collections.abc import Sequence

import pygal
from pygal.style import Style

from .servers import kind_of

COLOURS = {
    "relay": "#0b6e4f",
    "nginx": "#3b6fb6",
    "haproxy": "#8a6fb0",
    "varnish": "#c98a2b",
    "squid": "#7b8794",
    "seed": "#d64545",
    "failed": "#d64545",
    "file, MiB": "#7b8794",
    "memory, MiB": "#0b6e4f",
    "to the first answer, ms": "#3b6fb6",
    "store hit p50, µs": "#c98a2b",
    "store hit p99, µs": "#d64545",
}
PLAIN = "#52606d"
Bars = tuple[str, Sequence[tuple[str, float, str]]]
Line = tuple[str, Sequence[tuple[float, float]]]


def _settings(title: str, names: Sequence[str]) -> dict[str, object]:
    """What all charts share; no script, so that a page may show it as a picture."""
    colours = [COLOURS.get(kind_of(name), PLAIN) for name in names]
    style = Style(
        background="white",
        plot_background="white",
        font_family="sans-serif",
        value_font_size=10,
        colors=tuple(colours or [PLAIN]),
    )
    return {"title": title, "style": style, "js": [], "legend_at_bottom": True, "width": 860}


def bars(title: str, groups: Sequence[Bars]) -> str:
    """Horizontal bars: per group its name, and (series, value, the value in words) of each bar."""
    names = list(dict.fromkeys(label for _, lines in groups for label, _, _ in lines))
    height = 120 + sum(20 + 15 * len(names) for _ in groups)
    chart = pygal.HorizontalBar(
        **_settings(title, names), height=height, print_values=True, print_values_position="top"
    )
    chart.uuid = "chart"  # the same figures make the same file
    chart.x_labels = [name for name, _ in reversed(groups)]
    for name in names:
        values: list[object] = []
        for _, lines in reversed(groups):
            found = [(value, words) for label, value, words in lines if label == name]
            values.append(_bar(*found[0]) if found else None)
        chart.add(name, values)
    return str(chart.render(is_unicode=True)) + "\n"


def _bar(value: float, words: str) -> dict[str, object]:
    return {"value": value, "formatter": lambda _: words}


def timeline(title: str, lines: Sequence[Line], marks: Sequence[tuple[str, float]] = ()) -> str:
    """Lines of (seconds, value), and upright lines at marked moments; the scale begins at 0."""
    most = max((value for _, line in lines for _, value in line), default=1.0) or 1.0
    drawn = [*lines, *((name, [(at, 0.0), (at, most)]) for name, at in marks)]
    chart = pygal.XY(
        **_settings(title, [name for name, _ in drawn]),
        height=360, show_dots=False, range=(0, most), x_title="seconds",
    )  # fmt: skip
    chart.uuid = "chart"
    for name, line in drawn:
        chart.add(name, list(line))
    return str(chart.render(is_unicode=True)) + "\n"


def curves(title: str, places: Sequence[str], lines: Sequence[tuple[str, Sequence[float]]]) -> str:
    """A line for each name over the same places, on a logarithmic scale: what grows with the
    places climbs as they do, what stays is flat.
    """
    names = [name for name, _ in lines]
    chart = pygal.Line(**_settings(title, names), height=420, logarithmic=True)
    chart.uuid = "chart"
    chart.x_labels = list(places)
    for name, values in lines:
        chart.add(name, list(values))
    return str(chart.render(is_unicode=True)) + "\n"
