"""`--check --ask`: whether the upstream answers, by one call sent as the relay sends its own."""

from __future__ import annotations

import time
from contextlib import closing

from api_relaying_server.assembly import upstream_for_one_call
from api_relaying_server.checking import Findings
from api_relaying_server.configuration.validity import shown
from api_relaying_server.errors import UpstreamError, UpstreamTlsError
from api_relaying_server.http1.fields import PSEUDONYM
from api_relaying_server.settings import Settings, place_of
from api_relaying_server.upstream.exchange import UpstreamRequest

_DENIED = (401, 403)


def ask(settings: Settings) -> Findings:
    """What became of one `GET` of the base path. The sample is not running, and with `--offline`
    nothing is asked.
    """
    if settings.demo or settings.offline:
        which = Settings.demo if settings.demo else Settings.offline
        return Findings([], [f"{place_of(which, settings.written)}: there is nothing to ask"])
    place = place_of(Settings.upstream, settings.written)
    began = time.monotonic()
    try:
        status, ends = _answer(settings)
    except UpstreamError as wrong:
        why = wrong.detail or wrong.title
        if isinstance(wrong, UpstreamTlsError):
            why += f" ({wrong.__cause__})"  # who asks here may know
        return Findings([f"{place}: no answer: {why}"], [])
    took = time.monotonic() - began
    if status >= 500:
        return Findings([f"{place}: the upstream answered {status}; is it well?"], [])
    own = settings.upstream_header
    if status in _DENIED and own:
        place = place_of(Settings.upstream_header, settings.written)
        names = ", ".join(field.name for field in own)
        fault = f"{place}: the upstream answered {status} to {names}; is it still valid?"
        return Findings([fault], [])
    until = f"; its certificate is valid until {shown(ends)}" if ends is not None else ""
    return Findings([], [f"{place}: the upstream answered {status} after {took:.2f} s{until}"])


def _answer(settings: Settings) -> tuple[int, float | None]:
    """The status, and when the upstream's certificate ends (Unix time); None where it has none."""
    upstream = upstream_for_one_call(settings, settings.upstream)
    base = upstream.base
    fields = [("Host", base.authority), ("User-Agent", f"{PSEUDONYM}-check"), ("Accept", "*/*")]
    fetch = upstream.fetch(UpstreamRequest("GET", base.path or "/", fields))
    with closing(fetch.exchange):
        return fetch.exchange.head.status, fetch.exchange.certificate_ends()
