"""What is loaded: the sample API, the relay and the first design, each in processes of its own."""

from __future__ import annotations

import functools
import http.client
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.processes import BenchmarkError, Child, accepts, free_port
from harness.servers import CHECKOUT, HERE

SOURCES = CHECKOUT / "python_source_files"
START_SECONDS = 20.0
ASK_SECONDS = 30.0


@dataclass
class Place:
    """Where a run works: its directory, its cores and the interpreter of what is loaded.

    Cores are for taskset: one number, or several as in ``0,1``.
    """

    directory: Path
    python: str
    server_cores: str
    load_cores: str
    children: list[Child] = field(default_factory=list)

    def start(self, name: str, words: Sequence[str], cores: str, port: int) -> Child:
        """Start a server and wait until it listens; BenchmarkError with its last words if not."""
        # the outer taskset of Child takes one core; the inner one may widen that
        pinned = ["taskset", "-c", cores, *words]
        first = int(cores.partition(",")[0])
        log = self.directory / f"{name}-{len(self.children)}.log"
        child = Child(pinned, first, log, cwd=SOURCES, environment={"NO_COLOR": "1"})
        self.children.append(child)
        child.wait_until(lambda: accepts(port), START_SECONDS)
        return child

    def stop_all(self) -> None:
        """End whatever has been started here."""
        for child in self.children:
            child.stop()


@dataclass
class Target:
    """A server that listens on a loopback port."""

    child: Child
    port: int

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.port}"


class SampleApi:
    """The sample menu API with its control open, on the load's cores."""

    def __init__(self, place: Place, *flags: str) -> None:
        self.place = place
        self.flags = flags
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.child = self._started()

    def _started(self) -> Child:
        words = [self.place.python, "-m", "sample_menu_api", "--host", "127.0.0.1"]
        words += ["--port", str(self.port), "--control", *self.flags]
        return self.place.start("sample", words, self.place.load_cores, self.port)

    def again(self) -> None:
        """Start it anew on the same port after it was stopped."""
        self.child = self._started()

    def count(self) -> int:
        """Requests that have reached it since it started."""
        told = json.loads(ask(self.port, "/_control"))
        return int(told["request_count"])

    def change(self, **settings: object) -> None:
        """Set delay, rate or fail."""
        ask(self.port, "/_control", json.dumps(settings))


def ask(port: int, path: str, posted: str | None = None) -> bytes:
    """The body of a good answer; BenchmarkError when there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ASK_SECONDS)
    try:
        method = "GET" if posted is None else "POST"
        connection.request(method, path, posted, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise BenchmarkError(f"port {port} does not answer {path}: {error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise BenchmarkError(f"port {port} answers {path} with {answer.status}")
    return body


def menu_paths(port: int) -> list[str]:
    """The list and each menu, as the sample API's first form has them; asks for all of them."""
    listed = json.loads(ask(port, "/restaurant"))["restaurants"]
    paths = ["/restaurant", *(f"/restaurant/{entry['identifier']}" for entry in listed)]
    for path in paths:
        ask(port, path)
    return paths


@functools.cache
def _without_admin(python: str) -> tuple[str, ...]:
    """The flag that closes the relay's admin address, where this relay has one."""
    words = [python, "-m", "api_relaying_server", "-h"]
    told = subprocess.run(words, cwd=SOURCES, capture_output=True, text=True, timeout=60).stdout
    return ("--admin", "off") if "--admin" in told else ()


def relay(place: Place, upstream: str, all_cores: bool, *flags: str) -> Target:
    """A relay with an empty store on its core, or with a worker per core."""
    port = free_port()
    store = place.directory / f"store-{port}.sqlite"
    words = [place.python, "-m", "api_relaying_server", "--upstream", upstream]
    words += ["--host", "127.0.0.1", "--port", str(port), *_without_admin(place.python)]
    words += ["--cache", f"sqlite:///{store}", "--workers", "auto" if all_cores else "1", *flags]
    return Target(place.start("relay", words, place.server_cores, port), port)


def seed(place: Place, upstream: str, forking: bool) -> Target:
    """The first design with an empty cache: a thread per connection, or a process per request."""
    port = free_port()
    words = [place.python, str(HERE / "seed_server.py"), str(port), upstream]
    words += [str(place.directory / f"seed-{port}"), *(["fork"] if forking else [])]
    return Target(place.start("seed", words, place.server_cores, port), port)


def item_origin(place: Place) -> Target:
    """The origin with varied data, on the load's cores."""
    port = free_port()
    words = [place.python, str(Path(__file__).with_name("origin.py")), str(port)]
    return Target(place.start("origin", words, place.load_cores, port), port)


def cores_of_this_process() -> list[int]:
    """The cores that this process may use, in order."""
    return sorted(os.sched_getaffinity(0))
