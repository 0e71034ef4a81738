"""The RFCs as a table: what they ask of a shared cache, the rule, and the test that shows it.

The table is `rfc_table.txt`. `docs/conformance.md` is made from it and from what the public suite
has to give:

    python -m tests.rfc_table > ../docs/conformance.md

A test asserts that the page is what this module makes, and that every rule and every test exists.
Requirements are told in our own words; a level in brackets is one that the RFC states without a
keyword.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path(__file__).with_suffix(".txt")
PAGE = ROOT / "docs" / "conformance.md"
SUITE = ROOT / ".ci" / "conformance.json"


class Row(NamedTuple):
    """One requirement: paragraph, level, meaning, the rule's function, the tests that show it.

    Tests are named module.Class.test, without the leading `tests.test_`.
    """

    paragraph: str
    level: str
    meaning: str
    rule: str
    tests: tuple[str, ...]


class Part(NamedTuple):
    """An RFC with its rows."""

    rfc: str
    title: str
    rows: list[Row]


def read_table() -> list[Part]:
    """The parts of the table. ValueError names the line that is none of it."""
    parts: list[Part] = []
    head: list[str] = []
    for number, line in enumerate(TABLE.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        if line.startswith("= "):
            rfc, _, title = line[2:].partition(": ")
            parts.append(Part(rfc, title, []))
        elif not line.startswith(" ") and not head:
            head = [cell.strip() for cell in line.split("|")]
        elif line.startswith(" ") and len(head) == 3:
            rule, _, tests = line.strip().partition(": ")
            parts[-1].rows.append(Row(head[0], head[1], head[2], rule, tuple(tests.split(", "))))
            head = []
        else:
            raise ValueError(f"{TABLE.name}, line {number}: neither requirement nor rule")
    return parts


PARTS = read_table()

OWN_READING = (
    (
        "RFC 9111, 3.1",
        "asks to keep all fields. `Set-Cookie` is left out of what is stored, as if `private` "
        "named it, unless the origin says `public`: a cookie belongs to the client that got it.",
    ),
    (
        "RFC 9111, 3.5",
        "is about `Authorization`. Here `Cookie` and keys in fields of other names count as "
        "credentials, too, and freshness that the origin did not give is for requests without any.",
    ),
    (
        "RFC 9111, 4.3.5",
        "asks to update what is stored by a HEAD that agrees with it. The relay sends a HEAD only "
        "where what is stored has no validator. Nothing then shows that the content is the same, "
        "so it updates nothing, and a stored response that it contradicts must be validated.",
    ),
    (
        "RFC 9111, 5.2",
        "asks a proxy to pass on the cache directives of requests. Without `--client-refresh` "
        "the relay keeps `Cache-Control` and `Pragma` of clients to itself: to some upstreams "
        "they mean costly work, and sparing the upstream is what the relay is for. With it "
        "they are passed on.",
    ),
    (
        "RFC 9111, 4.3.4",
        "lets a 304 without any validator update the only stored response if that has none either. "
        "Here it updates the one that alone was asked about, though it has one: the 304 answers "
        "the question whether that one is still current, and many servers leave out the rest.",
    ),
    (
        "RFC 9111, 4.2.1",
        "lets the origin set the lifetime. `--ttl` and `--max-ttl` set or shorten it by path: "
        "the operator's explicit configuration comes first, and clients get the shortened "
        "`max-age`.",
    ),
    (
        "RFC 9110, 12.5.3",
        "lets a cache send coded content to a client that sends no `Accept-Encoding`. The "
        "relay does not: a client that cannot decode sends none.",
    ),
)
"""Where the relay does otherwise, and why."""


def page() -> str:
    """The whole of `docs/conformance.md`."""
    return "\n".join([*_head(), *_exceptions(), *_own_reading(), *_tables()]) + "\n"


def _head() -> Iterator[str]:
    suite = json.loads(SUITE.read_text(encoding="utf-8"))
    yield f"""\
# Conformance

How correct the relay's caching is, and how that is shown. This page is made by
`python_source_files/tests/rfc_table.py`; tests check that it is up to date, and that every rule
and every test named here exists and runs.

## The public suite

`.ci/conformance` runs `{suite["suite"]}`, the suite with which the known HTTP caches are
measured, against a relay with SQLite and against one with `memory://`. A *required* test that
fails breaks the specification, an *optimal* one misses a chance to reuse, a *check* records what
is neither good nor bad. Tests for browsers alone do not count.

| kind | passed | of |
|---|---|---|"""
    for kind, (passed, total) in suite["score"].items():
        yield f"| {kind} | {passed} | {total} |"
    yield """
The score is the same for both stores. Flags of the relay may follow: `.ci/conformance -- FLAGS`.

With two workers, and with databases that nodes share, it is the same:

    .ci/conformance --store sqlite --store memory --store redis -- --workers 2
    .ci/conformance --store redis --store mongodb

With MongoDB and two workers it is the same while the database answers within the relay's limit of
50 ms. `nx-27017`, which stands in for MongoDB, does not always do so on a busy machine. Then the
relay goes on without it, logs that, and a few more tests may fail."""


def _exceptions() -> Iterator[str]:
    exceptions: dict[str, str] = json.loads(SUITE.read_text(encoding="utf-8"))["exceptions"]
    reasons: dict[str, list[str]] = {}
    for test, why in exceptions.items():
        reasons.setdefault(why, []).append(f"`{test}`")
    yield """
### Where the suite and the RFC differ

These tests fail, and have to: the RFC wins. Any other failure fails the run, and so does a test
of this list that passes.

| tests | why |
|---|---|"""
    for why, tests in reasons.items():
        yield f"| {', '.join(tests)} | {_cell(why)} |"


def _own_reading() -> Iterator[str]:
    yield "\n## Where the relay goes its own way\n"
    for paragraph, text in OWN_READING:
        line = f"- **{paragraph}** {text}"
        yield textwrap.fill(line, 98, subsequent_indent="  ", break_on_hyphens=False)


def _tables() -> Iterator[str]:
    yield """
## The RFCs, sentence by sentence

Each row is a requirement in our words. Levels in capitals are the RFC's keywords, those in
brackets are statements without one. Rules are functions below `api_relaying_server`, tests are in
`python_source_files/tests`. Beside them stand two that hold everything at once:
`test_caching_model` plays whole histories against a second, slow implementation, and
`test_any_field` puts any bytes into any field."""
    for part in PARTS:
        yield f"\n### {part.rfc}: {part.title}\n"
        yield "| paragraph | level | requirement | rule | shown by |"
        yield "|---|---|---|---|---|"
        for one in part.rows:
            tests = ", ".join(f"`test_{name}`" for name in one.tests)
            cells = (one.paragraph, one.level, one.meaning, f"`{one.rule}`", tests)
            yield f"| {' | '.join(map(_cell, cells))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
