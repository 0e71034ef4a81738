"""The menus of many restaurants, fetched side by side.

The caller's thread only waits and reports, so that an interrupt ends the call at once: the threads
that ask are daemons and are left behind.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence

from dish_shell_tool._choosing import Entry, unknown_message
from dish_shell_tool._menu_api import Get, MenuApi, Restaurant, UnknownRestaurant
from dish_shell_tool._relay_http import NoAnswer, NoRelay, RelayError

MOST_AT_ONCE = 8
"""Menus asked for at the same time."""
MOST_SILENCES = MOST_AT_ONCE
"""Answers missed in a row after which the others are not asked for: the relay hangs."""

Progress = Callable[[int, int], None]
"""Told how many menus of how many are there, now and then."""


class _Round:
    """One round of requests: what is still to be asked, and what came."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.waiting: queue.SimpleQueue[tuple[int, Entry]] = queue.SimpleQueue()
        self.done: queue.SimpleQueue[tuple[int, Entry]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._silences = 0  # guarded by _lock
        for item in enumerate(entries):
            self.waiting.put(item)

    @property
    def hopeless(self) -> bool:
        return self._silences >= MOST_SILENCES

    def note(self, silent: bool) -> None:
        with self._lock:
            self._silences = self._silences + 1 if silent else 0


def with_menus(
    entries: Sequence[Entry],
    api: MenuApi,
    new_get: Callable[[], Get],
    known: Sequence[Restaurant],
    progress: Progress,
) -> list[Entry]:
    """Return the entries, in their order, with their menu or the reason why there is none.

    An entry that has an error is not asked for. `known` are the names to suggest for an unknown.
    """
    filled = list(entries)
    wanted = [at for at, entry in enumerate(entries) if not entry.error]
    work = _Round([entries[at] for at in wanted])
    for _ in range(min(MOST_AT_ONCE, len(wanted))):
        threading.Thread(target=_ask, args=(work, api, new_get, known), daemon=True).start()
    count = 0
    while count < len(wanted):
        progress(count, len(wanted))
        try:
            at, entry = work.done.get(timeout=0.1)
        except queue.Empty:
            continue
        filled[wanted[at]] = entry
        count += 1
    return filled


def _ask(
    work: _Round, api: MenuApi, new_get: Callable[[], Get], known: Sequence[Restaurant]
) -> None:
    while True:
        try:
            at, entry = work.waiting.get_nowait()
        except queue.Empty:
            return
        if work.hopeless:
            work.done.put((at, entry._replace(error="skipped, since the relay does not answer")))
            continue
        try:
            entry = entry._replace(menu=api.menu(new_get(), entry.restaurant))
            work.note(silent=False)
        except UnknownRestaurant:
            entry = _not_there(entry, known)
        except RelayError as error:
            work.note(silent=isinstance(error, (NoAnswer, NoRelay)))
            entry = entry._replace(error=str(error))
        except Exception as error:  # the caller waits for this entry, whatever happens
            entry = entry._replace(error=f"failed ({type(error).__name__})")
        work.done.put((at, entry))


def _not_there(entry: Entry, known: Sequence[Restaurant]) -> Entry:
    if entry.restaurant in known:
        return entry._replace(error="is in the list, but has no menu in the API (status 404)")
    message = unknown_message(entry.restaurant.identifier, known)
    return entry._replace(error=message, unknown=True)
