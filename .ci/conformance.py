"""Run the public suite of HTTP caching against the relay, once for each store.

What has to come out stands in `conformance.json` beside this file: the score, and the tests that
may fail, each with the paragraph that says why. A required or optimal test that fails without
standing there is a failure, and so is one that stands there and passes. What the tests of the third
kind, checks, record is compared and shown. `--record` writes the score and the checks anew.

Usage: .ci/conformance [--store NAME]... [--suite FOLDER] [--record] [-- FLAGS OF THE RELAY]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Union

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parent / "python_source_files"
EXPECTED = HERE / "conformance.json"

START = 30.0
"""Seconds in which a server must listen."""
RUN = 150.0
"""Seconds for one run of the suite, which takes 20."""

CHANCES = 5
"""Failures that a busy machine may be to blame for; so many are tried once more."""

# The origin's word alone counts: no freshness of ours, no rest after its failures.
FLAGS = ("--default-ttl", "0", "--negative-ttl", "0", "--cool-down", "0")

# The client also runs a list that the suite's own index has dropped; the index is what counts.
LIST_TESTS = """
import suites from './tests/index.mjs'
const tests = suites.flatMap(suite => suite.tests).filter(test => !test.browser_only)
console.log(JSON.stringify(Object.fromEntries(tests.map(t => [t.id, t.kind || 'required']))))
"""

DATABASES = {"redis": "RedisServer", "mongodb": "MongoServer"}
"""Stores that are servers, which the tests know how to start; run where they are asked for."""

KINDS = ("required", "optimal", "check")

Outcome = Union[bool, list[str]]
"""True, or the kind of failure and its message."""


class Failure(Exception):
    """The suite could not be run; the text says why."""


class Finding(NamedTuple):
    """What a run of the suite has shown, compared with what was expected of it."""

    passed: dict[str, list[str]]
    total: dict[str, int]
    failed: list[str]
    excepted: list[str]
    changed: list[str]

    @property
    def counted(self) -> int:
        """How many tests there are that count."""
        return self.total["required"] + self.total["optimal"]

    def score(self) -> dict[str, list[int]]:
        """(passed, all) for each kind of test."""
        return {kind: [len(self.passed[kind]), self.total[kind]] for kind in KINDS}


def main(words: Sequence[str]) -> int:
    """Run the suite for each store; return the exit code."""
    words, flags = _divide(list(words))
    parser = argparse.ArgumentParser(prog=".ci/conformance", description=__doc__.split("\n")[0])
    parser.add_argument("--store", action="append", choices=("sqlite", "memory", *DATABASES))
    parser.add_argument("--suite", type=Path, help="a folder in which the suite stays installed")
    parser.add_argument("--record", action="store_true", help="write score and checks anew")
    options = parser.parse_args(words)
    expected = json.loads(EXPECTED.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory(prefix="relay-conformance-") as folder:
        suite = install(options.suite or Path(folder) / "suite", expected["suite"])
        kinds = list_tests(suite)
        scores = []
        passed = failed = 0
        for store in options.store or ("sqlite", "memory"):
            finding = examine(suite, kinds, expected, store, Path(folder), flags)
            scores.append(show(store, finding, expected))
            passed += finding.counted - len(finding.failed) - len(finding.excepted)
            failed += len(finding.failed)
            if options.record:
                record(expected, finding)
    tell("\n".join([*scores, f"{passed} passed, {failed} failed"]))
    return 1 if failed or not passed else 0


def _divide(words: list[str]) -> tuple[list[str], list[str]]:
    if "--" not in words:
        return words, []
    at = words.index("--")
    return words[:at], words[at + 1 :]


def tell(line: str) -> None:
    """Write a line."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


# The suite...


def install(folder: Path, package: str) -> Path:
    """The folder of the suite, installed below `folder` unless it is there."""
    suite = folder / "node_modules" / package.partition("@")[0]
    told = suite / "package.json"
    wanted = package.partition("@")[2]
    if told.exists() and json.loads(told.read_text(encoding="utf-8"))["version"] == wanted:
        return suite
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund", "--no-save"]
    done = subprocess.run(
        ["npm", "install", "--prefix", str(folder), *options, package],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failure(f"npm could not install {package}:\n{done.stderr[-2000:]}")
    return suite


def list_tests(suite: Path) -> dict[str, str]:
    """The kind of each test that is not for browsers alone."""
    done = subprocess.run(
        ["node", "--no-warnings", "--input-type=module", "--eval", LIST_TESTS],
        cwd=suite,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise Failure(f"the suite's tests cannot be listed:\n{done.stderr[-2000:]}")
    kinds: dict[str, str] = json.loads(done.stdout)
    return kinds


# ...runs against a relay...


def examine(
    suite: Path,
    kinds: dict[str, str],
    expected: dict[str, Any],
    store: str,
    folder: Path,
    flags: Sequence[str],
) -> Finding:
    """Run the suite; once more where few tests fail, for which a busy machine may be to blame."""
    results = run(suite, store, folder, flags)
    finding = compare(results, kinds, expected)
    if 0 < len(finding.failed) <= CHANCES:
        for test in finding.failed:
            tell(f"{store}: not at the first try: {test}: {results.get(test)}")
        again = run(suite, store, folder, flags)
        results.update({test: again.get(test, ["", "not run"]) for test in finding.failed})
        finding = compare(results, kinds, expected)
    for test in finding.failed:
        tell(f"{store}: FAILED {test}: {results.get(test)}"[:300])
    return finding


def run(suite: Path, store: str, folder: Path, flags: Sequence[str]) -> dict[str, Outcome]:
    """The outcome of each test, from one run with servers of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        with (
            origin(suite, Path(place)) as port,
            cache_of(store, Path(place)) as cache,
            relay(Path(place), port, cache, flags) as url,
        ):
            return ask(suite, url)


@contextlib.contextmanager
def cache_of(store: str, place: Path) -> Iterator[str]:
    """The URL of an empty cache; a database is started for it."""
    if store not in DATABASES:
        yield f"sqlite:///{place}/cache.sqlite3" if store == "sqlite" else "memory://"
        return
    sys.path.insert(0, str(SOURCES))
    from tests import database_support

    server = getattr(database_support, DATABASES[store])()
    try:
        yield server.url
    finally:
        server.close()


def ask(suite: Path, url: str) -> dict[str, Outcome]:
    """The outcome of each test, from the suite's client."""
    choice = {"npm_config_base": url, "npm_config_id": "", "npm_package_config_id": ""}
    try:
        done = subprocess.run(
            ["node", "--no-warnings", "cli.mjs"],
            cwd=suite,
            env={**os.environ, **choice},
            capture_output=True,
            text=True,
            timeout=RUN,
        )
    except subprocess.TimeoutExpired:
        raise Failure(f"the suite did not end in {RUN} s") from None
    try:
        results: dict[str, Outcome] = json.loads(done.stdout)
    except ValueError:
        raise Failure(f"the suite broke off:\n{done.stdout[-500:]}{done.stderr[-1500:]}") from None
    return results


@contextlib.contextmanager
def origin(suite: Path, place: Path) -> Iterator[int]:
    """The suite's server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    choice = {
        "npm_config_protocol": "http",
        "npm_config_port": str(port),
        "npm_config_pidfile": str(place / "origin.pid"),
    }
    command = ["node", "server/server.mjs"]
    with running(command, suite, {**os.environ, **choice}, place / "origin.log") as process:
        wait_for(process, place / "origin.log", r"Listening on ()")
        yield port


@contextlib.contextmanager
def relay(place: Path, origin_port: int, cache: str, flags: Sequence[str]) -> Iterator[str]:
    """The relay before that server, on a free port; yields its URL. It must end well."""
    command = [sys.executable, "-m", "api_relaying_server", *FLAGS, "--cache", cache]
    command += ["--upstream", f"http://127.0.0.1:{origin_port}", "--host", "127.0.0.1"]
    kept = {k: v for k, v in os.environ.items() if not k.startswith("RELAY_")}
    log = place / "relay.log"
    with running([*command, "--port", "0", *flags], SOURCES, kept, log) as process:
        yield wait_for(process, log, r"listening +(http://[^ \n]+)")
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(START)
        if process.returncode != 0 or "Traceback" in log.read_text(errors="replace"):
            raise Failure(f"the relay ended with {process.returncode}:\n{last_of(log)}")


@contextlib.contextmanager
def running(
    command: Sequence[str], cwd: Path, env: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that writes to `log` and does not outlive the block."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[bytes], log: Path, pattern: str) -> str:
    """The group that `pattern` finds in the log, as soon as it is there."""
    until = time.monotonic() + START
    while time.monotonic() < until and process.poll() is None:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found is not None:
            return found[1]
        time.sleep(0.02)
    raise Failure(f"did not start: {' '.join(map(str, process.args))}\n{last_of(log)}")  # type: ignore[arg-type]


def last_of(log: Path) -> str:
    """The end of a log."""
    return log.read_text(errors="replace")[-3000:]


# ...and what comes out is compared.


def compare(
    results: dict[str, Outcome], kinds: dict[str, str], expected: dict[str, Any]
) -> Finding:
    """What the outcomes mean."""
    exceptions, checks = expected["exceptions"], set(expected["checks"])
    found = Finding({kind: [] for kind in KINDS}, dict.fromkeys(KINDS, 0), [], [], [])
    for test, kind in kinds.items():
        ok = results.get(test) is True
        found.total[kind] += 1
        if ok:
            found.passed[kind].append(test)
        if kind == "check":
            if ok != (test in checks):
                found.changed.append(f"{test}: {'yes' if ok else results.get(test)}"[:200])
        elif ok == (test in exceptions):
            found.failed.append(test)
        elif not ok:
            found.excepted.append(test)
    unknown = sorted(set(exceptions) - set(kinds))
    if unknown:
        raise Failure(f"{EXPECTED.name} excepts tests that there are not: {', '.join(unknown)}")
    return found


def show(store: str, finding: Finding, expected: dict[str, Any]) -> str:
    """Tell what is not as it was; return the line with the score."""
    for change in finding.changed:
        tell(f"{store}: a check has changed: {change}")
    score = finding.score()
    if not finding.failed and not finding.changed and score != expected["score"]:
        tell(f"{store}: the recorded score is another: {expected['score']}")
    told = ", ".join(f"{kind} {passed} of {total}" for kind, (passed, total) in score.items())
    return f"{store}: {told}; {len(finding.excepted)} fail with a reason"


def record(expected: dict[str, Any], finding: Finding) -> None:
    """Write score and checks as they are now."""
    expected["score"] = finding.score()
    expected["checks"] = sorted(finding.passed["check"])
    text = json.dumps(expected, indent=2, ensure_ascii=False)
    EXPECTED.write_text(text + "\n", encoding="utf-8")


def _stop(number: int, _: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        raise SystemExit(main(sys.argv[1:]))
    except Failure as failure:
        tell(f"{failure}\n0 passed, 1 failed")
        raise SystemExit(1) from None
