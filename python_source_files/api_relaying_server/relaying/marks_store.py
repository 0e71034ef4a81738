"""Where the marks of purges lie in the store, so that a restart forgets none of them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from api_relaying_server.caching.purging import Marks, SavedMarks, saved_marks
from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Fields
from api_relaying_server.stores.record_checks import LATEST
from api_relaying_server.stores.store import Store

MARKS = "PURGE *"
"""The key of the record in whose body they are. No response is stored under it: `PURGE` is no
method of a key.
"""

_log = logging.getLogger(__name__)


class StoredMarks:
    """The marks in the store. `known`: nothing is there that has not been read; `was_read`: that
    was so once.

    Whoever writes holds the claim on the record and its stripe's lock, and has read it before.
    Thread-safe.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # guards `was_read`, `unswept`: they are as the store has them.
        self._lock = threading.RLock()
        self.known = not store.shared  # another store had nothing before this process began
        self.was_read = self.known
        self.unswept: list[tuple[str, str]] = []  # as last read or written

    def read(self, now: float) -> Marks | None:
        """All marks that are there; None where the store fails."""
        with self._lock:
            return self._read(now)

    def _read(self, now: float) -> Marks | None:
        self.known = True  # first: a message of a change that comes while it is read unsets it
        errors = self._store.counters.read_errors
        record = self._store.read(MARKS)
        if record is None and self._store.counters.read_errors != errors:
            self.known = False
            return None
        saved = SavedMarks()
        if record is not None and record.variants:
            try:
                saved = saved_marks(record.variants[0].body, now)
            except ValueError as error:
                _log.warning("the marks of purges in the store cannot be read: %s", error)
        self.was_read, self.unswept = True, list(saved.unswept)
        return saved.marks

    def note(self, marked: Sequence[tuple[str, str]], unswept: bool) -> None:
        """What was marked is to be swept from now on, or has been."""
        with self._lock:
            left = [one for one in self.unswept if one not in marked]
            self.unswept = [*left, *marked] if unswept else left

    def write(
        self, marks: Marks, marked: Sequence[tuple[str, str]], unswept: bool, now: float
    ) -> None:
        """Stores all marks, and `note`s."""
        with self._lock:
            self.note(marked, unswept)
            body = SavedMarks(marks, self.unswept).dumps()
            stored = StoredResponse(200, "", Fields(()), body, now, now, complete_length=len(body))
            self._store.write(MARKS, Record((stored,), LATEST))
