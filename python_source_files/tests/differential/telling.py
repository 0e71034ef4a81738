"""How a violation is told: the rule, the answer, what happened to its target, and how to replay."""

from __future__ import annotations

from .events import Answer, Asked, content_in
from .model import Case, Violation
from .origin import UNSAFE
from .world import Chapter, World

AROUND = 6
"""Answers of the origin that are told beside those that the answer is made of."""


def told(violation: Violation, chapter: Chapter, world: World) -> str:
    """A violation with what happened to its target, as far as it matters."""
    event = violation.event
    lines = [f"BROKEN {violation.rule}: {violation.why}"]
    lines.append(f"  {world.command(chapter.seed, chapter.seconds)}")
    answers = [a for a in chapter.log.by_target[event.target] if a.arrived <= event.ended]
    content = content_in(event.body) if isinstance(event, Asked) else None
    serial = int(event.get("x-serial") or 0)
    part = [a for a in answers if a.serial == serial or (a.content == content and a.status != 304)]
    matter = {a.serial: a for a in [*part[-AROUND:], *answers[-AROUND:]]}
    numbers = {a.seen.get("x-number") for a in part[-AROUND:]}
    events = [(a.arrived, _answer(a, chapter.began)) for a in matter.values()]
    for asked in chapter.log.asked:
        if asked.target == event.target and asked.began <= event.ended:
            here = "=>" if asked is event else "  "
            changes = asked.method in UNSAFE and asked.get("x-serial") is not None
            if asked is event or changes or str(asked.number) in numbers:
                events.append((asked.began, here + _asked(asked, chapter.began)))
    if isinstance(event, Asked) and violation.rule in ("refused", "stale", "validate"):
        mine = Case(event, chapter.log, world.setting).mine
        for answer, theirs, _ in [f for f in chapter.log.failed if f.answer.sent < event.ended][
            -20:
        ]:
            if theirs == mine and answer.serial not in matter:
                events.append((answer.arrived, _answer(answer, chapter.began)))
    events.sort(key=lambda pair: pair[0])
    return "\n".join([*lines, *(f"  {text}" for _, text in events)])


def _asked(asked: Asked, began: float) -> str:
    shown = ("cache-status", "age", "x-serial", "content-encoding", "content-range", "etag")
    got = ", ".join(f"{n}: {asked.get(n)}" for n in shown if asked.get(n) is not None)
    number = f" #{asked.number}" if asked.number else ""
    name = asked.body[:70].partition(b"\n")[0]
    return (
        f"{asked.began - began:7.3f} to {asked.ended - began:7.3f} client{number} of node"
        f" {asked.node} from {asked.address}: {asked.method} {asked.target} {asked.sent}"
        f" -> {asked.outcome} {asked.status} [{got}] {name!r}"
    )


def _answer(answer: Answer, began: float) -> str:
    hidden = ("x-at", "x-seen", "date", "x-serial", "accept-ranges", "content-type")
    said = ", ".join(f"{n}: {v}" for n, v in answer.fields if n.lower() not in hidden)
    seen = {
        name: value
        for name, value in answer.seen.items()
        if name not in ("host", "via", "connection", "user-agent", "x-forwarded-proto")
    }
    return (
        f"  {answer.arrived - began:7.3f} sent {answer.sent - began:7.3f} origin {answer.serial}:"
        f" {answer.method} {answer.target} {seen} -> {answer.status} [{said}] {answer.content!r}"
        f"{'' if answer.whole else ' BROKE OFF'}"
    )
