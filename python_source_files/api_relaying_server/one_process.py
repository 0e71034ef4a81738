"""One worker in this very process, whose settings can change while it serves.

New settings build a new worker beside the old one, with listening sockets of its own for the same
queue of connections. Then the old one retires: it finishes what it has, and each of its clients
comes to the new one with its next connection. Both have the same store and memory, so that what one
of them learns the other knows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Callable, NamedTuple

from api_relaying_server.assembly import Before, Inside, Worker, bind, build
from api_relaying_server.errors import ConfigError
from api_relaying_server.figures import STATE_NAMES, Figures
from api_relaying_server.process import configure_logging, notify_reloading, notify_systemd
from api_relaying_server.settings import TABLE, Settings

FIXED = ("admin", "demo", "host", "listen", "port", "workers")
"""Settings that change with a restart only."""

ALSO_FIXED = ("cache_size",)
"""The bound of a store that is open stays."""

ANOTHER_STORE = ("cache", "upstream")
"""With these others are what is stored and what is in memory: nothing of them is kept."""

_log = logging.getLogger(__name__)


class OneProcess:
    """The worker of now, and those that finish what they have. Thread-safe.

    `read` gives the settings of now and raises ConfigError; `why_not` puts an OSError into words.
    `on_reloaded` is told of other settings that are in use. `started` is monotonic time.
    """

    def __init__(
        self,
        settings: Settings,
        upstream: str,
        read: Callable[[], Settings],
        why_not: Callable[[OSError, Settings], str],
    ) -> None:
        """Builds the first worker. Raises OSError and ConfigError."""
        self._read = read
        self._why_not = why_not
        self._upstream = upstream
        self._reloads = threading.Lock()  # guards nothing: one reload waits for the other
        # guards `_settings`, `_worker`, `_serving`, `_threads`, `_stopping`. `_upstream` is the
        # reloading thread's own.
        self._lock = threading.Lock()
        self.started = time.monotonic()
        self.on_reloaded: Callable[[Settings], object] | None = None
        self._settings = settings
        self._bound = bind(settings)
        try:
            self._worker = build(settings, upstream, listeners=self._bound.sockets)
        except BaseException:
            self._bound.close()
            raise
        self._serving = [self._worker]
        self._threads: list[threading.Thread] = []
        self._stopping = False

    @property
    def addresses(self) -> Sequence[str]:
        """The URLs it listens on."""
        return self._worker.addresses

    @property
    def stopping(self) -> bool:
        """True once it takes nothing new."""
        return self._stopping

    def figures(self, patience: float = 0.0) -> Figures:
        """The numbers of the relay at this moment."""
        with self._lock:
            worker = self._worker
            leaving = [one for one in self._serving if one is not worker]
        gauges = worker.gauges()
        for one in leaving:
            theirs = one.gauges()
            for name in (*(f"connections.{state}" for state in STATE_NAMES), "handlers.busy"):
                gauges[name] += theirs[name]
        return Figures(worker.counters.snapshot(), [gauges])

    def counts(self) -> Mapping[str, int]:
        """What has been counted until now."""
        return self._worker.counters.snapshot()

    def inside(self) -> Inside:
        """What an operator looks into."""
        return self._worker.inside

    def serve(self) -> None:
        """Answers requests until stopped."""
        try:
            # The first, which a reload may have told to retire already. The others have threads.
            self._serve(self._serving[0])
            while True:
                with self._lock:
                    if not self._threads:
                        return
                    thread = self._threads.pop()
                thread.join()
        finally:
            self._bound.close()

    def _serve(self, worker: Worker) -> None:
        try:
            worker.serve()
        finally:
            with self._lock:
                self._serving.remove(worker)

    def stop(self) -> None:
        """Begins to stop: takes nothing new, finishes what runs."""
        for worker in self._all_stopping():
            worker.stop()

    def stop_now(self) -> None:
        """Stops at once, whatever runs."""
        for worker in self._all_stopping():
            worker.stop_now()

    def _all_stopping(self) -> list[Worker]:
        with self._lock:
            self._stopping = True
            return list(self._serving)

    def reopen_logs(self) -> None:
        """Opens the log files anew."""
        with self._lock:
            workers = list(self._serving)
        for worker in workers:
            worker.reopen_logs()

    def reload(self) -> None:
        """Reads the settings anew and goes on with them; opens the log files anew. Returns soon."""
        threading.Thread(target=self._reload, name="reload", daemon=True).start()

    def _reload(self) -> None:
        with self._reloads:
            notify_reloading()
            try:
                self._take_over_settings()
            except Exception:
                _log.exception("the old settings stay in use")
            finally:
                notify_systemd("READY=1")  # it waits for that, whatever has come of the reload

    def _take_over_settings(self) -> None:
        self.reopen_logs()
        found = reread(self._settings, self._read, (*FIXED, *ALSO_FIXED))
        if found is None:
            return
        if found.changed:
            try:
                self._replace(found.settings, found.changed)
            except (ConfigError, OSError) as error:
                why = self._why_not(error, found.settings) if isinstance(error, OSError) else error
                _log.error("the old settings stay in use: %s", why)
                return
        say_reloaded(found.changed)

    def _replace(self, settings: Settings, changed: Sequence[str]) -> None:
        """Builds a worker with these settings and lets the one of now retire. Raises OSError and
        ConfigError.
        """
        with self._lock:
            if self._stopping:  # its listening sockets are closed at any moment
                raise ConfigError("the relay stops")
        before = self._worker
        if "upstream" in changed:
            self._upstream = settings.upstream
        kept = None if set(changed).intersection(ANOTHER_STORE) else before.kept
        listeners = [sock.dup() for sock in before.server.front.listeners]
        try:
            taken_over = Before(before.counters, kept)
            worker = build(settings, self._upstream, listeners=listeners, before=taken_over)
            self._begin(worker)
        except BaseException:
            for sock in listeners:
                sock.close()
            raise
        with self._lock:
            self._settings, self._worker = settings, worker
        if kept is not None:
            before.hand_over()
        before.retire()
        if self.on_reloaded is not None:
            self.on_reloaded(settings)
        configure_logging(settings.log_level, settings.log_format)

    def _begin(self, worker: Worker) -> None:
        """Has a worker serve beside the others. Raises ConfigError where it cannot."""
        thread = threading.Thread(target=self._serve, args=(worker,), name="worker")
        with self._lock:
            if self._stopping:
                raise ConfigError("the relay stops")
            self._serving.append(worker)
            try:
                thread.start()
            except RuntimeError as error:
                self._serving.remove(worker)
                raise ConfigError(str(error)) from error
            self._threads.append(thread)


class Reread(NamedTuple):
    """The settings of now, and the names of those that have changed and can."""

    settings: Settings
    changed: list[str]


def reread(
    current: Settings, read: Callable[[], Settings], fixed: Iterable[str] = FIXED
) -> Reread | None:
    """The settings of now; None where they are wrong, which is said. `read` raises ConfigError."""
    try:
        settings = read()
    except ConfigError as error:
        _log.error("the old settings stay in use: %s", error)
        return None
    before, now = current.written, settings.written
    secrets = {row.name for row in TABLE if row.secret}  # their texts say nothing
    changed = sorted(
        name
        for name in before
        if before[name].texts != now[name].texts
        or (name in secrets and current.as_dict[name] != settings.as_dict[name])
    )
    for name in changed:
        if name in fixed:
            _log.warning("--%s needs a restart", name.replace("_", "-"))
    return Reread(settings, [name for name in changed if name not in fixed])


def say_reloaded(changed: Iterable[str]) -> None:
    """One line for each time that the settings were read."""
    names = ", ".join(name.replace("_", "-") for name in changed)
    _log.info("reloaded, %s", f"these have changed: {names}" if names else "nothing has changed")
