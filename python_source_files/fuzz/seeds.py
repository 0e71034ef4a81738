"""Where mutation begins: the probes of the wire, a record, a file of settings, and the corpus."""

from __future__ import annotations

from pathlib import Path
from typing import Callable

from api_relaying_server.caching.stored import Record, StoredResponse
from api_relaying_server.http1.message import Fields
from api_relaying_server.stores.record import dumps
from tests.wire_faults import FAULTS
from tests.wire_probes import CHUNKS, REFUSED, SERVED

CORPUS = Path(__file__).parent / "corpus"

LONGEST = 1024
"""Bytes of the longest seed: small ones are mutated faster."""

_SETTINGS = b"""\
port = 8000
demo = true
ttl = ["/a/*=1h", "*=60"]
cache = "memory://"
max-body = "1MiB"
upstream-rate = "5/s"
"""


def seeds(target: str) -> list[bytes]:
    """The inputs that a target is tried with first."""
    made = _MADE[target]()
    kept = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    return list(dict.fromkeys(seed for seed in made + kept if len(seed) <= LONGEST))


def _heads() -> list[bytes]:
    probes = [probe.data for probe in REFUSED] + [probe.data for probe in SERVED]
    return [data.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" for data in probes]


def _bodies() -> list[bytes]:
    sent = [probe.data for probe in CHUNKS]
    sent += [probe.data for probe in SERVED if b"chunked" in probe.data.lower()]
    return [b"\x07" + data.partition(b"\r\n\r\n")[2] for data in sent]


def _responses() -> list[bytes]:
    return [b"\x40\x00" + b"".join(fault.sent) for fault in FAULTS]


def _records() -> list[bytes]:
    fields = Fields([("Content-Type", "text/plain"), ("ETag", '"a"')])
    variant = StoredResponse(200, "OK", fields, b"hello", 1.0, 2.5, (("accept", "a"),), 0, 5)
    placed = Fields([("Content-Range", "bytes 2-6/9"), ("Content-Length", "5")])
    part = variant.changed(status=206, fields=placed, first=2, complete_length=9)
    whole = dumps(Record((variant, part.changed(must_validate=True)), 60.0))
    formed = dumps(Record((variant.changed(forms=(("gzip", b"hi"), ("br", b""))),), 60.0))
    head, bodies = whole[12:-10], whole[-10:]
    return [whole, whole[8:], formed[8:], head + b"\0" + bodies]


def _settings() -> list[bytes]:
    return [_SETTINGS, *(line + b"\n" for line in _SETTINGS.splitlines())]


_MADE: dict[str, Callable[[], list[bytes]]] = {
    "request_head": _heads,
    "chunked_body": _bodies,
    "response": _responses,
    "record": _records,
    "config_file": _settings,
}
