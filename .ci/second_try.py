"""Play tests that failed once more, alone: `second_try.py LOG...` from the source folder.

A machine that is busy with other tests can make one miss its time. Such a test passes when it is
played alone; it is named, so that somebody looks at it. A test of what one client may see of
another gets no second try, nor do more than MOST tests: there the program is at fault.

Ends with 0 if each of them passes; the last lines name them.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

MOST = 3
"""So many tests of a step may fail at their first try."""

NEVER = re.compile(
    r"isolation|differential|poisoning|interleavings|schedules|simulation|reuse|vary"
)
"""Modules in which one failure is one too many."""

HEADING = re.compile(r"^(?:FAIL|ERROR): .*$", re.MULTILINE)
FAILED_TEST = re.compile(r"^(?:FAIL|ERROR): (\w+) \((tests\.[\w.]+)\)")
VERDICT = re.compile(r"^FAILED \((?:failures=(\d+))?(?:, )?(?:errors=(\d+))?\)$", re.MULTILINE)


def failed_tests(log: str) -> list[str] | None:
    """The tests that failed in what one run of unittest printed, by the names that it takes.

    A class or module whose preparation failed stands for all of its tests. None if the run broke
    off, or something failed that is no test.
    """
    headings = HEADING.findall(log)
    verdicts = VERDICT.findall(log)
    if not verdicts or sum(map(int, filter(None, verdicts[-1]))) != len(headings):
        return None
    names = []
    for heading in headings:
        found = FAILED_TEST.match(heading)
        if found is None:
            return None
        test, place = found.groups()
        # Python 3.9 and 3.10 tell the class, later ones the whole name
        whole = test.startswith("setUp") or place.endswith("." + test)
        names.append(place if whole else f"{place}.{test}")
    return list(dict.fromkeys(names))


def may_try_again(names: list[str]) -> bool:
    """Whether these failures may be the machine's."""
    return len(names) <= MOST and not any(NEVER.search(name) for name in names)


def passes_alone(name: str) -> bool:
    """Whether a test, played by itself, passes and skips nothing; what it prints is shown."""
    command = [sys.executable, "-W", "error", "-m", "unittest", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    sys.stdout.write(done.stdout)
    return done.returncode == 0 and "skipped=" not in done.stdout


def main(logs: list[str]) -> int:
    """Play the failed tests of these files again; 1 if one fails again or may not be played."""
    names: list[str] = []
    for log in logs:
        failed = failed_tests(Path(log).read_text(encoding="utf-8", errors="replace"))
        if failed is None:
            return 1
        names += failed
    if not may_try_again(names):
        return 1
    if not all(passes_alone(name) for name in names):
        return 1
    for name in names:
        sys.stdout.write(f"needed a second try: {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
