"""Small worlds, of which every order is played: a few clients of one URL, the real relay between
them and an origin whose content changes with each unsafe request.

The origin stamps every response with a number and knows when it made it, for whom, and what it said
of it. So each answer tells by its stamp what it was made from, and the contract can be held against
it (`Judge`), whatever way it took through the relay.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Callable, NamedTuple
from unittest import mock

from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.caching.vary import ANY_ORIGIN
from api_relaying_server.coordination import ALONE, Coordinator, Hear, Lease, Message
from api_relaying_server.errors import RelayError
from api_relaying_server.http1.grammar import parse_range
from api_relaying_server.http1.message import Fields
from api_relaying_server.relaying import flight, keeping, shared_body
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.relaying.fetching import Query
from api_relaying_server.relaying.keeping import Keeper, Moment
from api_relaying_server.relaying.refresh import Job, Refresher
from api_relaying_server.relaying.relay import Relay
from api_relaying_server.relaying.transfer import Leader
from api_relaying_server.stores.memory import MemoryStore
from tests import model
from tests.model import Asking, Rules, Told
from tests.relay_world import BODILESS, TARGET, Call, Got, MemoryUpstream, Reply, World, taken
from tests.stage import Stage, Staged, StagedLock, performances, point
from tests.test_caching_model import policy_of, request_fields, response_fields
from tests.upstream_support import HandClock

UNSAFE = ("POST", "PUT", "DELETE", "PATCH")
STAMP = "X-Stamp"
KEY = "GET /x"
NEVER = 1 << 30
START = 1_700_000_000


class Step(NamedTuple):
    """A client asks; with `at_once` as the event loop answers it, where it can."""

    asking: Asking
    at_once: bool = False


class Scene(NamedTuple):
    """A small world. `clients` each take their steps in order, client n at worker n modulo
    `workers`; `before` them all somebody takes the steps of `before`, undisturbed.

    The origin says `told` with a GET's content, `confirmed` with a 304, `headed` with a HEAD's
    answer, `part` with a 206, `done` with an unsafe request's; where one is missing, and to the
    steps of `before`, it is `told`, and an unsafe request's answer says nothing. A tag stands for
    that of the content. With `alike` all users are given the same content. With `doubtful` what is
    stored before is so; with `cold` it is in the store and not in memory. Bodies come in one piece,
    or in two. With `far` the workers are nodes: what one tells is on its way until it is brought.
    `most_calls` is how many calls the origin gets at most where all are there before its first
    answer.
    """

    told: Told
    clients: tuple[tuple[Step, ...], ...]
    before: tuple[Step, ...] = ()
    confirmed: Told | None = None
    headed: Told | None = None
    done: Told | None = None
    part: Told | None = None
    alike: bool = False
    doubtful: bool = False
    cold: bool = False
    in_pieces: bool = False
    rules: Rules = Rules()
    workers: int = 1
    far: bool = False
    most_calls: int | None = None


class Response(NamedTuple):
    """What the origin has said, and to which step: its number, when, and the content's version."""

    number: int
    at: int
    status: int
    told: Told
    version: int
    asking: Asking
    step: int | None


class Given(NamedTuple):
    """What a step was given, at which worker; `asked` and `answered` order it among all that
    happened.
    """

    step: int
    worker: int
    asking: Asking
    asked: int
    answered: int
    got: Got


class Log:
    """All that happened, in order; `came` are the moments at which requests came to ask the origin
    or whoever does; `leads` are the moments at which fetches began, each with its worker, and
    `follows` those at which others joined them, each with the fetch.
    """

    def __init__(self) -> None:
        self.responses: list[Response] = []
        self.came: list[int] = []
        self.leads: dict[int, tuple[int, int]] = {}
        self.follows: list[tuple[int, int]] = []
        self.given: list[Given] = []
        self.version = 0
        self._now = 0
        self._steps = 0

    def tick(self) -> int:
        """A moment, later than all before."""
        self._now += 1
        return self._now

    def begin(self) -> int:
        """A step begins."""
        self._steps += 1
        return self._steps


class StampedOrigin:
    """Whose content is its version, and whose every response has a number."""

    def __init__(self, scene: Scene, log: Log) -> None:
        self._scene = scene
        self._log = log
        self.stepping: dict[str, tuple[int, Asking]] = {}  # by X-Step
        self.begun = False

    def __call__(self, call: Call) -> Reply:
        """What it says."""
        log, scene = self._log, self._scene
        if call.method in UNSAFE:
            log.version += 1
        step, asking = self._step_of(call)
        at, number = log.tick(), len(log.responses)
        content = self.content(asking)
        status, told, first, body = self._say(call, content)
        tag = f'"{content[:3].decode()}"'
        if told.tag is not None:
            told = told._replace(tag=tag)
        log.responses.append(Response(number, at, status, told, log.version, asking, step))
        fields = [*response_fields(told), (STAMP, str(number))]
        if told.cookie:
            fields = [f for f in fields if f[0] != "Set-Cookie"]
            fields.append(("Set-Cookie", f"n={number}"))
        if status == 206:
            last = first + len(body) - 1
            fields.append(("Content-Range", f"bytes {first}-{last}/{len(content)}"))
        if call.method == "HEAD":
            fields.append(("Content-Length", str(len(content))))
        if call.method in UNSAFE and scene.done is not None:
            fields.append(("Content-Location", "/x"))
        half = len(body) // 2 if scene.in_pieces else 0
        return Reply(status, Fields(fields), tuple(filter(None, (body[:half], body[half:]))))

    def _step_of(self, call: Call) -> tuple[int | None, Asking]:
        name = call.fields.get("x-step")
        if name is not None:
            return self.stepping[name]
        varying = {n: v for n, v in call.fields if n in ("Foo", "Bar")}
        return None, Asking(vary=varying, cookie="cookie" in call.fields)

    def content(self, asking: Asking) -> bytes:
        """What it has for this request now: it begins with version, user and variant."""
        scene = self._scene
        user = sum(s << n for n, s in enumerate((asking.authorized, asking.cookie, asking.key)))
        chosen = asking.vary.get("Foo", "-") if "Foo" in (scene.told.vary or ()) else "-"
        return f"{self._log.version}{0 if scene.alike else user}{chosen}".encode() * 3

    def _say(self, call: Call, content: bytes) -> tuple[int, Told, int, bytes]:
        scene = self._scene
        if call.method in UNSAFE:
            return 200, scene.done or Told(), 0, content if scene.done else b""
        if not self.begun:
            scene = Scene(scene.told, ())
        if call.method == "HEAD":
            return 200, scene.headed or scene.told, 0, b""
        tags = call.fields.get("if-none-match") or ""
        if f'"{content[:3].decode()}"' in tags:
            return 304, scene.confirmed or scene.told, 0, b""
        asked = parse_range(call.fields.get("range") or "")
        condition = call.fields.get("if-range")
        if asked and condition in (None, f'"{content[:3].decode()}"'):
            found = model.place(asked[0], len(content))
            if found is not None:
                return 206, scene.part or scene.told, found[0], content[found[0] : found[1]]
        return 200, scene.told, 0, content


# --- the relay on the stage


def is_called_from(name: str, frames: int = 2) -> bool:
    """Whether the function that asks was called by one of this name."""
    return sys._getframe(frames).f_code.co_name == name


class StagedKeeper(Keeper):
    """Stops where others may come between looking and storing."""

    def is_current(self, key: str, began: Moment, *fetched: StoredResponse) -> bool:
        """As ever."""
        found = super().is_current(key, began, *fetched)
        if not is_called_from("_of_shared"):  # which answers at once
            point("looked whether it is current")
        return found


class StagedStore(MemoryStore):
    """Stops behind each writing, and behind each reading that finds something."""

    def read(self, key: str) -> Record | None:
        """As ever."""
        found = super().read(key)
        if found is not None:
            point("read")
        return found

    def write(self, key: str, record: Record) -> None:
        """As ever."""
        super().write(key, record)
        point("written")


class StagedRefresher(Refresher):
    """Whose jobs are actors."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage
        self._busy: set[str] = set()

    def submit(self, key: str, job: Job, demand: int = 1) -> bool:
        """Has the job done by an actor, unless one for its key is about it."""
        if key in self._busy:
            return False
        self._busy.add(key)

        def part() -> None:
            try:
                job()
            except RelayError:
                pass
            finally:
                self._busy.discard(key)

        self._stage.spawn("refresh", part)
        return True


class Channel:
    """What workers tell each other: heard as soon as somebody listens; or what nodes do, `far` from
    each other.
    """

    def __init__(self, far: bool, log: Log) -> None:
        self.far = far
        self.log = log
        self.told = 0
        self.passed_on = 0
        self._ends: list[ChannelEnd] = []
        self._leases: dict[str, StagedLock] = {}

    def end(self) -> ChannelEnd:
        """One worker's end."""
        made = ChannelEnd(self)
        self._ends.append(made)
        return made

    def tell(self, teller: ChannelEnd, message: Message) -> None:
        """All others can hear it."""
        self.told += 1
        now = self.log.tick()
        for end in self._ends:
            if end is not teller:
                end.waiting.append((now, message))

    def lease(self, key: str) -> ChannelLease:
        """Waits for whoever has it."""
        return ChannelLease(self._leases.setdefault(key, StagedLock()), self.far)


class ChannelLease:
    """The right to fetch a key; between nodes news of the last fetch may be on their way."""

    def __init__(self, lock: StagedLock, unheard: bool) -> None:
        self.waited = lock.held
        self.unheard = unheard
        lock.__enter__()
        self._lock: StagedLock | None = lock

    def release(self) -> None:
        """Others may."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.__exit__()


class ChannelEnd(Coordinator):
    """A coordinator of one worker, or of one node."""

    def __init__(self, channel: Channel) -> None:
        self.waiting: list[tuple[int, Message]] = []  # since when
        self.heard: list[tuple[int, int]] = []  # told when, heard when
        self._channel = channel
        self._hearers: list[Hear] = []

    def lease(self, key: str, wait: float) -> Lease | None:
        """The right to fetch a key."""
        return self._channel.lease(key)

    def is_leased(self, name: str) -> bool:
        """Nobody explains here."""
        return False

    def tell(self, message: Message, wait: float = 0.0) -> bool:
        """All others are told."""
        self._channel.tell(self, message)
        return True

    def on_message(self, hear: Hear, near: Hear | None = None) -> None:
        """`hear` is called for what others tell."""
        self._hearers.append(hear)

    def news(self) -> int:
        """Another number whenever workers have told something, or nodes were heard."""
        return self._channel.passed_on if self._channel.far else self._channel.told

    def catch_up(self) -> None:
        """Takes in what other workers have told; what nodes tell comes when it comes."""
        if not self._channel.far:
            self.hear_all()

    def heard_all(self, since: int, until: int) -> int:
        """When all that was told in that time was heard; `NEVER` where some is still to come."""
        if any(since < told <= until for told, _ in self.waiting):
            return NEVER
        return max((at for told, at in self.heard if since < told <= until), default=until)

    def hear_all(self) -> None:
        """What is on its way comes."""
        while self.waiting:
            told, message = self.waiting.pop(0)
            self._channel.passed_on += 1
            self.heard.append((told, self._channel.log.tick()))
            for hear in self._hearers:
                hear(message)

    def bring_all(self, is_over: Callable[[], bool]) -> None:
        """The courier's part."""
        while True:
            point("the way", lambda: bool(self.waiting) or is_over())
            if not self.waiting:
                return
            self.hear_all()

    def close(self) -> None:
        """Nothing is open."""


class SharedShelf(StagedStore):
    """A store that several workers have in common, or several machines that are `far`."""

    shared = True

    def __init__(self, far: bool) -> None:
        super().__init__("memory://", 1 << 20)
        self.quick = not far


class Play:
    """A scene with all that takes part in it, on one stage."""

    def __init__(self, scene: Scene, stage: Stage) -> None:
        self.scene = scene
        self.stage = stage
        self.log = Log()
        self.origin = StampedOrigin(scene, self.log)
        clock = HandClock(START)
        self.upstream = MemoryUpstream(self.origin, clock, point)
        channel = Channel(scene.far, self.log)
        shared = scene.workers > 1
        store = SharedShelf(scene.far) if shared else StagedStore("memory://", 1 << 20)
        self.worlds: list[World] = []
        self.ends = [channel.end() for _ in range(scene.workers)]
        self._left = len(scene.clients)
        for end in self.ends:
            self.worlds.append(
                World(
                    self.upstream,
                    policy_of(scene.rules),
                    clock=clock,
                    store=store,
                    refresher=StagedRefresher(stage),
                    keeper=StagedKeeper,
                    coordinator=end if shared else ALONE,
                    news=end.news if shared else int,
                )
            )
        for number, world in enumerate(self.worlds):
            # As if it had answered before: the first answer of a key tells by what it is selected,
            # and whoever comes just then may make a call of his own.
            world.keeper.facts.remember_selecting(KEY, (ANY_ORIGIN,))
            self._watch(number, world.relay)
        self._begin()
        for number, steps in enumerate(scene.clients):
            stage.spawn("ABCD"[number], self._part(number % scene.workers, steps))
        if scene.far:
            for end in self.ends:
                end.hear_all()
                stage.spawn("courier", partial(end.bring_all, self._is_over))

    def _begin(self) -> None:
        """All that is before the stage."""
        for step in self.scene.before:
            self.take(0, step)
        if self.scene.doubtful:
            self.worlds[0].keeper.invalidate(TARGET)
        if self.scene.cold:
            self.worlds[0].hot.clear()
        self.origin.begun = True
        for noted in (self.log.came, self.log.leads, self.log.follows):
            noted.clear()
        self.said_before = len(self.log.responses)

    def _watch(self, worker: int, relay: Relay) -> None:
        """Notes who comes to ask, who leads, and who follows whom."""
        ask, lead, join, log = relay._ask, relay._lead, relay.flight.join, self.log
        kept = []  # so that no two have the same id

        def watched_ask(*words: Any) -> Answer:
            log.came.append(log.tick())
            point("coming")
            answer = ask(*words)
            assert isinstance(answer, Answer)
            return answer

        def watched_lead(query: Query, leading: Leader, **more: Any) -> Answer:
            log.leads[id(leading.landing)] = log.tick(), worker
            kept.append(leading.landing)
            return lead(query, leading, **more)

        def watched_join(*words: Any) -> Any:
            landing, leads = join(*words)
            if not leads:
                log.follows.append((log.tick(), id(landing)))
            return landing, leads

        vars(relay).update(_ask=watched_ask, _lead=watched_lead)
        vars(relay.flight).update(join=watched_join)

    def _part(self, worker: int, steps: Sequence[Step]) -> Callable[[], None]:
        def part() -> None:
            for step in steps:
                self.take(worker, step)
            self._left -= 1

        return part

    def _is_over(self) -> bool:
        return not self._left

    def take(self, worker: int, step: Step) -> None:
        """A client asks."""
        asking, log, world = step.asking, self.log, self.worlds[worker]
        number = log.begin()
        self.origin.stepping[str(number)] = number, asking
        fields = [*request_fields(asking), ("X-Step", str(number))]
        point("asking")
        if step.at_once:
            world.keeper.catch_up()  # each pass of the event loop begins with that
        asked = log.tick()
        answer = world.answer(asking.method, *fields, at_once=step.at_once)
        answered = log.tick()
        got = taken(asking.method, answer) if isinstance(answer, Answer) else answer
        log.given.append(Given(number, worker, asking, asked, answered, got))


# --- the judge


class Judge:
    """Holds the contract (design.md 4a) against what happened."""

    def __init__(self, play: Play) -> None:
        self._play = play
        self._scene = play.scene
        self._log = play.log
        self.wrong: list[str] = []

    def judge(self) -> list[str]:
        """What is wrong."""
        play = self._play
        self.wrong += [f"{type(error).__name__}: {error}" for error in play.stage.errors]
        if play.stage.stuck:
            self.wrong.append(play.stage.stuck)
            return self.wrong
        self._judge_calls(self._log.responses[play.said_before :])
        if not all(exchange.closed for exchange in play.upstream.exchanges):
            self.wrong.append("a connection is not given back")
        for world in play.worlds:
            if len(world.relay.flight):
                self.wrong.append("a fetch has no end")
        for at, landing in self._log.follows:
            self._judge_following(at, *self._log.leads[landing])
        for given in self._log.given:
            self._judge_given(given)
        for world in play.worlds:
            world.keeper.catch_up()
            entry = world.hot.peek(KEY)
            self._judge_record("memory", entry.record if entry is not None else None)
            self._judge_record("store", world.store.read(KEY))
        return self.wrong

    def _judge_calls(self, said: Sequence[Response]) -> None:
        """One call where what it brings is good for all who had come; two where it is so only for
        those who come no more: all who wait for the first share the second.
        """
        most, log = self._scene.most_calls, self._log
        if most is None or len(said) <= most:
            return
        began = [at for at, _ in [*log.leads.values(), *log.follows]]
        ready = log.came if most == 1 else began
        if sum(at < said[0].at for at in ready) >= len(self._scene.clients):
            self.wrong.append(f"{len(said)} calls")

    def _judge_following(self, at: int, began: int, worker: int) -> None:
        for effect, answered in self._changes(worker):
            if began < effect and answered < at:
                self.wrong.append("somebody joined a fetch from before the change")

    # What a client got...

    def _judge_given(self, given: Given) -> None:
        got = given.got
        who = f"step {given.step}"
        if got.error is not None or not got.whole:
            self.wrong.append(f"{who} got {got.error!r}")
            return
        if given.asking.method in UNSAFE:
            return
        stamp = got.fields.get(STAMP.lower())
        if stamp is None:
            self.wrong.append(f"{who} got no stamp")
            return
        made = self._log.responses[int(stamp)]
        if got.status not in BODILESS and given.asking.method != "HEAD":
            self._judge_body(who, got, made)
        self._judge_owner(who, given, made)
        self._judge_time(who, given, made)
        cookie = got.fields.get("set-cookie")
        if cookie is not None:
            self._judge_cookie(who, given, self._log.responses[int(cookie[2:])])

    def _judge_body(self, who: str, got: Got, made: Response) -> None:
        content = self._content_of(made)
        if got.body != content and not (got.status == 206 and got.body in content):
            self.wrong.append(f"{who} got {got.body!r}, which stamp {made.number} is not about")

    def _content_of(self, made: Response) -> bytes:
        tag = made.told.tag
        if tag is not None:
            return tag.strip('"').encode() * 3
        now, self._log.version = self._log.version, made.version
        try:
            return self._play.origin.content(made.asking)
        finally:
            self._log.version = now

    def _judge_owner(self, who: str, given: Given, made: Response) -> None:
        """Nobody gets what is another's alone."""
        if made.step == given.step:
            return
        if not self._may_be_shared(made):
            self.wrong.append(f"{who} got {made.number}, which was for step {made.step} alone")
        for name in made.told.vary or ():
            if made.asking.says(name) != given.asking.says(name):
                self.wrong.append(f"{who} got {made.number}, which is for another {name}")

    def _judge_cookie(self, who: str, given: Given, made: Response) -> None:
        if made.step != given.step and "public" not in model.directives(made.told):
            self.wrong.append(f"{who} got the cookie of step {made.step}")

    def _judge_time(self, who: str, given: Given, made: Response) -> None:
        """Nobody gets what was made before he asked, unless it was fresh and nothing had made it
        doubtful.
        """
        latest, changes = self._confirmed(made, given.answered), self._changes(given.worker)
        for effect, answered in changes:
            if answered < given.asked and latest < effect:
                self.wrong.append(f"{who} got {made.number}, which is from before the change")
        if made.step == given.step or latest > given.asked and self._own_304(given, made):
            return
        told = given.got.told
        if "collapsed" in told and "ttl=" not in told:
            if any(latest < effect < answered < given.answered for effect, answered in changes):
                self.wrong.append(f"{who} was given {made.number} after the change")
        if latest < given.asked:
            if not any(self._is_fresh_for(given.asking, said) for said in self._news(made)):
                self.wrong.append(f"{who} got {made.number}, made before it asked and not fresh")
        elif all(self._lifetime_for(given.asking, said) is None for said in self._news(made)):
            self.wrong.append(f"{who} got {made.number}, fresh by no word of the origin's")

    def _own_304(self, given: Given, made: Response) -> bool:
        return any(
            said.step == given.step and said.status == 304 and said.version == made.version
            for said in self._log.responses
        )

    def _news(self, made: Response) -> list[Response]:
        """A response, and those that say that what it brought is as it was."""
        tag = made.told.tag
        return [made] + [r for r in self._log.responses if r.status == 304 and r.told.tag == tag]

    def _confirmed(self, made: Response, until: int) -> int:
        """When the origin last said that what this response brought is as it was."""
        return max(said.at for said in self._news(made) if said is made or said.at <= until)

    def _changes(self, worker: int) -> list[tuple[int, int]]:
        """(when the content changed, when one worker's clients may know it): when the client that
        changed it has its answer, and at another node what was told until then is heard.
        """
        by_step = {given.step: given for given in self._log.given}
        found = []
        for said in self._log.responses:
            changing = by_step.get(said.step or 0)
            if said.asking.method in UNSAFE and changing is not None:
                known = changing.answered
                if self._scene.far and changing.worker != worker:
                    end = self._play.ends[worker]
                    known = max(known, end.heard_all(said.at, changing.answered))
                found.append((said.at, known))
        return found

    # ...and what is kept.

    def _judge_record(self, where: str, record: Record | None) -> None:
        for stored in record.variants if record is not None else ():
            self._judge_stored(where, stored)

    def _judge_stored(self, where: str, stored: StoredResponse) -> None:
        made = self._log.responses[int(stored.fields.get(STAMP.lower()) or 0)]
        if not self._may_be_shared(made):
            self.wrong.append(f"the {where} has {made.number}, which is for one alone")
        if "set-cookie" in stored.fields and "public" not in model.directives(made.told):
            self.wrong.append(f"the {where} has a cookie")
        latest = self._confirmed(made, NEVER)
        if stored.must_validate:
            return
        if not any(self._is_fresh_for(Asking(), said) for said in self._news(made)):
            return
        if any(latest < effect for effect, _ in self._changes(0)):
            self.wrong.append(f"the {where} has {made.number} as fresh from before the change")

    # Words of the model.

    def _may_be_shared(self, made: Response) -> bool:
        status = 200 if made.status == 304 else made.status
        return model.may_be_shared(made.asking, status, made.told, START, self._scene.rules)

    def _lifetime_for(self, asking: Asking, made: Response) -> float | None:
        kept = model.Kept(200, made.told, b"", START, {})
        return model.lifetime_for(asking, kept, self._scene.rules)

    def _is_fresh_for(self, asking: Asking, made: Response) -> bool:
        said = model.directives(made.told)
        if "no-cache" in said:
            return False
        lifetime = self._lifetime_for(asking, made)
        return lifetime is not None and (lifetime > 0 or "stale-while-revalidate" in said)


# --- all orders


class Found(NamedTuple):
    """How many orders were played, and what is wrong with the first bad one."""

    orders: int
    wrong: list[str]
    played: list[str]


@contextmanager
def staged_modules() -> Iterator[None]:
    """The relay's own threads, locks and events are those of the stage."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(flight, "threading", Staged(locks=False)))
        stack.enter_context(mock.patch.object(shared_body, "threading", Staged(locks=False)))
        stack.enter_context(mock.patch.object(keeping, "threading", Staged(locks=True)))
        yield


def explore(scene: Scene, switches: int = 2, most: int = 2000) -> Found:
    """Plays a scene in every order with at most so many switches from one who could have gone on,
    until something is wrong.
    """
    plays: list[Play] = []

    def prepare(stage: Stage) -> None:
        plays[:] = [Play(scene, stage)]

    orders = 0
    with staged_modules():
        for stage in performances(prepare, switches, most):
            orders += 1
            wrong = Judge(plays[0]).judge()
            if wrong:
                return Found(orders, wrong, stage.played)
    return Found(orders, [], [])
