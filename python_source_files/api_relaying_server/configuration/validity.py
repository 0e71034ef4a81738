"""From when to when a certificate is valid (RFC 5280, 4.1.2.5), read from its own bytes: the
library tells it only of certificates that it has checked. This file must not know a clock.
"""

from __future__ import annotations

import ssl
from datetime import datetime, timezone
from typing import NamedTuple

_END = "-----END CERTIFICATE-----"
_SEQUENCE, _UTC_TIME, _GENERALIZED_TIME, _VERSION = 0x30, 0x17, 0x18, 0xA0


class Validity(NamedTuple):
    """The first and the last second, in Unix time."""

    begin: float
    end: float

    def fault(self, now: float) -> str:
        """What is wrong with it at this time; empty where nothing is."""
        if now > self.end:
            return f"expired at {shown(self.end)}"
        return f"is valid only from {shown(self.begin)} on" if now < self.begin else ""


def shown(moment: float) -> str:
    """A time as RFC 3339 writes it."""
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def validity_of(pem: bytes) -> Validity:
    """That of the first certificate in a text. Raises ValueError where it cannot be read."""
    text = pem.decode("ascii", "replace")
    begin, end = text.find("-----BEGIN CERTIFICATE-----"), text.find(_END)
    if not 0 <= begin < end:
        raise ValueError("no certificate")
    data = ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)])
    certificate = _Elements(data).enter()
    signed = certificate.enter()
    if signed.tag == _VERSION:
        signed.skip()
    for _ in ("serial number", "algorithm", "issuer"):
        signed.skip()
    times = signed.enter()
    return Validity(times.moment(), times.moment())


class _Elements:
    """Elements of DER, one behind the other."""

    def __init__(self, data: bytes) -> None:
        self._left = data

    @property
    def tag(self) -> int:
        """The kind of the next one."""
        if len(self._left) < 2:
            raise ValueError("it ends too early")
        return self._left[0]

    def skip(self) -> bytes:
        """Passes the next one; its content."""
        if self.tag & 0x1F == 0x1F:
            raise ValueError("a tag of several bytes")
        length, at = self._left[1], 2
        if length & 0x80:
            at += length & 0x7F
            length = int.from_bytes(self._left[2:at], "big")
        content, self._left = self._left[at : at + length], self._left[at + length :]
        if len(content) < length:
            raise ValueError("it ends too early")
        return content

    def enter(self) -> _Elements:
        """The elements in the next one, a sequence."""
        if self.tag != _SEQUENCE:
            raise ValueError("no sequence")
        return _Elements(self.skip())

    def moment(self) -> float:
        """The next one, a time."""
        tag = self.tag
        text = self.skip().decode("ascii", "replace")
        if tag == _UTC_TIME:
            text = ("20" if text[:2] < "50" else "19") + text
        elif tag != _GENERALIZED_TIME:
            raise ValueError("no time")
        return datetime.strptime(text + "+0000", "%Y%m%d%H%M%SZ%z").timestamp()
