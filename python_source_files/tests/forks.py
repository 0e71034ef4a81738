"""Programs for tests that need several processes: each runs in an interpreter of its own.

A test's own process has threads, and must not be forked. So the program is a text that is run by a
new interpreter, which may fork; what it prints, as JSON, is its result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PATIENCE = 30.0
"""Seconds that a program may take on a busy machine; it needs a fraction of one."""

SOURCES = Path(__file__).resolve().parents[1]

BEGIN = """
import json, os, signal, sys, time

def forked(run, *arguments):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = run(*arguments) or 0
    finally:
        sys.stdout.flush()
        os._exit(code)

def all_well(*pids):
    ends = [os.waitpid(pid, 0)[1] for pid in pids]
    assert not any(ends), ends

def until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "in vain"
        time.sleep(0.001)

def result(value):
    sys.stdout.write(json.dumps(value))
    sys.stdout.flush()
"""


def run(program: str, *words: str) -> Any:
    """The result of a program; fails with what it says on standard error if it does not end
    well.
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", BEGIN + program, *words],
        cwd=SOURCES,
        env={name: value for name, value in os.environ.items() if not name.startswith("RELAY_")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    if done.returncode or done.stderr:
        raise AssertionError(f"the program ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)
