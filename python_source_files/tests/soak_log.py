"""The write-ahead log under several writers: `python -m tests.soak_log --seconds 20 --workers 2`.

Each worker is a process that stores records of its own as fast as they can be written, and reads
others at the same time. Told are the greatest sizes of the log and of the file while they ran, and
what is left when all have closed the store.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

from api_relaying_server.stores.store import open_store
from tests.store_support import MIB, make_record

SOURCES = Path(__file__).resolve().parents[1]
KEYS = 20_000
READERS = 4
LENGTH = 30_000
LIMIT = 50_000_000
LEAST = 11
"""Records that each worker writes, however long that takes."""
ENDING = 60.0  # seconds that a worker may take to start and to end


class Sizes(NamedTuple):
    """The greatest sizes in bytes while it ran, what was left of the log, and records written."""

    log: int
    file: int
    left: int
    written: int


def size_of(path: str) -> int:
    """Bytes of a file, 0 where there is none."""
    try:
        return os.path.getsize(path)
    except FileNotFoundError:
        return 0


def work(path: str, seconds: float, limit: int, length: int) -> int:
    """The worker: how many records it has written."""
    store = open_store(f"sqlite:///{path}", limit)
    chance = random.Random(os.getpid())
    record = make_record(1, length)
    until = time.monotonic() + seconds

    def read() -> None:
        own = random.Random(threading.get_ident())
        while time.monotonic() < until:
            store.read(f"GET /{own.randrange(KEYS)}")

    readers = [threading.Thread(target=read) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    at_once = max(1, 2 * MIB // length)
    while time.monotonic() < until or store.counters.writes < LEAST:
        for _ in range(at_once):
            store.write(f"GET /{chance.randrange(KEYS)}", record)
        store.flush(5.0)
    for reader in readers:
        reader.join()
    store.close(10.0)
    return store.counters.writes


def run(
    folder: str, workers: int, seconds: float, limit: int = LIMIT, length: int = LENGTH
) -> Sizes:
    """Let so many workers write for so long."""
    path = os.path.join(folder, "cache.sqlite3")
    words = [path, str(seconds), str(limit), str(length)]
    command = [sys.executable, "-m", "tests.soak_log", "--child", *words]
    children = [
        subprocess.Popen(command, cwd=SOURCES, stdout=subprocess.PIPE, text=True)
        for _ in range(workers)
    ]
    log = file = 0
    until = time.monotonic() + seconds + ENDING
    try:
        while any(child.poll() is None for child in children):
            if time.monotonic() > until:
                raise AssertionError("a worker does not end")
            log, file = max(log, size_of(path + "-wal")), max(file, size_of(path))
            time.sleep(0.01)
        written = sum(int(child.communicate()[0]) for child in children)
    finally:
        for child in children:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
    return Sizes(log, max(file, size_of(path)), size_of(path + "-wal"), written)


def main() -> None:
    """Run it and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=LIMIT)
    parser.add_argument("--length", type=int, default=LENGTH)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        path, seconds, limit, length = asked.child
        sys.stdout.write(str(work(path, float(seconds), int(limit), int(length))))
        return
    with tempfile.TemporaryDirectory(prefix="relay-log-") as folder:
        sizes = run(folder, asked.workers, asked.seconds, asked.limit, asked.length)
    mb = [f"{size / 1e6:.1f} MB" for size in sizes[:3]]
    sys.stdout.write(f"log {mb[0]}, file {mb[1]}, log left {mb[2]}, {sizes.written} written\n")


if __name__ == "__main__":
    main()
