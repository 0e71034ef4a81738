"""Child processes: started on one core, measured through /proc, always stopped by their own ids.

Nothing here knows HTTP, servers or scenarios.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
STOP_SECONDS = 5.0
POLL_SECONDS = 0.002


class BenchmarkError(Exception):
    """Something that whoever runs the benchmark can read and mend; its text is the message."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(condition: Callable[[], bool], seconds: float, pause: float = POLL_SECONDS) -> bool:
    """True as soon as ``condition()`` holds, False when it has not within ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def accepts(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def parse_stat(text: str) -> tuple[int, int, int]:
    """Parent's id, CPU ticks (user + system) and start time of a /proc/PID/stat line.

    The second field is the command in parentheses and may itself hold blanks and parentheses.
    """
    fields = text[text.rindex(")") + 2 :].split()
    return int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[19])


def _stats() -> dict[int, tuple[int, int, int]]:
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError, ValueError):
                found[int(entry)] = parse_stat(Path("/proc", entry, "stat").read_text())
    return found


def tree(root: int) -> list[int]:
    """``root`` and all its living descendants."""
    children: dict[int, list[int]] = {}
    for pid, (parent, _, _) in _stats().items():
        children.setdefault(parent, []).append(pid)
    members = [root]
    for pid in members:
        members.extend(children.get(pid, ()))
    return members


def cpu_seconds(pids: Sequence[int]) -> float:
    """User and system time that these processes have used since they began."""
    stats = _stats()
    return sum(stats[pid][1] for pid in pids if pid in stats) / TICKS_PER_SECOND


def pss_mib(pids: Sequence[int]) -> float:
    """Proportional set size of these processes together: shared pages are counted once."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    kib += int(line.split()[1])
    return kib / 1024


def core_busy_seconds(core: int) -> float:
    """Time that this core has spent on anything but idling, and that the host took from it."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            return (user + nice + system + irq + softirq + steal) / TICKS_PER_SECOND
    raise BenchmarkError(f"this machine has no core {core}")


class Interrupts:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, but never while a process is being started.

    A process whose starter was interrupted before it knew the id would stay for ever.
    """

    def __init__(self) -> None:
        self._held = self._came = self._over = False

    def listen(self) -> None:
        """Take the signals; to be called on the main thread."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._take)

    def _take(self, number: int, frame: object) -> None:
        self._came = True
        self._give()

    def _give(self) -> None:
        # only once: the clean-up that follows must not be interrupted in its turn
        if self._came and not self._held and not self._over:
            self._over = True
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Signals that come meanwhile act at the end."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
            self._give()


interrupts = Interrupts()
# Any: text or bytes, as the starter chose
Process = subprocess.Popen[Any]
_launched: list[Process] = []


def launch(words: Sequence[str], core: int | str, **more: Any) -> Process:
    """Start a program on this core, or on those of a list such as `0,1`; ``more`` is for Popen. It
    ends when this process is killed.
    """
    pinned = ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *words]
    with interrupts.hold():
        process = subprocess.Popen(pinned, **more)
        _launched.append(process)
    return process


def end(process: Process, signal_number: int = signal.SIGTERM) -> None:
    """End a program and every process it began: asked first, killed after a few seconds."""
    if process.poll() is not None:
        return
    began = _stats()
    members = [(pid, began[pid][2]) for pid in tree(process.pid) if pid in began]
    process.send_signal(signal_number)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    wait_for(lambda: not _alive(members), STOP_SECONDS)
    for pid, _ in _alive(members):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def end_all() -> None:
    """End whatever `launch` has started and nobody has ended."""
    for process in _launched:
        end(process)


class Child:
    """One program in a session of its own, pinned to ``core``; its output goes to ``log``."""

    def __init__(
        self,
        command: Sequence[str],
        core: int | str,
        log: Path,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self.command = list(command)
        self.started = time.monotonic()
        with log.open("ab") as output:
            self.process = launch(
                command,
                core,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self.process.poll() is None

    def pids(self) -> list[int]:
        """The program and its descendants."""
        return tree(self.process.pid) if self.running else []

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Return when ``ready()``; BenchmarkError with the program's last words if it fails to."""
        wait_for(lambda: not self.running or ready(), seconds)
        if self.running and ready():
            return
        state = "is not ready" if self.running else f"ended with {self.process.returncode}"
        raise BenchmarkError(f"{self.command[0]} {state}: {self.last_words()}")

    def last_words(self) -> str:
        """The end of what the program wrote, in one line."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").strip().splitlines()
            return " / ".join(lines[-3:])[-400:] or "it wrote nothing"
        return "it wrote nothing"

    def stop(self) -> None:
        """End the program and every process it began."""
        end(self.process)


def _alive(members: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Those that still run; an id that another process has by now has another start time."""
    now = _stats()
    return [(pid, start) for pid, start in members if pid in now and now[pid][2] == start]
