"""The coordinator among workers: messages in shared memory, leases by file locks."""

from __future__ import annotations

import logging
import threading

from api_relaying_server.cluster.chained_coordinator import ChainedCoordinator
from api_relaying_server.cluster.file_locks import FileLeases
from api_relaying_server.cluster.message_text import decode, encode
from api_relaying_server.cluster.shared_memory import RingReader, RingWriter, SharedMemory
from api_relaying_server.coordination import ALONE, Coordinator, Hear, Lease, Message

_log = logging.getLogger(__name__)


class WorkerCoordinator:
    """A `Coordinator` for one worker, made after the fork. Thread-safe.

    `bell` is a view of one number that changes with each message of any worker.
    """

    def __init__(self, memory: SharedMemory, slot: int, lock_file: int) -> None:
        self.bell = memory.bell
        self._writer = RingWriter(memory, slot)
        self._reader = RingReader(memory, slot)
        self._leases = FileLeases(lock_file)
        self._hearers: list[Hear] = []
        # guards `_reader`, `_heard`. Who holds it passes messages on, and may do so within `hear`.
        self._lock = threading.RLock()
        self._heard = -1  # the bell's number up to which all is passed on

    def lease(self, name: str, wait: float) -> Lease | None:
        """The right to do what is named; None where another worker has it for all of `wait`
        seconds.
        """
        return self._leases.lease(name, wait)

    def is_leased(self, name: str) -> bool:
        """True where another worker has this lease now."""
        return self._leases.is_leased(name)

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        """Sends a message to all other workers: each hears it at its next `catch_up`."""
        self._writer.write(encode(message))
        return True

    def on_message(self, hear: Hear, near: Hear | None = None) -> None:
        """Has `catch_up` call `hear`, or `near`, with each message of another worker."""
        self._hearers.append(near or hear)

    def news(self) -> int:
        """A number that changes with each message."""
        return int(self.bell[0])

    def catch_up(self) -> None:
        """Passes on all messages sent before this call. From any thread that holds no lock which
        `hear` takes; one comparison where there is no news.
        """
        if self.bell[0] == self._heard:
            return
        with self._lock:
            bell = self.bell[0]  # first: what is told meanwhile is for the next time
            if bell == self._heard:
                return
            for text in self._reader.read():
                self._pass_on(decode(text))
            self._heard = bell  # last: who sees it knows that all is passed on

    def _pass_on(self, message: Message) -> None:
        for hear in self._hearers:
            try:
                hear(message)
            except Exception:  # the messages behind this one are read already
                _log.exception("a message from another worker could not be processed: %s", message)

    def with_nodes(self, nodes: Coordinator) -> Coordinator:
        """These workers, and the nodes behind them where the store has any."""
        return self if nodes is ALONE else ChainedCoordinator(self, nodes)

    def close(self) -> None:
        """Nothing is to be closed: memory and locks end with the process."""
