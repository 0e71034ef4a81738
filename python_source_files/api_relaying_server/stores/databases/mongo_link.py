"""The connections to a MongoDB, each use of them with a deadline.

While no server is known, the driver waits longer than it is told to. So threads of ours ask it, and
those who answer requests wait for them until their deadline. What fails is named here, once.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotInTime
from datetime import timezone
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlencode

from bson.errors import InvalidDocument
from pymongo import MongoClient, errors

from api_relaying_server.stores.database_url import NAMESPACE
from api_relaying_server.stores.health import DENIED_FOR, PAUSE, Backoff
from api_relaying_server.stores.storage import StorageFault, Trouble

MOST_ASKING = 8
"""Threads, and so connections, of each worker that ask for those who answer requests."""

PATIENCE = 1.0
"""Seconds for each step of connecting and for each answer."""

DEFAULT_DATABASE = "api_relay"

Result = TypeVar("Result")


class MongoLink:
    """One MongoDB. `deadline` is that of a read, in seconds. Raises ValueError where the driver
    does not understand the URL.
    """

    def __init__(self, url: str, name: str, deadline: float) -> None:
        self.client = _client(_for_driver(url))
        self.database = self.client[name or DEFAULT_DATABASE]
        self._deadline = deadline
        self._asking = ThreadPoolExecutor(MOST_ASKING, thread_name_prefix="mongodb")
        self._offset: float | None = None  # from monotonic time to the server's Unix time
        self._backoff = Backoff(PAUSE)
        self._denial = Backoff(DENIED_FOR)

    def ask(self, work: Callable[[], Result]) -> Result:
        """What `work` gives, within the deadline of a read; raises StorageFault."""
        self._backoff.require_over()
        try:
            return self._in_time(work)
        except StorageFault as fault:
            self._backoff.begin_after(fault)
            raise

    def _in_time(self, work: Callable[[], Result]) -> Result:
        try:
            future: Future[Result] = self._asking.submit(self.patiently, work)
        except RuntimeError:
            raise StorageFault(Trouble.UNREACHABLE, "it was closed") from None
        try:
            return future.result(self._deadline)
        except NotInTime:
            future.cancel()
            raise StorageFault(Trouble.STALLED, f"no answer in {self._deadline:g} s") from None

    def patiently(self, work: Callable[[], Result]) -> Result:
        """What `work` gives; raises StorageFault. For threads that nobody waits for."""
        self._denial.require_over()
        try:
            return work()
        except (errors.PyMongoError, OSError) as error:
            fault = fault_of(error)
            if fault.trouble is Trouble.DENIED:
                self._denial.begin_after(fault)
            raise fault from error

    # Nothing goes by the clock of the node, which may be wrong, or jump.

    def check(self) -> float:
        """Raises if the server does not answer; by how many seconds our clock is ahead of its."""
        before = time.monotonic()
        told = self.patiently(lambda: self.database.command("hello")).get("localTime")
        if told is not None:  # not every server that is like a MongoDB says it
            unix = told.replace(tzinfo=told.tzinfo or timezone.utc).timestamp()
            self._offset = unix - (before + time.monotonic()) / 2
        return time.time() - self.now()

    def now(self) -> float:
        """The server's Unix time, our own until it has been asked."""
        return time.time() if self._offset is None else time.monotonic() + self._offset

    def at(self, moment: float) -> float:
        """The server's time at a moment by our clock."""
        return moment - time.time() + self.now()

    def close(self) -> None:
        """Closes the connections and ends the threads, as soon as they come back."""
        self._asking.shutdown(wait=False)
        self.client.close()


def _client(url: str) -> Any:
    """A client for `url`, not connected; ValueError where the driver does not understand it."""
    milliseconds = int(PATIENCE * 1000)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # by which it tells of unknown options
            return MongoClient(
                url,
                connect=False,
                connectTimeoutMS=milliseconds,
                serverSelectionTimeoutMS=milliseconds,
                socketTimeoutMS=milliseconds,
                waitQueueTimeoutMS=milliseconds,
                maxPoolSize=MOST_ASKING + 4,
                retryReads=False,
                retryWrites=False,
                appname="api-relaying-server",
            )
    except (errors.PyMongoError, UserWarning, ValueError, TypeError) as error:
        raise ValueError(str(error)) from None


def _for_driver(url: str) -> str:
    """`url` without the option that is ours."""
    place, _, query = url.partition("?")
    options = [(name, value) for name, value in parse_qsl(query) if name != NAMESPACE]
    if not options:
        return place
    return f"{place if '/' in place[10:] else place + '/'}?{urlencode(options)}"


_DENIED = frozenset((11, 13, 18, 8000))  # user not found, unauthorized, authentication failed
_FULL = frozenset((12501, 14031, 8003, 17380))  # quota exceeded, out of disk space
_READ_ONLY = frozenset((10107, 13435, 189, 11602, 20))  # not the primary

_BY_CLASS = (
    (errors.DocumentTooLarge, Trouble.REFUSED),
    (errors.NotPrimaryError, Trouble.READ_ONLY),  # before its parent, the lost connection
    (errors.NetworkTimeout, Trouble.STALLED),
    (errors.WaitQueueTimeoutError, Trouble.BUSY),
    (errors.ExecutionTimeout, Trouble.STALLED),
    (errors.ConnectionFailure, Trouble.UNREACHABLE),
    (InvalidDocument, Trouble.REFUSED),
    (OSError, Trouble.UNREACHABLE),
)


def fault_of(error: Exception) -> StorageFault:
    """What the driver raised, as a fault."""
    # The driver adds its settings and what it knows of each server.
    detail = re.sub(r",? ?(\(configured timeouts|Timeout: |full error: ).*", "", str(error))
    return StorageFault(_trouble(error), detail[:200] or type(error).__name__)


def _trouble(error: Exception) -> Trouble:
    code = getattr(error, "code", None)
    for codes, trouble in (
        (_DENIED, Trouble.DENIED),
        (_FULL, Trouble.FULL),
        (_READ_ONLY, Trouble.READ_ONLY),
    ):
        if code in codes:
            return trouble
    for kind, trouble in _BY_CLASS:
        if isinstance(error, kind):
            return trouble
    return Trouble.FAILING
