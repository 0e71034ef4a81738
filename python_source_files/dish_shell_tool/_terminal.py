"""What is drawn for eyes, with rich: tables, menus, a progress bar.

rich is imported only where something is drawn: it takes as long to load as all the rest together.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import IO, TYPE_CHECKING

from dish_shell_tool._choosing import ChosenDish, Entry
from dish_shell_tool._showing import (
    View,
    age_words,
    closed_words,
    dish_spans,
    dish_text,
    distance_words,
    price_words,
    remarks,
)

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID
    from rich.text import Text

NARROW = 60
"""Columns below which a restaurant takes two lines instead of a row."""
_NARROWEST, _WIDEST = 20, 100
"""Columns drawn in: less is unreadable for a table, more for the eye."""
PROGRESS_AFTER_S = 0.5
MATCH = "bold yellow"
MATCH_ON, MATCH_OFF = "\x1b[1;33m", "\x1b[0m"


def colour_wanted(environ: Mapping[str, str], to_terminal: bool) -> bool:
    """Return whether escape sequences for colour may be written.

    NO_COLOR wins over CLICOLOR_FORCE; CLICOLOR=0 and a dumb terminal switch colour off.
    """
    if environ.get("NO_COLOR"):
        return False
    if environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return to_terminal and environ.get("CLICOLOR") != "0" and environ.get("TERM") != "dumb"


def draw(view: View, stream: IO[str], width: int, colour: bool) -> None:
    """Write the view as a table, or as menus, `width` columns at most; ImportError: no rich."""
    console = _console(stream, width, colour)
    if view.with_dishes:
        for entry in view.shown:
            _draw_menu(console, view, entry, colour)
        if view.searching and view.shown:
            console.print(_dim(_count_words(view)))
    elif view.shown:
        if console.width < NARROW:
            _draw_narrow_list(console, view)
        else:
            _draw_list(console, view)
        words = [f"{len(view.shown)} restaurant{'s' * (len(view.shown) > 1)}"]
        if view.list_freshness:
            words.append(age_words(view.list_freshness, view.now, "list"))
        console.print(_dim(" · ".join(word for word in words if word)))


def _console(stream: IO[str], width: int, colour: bool) -> Console:
    from rich.console import Console

    return Console(
        file=stream,
        width=max(_NARROWEST, min(width, _WIDEST)),
        color_system="standard" if colour else None,
        force_terminal=colour,
        highlight=False,
        markup=False,
        emoji=False,
    )


def _dim(words: str) -> Text:
    from rich.text import Text

    return Text(words, style="dim")


def _count_words(view: View) -> str:
    dishes = sum(len(entry.dishes or ()) for entry in view.shown)
    places = len(view.shown)
    return f"{dishes} dish{'es' * (dishes > 1)} in {places} restaurant{'s' * (places > 1)}"


def _draw_list(console: Console, view: View) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
    table.add_column("Identifier", style="cyan", overflow="fold")
    table.add_column("Name", overflow="fold")
    table.add_column("Region", overflow="fold")
    if view.with_distance:
        table.add_column("Distance", justify="right", no_wrap=True)
    for entry in view.shown:
        about = entry.restaurant
        cells = [about.identifier, about.name, about.region]
        cells += [distance_words(entry.distance_m)] * view.with_distance
        table.add_row(*map(Text, cells))
    console.print(table)


def _draw_narrow_list(console: Console, view: View) -> None:
    from rich.padding import Padding
    from rich.text import Text

    for entry in view.shown:
        about = entry.restaurant
        console.print(Text(about.name, style="bold", overflow="fold"))
        second = Text(about.identifier, style="cyan", overflow="fold")
        for word in (about.region, distance_words(entry.distance_m)):
            second.append(f" · {word}" if word else "", style="default")
        console.print(Padding(second, (0, 0, 0, 2)))


def _draw_menu(console: Console, view: View, entry: Entry, colour: bool) -> None:
    from rich.table import Table
    from rich.text import Text

    console.print(_menu_title(view, entry))
    if not entry.dishes:
        console.print(Text(f"  {closed_words(view.now)}", style="italic"))
    elif entry.dishes:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold", ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        for chosen in entry.dishes:
            grid.add_row("  •", _dish(view, chosen, colour), price_words(chosen.dish.price))
        console.print(grid)
    console.print()


def _menu_title(view: View, entry: Entry) -> RenderableType:
    from rich.text import Text

    about = entry.restaurant
    title = Text(about.name, style="bold cyan", overflow="fold")
    for word in (about.region, distance_words(entry.distance_m)):
        title.append(f" · {word}" if word else "", style="not bold default")
    if entry.menu is not None:
        words = age_words(entry.menu.freshness, view.now)
        colour = "yellow" if entry.menu.freshness.stale else "dim default"
        title.append(f"\n{words}" if words else "", style=f"not bold {colour}")
    return title


def _dish(view: View, chosen: ChosenDish, colour: bool) -> Text:
    from rich.text import Text

    if colour:
        text = Text(dish_text(chosen, "", ""), overflow="fold")
        for start, end in dish_spans(chosen):
            text.stylize(MATCH, start, end)
    else:
        text = Text(dish_text(chosen, "*", "*"), overflow="fold")
    for word in remarks(chosen, view.mark_vegetarian):
        text.append(f" ({word})", style="green")
    return text


class ProgressBar:
    """A bar on standard error for what takes longer than half a second; it leaves no trace."""

    def __init__(self, wanted: bool) -> None:
        """Draw nothing at all unless `wanted`."""
        self._wanted = wanted
        self._start = time.monotonic()
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        """Say that `done` of `total` menus are there."""
        if not self._wanted:
            return
        if self._bar is None and time.monotonic() - self._start > PROGRESS_AFTER_S:
            self._begin(total)
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done)

    def _begin(self, total: int) -> None:
        with suppress(ImportError):
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (TextColumn("menus"), BarColumn(), MofNCompleteColumn())
            self._bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
            self._task = self._bar.add_task("menus", total=total)
            self._bar.start()
