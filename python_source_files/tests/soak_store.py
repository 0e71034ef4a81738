"""The SQLite store under kill -9: `python -m tests.soak_store --rounds 50` from the source folder.

A child writes versions of a few hundred entries as fast as it can and tells which; it is killed in
the middle. Then the store must open, every record must be the very one that was written under its
key, and none may be older than what was written a second before the kill. Time in which the child
got no turn does not count.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from api_relaying_server.caching.stored import Record
from api_relaying_server.stores.store import open_store
from tests.standstill import Standstill
from tests.store_support import MIB, eventually, make_record

SOURCES = Path(__file__).resolve().parents[1]
KEYS = 300
ALLOWED = 1.0  # seconds of changes that may be lost with the process
LIMIT = 256 * MIB
LONGEST = 120_000  # bytes of a body; most are far smaller


class Round(NamedTuple):
    """What a round found: entries that are wrong, lost, in the file; changes that were written."""

    wrong: int
    lost: int
    entries: int
    changes: int


def record_of(key: str, version: int) -> Record:
    """The record that the child writes for this version of this key."""
    chance = random.Random(f"{key} {version}")
    return make_record(version, int(LONGEST ** chance.random()))


def version_in(record: Record) -> int:
    """The version that a record says it is; -1 for none of ours."""
    tag = record.variants[0].fields.get("etag") or ""
    return int(tag.strip('"')) if tag.strip('"').isdigit() else -1


def write_for_ever(path: str) -> None:
    """The child: a line `version key-number seconds` after each write."""
    store = open_store(f"sqlite:///{path}", LIMIT)
    chance = random.Random(os.getpid())
    version = 0
    standstill = Standstill()
    standstill.__enter__()
    began = time.monotonic()
    while True:
        version += 1
        number = chance.randrange(KEYS)
        store.write(f"GET /{number}", record_of(f"GET /{number}", version))
        lived = time.monotonic() - began - standstill.since(began)
        sys.stdout.write(f"{version} {number} {lived}\n")
        sys.stdout.flush()
        if version % 50 == 0:  # else the queue is full at once, and full queues drop
            store.flush(5.0)


def written(told: int) -> list[list[str]]:
    """The whole lines that a child has written to this file."""
    text = os.pread(told, os.fstat(told).st_size, 0).decode()
    return [line.split() for line in text.splitlines(keepends=True) if line[-1] == "\n"]


def lived(told: int) -> float:
    """The seconds of its own time at which it wrote the last of them."""
    size = os.fstat(told).st_size
    last = os.pread(told, 200, max(0, size - 200)).rpartition(b"\n")[0].rpartition(b"\n")[2]
    return float(last.split()[2]) if last else 0.0


def play_round(path: str, seconds: float) -> Round:
    """Let a child write for `seconds` of its own time, kill it, and look."""
    command = [sys.executable, "-m", "tests.soak_store", "--child", path]
    with tempfile.TemporaryFile("w+") as told:
        child = subprocess.Popen(command, cwd=SOURCES, stdout=told)
        try:
            eventually(lambda: lived(told.fileno()) > seconds, "it has written for long", 60.0)
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        lines = written(told.fileno())
        killed = lived(told.fileno())
    settled: dict[str, int] = {}
    for version, number, when in lines:
        if float(when) < killed - ALLOWED:
            settled[f"GET /{number}"] = int(version)
    return compare(path, settled, len(lines))


def compare(path: str, settled: dict[str, int], changes: int) -> Round:
    """Hold what the file has against what must be there at least."""
    store = open_store(f"sqlite:///{path}", LIMIT)
    wrong = lost = entries = 0
    for number in range(KEYS):
        key = f"GET /{number}"
        record = store.read(key)
        found = -1 if record is None else version_in(record)
        entries += record is not None
        wrong += record is not None and record != record_of(key, found)
        lost += key in settled and found < settled[key]
    wrong += store.counters.unreadable + store.counters.read_errors + bool(store.fault)
    store.close(5.0)
    return Round(wrong, lost, entries, changes)


def write_past_a_quota(path: str) -> dict[str, object]:
    """The child that may not make files larger than 1 MiB: what it met, and whether that ended."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, resource.RLIM_INFINITY))
    store = open_store(f"sqlite:///{path}", LIMIT)
    for number in range(300):
        store.write(f"GET /{number}", make_record(number, 10_000))
    eventually(lambda: store.fault, "the quota is met")
    report: dict[str, object] = {"fault": store.fault, "full": not store.flush(0)}
    with Standstill() as standstill:
        began = time.monotonic()
        report["right"] = all(
            store.read(f"GET /{number}") in (None, make_record(number, 10_000))
            for number in range(300)
        )
        report["seconds"] = time.monotonic() - began - standstill.since(began)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    flushed = store.flush(10.0)
    eventually(lambda: not store.fault, "the fault is over")
    report["healed"] = flushed
    report["entries"] = store.size().entries
    report["counters"] = store.counters.as_dict()
    store.close(5.0)
    return report


def main() -> int:
    """Play rounds and say what they found; 1 if anything was wrong or lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--quota", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        write_for_ever(arguments.child)
    if arguments.quota:
        sys.stdout.write(json.dumps(write_past_a_quota(arguments.quota)))
        return 0
    bad = changes = 0
    with tempfile.TemporaryDirectory(prefix="relay-soak-") as folder:
        for number in range(arguments.rounds):
            result = play_round(os.path.join(folder, "cache.sqlite3"), random.uniform(1.1, 2.0))
            sys.stdout.write(f"round {number + 1}: {result}\n")
            sys.stdout.flush()
            bad += result.wrong + result.lost
            changes += result.changes
    sys.stdout.write(f"{arguments.rounds} kills, {changes} changes, {bad} wrong or lost\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
