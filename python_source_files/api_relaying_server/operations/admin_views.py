"""What the admin address says, as lines and tables for people.

Everything shown may come from somebody else (a target, a field, an upstream's name): control
characters are written as escapes, and nothing is read as markup.
"""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from api_relaying_server.operations.admin_client import Json

INVISIBLE = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Categories of characters that are shown as escapes: they move the cursor, hide or turn text."""

RESULTS = ("hit", "stale", "miss", "expired", "revalidated", "collapsed", "bypass", "none")
"""What the cache did with a request, in the order in which it is shown."""

_MINUTE, _HOUR, _DAY = 60, 3600, 86400


class Block(NamedTuple):
    """Rows under a title. `heads` are the columns' names, none for names with their values."""

    title: str
    rows: Sequence[Sequence[str]]
    heads: Sequence[str] = ()


def shown(value: object) -> str:
    """A value as one line of visible text."""
    text = "-" if value is None else str(value)
    return "".join(_shown_letter(letter) for letter in text)


def _shown_letter(letter: str) -> str:
    if unicodedata.category(letter) not in INVISIBLE:
        return letter
    code = ord(letter)
    return (
        f"\\x{code:02x}"
        if code < 0x100
        else f"\\u{code:04x}"
        if code < 0x10000
        else f"\\U{code:08x}"
    )


def seconds(value: object) -> str:
    """A duration in the two largest of its units."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return shown(value)
    whole = abs(int(value))
    sign = "-" if value <= -1 else ""
    if whole < _MINUTE:
        return f"{sign}{whole} s"
    for size, unit, less, part in (
        (_DAY, "d", _HOUR, "h"),
        (_HOUR, "h", _MINUTE, "min"),
        (_MINUTE, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{sign}{whole // size} {unit} {whole % size // less} {part}"
    raise AssertionError(whole)


def size(value: object) -> str:
    """Bytes in the largest unit of which there is one."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return shown(value)
    number = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" or number >= 100 else f"{number:.1f} {unit}"


# Status.


def status_blocks(status: Json, before: Json | None = None) -> list[Block]:
    """The object of `/api/status`. `before`: the one of a second ago, for what came since."""
    upstream, hot, store = status["upstream"], status["hot"], status["store"]
    calls = [f"{shown(upstream['in_flight'])} under way", f"{shown(upstream['queued'])} waiting"]
    if upstream.get("tokens") is not None:
        calls.append(f"budget for {shown(upstream['tokens'])} more")
    about = [
        ("relay", f"version {shown(status['version'])}, up {seconds(status['uptime_s'])}"),
        ("upstream", f"{shown(upstream['url'])}  {_rest(upstream)}"),
        ("calls", ", ".join(calls)),
        ("memory", _kept(hot)),
        ("store", f"{shown(store['kind'])}  {shown(store['state'])}{_because(store)}"),
        ("", _kept(store)),
    ]
    workers = [
        [shown(each["pid"]), seconds(each["uptime_s"])]
        + [shown(each[name]) for name in ("connections", "handlers_busy")]
        for each in status["workers"]
    ]
    return [
        Block("", about),
        Block("", _counts(status, before), _count_heads(before)),
        Block("", workers, ("worker", "up", "connections", "handlers busy")),
    ]


def _rest(upstream: Json) -> str:
    state = shown(upstream["state"])
    if upstream.get("rests_for_s"):
        return f"{state}, for another {seconds(upstream['rests_for_s'])}"
    return state


def _kept(place: Json) -> str:
    limit = f" of {size(place['limit'])}" if place["limit"] else ""
    entries = f"{shown(place['entries'])} {'entry' if place['entries'] == 1 else 'entries'}"
    return f"{entries}, {size(place['bytes'])}{limit}"


def _because(store: Json) -> str:
    return f" ({shown(store['why'])})" if store.get("why") else ""


def _count_heads(before: Json | None) -> Sequence[str]:
    return ("requests", "since the start", *(["now"] if before is not None else []))


def _counts(status: Json, before: Json | None) -> list[list[str]]:
    now, then = _numbers(status), _numbers(before or {})
    restarted = before is not None and status["uptime_s"] < before.get("uptime_s", 0)
    rows = []
    for name, number in now.items():
        row = [name, shown(number)]
        if before is not None:
            # Whoever has started anew counts from nought again.
            row.append(f"{number if restarted else max(0, number - then[name])}/s")
        rows.append(row)
    return rows


def _numbers(status: Json) -> dict[str, int]:
    requests: Mapping[str, Any] = status.get("requests", {})
    numbers = {name: int(requests.get(name, 0)) for name in RESULTS}
    numbers["upstream calls"] = int(status.get("upstream_calls", 0))
    numbers["calls saved"] = int(status.get("saved_calls", 0))
    return numbers


# Explain.


def explain_blocks(told: Json) -> list[Block]:
    """The object of `/api/explain`."""
    next_one = told["next"]
    about = [
        ("target", shown(told["target"])),
        ("key", shown(told["key"])),
        ("next answer", f"{shown(next_one['result'])}: {shown(next_one['why'])}"),
        ("selected by", ", ".join(map(shown, told["selecting"])) or "-"),
    ]
    not_stored = told.get("not_stored")
    if not_stored:
        about.append(("not stored", f"{shown(not_stored['why'])} (at {shown(not_stored['at'])})"))
    blocks = [Block("", about)]
    for number, variant in enumerate(told["variants"], 1):
        blocks.append(Block(f"stored response {number}", _variant(variant)))
    return blocks


def _variant(variant: Json) -> list[tuple[str, str]]:
    selects = [_selects(name, value) for name, value in variant["selects"].items()]
    lifetime = f"{seconds(variant['lifetime_s'])}, from {shown(variant['lifetime_from'])}"
    rows = [
        ("selects", "; ".join(selects) or "every request"),
        ("status", shown(variant["status"])),
        ("stored", f"{shown(variant['stored_at'])}, age {seconds(variant['age_s'])}"),
        ("fresh", _fresh(variant["fresh_for_s"])),
        ("lifetime", f"{lifetime} ({shown(variant['section'])})"),
        ("stale until", shown(variant["stale_until"])),
    ]
    if variant.get("groups"):
        rows.append(("groups", ", ".join(map(shown, variant["groups"]))))
    return rows


def _selects(name: str, value: object) -> str:
    return f"no {shown(name)}" if value is None else f"{shown(name)}: {shown(value)}"


def _fresh(left: object) -> str:
    if isinstance(left, (int, float)) and left <= 0:
        return f"no, since {seconds(-left)}"
    return f"for another {seconds(left)}"


# Drawing.


def plain(blocks: Sequence[Block]) -> str:
    """The blocks as lines of aligned text."""
    parts = []
    for block in blocks:
        rows = [list(row) for row in ([block.heads] if block.heads else []) + list(block.rows)]
        widths = [max(map(len, column)) for column in zip(*rows)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip()
            for row in rows
        ]
        parts.append("\n".join(([block.title] if block.title else []) + lines))
    return "\n\n".join(parts) + "\n"


def drawn(blocks: Sequence[Block], width: int, colour: bool) -> str:
    """The blocks as tables for a terminal of that width."""
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        width=width,
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
        markup=False,
        emoji=False,
    )
    with console.capture() as capture:
        for block in blocks:
            console.print(table(block))
    return capture.get()


def table(block: Block) -> Any:
    """A block as a table of rich."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    made = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        show_header=bool(block.heads),
        header_style="bold",
        title=Text(block.title, "bold") if block.title else None,
        title_justify="left",
    )
    for number, head in enumerate(block.heads or ("", "")):
        right = number > 0 and bool(block.heads)
        made.add_column(head, justify="right" if right else "left", overflow="fold")
    for row in block.rows:
        name, *values = row
        made.add_row(Text(name, "cyan"), *(Text(value, _style(value)) for value in values))
    return made


def _style(value: str) -> str:
    return "yellow" if "resting" in value or value.startswith("no, ") else ""
