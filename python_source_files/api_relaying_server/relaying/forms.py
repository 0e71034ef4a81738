"""Makes the compressed forms of stored responses, each once, for the first request that wants it.

    event loop: the form is not there        -> a thread, for one of those that want it;
                                                the others get the response as it is, at once
    thread:     compress, keep it beside the response in memory and store, answer in it
    event loop: the form is in memory        -> a hit like any other

Which form a request gets is decided in `caching.compression`. Nobody waits for a form.
"""

from __future__ import annotations

import logging
import threading
from typing import Callable

from api_relaying_server.caching.responding import missing_form
from api_relaying_server.caching.reuse import Assessed
from api_relaying_server.caching.stored import StoredResponse
from api_relaying_server.caching.vary import text_of
from api_relaying_server.http1.codings import compressors
from api_relaying_server.http1.message import RequestHead
from api_relaying_server.relaying.keeping import Keeper
from api_relaying_server.short_keys import ShortKey, short

_log = logging.getLogger(__name__)

AT_ONCE = 2
"""Forms that are made at a time: each may take the memory of a body, and a core."""

CLAIMED_FOR = 1.0
"""Seconds after which a request that was given to a thread for a form, and has not made it, makes
room for another.
"""

MOST_CLAIMS = 1024
"""Forms that are claimed at a time; when there are so many, all claims are forgotten."""


class Forms:
    """Thread-safe. `has_thread` tells whether a thread is free for a form, without waiting."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.has_thread: Callable[[], bool] = lambda: True
        self._lock = threading.Lock()  # guards changes of _making
        self._making: set[ShortKey] = set()  # names of forms
        # Until when (Unix time) the event loop leaves a form to the thread that it has given it to.
        # The loop adds, threads remove: each is one instruction.
        self._claims: dict[ShortKey, float] = {}

    def goes_to_thread(self, request: RequestHead, found: Assessed, now: float) -> bool:
        """True where a form that a request wants is to be made, by the thread that this request is
        given to. The event loop alone calls this.
        """
        coding = missing_form(request, found)
        if not coding:
            return False
        name = self._name_of(request, found, coding)
        if now < self._claims.get(name, 0.0) <= now + CLAIMED_FOR:
            return False
        if name in self._making or len(self._making) >= AT_ONCE or not self.has_thread():
            return False
        if len(self._claims) >= MOST_CLAIMS:
            self._claims.clear()
        self._claims[name] = now + CLAIMED_FOR
        return True

    def is_missing(self, request: RequestHead, found: Assessed) -> bool:
        """True where a request is answered otherwise once a form has been made."""
        return bool(missing_form(request, found))

    def made(self, request: RequestHead, found: Assessed) -> Assessed:
        """What was found, with the form that a request wants; as it was where somebody else makes
        it just now. For threads.
        """
        coding = missing_form(request, found)
        if not coding:
            return found
        name = self._name_of(request, found, coding)
        if not self._begin(name):
            return found
        try:
            return found._replace(stored=self._formed(request.target, found.stored, coding))
        except Exception:  # what cannot be compressed is answered all the same
            _log.exception("an answer could not be compressed")
            return found
        finally:
            with self._lock:
                self._making.discard(name)
            self._claims.pop(name, None)

    def _name_of(self, request: RequestHead, found: Assessed, coding: str) -> ShortKey:
        """What is made: the coding, in which there is no space; the key, in which there is one; and
        what selects the response.
        """
        key = self._keeper.key_of(request.target)
        return short(f"{coding} {key} {text_of(found.stored.selecting)}")

    def _begin(self, name: ShortKey) -> bool:
        with self._lock:
            if name in self._making or len(self._making) >= AT_ONCE:
                return False
            self._making.add(name)
            return True

    def _formed(self, target: str, stored: StoredResponse, coding: str) -> StoredResponse:
        # Another thread may have made it since this one looked.
        now = self._keeper.as_kept(target, stored)
        if now.form(coding) is not None:
            return now
        content = compressors()[coding](stored.body)
        if len(content) >= len(stored.body):
            content = b""
        return self._keeper.add_form(target, stored, (coding, content))
