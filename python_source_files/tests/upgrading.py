"""A new relay in place of an old one, on one store and one listening socket, under load.

Used by a test, and by `benchmarks/upgrade` for figures.
"""

from __future__ import annotations

import itertools
import signal
import socket
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tests.relay_support import (
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    read_reply,
    request_bytes,
    response,
)

WAYS = ("beside", "after")
"""The new one starts while the old one runs, or when it has ended."""

MISSES = 4
"""One request in so many is for something that is not stored."""


THINKS = 0.005
"""Seconds between two requests of a client: long enough for its connection to be idle."""


class Outcome(NamedTuple):
    """What clients saw: requests, those without an answer or with an error, seconds of the slowest;
    and the errors.
    """

    requests: int
    lost: int
    slowest: float
    errors: tuple[str, ...] = ()


def answer(asked: Asked) -> Script:
    """What the origin says."""
    return response(200, [("Cache-Control", "max-age=3600")], asked.target.encode())


class Asking(threading.Thread):
    """A client that asks again and again, on one connection while that is kept, or each time on
    another, and never twice for the same.
    """

    numbers = itertools.count(1)

    def __init__(self, address: tuple[str, int], keeps: bool) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._keeps = keeps
        self._ended = threading.Event()
        self._sock: socket.socket | None = None
        self.answered = 0
        self.slowest = 0.0
        self.errors: list[str] = []

    def run(self) -> None:
        """Asks until it is to stop."""
        while not self._ended.is_set():
            began = time.monotonic()
            number = next(self.numbers)
            target = f"/miss{number}" if number % MISSES == 0 else f"/hit{number % 7}"
            try:
                self._ask(target)
                self.answered += 1
            except (OSError, EOFError, ValueError) as error:
                self.errors.append(f"{target}: {error!r}")
                self._leave()
            self.slowest = max(self.slowest, time.monotonic() - began)
            self._ended.wait(THINKS)
        self._leave()

    def _ask(self, target: str) -> None:
        if self._sock is None:
            self._sock = socket.create_connection(self._address, 30)
        fields = [] if self._keeps else [("Connection", "close")]
        self._sock.sendall(request_bytes("GET", target, fields))
        reply = read_reply(self._sock)
        if (reply.status, reply.body) != (200, target.encode()):
            raise ValueError(f"{reply.status}, {reply.body!r}")
        if not self._keeps or reply.get("connection") == "close":
            self._leave()

    def _leave(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def end(self) -> None:
        """Has it stop, and waits."""
        self._ended.set()
        self.join()


def upgrade(way: str, folder: Path, clients: int, *flags: str, seconds: float = 0.0) -> Outcome:
    """Replaces a relay in one of WAYS while so many clients ask, half of them on connections that
    they keep; what they saw. `seconds` is the least time before, between and after the steps.
    """
    with (
        ScriptedOrigin(answer) as origin,
        socket.create_server(("127.0.0.1", 0), backlog=1024) as shared,
    ):
        fd = shared.fileno()
        store = f"sqlite:///{folder / 'store.sqlite3'}"
        words = ("--listen", f"fd:{fd}", "--cache", store, *flags)
        askers = [Asking(shared.getsockname(), number % 2 == 0) for number in range(clients)]
        with RunningRelay(origin.url, *words, fds=(fd,)) as old:
            for asker in askers:
                asker.start()
            _go_on(askers, seconds)
            if way == "beside":
                with RunningRelay(origin.url, *words, fds=(fd,)) as new:
                    _go_on(askers, seconds)
                    old.stop()
                    return _end(askers, new, seconds)
            old.signal(signal.SIGTERM)
            old.wait()
            with RunningRelay(origin.url, *words, fds=(fd,)) as new:
                return _end(askers, new, seconds)


def _go_on(askers: list[Asking], seconds: float) -> None:
    """Waits until each client has had answers, and until the time is over."""
    time.sleep(seconds)
    before = [asker.answered for asker in askers]
    eventually(
        lambda: all(asker.answered > then + 5 for asker, then in zip(askers, before)),
        "answers for all",
    )


def _end(askers: list[Asking], new: RunningRelay, seconds: float) -> Outcome:
    try:
        _go_on(askers, seconds)
    finally:
        for asker in askers:
            asker.end()
    errors = tuple(error for asker in askers for error in asker.errors)
    requests = sum(asker.answered for asker in askers) + len(errors)
    return Outcome(requests, len(errors), max(asker.slowest for asker in askers), errors)
