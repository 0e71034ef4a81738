"""The route to the upstream as an operator writes it: files of certificates and keys in PEM, which
are read now, and the URL of an HTTP proxy, whose password no message from here quotes.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes, urlsplit

from api_relaying_server.configuration.files import FileContent, read_file
from api_relaying_server.configuration.setting import Given
from api_relaying_server.configuration.values import host as parse_host
from api_relaying_server.errors import ConfigError
from api_relaying_server.upstream.route import HttpProxy

LARGEST = 4 * 1024**2
"""Bytes of the largest file: twenty times what all public authorities take."""

_KEY = re.compile(b"-----BEGIN ([A-Z]+ )?PRIVATE KEY-----")
_FILES = ("upstream_ca", "upstream_cert", "upstream_key")
_PROXY_MEND = "give one such as http://proxy.example.org:3128"


def certificate_file(text: str) -> FileContent:
    """A file of one or more certificates in PEM. ValueError says what is wrong with it."""
    from api_relaying_server.upstream.tls import certificates_in

    mend = "give a file of certificates in PEM"
    found = _read(text, mend)
    try:
        certificates_in(found.content)
    except ValueError as wrong:
        raise ValueError(f"{found.path} is not a certificate ({wrong}); {mend}") from None
    return found


def key_file(text: str) -> FileContent:
    """A file with a private key in PEM. ValueError says what is wrong with it."""
    mend = "give a file with a private key in PEM"
    found = _read(text, mend)
    if _KEY.search(found.content) is None:
        raise ValueError(f"{found.path} is not a private key; {mend}")
    return found


def _read(text: str, mend: str) -> FileContent:
    try:
        return read_file(text, LARGEST)
    except ValueError as wrong:
        raise ValueError(f"{wrong}; {mend}") from None


def proxy_url(text: str) -> HttpProxy:
    """The proxy at `http://[NAME:PASSWORD@]HOST[:PORT]`. ValueError says what is wrong."""
    scheme, separator, rest = text.partition("://")
    if scheme.lower() != "http" or not separator:
        _refuse_proxy("is not the http URL of a proxy; https and socks proxies are not supported")
    userinfo, at, place = rest.rpartition("@")
    try:
        parts = urlsplit(f"http://{place}")
        port = 80 if parts.port is None else parts.port
        host = parse_host(parts.hostname or "")
    except ValueError:
        _refuse_proxy("has no valid host and port")
    if port == 0 or parts.path not in ("", "/") or "?" in place or "#" in place:
        _refuse_proxy("has more than a host and a port" if port else "has no valid host and port")
    return HttpProxy(host, port, _basic(userinfo) if at else "")


def _basic(userinfo: str) -> str:
    """What says name and password to a proxy (RFC 7617); letters may be written as %XX."""
    if re.search("[/?#\ud800-\udfff]", userinfo):
        _refuse_proxy("has a name or password with letters to be written as %XX")
    name, _, password = (unquote_to_bytes(part) for part in userinfo.partition(":"))
    if b":" in name or re.search(rb"[\x00-\x1f\x7f]", name + password):
        _refuse_proxy("has a name or password that cannot be sent")
    return "Basic " + base64.b64encode(name + b":" + password).decode("ascii")


def _refuse_proxy(why: str) -> NoReturn:
    raise ValueError(f"the URL {why}; {_PROXY_MEND}")  # not quoted: it may hold a password


def refuse_wrong_route(as_dict: Mapping[str, Any], given: Mapping[str, Given]) -> None:
    """Raises ConfigError where the settings of the route do not go with each other."""
    is_demo, upstream = as_dict.get("demo"), as_dict["upstream"]
    if is_demo and "upstream_proxy" in given:
        place = given["upstream_proxy"].place
        raise ConfigError(f"{place}: the sample API is reached without a proxy; remove it")
    for name in _FILES:
        if name in given and (is_demo or not upstream.startswith("https:")):
            raise ConfigError(
                f"{given[name].place}: the upstream is reached without TLS; "
                "remove it, or give an upstream whose URL begins with https"
            )
    certificate, key = as_dict.get("upstream_cert"), as_dict.get("upstream_key")
    if certificate is None and key is not None:
        raise ConfigError(
            f"{given['upstream_key'].place}: is of no use without its certificate; "
            "give --upstream-cert too"
        )
    if certificate is not None:
        try:
            _check_pair(certificate, key)
        except ValueError as wrong:
            place = given["upstream_cert" if key is None else "upstream_key"].place
            raise ConfigError(f"{place}: {(key or certificate).path} {wrong}") from None


def _check_pair(certificate: FileContent, key: FileContent | None) -> None:
    """ValueError says what is wrong with the key."""
    from ssl import PROTOCOL_TLS_CLIENT, SSLContext

    from api_relaying_server.upstream.tls import show_certificate

    if key is None and _KEY.search(certificate.content) is None:
        raise ValueError("holds no private key; give --upstream-key too")
    content = None if key is None else key.content
    show_certificate(SSLContext(PROTOCOL_TLS_CLIENT), certificate.content, content)
