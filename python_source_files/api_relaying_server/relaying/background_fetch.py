"""A fetch that is made in the background for a client who waits only briefly.

The client's request is parked in the event loop. Whoever comes first decides who owns the answer: a
client who comes back takes it, whole or still on its way. If the client has got a stale answer
meanwhile, or has left, the background thread reads the new one for the store.
"""

from __future__ import annotations

import threading
from copy import copy
from typing import Callable

from api_relaying_server.errors import RelayError
from api_relaying_server.relaying.answer import Answer


class BackgroundFetch:
    """One such fetch, made by `fetch`. Thread-safe."""

    def __init__(self, fetch: Callable[[], Answer]) -> None:
        self._fetch = fetch
        self._lock = threading.Lock()  # guards _answer, _error, _over, _unwanted, _call
        self._answer: Answer | None = None
        self._error: RelayError | None = None
        self._over = False
        self._unwanted = False  # the answer is this thread's: set before or after it comes
        self._taken = threading.Event()  # set once it is known who owns the answer
        self._call: Callable[[], None] | None = None

    def run(self) -> None:
        """Makes the fetch; returns when the client owns the answer, or it has been read."""
        answer: Answer | None = None
        error: RelayError | None = None
        try:
            answer = self._fetch()
        except RelayError as wrong:
            error = copy(wrong)
        finally:
            with self._lock:
                self._answer, self._error, self._over = answer, error, True
                call, self._call = self._call, None
                mine = self._unwanted
            if call is not None:
                call()
        if answer is not None and (mine or not self._is_taken()):
            drain(answer)

    def _is_taken(self) -> bool:
        """Waits until the client takes the answer or gives it up; True where it took it."""
        self._taken.wait()
        return not self._unwanted

    def on_done(self, call: Callable[[], None]) -> None:
        """Has `call` called, once, when the answer is there; at once if it is."""
        with self._lock:
            if not self._over:
                self._call = call
                return
        call()

    def take(self) -> Answer | None:
        """The answer, which the client owns now; None where it is not there yet: then the
        background thread will own it. Raises RelayError where there is none.
        """
        with self._lock:
            answer, error, over = self._answer, self._error, self._over
            self._unwanted = not over
            self._answer = None
        self._taken.set()
        if error is not None:
            raise error
        return answer

    def give_up(self) -> None:
        """The client has left: it never comes back. Never blocks."""
        with self._lock:
            self._unwanted = True
            self._call = None
        self._taken.set()


def drain(answer: Answer) -> None:
    """Takes an answer that nobody is sent: what can be stored of it is."""
    try:
        answer.finish_unsent()
    finally:
        answer.close()
