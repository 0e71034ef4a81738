"""Charts as SVG, written by hand: bars by run and system, and lines over time."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

WIDTH, LEFT, BAR, TOP, FULL = 860, 230, 16, 50, 470
COLOURS = {"relay": "#0b6e4f", "seed": "#d64545", "failed": "#d64545", "model": "#3b6fb6"}
PLAIN = "#7b8794"
Bars = tuple[str, Sequence[tuple[str, float, str]]]


def text(x: float, y: float, words: str, anchor: str = "start", weight: str = "normal") -> str:
    """A piece of text at a place."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" font-weight="{weight}"'
        f' text-anchor="{anchor}" fill="#1f2933">{escape(words)}</text>'
    )


def _picture(height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}"'
        f' width="{WIDTH}" height="{height:.0f}" font-family="sans-serif" role="img"'
        f' aria-label="{escape(title, {chr(34): "&quot;"})}">'
        f'<rect width="100%" height="100%" fill="white"/>{text(8, 24, title, weight="bold")}'
        f"{''.join(parts)}</svg>\n"
    )


def bars(title: str, groups: Sequence[Bars]) -> str:
    """Horizontal bars: per group a title and (label, value, the value in words) of each bar."""
    longest = max((value for _, lines in groups for _, value, _ in lines), default=0.0)
    scale = FULL / longest if longest > 0 else 0.0
    parts: list[str] = []
    y = float(TOP)
    for name, lines in groups:
        parts.append(text(8, y + 12, name, weight="bold"))
        for label, value, words in lines:
            colour = COLOURS.get(label, PLAIN)
            length = max(1.0, value * scale)
            parts.append(text(LEFT - 8, y + 12, label, anchor="end"))
            parts.append(
                f'<rect x="{LEFT}" y="{y:.1f}" width="{length:.1f}" height="{BAR - 3}"'
                f' fill="{colour}"/>'
            )
            parts.append(text(LEFT + length + 6, y + 12, words))
            y += BAR
        y += 10
    return _picture(y + 8, title, parts)


def timeline(
    title: str,
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    marks: Sequence[tuple[str, float]] = (),
) -> str:
    """Lines of (seconds, value), and marks at moments; the scale begins at 0."""
    points = [point for _, line in lines for point in line]
    last = max((at for at, _ in points), default=0.0) or 1.0
    most = max((value for _, value in points), default=0.0) or 1.0
    height, left, bottom = 320, 70, 270
    wide, high = WIDTH - left - 120, bottom - TOP

    def place(at: float, value: float) -> tuple[float, float]:
        return left + wide * at / last, bottom - high * value / most

    parts = [
        f'<path d="M{left} {TOP}V{bottom}H{left + wide}" fill="none" stroke="#52606d"/>',
        text(left - 6, TOP + 4, f"{most:,.0f}", anchor="end"),
        text(left - 6, bottom, "0", anchor="end"),
        text(left + wide, bottom + 18, f"{last:.0f} s", anchor="end"),
    ]
    for name, line in lines:
        where = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        colour = COLOURS.get(name, PLAIN)
        parts.append(f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if line:
            x, y = place(*line[-1])
            parts.append(text(x + 6, y + 4, name))
    for name, at in marks:
        x = place(min(max(at, 0.0), last), 0)[0]
        parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="#52606d" stroke-dasharray="3 3"/>')
        parts.append(text(x + 4, TOP + 10, name))
    return _picture(height, title, parts)
