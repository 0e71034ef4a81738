"""How often targets have answered, summed over the workers: asked for, and told in shared memory.

Who asks writes a question into shared memory. Each worker looks there when it tells what it has
counted, a few times a second, and writes its answer into its slot; so nothing is done while nobody
asks. What a worker has counted that leaves goes to the parent, which answers for it from then on.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from typing import Callable

from api_relaying_server.cluster.shared_memory import LONGEST_TEXT, SharedMemory
from api_relaying_server.memory.use_count import MOST_KEPT, most_used
from api_relaying_server.relaying.uses import Uses, Wanted

PATIENCE = 0.5
"""Seconds that are waited for the workers' answers: they look for questions each 0.2 s."""

LOOK_AGAIN = 0.01
"""Seconds between two looks whether all have answered."""

LEFT = 1
"""The number of what a worker has left behind; questions have greater ones."""

_ALL = Wanted(most=MOST_KEPT)


class SharedUses:
    """The uses that all workers have counted; `slot` is the own one. One process asks, each of
    `workers` answers, which are given by their slots. Thread-safe.
    """

    def __init__(self, memory: SharedMemory, slot: int, workers: Callable[[], list[int]]) -> None:
        self._answers = [memory.text(each) for each in range(memory.slots)]
        self._question = memory.text(memory.slots)
        self._slot = slot
        self._workers = workers
        # guards writing to `_question` and `_answered`
        self._lock = threading.Lock()
        self._answered = LEFT

    # Who asks...

    def of(self, wanted: Wanted) -> dict[str, int]:
        """The uses by key, summed up; without those of a worker that does not answer in time."""
        with self._lock:
            # Two processes may ask in one moment, while one takes over from the other.
            number = LEFT + 1 + int.from_bytes(os.urandom(7), "big")
            self._question.write(number, _question(wanted))
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until and any(
                self._answers[slot].number != number for slot in self._workers()
            ):
                time.sleep(LOOK_AGAIN)
        sums: Counter[str] = Counter()
        for answer in self._answers:
            sums.update(_uses_in(answer.read(number) or answer.read(LEFT)))
        found = {key: uses for key, uses in sums.items() if key.startswith(wanted.prefix)}
        return {**most_used(found, wanted.most), **{key: sums[key] for key in wanted.keys}}

    # ...and who answers: a worker, while it is there and at its end, and the parent for it then.

    def answer(self, uses: Uses) -> None:
        """Answers a question that is new with the uses of this worker."""
        with self._lock:
            number = self._question.number
            if number == self._answered:
                return
            self._answered = number
            try:
                wanted = Wanted(*json.loads(self._question.read(number)))
            except (ValueError, TypeError):
                return  # it is just being written: the next look finds it
            self._tell(number, uses.of(wanted), uses.of(_ALL))

    def leave(self, uses: Uses) -> None:
        """Leaves behind what this worker has counted."""
        self._tell(LEFT, {}, uses.of(_ALL))

    def take_over(self, slot: int) -> None:
        """Answers for a worker that has ended from now on. The parent alone does this."""
        theirs, sums = self._answers[slot], Counter(_uses_in(self._answers[self._slot].read(LEFT)))
        sums.update(_uses_in(theirs.read(theirs.number)))
        theirs.write(0, b"")
        self._tell(LEFT, {}, most_used(sums, MOST_KEPT))

    def _tell(self, number: int, asked: dict[str, int], others: dict[str, int]) -> None:
        """Writes the uses that were asked for, and all others: no more may come from this worker.
        Where there is no room, the most used of the others, or of those that were asked for.
        """
        while not self._answers[self._slot].write(number, json.dumps({**others, **asked}).encode()):
            if others:
                others = most_used(others, len(others) // 2)
            else:
                asked = most_used(asked, len(asked) // 2)


def _question(wanted: Wanted) -> bytes:
    """As text; without keys where they are too long. What is used most of all need not be among the
    first in each worker, so each tells all that it keeps.
    """
    if wanted.most:
        wanted = wanted._replace(most=MOST_KEPT)
    text = json.dumps(wanted).encode()
    return text if len(text) <= LONGEST_TEXT else json.dumps(wanted._replace(keys=())).encode()


def _uses_in(text: bytes) -> dict[str, int]:
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
