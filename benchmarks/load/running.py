"""The runs and phases themselves: servers up, load on, figures taken, everything down."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from harness.processes import BenchmarkError, wait_for

from . import targets
from .generators import Figures, Load, Loaded, Locust, wrk
from .plan import RELAY, SEED, Run
from .targets import Place, SampleApi, Target

# The phases' own figures.
VARIED_USERS, COLD_USERS, OUTAGE_USERS = 50, 1000, 50
COLD_DELAY = 0.5
LIMIT = "5/s"
STORE_FLAGS = ("--cache-size", "64MiB", "--hot-size", "16MiB")


@dataclass
class Row:
    """A line of the table."""

    run: Run
    system: str
    figures: Figures
    loaded: Loaded | None = None
    by_wrk: Figures | None = None
    note: str = ""


@dataclass
class Phase:
    """What came of a phase: figures by system, and numbers of its own by their names."""

    name: str
    loads: dict[str, Loaded] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """What all runs share."""

    directory: Path
    python: str
    locust: str
    seconds: float
    server_core: int
    load_core: int

    @contextmanager
    def place(self, all_cores: bool) -> Iterator[Place]:
        """A directory of its own and the cores; whatever was started there ends."""
        both = f"{self.server_core},{self.load_core}"
        directory = self.directory / f"place-{time.monotonic_ns()}"
        directory.mkdir()
        server, load = (both, both) if all_cores else (str(self.server_core), str(self.load_core))
        place = Place(directory, self.python, server, load)
        try:
            yield place
        finally:
            place.stop_all()


def rows_of(setting: Setting, run: Run) -> list[Row]:
    """The relay and the first design under one load, each with a sample API of its own."""
    found = []
    for system in (RELAY, SEED):
        try:
            found.append(_row(setting, run, system))
        except BenchmarkError as error:
            # a machine that stood still for seconds gets one more chance, and that is told
            row = _row(setting, run, system)
            row.note = f"measured again, because at first: {error}"
            found.append(row)
    return found


def _row(setting: Setting, run: Run, system: str) -> Row:
    with setting.place(run.all_cores) as place:
        api = SampleApi(place)
        target = (
            targets.relay(place, api.url, run.all_cores)
            if system == RELAY
            else targets.seed(place, api.url, run.all_cores)
        )
        paths = targets.menu_paths(target.port)
        load = Load(run.users, setting.seconds, run.all_cores)
        loaded = Locust(setting.locust, place, target, load).result()
        row = Row(run, system, loaded.figures, loaded)
        if loaded.usage.locust_is_limit:
            try:
                row.by_wrk = wrk(place, target, paths, load)
            except BenchmarkError as error:
                row.note = f"not repeated with wrk, because: {error}"
        return row


# The phases.


def varied(setting: Setting) -> Phase:
    """Bodies of all sizes, more than the store holds."""
    phase = Phase("varied")
    with setting.place(False) as place:
        origin = targets.item_origin(place)
        target = targets.relay(place, origin.url, False, *STORE_FLAGS)
        file = Path(__file__).with_name("zipf_users.py")
        load = Load(VARIED_USERS, setting.seconds, file=file)
        loaded = Locust(setting.locust, place, target, load).result()
        calls = int(targets.ask(origin.port, "/count"))
        phase.loads[RELAY] = loaded
        phase.numbers["upstream calls"] = calls
        phase.numbers["hit share"] = max(0.0, 1 - calls / max(1, loaded.figures.requests))
        phase.numbers["relay's memory, MiB"] = loaded.usage.memory
        stored = place.directory.glob(f"store-{target.port}*")
        phase.numbers["store's files, MiB"] = sum(one.stat().st_size for one in stored) / 2**20
    return phase


def cold(setting: Setting) -> Phase:
    """Everybody at once, nothing stored; the relay also with a thread for each user."""
    phase = Phase("cold")
    flags = ("--threads", str(COLD_USERS))
    for system in (RELAY, f"{RELAY} {' '.join(flags)}", SEED):
        with setting.place(False) as place:
            api = SampleApi(place, "--delay", str(COLD_DELAY))
            if system == SEED:
                target = targets.seed(place, api.url, False)
            else:
                more = flags if system != RELAY else ()
                target = targets.relay(place, api.url, False, *more)
            load = Load(COLD_USERS, setting.seconds)
            phase.loads[system] = Locust(setting.locust, place, target, load).result()
            phase.numbers[f"upstream calls, {system}"] = api.count()
    return phase


def _loaded_with_events(
    setting: Setting, place: Place, api: SampleApi, target: Target, events: dict[float, Event]
) -> tuple[Loaded, dict[str, float]]:
    """Load, with events at shares of the run; their times are told from the load's start."""
    targets.menu_paths(target.port)
    before = api.count()
    locust = Locust(setting.locust, place, target, Load(OUTAGE_USERS, setting.seconds))
    # Locust looks once at a path that nobody knows before it loads: then it has begun
    if not wait_for(lambda: not locust.children[0].running or api.count() > before, 30, 0.05):
        raise BenchmarkError("locust does not begin")
    began, done = time.monotonic(), dict[str, float]()

    def during(_: float) -> None:
        passed = time.monotonic() - began
        for share, event in events.items():
            if event.name not in done and passed >= share * setting.seconds:
                event.act()
                done[event.name] = time.monotonic() - began

    return locust.result(during), done


@dataclass(frozen=True)
class Event:
    """Something that happens to the upstream during a phase."""

    name: str
    act: Callable[[], None]


def outage(setting: Setting) -> Phase:
    """The upstream is killed, and comes back."""
    phase = Phase("outage")
    with setting.place(False) as place:
        api = SampleApi(place)
        target = targets.relay(place, api.url, False, "--max-ttl", "1", "--cool-down", "1")
        events = {
            1 / 3: Event("killed", lambda: api.child.stop()),
            2 / 3: Event("back", lambda: api.again()),
        }
        phase.loads[RELAY], phase.marks = _loaded_with_events(setting, place, api, target, events)
        phase.numbers["upstream calls after its return"] = api.count()
    return phase


def limited(setting: Setting) -> Phase:
    """The upstream says 429."""
    phase = Phase("limited")
    with setting.place(False) as place:
        api = SampleApi(place)
        target = targets.relay(place, api.url, False, "--max-ttl", "1")
        counted: list[int] = []

        def limit() -> None:
            counted.append(api.count())
            api.change(rate=LIMIT)

        events = {0.2: Event("limited", limit)}
        phase.loads[RELAY], phase.marks = _loaded_with_events(setting, place, api, target, events)
        phase.numbers["upstream calls while limited"] = api.count() - (counted or [0])[0]
    return phase


PHASE_RUNNERS = {"varied": varied, "cold": cold, "outage": outage, "limited": limited}
