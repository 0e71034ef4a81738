"""How a violation is told: the rule, the answer, what happened to its target, and how to replay."""

from __future__ import annotations

from .events import Answer, Asked
from .world import Chapter, World
from .model import Violation

AROUND = 14
"""Events of the target that are told, the last ones up to the answer's end."""


def told(violation: Violation, chapter: Chapter, world: World) -> str:
    """A violation with the history of its target."""
    event = violation.event
    lines = [f"BROKEN {violation.rule}: {violation.why}"]
    lines.append(f"  {world.command(chapter.seed, chapter.seconds)}")
    events: list[tuple[float, str]] = []
    for answer in chapter.log.by_target[event.target]:
        if answer.arrived <= event.ended:
            events.append((answer.arrived, _answer(answer, chapter.began)))
    for asked in chapter.log.asked:
        if asked.target == event.target and asked.began <= event.ended:
            here = "=>" if asked is event else "  "
            events.append((asked.began, here + _asked(asked, chapter.began)))
    events.sort(key=lambda pair: pair[0])
    lines += [f"  {text}" for _, text in events[-AROUND:]]
    base = chapter.log.by_serial.get(int(event.get("x-serial") or 0))
    if base is not None and _answer(base, chapter.began) not in "\n".join(lines):
        lines.append(f"  its fields are from: {_answer(base, chapter.began)}")
    return "\n".join(lines)


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
        f" {answer.method} {seen} -> {answer.status} [{said}] {answer.content!r}"
        f"{'' if answer.whole else ' BROKE OFF'}"
    )
