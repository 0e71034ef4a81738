"""Several workers behind one port: a parent that forks them, watches them and replaces them.

The parent has one thread and answers no request. It binds the port and keeps the listening sockets,
so that no connection that waits to be accepted is lost when a worker ends: the one that follows it
has the same sockets. On SIGHUP it has each worker replaced by one with the settings of now, one
after the other, the new one listening before the old one ends.
"""

from __future__ import annotations

import gc
import json
import logging
import secrets
import selectors
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Callable

from api_relaying_server import early
from api_relaying_server.admin_address import open_admin
from api_relaying_server.assembly import Worker, bind, build, scheme_of, urls_of
from api_relaying_server.cluster.admin_process import Since, serve_admin
from api_relaying_server.cluster.child_process import (
    NONE,
    REOPEN,
    RETIRE,
    STOP,
    Child,
    Closable,
    Parent,
    fork,
)
from api_relaying_server.cluster.file_locks import lock_file
from api_relaying_server.cluster.message_text import encode
from api_relaying_server.cluster.shared_counters import PARENTS_SLOT, SharedCounters
from api_relaying_server.cluster.shared_memory import CALLS, SEEN, RingWriter, SharedMemory
from api_relaying_server.cluster.shared_uses import SharedUses
from api_relaying_server.cluster.supervisor import MEND, GivesUp, Supervisor, WorkerFactory
from api_relaying_server.cluster.worker_share import MemoryFile, WorkerShare
from api_relaying_server.coordination import MemoryLost
from api_relaying_server.early import RELOAD_SIGNALS, REOPEN_SIGNALS, STOP_SIGNALS
from api_relaying_server.errors import ConfigError
from api_relaying_server.one_process import reread, say_reloaded
from api_relaying_server.operations.history import History
from api_relaying_server.process import (
    arriving,
    configure_logging,
    notify_reloading,
    notify_systemd,
    say_draining,
)
from api_relaying_server.relaying.uses import UsesHere
from api_relaying_server.runtime import Seldom, collect_young_only
from api_relaying_server.settings import Settings

GRACE = 5.0
"""Seconds beyond `--drain`, and as much again for the store, until workers that do not end are
killed.
"""

SAMPLE_WITHIN = 20.0
"""Seconds for the sample API to start, or to end."""

COUNT_EVERY = 0.2
"""Seconds between two times that a worker lets others know what it has counted."""

_log = logging.getLogger(__name__)


OnReady = Callable[[str, Sequence[str], Sequence[str]], None]
"""Is told the upstream's URL, those that the workers listen on, and those of the admin address."""


class Workers(WorkerFactory):
    """The parent, from its first worker to its last.

    `reread` gives the settings of now and raises ConfigError; `why_not` puts an OSError of a worker
    into words.
    """

    def __init__(
        self,
        settings: Settings,
        reread: Callable[[], Settings],
        why_not: Callable[[OSError, Settings], str],
    ) -> None:
        """Binds the ports. Raises OSError and UsageError."""
        count = settings.workers
        self._bound = bind(settings)
        self.listeners = self._bound.sockets
        try:
            opened = open_admin(settings)
        except BaseException:
            self._bound.close()
            raise
        opened.say()
        self.admin_listeners = opened.sockets
        self.settings = settings
        self._proven = settings
        self._sample: Sample | None = None
        self._reread = reread
        self._why_not = why_not
        # At most: each seat's worker, as many that leave, one that takes over, and the parent; and
        # the admin process with one that takes over and one that leaves.
        self._memory = SharedMemory(2 * count + 5)
        self._shared_counters = SharedCounters(self._memory, PARENTS_SLOT)
        self._shared_uses = SharedUses(self._memory, PARENTS_SLOT, self._shared_counters.workers)
        self._lock_file = lock_file()
        self._name = secrets.token_hex(8)  # no other relay has it
        self._memory_file: MemoryFile | None = None
        self._free_slots = list(range(1, self._memory.slots))
        self._slots: dict[Child, int] = {}
        self._since = Since(time.monotonic(), History())
        self._supervisor = Supervisor(count, self)
        seats = 1 if self.admin_listeners else 0
        self._admin = Supervisor(seats, AdminFactory(self), kind="the admin process")
        self._selector = selectors.DefaultSelector()
        self._signals, self._arriving = socket.socketpair()
        self._stops = self._restarts = 0
        self._kill_at = float("inf")
        self._code = 0
        self._on_ready: OnReady | None = None
        self._changed: list[str] = []  # names of settings that workers are just getting

    # The parent's life.

    def run(self, on_ready: OnReady) -> int:
        """Serves until stopped; 0 if that went well. `on_ready` is called once, when all workers
        listen. Raises ConfigError where not even one can.
        """
        self._on_ready = on_ready
        self._selector.register(self._signals, selectors.EVENT_READ)
        gc.freeze()  # lest collections in the workers copy the pages that they share
        obeyed = (*STOP_SIGNALS, *RELOAD_SIGNALS, *REOPEN_SIGNALS, signal.SIGCHLD)
        with arriving(obeyed, self._arriving):
            try:
                if self.settings.demo:
                    self._sample = Sample([*self.listeners, *self._useless_to()])
                while not self._supervisor.stopping or any(self._children()):
                    self._round()
            finally:
                for child in self._children():
                    child.kill()
                if self._sample is not None:
                    self._sample.end()
                if self._memory_file is not None:
                    self._memory_file.remove()
                _log.debug("counted in all: %s", json.dumps(self._shared_counters.figures().counts))
                self._selector.close()
                self._bound.close()
        return self._code

    def _round(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            if key.data is None:
                for number in self._signals.recv(64):
                    self._arrived(number)
            elif not key.data.listen():
                self._selector.unregister(key.fileobj)
        try:
            self._supervisor.reap()
            self._supervisor.manage()
            if (
                self._sample is not None
                and self._sample.child.reap()
                and not self._supervisor.stopping
            ):
                raise GivesUp(f"the sample API was lost: {self._sample.child.how_it_ended()}")
        except GivesUp as error:
            self._give_up(str(error))
        self._manage_admin()
        if time.monotonic() >= self._kill_at:
            _log.error("workers that do not end are killed")
            self._kill_all()
        self._count_restarts()
        if self._supervisor.all_ready and self._admin.all_ready:
            self._all_ready()

    def _manage_admin(self) -> None:
        """The relay goes on without the admin address where that cannot be served."""
        try:
            self._admin.reap()
            self._admin.manage()
        except GivesUp as error:
            _log.error("%s; going on without the admin address", error)
            self._admin.stopping = True
            self._admin.seats = []
        if self._supervisor.stopping and not any(self._supervisor.children()):
            self._admin.order_all(STOP)  # for the second time: not only of draining

    def _children(self) -> Iterator[Child]:
        yield from self._supervisor.children()
        yield from self._admin.children()

    def _count_restarts(self) -> None:
        new = self._supervisor.restarts - self._restarts
        if new:
            self._restarts += new
            self._shared_counters.add("restarts", new)

    def _patience(self) -> float:
        due = min(self._supervisor.next_due(), self._admin.next_due())
        return min(due, max(0.0, self._kill_at - time.monotonic()))

    def _all_ready(self) -> None:
        on_ready, self._on_ready = self._on_ready, None
        self._proven = self.settings
        if on_ready is not None:
            addresses = urls_of(self.listeners, scheme_of(self.settings))
            on_ready(self._upstream(), addresses, urls_of(self.admin_listeners))
            for number in dict.fromkeys(early.waiting()):
                self._arrived(number)
        elif self._changed:
            say_reloaded(self._changed)
            self._changed = []
            notify_systemd("READY=1")

    def _give_up(self, why: str) -> None:
        if self._on_ready is not None:
            raise ConfigError(why)
        _log.error("%s; giving up", why)
        self._code = 1
        self._stop()

    def _kill_all(self) -> None:
        self._code = 1
        self._kill_at = float("inf")
        for child in self._children():
            child.kill()

    # Signals.

    def _arrived(self, number: int) -> None:
        if number in STOP_SIGNALS:
            self._stops += 1
            if self._stops == 1:
                say_draining()
            if self._stops < 3:
                self._stop()
            else:
                self._kill_all()
        elif number in RELOAD_SIGNALS and not self._supervisor.stopping:
            self._reload()
        elif number in REOPEN_SIGNALS:
            self._supervisor.order_all(REOPEN)

    def _stop(self) -> None:
        self._supervisor.stopping = self._admin.stopping = True
        self._kill_at = time.monotonic() + 2 * self.settings.drain + GRACE
        self._supervisor.order_all(STOP)
        if self._stops < 2:
            self._admin.order_all(STOP)

    def _reload(self) -> None:
        notify_reloading()
        found = reread(self.settings, self._reread)
        if found is None or not found.changed:
            self._supervisor.order_all(REOPEN)
            if found is not None:
                say_reloaded(())
            notify_systemd("READY=1")  # it waits for that, whatever has come of the reload
            return
        self.settings = found.settings
        configure_logging(self.settings.log_level, self.settings.log_format)
        self._changed = found.changed
        self._replace_all()

    def _replace_all(self) -> None:
        self._supervisor.generation += 1
        self._admin.generation += 1

    # What the seats want.

    def spawn(self, seat: int) -> Child:
        """Starts a worker for a seat. Raises OSError."""
        settings, upstream, why_not = self.settings, self._upstream(), self._why_not

        def live(parent: Parent, share: WorkerShare) -> int:
            return serve(parent, settings, upstream, share, why_not)

        return self._fork(live, self.listeners, self.admin_listeners, seat)

    def spawn_admin(self) -> Child:
        """Starts the process of the admin address. Raises OSError."""
        settings, upstream = self.settings, self._upstream()

        def live(parent: Parent, share: WorkerShare) -> int:
            return serve_admin(parent, settings, upstream, share, self._since)

        return self._fork(live, self.admin_listeners, self.listeners)

    def _fork(
        self,
        live: Callable[[Parent, WorkerShare], int],
        listeners: Sequence[socket.socket],
        not_his: Sequence[socket.socket],
        seat: int = -1,
    ) -> Child:
        store = self._common_store()
        slot = self._free_slots.pop(0)
        common = self._memory, slot, self._lock_file
        share = WorkerShare(listeners, *common, seat, store, self._name)
        try:
            useless = (*self._useless_to(), *not_his)
            child = fork(lambda parent: live(parent, share), useless)
        except OSError:
            self._free_slots.insert(0, slot)
            raise
        self._slots[child] = slot
        self._selector.register(child, selectors.EVENT_READ, child)
        return child

    def _common_store(self) -> MemoryFile | None:
        """What `memory://` is with several workers: one store for all of them. Raises OSError."""
        if self.settings.cache != "memory://":
            return None
        if self._memory_file is None:
            self._memory_file = MemoryFile(self.settings.cache_size)
        return self._memory_file

    def _upstream(self) -> str:
        return self.settings.upstream if self._sample is None else self._sample.url

    def _useless_to(self) -> list[Closable]:
        """What a worker has by the fork and must not keep."""
        samples = [] if self._sample is None else [self._sample.child]
        return [*self._slots, *samples, self._selector, self._signals, self._arriving]

    def on_exit(self, child: Child) -> None:
        """Has the others forget what a worker may have changed without telling them."""
        if child.fileno() in self._selector.get_map():
            self._selector.unregister(child)
        slot = self._slots.pop(child)
        self._shared_counters.take_over(slot)
        self._shared_uses.take_over(slot)
        self._memory.numbers(slot)[CALLS] = self._memory.numbers(slot)[SEEN] = 0
        self._free_slots.append(slot)
        if child.ended != 0:
            RingWriter(self._memory, PARENTS_SLOT).write(encode(MemoryLost()))

    def on_refused(self, why: str) -> None:
        """Goes back to the settings that work."""
        _log.error("reload failed, the old workers keep running: %s", why)
        self.settings, self._changed = self._proven, []
        self._admin.generation += 1
        configure_logging(self.settings.log_level, self.settings.log_format)
        self._supervisor.order_all(REOPEN)
        notify_systemd("READY=1")


class AdminFactory(WorkerFactory):
    """Starts the admin process, which is replaced like a worker."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers

    def spawn(self, seat: int) -> Child:
        """Starts it. Raises OSError."""
        return self._workers.spawn_admin()

    def on_exit(self, child: Child) -> None:
        """What it has counted is kept."""
        self._workers.on_exit(child)

    def on_refused(self, why: str) -> None:
        """The old one goes on."""
        _log.error("reload failed, the old admin process keeps running: %s", why)


# What a worker does.


def serve(
    parent: Parent,
    settings: Settings,
    upstream: str,
    share: WorkerShare,
    why_not: Callable[[OSError, Settings], str],
) -> int:
    """The life of a worker; its exit code."""
    try:
        return _live(parent, settings, upstream, share, why_not)
    except RuntimeError as error:
        if "new thread" not in str(error):
            raise
        parent.say_failed(f"no thread can be started; {MEND}")
        return 1


def _live(
    parent: Parent,
    settings: Settings,
    upstream: str,
    share: WorkerShare,
    why_not: Callable[[OSError, Settings], str],
) -> int:
    try:
        worker = build(settings, upstream, share)
    except ConfigError as error:
        parent.say_failed(str(error))
        return 1
    except OSError as error:
        parent.say_failed(why_not(error, settings))
        return 1
    # Who ends one worker by hand has it replaced.
    signal.signal(signal.SIGTERM, lambda number, frame: worker.retire())
    orphaned = threading.Event()
    uses, shared_uses = UsesHere(worker.kept.keeper.hot), share.shared_uses()

    def tell() -> None:
        worker.publish_counts()
        shared_uses.answer(uses)

    obey = threading.Thread(
        target=_obey, args=(parent, worker, tell, orphaned), name="orders", daemon=True
    )
    obey.start()
    parent.say_ready()
    collect_young_only()
    worker.serve()
    shared_uses.leave(uses)
    if orphaned.is_set() and share.store is not None:
        share.store.remove()
    return 0


def _obey(
    parent: Parent, worker: Worker, tell: Callable[[], None], orphaned: threading.Event
) -> None:
    stops, count = 0, Seldom(tell, COUNT_EVERY)
    for order in parent.orders(count.patience):
        if order == NONE:
            count()
        elif order == STOP:
            stops += 1
            (worker.stop if stops == 1 else worker.stop_now)()
        elif order == RETIRE:
            worker.retire()
        elif order == REOPEN:
            worker.reopen_logs()
    orphaned.set()
    if not stops:
        _log.warning("the parent of this worker is gone: it stops")
        worker.stop()


class Sample:
    """The sample API in a process of its own."""

    def __init__(self, useless: Sequence[Closable]) -> None:
        """Starts it and waits until it answers. Raises ConfigError, OSError."""
        self.child = fork(_serve_sample, useless)
        until = time.monotonic() + SAMPLE_WITHIN
        with selectors.DefaultSelector() as selector:
            selector.register(self.child, selectors.EVENT_READ)
            while not self.child.ready:
                selector.select(until - time.monotonic())
                if not self.child.listen() or time.monotonic() > until:
                    self.child.kill()
                    why = self.child.words or "it says nothing"
                    raise ConfigError(f"the sample API does not start: {why}")
        self.url = self.child.words

    def end(self) -> None:
        """Ends it and waits for that."""
        self.child.order(STOP)
        until = time.monotonic() + SAMPLE_WITHIN
        while not self.child.reap():
            if time.monotonic() > until:
                self.child.kill()
            time.sleep(0.01)
        self.child.close()


def _serve_sample(parent: Parent) -> int:
    from sample_menu_api.server import SampleMenuApi

    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it ends with the last worker
    with SampleMenuApi(host="127.0.0.1", port=0) as sample:
        parent.say_ready(sample.url)
        for order in parent.orders():
            if order == STOP:
                break
    return 0
