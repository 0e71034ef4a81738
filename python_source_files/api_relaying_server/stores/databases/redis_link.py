"""The connections to a Redis, each use of them with a deadline.

Those who answer requests ask on connections that are open already: making one takes several round
trips and, with TLS, much computing, so a thread of its own does that. redis-py's own pools make a
connection in the thread that asks for one, so a read could take twenty times its deadline. Whoever
finds none free in time is told so. The thread that writes has a connection with more patience. What
fails is named here, once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from redis import Redis, exceptions
from redis.connection import Connection, ConnectionPool, SSLConnection

from api_relaying_server.stores.database_url import AUTHORITIES, DatabaseUrl
from api_relaying_server.stores.health import DENIED_FOR, PAUSE, Backoff
from api_relaying_server.stores.storage import StorageFault, Trouble

MOST_CONNECTIONS = 16
"""Connections of each worker for those who answer requests: one is in use for one command."""

FIRST_CONNECTIONS = 4
"""Those that are made at once when the database is opened."""

WAIT_SHARE = 0.2
"""Share of a read's deadline that is spent on waiting for a free connection at most."""

PATIENCE = 1.0
"""Seconds for each step of connecting and for each write."""

DEFAULT_PORT = 6379

DRIVER_ERRORS = (exceptions.RedisError, OSError, ValueError)
"""What the driver raises. ValueError: another thread has closed the connection that it reads."""


class RedisLink:
    """One Redis. `deadline` is that of a read, in seconds; `opening` counts how often the
    connections were made anew.
    """

    def __init__(self, url: DatabaseUrl, deadline: float) -> None:
        self._options = _options(url)
        self._connection_class = SSLConnection if url.scheme == "rediss" else Connection
        self._deadline = deadline
        # guards `_idle`, `_count`, `_growing`, `_why_closed`, `opening`.
        # Not held while one connects.
        self._lock = threading.Lock()
        self._returned = threading.Condition(self._lock)  # a connection is free
        self._idle: list[Any] = []
        self._count = 0  # of the connections of this opening, idle and lent
        self._growing = False
        self._why_closed = StorageFault(Trouble.UNREACHABLE, "it is not open", 0)
        self._backoff = Backoff(PAUSE)
        self.denial = Backoff(DENIED_FOR)
        self.opening = 0
        self.patient = self.client(PATIENCE)

    def client(self, timeout: float) -> Any:
        """A client with a connection of its own, made when it is used first."""
        pool = ConnectionPool(
            connection_class=self._connection_class,
            max_connections=2,
            socket_timeout=timeout,
            **self._options,
        )
        return Redis(connection_pool=pool)

    # Opening and closing

    def open(self) -> None:
        """Makes the first connections; raises StorageFault where that fails.

        A database that has not let us in is not asked for 30 s.
        """
        self.denial.require_over()
        self.close()
        connection = self._connect()
        with self._lock:
            self.opening += 1
            self._count = 1
            self._idle = [connection]
        self._backoff.end()
        self._grow(FIRST_CONNECTIONS)

    def _connect(self) -> Any:
        connection: Any = self._connection_class(socket_timeout=PATIENCE, **self._options)
        try:
            connection.connect()
        except DRIVER_ERRORS as error:
            fault = self.fault_of(error, self.opening)
            with self._lock:
                self._why_closed = fault
            raise fault from error
        # redis-py has one time-out for logging in, for which this is short, and for reading, and no
        # public way to change it later: `_sock` is private (5.0 to 8.1 have it).
        connection._sock.settimeout(self._deadline * (1 - WAIT_SHARE))
        return connection

    def close(self) -> None:
        """Ends the connections; those in other threads' hands end when they come back."""
        with self._lock:
            self.opening += 1
            idle, self._idle, self._count = self._idle, [], 0
            self._returned.notify_all()
        for connection in idle:
            connection.disconnect()
        self.patient.connection_pool.disconnect()

    # For those who answer requests

    def ask(self, *command: str | bytes | int) -> Any:
        """The reply to a command, within the deadline; raises StorageFault."""
        self.denial.require_over()
        self._backoff.require_over()
        try:
            return self._ask(command)
        except StorageFault as fault:
            self._backoff.begin_after(fault)
            raise

    def _ask(self, command: Sequence[str | bytes | int]) -> Any:
        """The reply; a command that finds its connection ended is sent on another one."""
        until = time.monotonic() + self._deadline * WAIT_SHARE
        while True:
            connection, opening = self._take(until)
            try:
                connection.send_command(*command)
                reply = connection.read_response()
            except exceptions.ResponseError as error:  # the connection is in order
                self._give(connection, opening)
                raise self.fault_of(error, opening) from error
            except BaseException as error:
                self._discard(connection, opening)
                if not isinstance(error, DRIVER_ERRORS):
                    raise
                fault = self.fault_of(error, opening)
                if fault.trouble is not Trouble.UNREACHABLE:
                    raise fault from error
            else:
                self._give(connection, opening)
                return reply

    def _take(self, until: float) -> tuple[Any, int]:
        with self._lock:
            if not self._idle:
                self._await_one(until)
            return self._idle.pop(), self.opening

    def _await_one(self, until: float) -> None:
        """Waits, with the lock, until a connection is idle."""
        if self._count == 0:
            raise StorageFault(self._why_closed.trouble, self._why_closed.detail, self.opening)
        if self._count < MOST_CONNECTIONS and not self._growing:
            self._growing = True
            work = threading.Thread(
                target=self._grow, args=(self._count + 1,), name="redis-connect", daemon=True
            )
            work.start()
        while not self._idle:
            left = until - time.monotonic()
            if left <= 0:
                raise StorageFault(Trouble.BUSY, f"all {self._count} connections are in use")
            self._returned.wait(left)  # one may have come back although the time is over
            if self._count == 0:
                raise StorageFault(Trouble.UNREACHABLE, "it was closed", self.opening)

    def _grow(self, wanted: int) -> None:
        """Makes connections until there are as many as wanted, or one cannot be made."""
        try:
            while True:
                with self._lock:
                    opening = self.opening
                    if not 0 < self._count < wanted:
                        return
                connection = self._connect()
                with self._lock:
                    if opening == self.opening:
                        self._count += 1
                        self._idle.append(connection)
                        self._returned.notify()
                        continue
                connection.disconnect()
        except StorageFault:
            pass  # those who use the others will notice in time
        finally:
            with self._lock:
                self._growing = False

    def _give(self, connection: Any, opening: int) -> None:
        with self._lock:
            if opening == self.opening:
                self._idle.append(connection)
                self._returned.notify()
                return
        connection.disconnect()

    def _discard(self, connection: Any, opening: int) -> None:
        with self._lock:
            if opening == self.opening:
                self._count -= 1
                if self._count == 0:
                    self._why_closed = StorageFault(Trouble.UNREACHABLE, "connections were lost")
                    self._returned.notify_all()
        connection.disconnect()

    # Names for what fails

    def fault_of(self, error: Exception, opening: int | None = None) -> StorageFault:
        """What the driver raised, as a fault. A database that lets nobody in is not asked for a
        while; one that forbids a single command is.
        """
        fault = fault_of(error, opening)
        if fault.trouble is Trouble.DENIED and not isinstance(error, exceptions.NoPermissionError):
            self.denial.begin_after(fault)
        return fault

    def replies_of(self, batch: Any, opening: int | None = None) -> list[Any]:
        """The replies to a batch of commands; raises for the first that failed."""
        self.denial.require_over()
        try:
            # Otherwise the driver would put the command, with all its bytes, before the error.
            replies = batch.execute(raise_on_error=False)
        except DRIVER_ERRORS as error:
            raise self.fault_of(error, opening) from error
        for reply in replies:
            if isinstance(reply, Exception):
                raise self.fault_of(reply, opening) from reply
        return list(replies)


def _options(url: DatabaseUrl) -> dict[str, Any]:
    host, port = url.hosts[0]
    options: dict[str, Any] = {
        "host": host,
        "port": port or DEFAULT_PORT,
        "db": int(url.name or 0),
        "username": url.user or None,
        "password": url.password or None,
        "socket_connect_timeout": PATIENCE,
        "socket_keepalive": True,
        # What the driver does of itself takes round trips and time beyond any deadline.
        "retry": None,
        "retry_on_timeout": False,
        "protocol": 2,
    }
    if url.scheme == "rediss":
        options.update(ssl_cert_reqs="required", ssl_check_hostname=True)
        if AUTHORITIES in url.options:
            options["ssl_ca_certs"] = url.options[AUTHORITIES]
    return options


def fault_of(error: Exception, opening: int | None = None) -> StorageFault:
    """What the driver raised, as a fault."""
    return StorageFault(_trouble(error), str(error) or type(error).__name__, opening)


_BY_WORD = {
    "OOM": Trouble.FULL,
    "MISCONF": Trouble.READ_ONLY,
    "READONLY": Trouble.READ_ONLY,
    "NOREPLICAS": Trouble.READ_ONLY,
    "NOAUTH": Trouble.DENIED,
    "WRONGPASS": Trouble.DENIED,
    "NOPERM": Trouble.DENIED,
    "DB": Trouble.DENIED,  # "DB index is out of range": there is no database of this number
}
"""Troubles by the first word of what a Redis replies."""

_BY_CLASS = (
    (exceptions.AuthenticationError, Trouble.DENIED),  # before its parent, the lost connection
    (exceptions.AuthorizationError, Trouble.DENIED),
    (exceptions.NoPermissionError, Trouble.DENIED),
    (exceptions.BusyLoadingError, Trouble.STALLED),
    (exceptions.ReadOnlyError, Trouble.READ_ONLY),
    (exceptions.OutOfMemoryError, Trouble.FULL),
    (exceptions.TimeoutError, Trouble.STALLED),
    (TimeoutError, Trouble.STALLED),
    (exceptions.ConnectionError, Trouble.UNREACHABLE),
    (OSError, Trouble.UNREACHABLE),
    (ValueError, Trouble.UNREACHABLE),
)


def _trouble(error: Exception) -> Trouble:
    by_word = _BY_WORD.get(str(error).partition(" ")[0])
    if by_word is not None:
        return by_word
    for kind, trouble in _BY_CLASS:
        if isinstance(error, kind):
            return trouble
    return Trouble.FAILING
