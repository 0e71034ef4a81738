"""Load generators and what they report."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from .processes import BenchmarkError, end, launch
from .servers import HERE, program

CONNECTIONS = 50
# wrk may take a little longer than asked to close its connections; more than this and it hangs.
GRACE_SECONDS = 30.0


@dataclass(frozen=True)
class Load:
    """What one load generator saw. Times in microseconds unless named otherwise."""

    requests: int
    seconds: float
    p50: float
    p99: float
    errors: int
    not_2xx: int
    longest: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def parse_report(output: str) -> Load:
    """The load that the last line of JSON in ``output`` tells of."""
    lines = [line for line in output.splitlines() if line.startswith("{")]
    if not lines:
        raise BenchmarkError(f"the load generator said {output.strip()[-300:]!r}")
    report = json.loads(lines[-1])
    errors = report.get("errors", {})
    return Load(
        requests=report["requests"],
        seconds=report["duration_us"] / 1e6,
        p50=report["p50_us"],
        p99=report["p99_us"],
        errors=sum(errors.get(name, 0) for name in ("connect", "read", "write", "timeout")),
        not_2xx=errors.get("status", 0),
        longest=report.get("max_us", 0.0),
    )


class Generator:
    """A load generator that has been started, pinned to ``core``."""

    def __init__(self, words: Sequence[str], core: int, seconds: float) -> None:
        self.seconds = seconds
        self.process = launch(
            words,
            core,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "WRK_SCRIPTS": str(HERE / "wrk")},
        )

    def result(self) -> Load:
        """Wait for its end and read what it saw; it is killed if it does not end in time."""
        try:
            output, _ = self.process.communicate(timeout=self.seconds + GRACE_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise BenchmarkError("the load generator hangs") from error
        finally:
            self.end()
        return parse_report(output)

    def end(self) -> None:
        """Stop it before its time, and wait until it has."""
        end(self.process, signal.SIGKILL)
        if self.process.stdout is not None:
            self.process.stdout.close()


def wrk_words(
    port: int, script: str, arguments: Sequence[str], seconds: float, scheme: str = "http"
) -> list[str]:
    """The command line of wrk with one of the scripts in ``wrk/``."""
    wrk = program("wrk")
    if wrk is None:
        raise BenchmarkError("wrk is missing: use --install")
    words = [wrk, "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "--timeout", "30s"]
    words += ["-s", str(HERE / "wrk" / f"{script}.lua")]
    return [*words, f"{scheme}://127.0.0.1:{port}/", "--", *arguments]


def children_cpu_seconds() -> float:
    """CPU time of all children that have ended and been waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
