"""Our exceptions. Each one that a client can meet knows its HTTP status and how it is told (RFC
9457, RFC 9209).
"""

from __future__ import annotations

import errno
import math

_LONGEST_CHAIN = 10
"""Causes of an error that are looked at."""

_LACKS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS))


def is_own_lack(error: BaseException | None) -> bool:
    """True where an error, or what caused it, is that this process or machine has no descriptor,
    memory or thread left.
    """
    for _ in range(_LONGEST_CHAIN):
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in _LACKS:
            return True
        if isinstance(error, RuntimeError) and "start new thread" in str(error):
            return True
        if error is None:
            break
        error = error.__cause__
    return False


class RelayError(Exception):
    """Something that ends in an answer of the relay's own.

    `status` is the HTTP status, `title` the short human text of the problem document, `detail`
    what happened this time, `proxy_error` the error type of `Proxy-Status` (RFC 9209, 2.3) where
    there is one, `retry_after` whole seconds.
    """

    status = 500
    title = "Internal error"
    proxy_error: str | None = None

    def __init__(
        self, detail: str = "", *, retry_after: int | None = None, status: int | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        if status is not None:
            self.status = status

    def __copy__(self) -> RelayError:
        """The same error, not raised yet, whatever its class is made from."""
        made = type(self).__new__(type(self), *self.args)
        made.__dict__.update(self.__dict__)
        return made


class BadRequest(RelayError):
    """The request is malformed or means something that a strict server must not guess (RFC
    9112).
    """

    status = 400
    title = "Malformed request"
    proxy_error = "http_request_error"


class NotAllowed(RelayError):
    """The operator does not let this request through (RFC 9209, 2.3.24)."""

    status = 403
    title = "Not allowed"
    proxy_error = "http_request_denied"


class LoopDetected(RelayError):
    """The request has come through this relay again and again (RFC 9110, 7.6.3; RFC 5842, 7.2)."""

    status = 508
    title = "The request goes round in a circle"
    proxy_error = "proxy_loop_detected"


class NotCached(RelayError):
    """Only a stored response was wanted, and none fits (RFC 9111, 5.2.1.7)."""

    status = 504
    title = "Not in the cache"


class Overloaded(RelayError):
    """The relay has as many requests in hand as it may."""

    status = 503
    title = "Too many requests in hand"
    proxy_error = "connection_limit_reached"


class UpstreamError(RelayError):
    """The upstream did not give an answer that may be passed on.

    `reason` is a token that says why in `Cache-Status`, where `proxy_error` does not say it well.
    `concerns_all` tells that any other call would have met it too; else it may be about this one
    request, and nobody else is to bear it.
    """

    status = 502
    title = "The upstream failed"
    proxy_error = "http_protocol_error"
    reason: str | None = None
    concerns_all = False


class UpstreamRefused(UpstreamError):
    """No connection to the upstream could be made."""

    title = "The upstream cannot be reached"
    proxy_error = "connection_refused"
    concerns_all = True


class UpstreamNameUnknown(UpstreamError):
    """The upstream's name does not resolve."""

    title = "The upstream's name is not known"
    proxy_error = "dns_error"
    concerns_all = True


class UpstreamTimeout(UpstreamError):
    """The upstream did not answer within its time: it may be this one target that takes so long."""

    status = 504
    title = "The upstream took too long"
    proxy_error = "http_response_timeout"


class UpstreamConnectTimeout(UpstreamTimeout):
    """The upstream did not accept a connection within its time."""

    proxy_error = "connection_timeout"
    concerns_all = True


class UpstreamCut(UpstreamError):
    """The upstream closed the connection before its answer was whole."""

    title = "The upstream's answer was cut"
    proxy_error = "http_response_incomplete"


class UpstreamNameTimeout(UpstreamConnectTimeout):
    """The upstream's name was not resolved within its time."""

    proxy_error = "dns_timeout"


class UpstreamTlsError(UpstreamError):
    """The TLS handshake with the upstream failed."""

    title = "No secure connection to the upstream"
    proxy_error = "tls_protocol_error"
    concerns_all = True


class UpstreamCertificateError(UpstreamTlsError):
    """The upstream's certificate is of nobody we trust, of another name, or expired."""

    proxy_error = "tls_certificate_error"


class UpstreamTlsAlert(UpstreamTlsError):
    """The upstream ended TLS with an alert, such as for want of a certificate of ours."""

    proxy_error = "tls_alert_received"


class ProxyFailed(UpstreamError):
    """The HTTP proxy on the way to the upstream did not let a call through."""

    title = "The proxy before the upstream failed"
    proxy_error = "destination_unavailable"
    concerns_all = True


class ProxyWantsCredentials(ProxyFailed):
    """That proxy answered 407: it wants credentials, or others."""

    proxy_error = "proxy_configuration_error"


class UpstreamPaused(UpstreamError):
    """Calls to the upstream are paused: a cool-down, or its budget is spent; `retry_after` is
    known.
    """

    status = 503
    title = "Calls to the upstream are paused"
    proxy_error = "destination_unavailable"

    def __init__(
        self, detail: str, reason: str, seconds: float, *, concerns_all: bool = True
    ) -> None:
        # Whole seconds, at least one: who came back sooner would be refused again.
        super().__init__(detail, retry_after=max(1, math.ceil(seconds)))
        self.reason = reason
        self.concerns_all = concerns_all


class LackOfOwn(UpstreamError):
    """The relay has no descriptor, memory or thread for a call: the upstream is not to blame."""

    status = 503
    title = "The relay has too much in hand"
    proxy_error = "proxy_internal_error"
    reason = "own-lack"
    concerns_all = True

    def __init__(self, detail: str = "") -> None:
        super().__init__(f"what a call needs is lacking here: {detail}", retry_after=1)


class ClientGone(Exception):
    """The client closed its connection, or takes or sends nothing any more, or is sent away."""


class ConfigError(Exception):
    """A setting is wrong; the text names it and the mend."""


class UsageError(ConfigError):
    """A setting names what cannot be used, whatever the relay does: wrong usage."""


def own_lack(error: BaseException | None) -> Overloaded | None:
    """What a client is told where this process has run out of memory or threads, which is nobody
    else's fault and no bug; None for any other error.
    """
    if isinstance(error, MemoryError):
        return Overloaded("the relay is out of memory", retry_after=1)
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return Overloaded("the relay can start no thread", retry_after=1)
    return None
