"""Request fields by which proxies tell who their client is, how it came, and where it has asked.

From a client that is no trusted proxy they are mere words.
"""

from __future__ import annotations

import re
from functools import lru_cache

_PLACE = re.compile(
    r"proxy|forwarded|x-forwarded|x-forwarded-(?:by|host|path|port|prefix|server|ur[il]).*"
    r"|x-(?:original|rewrite)-(?:host|path|ur[il])|x-host|x-http-(?:destinationurl|host-override)"
    r"|x-(?:forward|proxy|backend)-host|base-url|x-script-name|x-envoy-original-path"
    r"|x-sendfile-type|x-accel-.*|x-middleware-.*"
)
"""Fields that tell an upstream where it is: it may build links or route by them, and then one
client would write into everybody's answer. `Proxy` becomes HTTP_PROXY behind CGI; the last are
words between a server and its own front. No one's goes on.
"""

_CLIENT = re.compile(
    r"x-forwarded-.*|x-original-(?:forwarded-)?(?:for|proto)|x-envoy-external-address"
    r"|front-end-https|(?:x-)?(?:url-)?scheme|x-arr-ssl|cf-visitor|fastly-ssl"
    r"|.+-forwarded-(?:for|proto)"
    r"|(?:.+-)?(?:client|cluster|connecting|originating|proxyuser|real|remote|socket|source|user)"
    r"-?(?:ip|ipv4|ipv6|addr|address)"
)
"""Fields by which a proxy tells who its client is and how it came. A trusted one's go on."""


_LONGEST_NAME = 64
"""Characters of the longest name that is one of those."""


def names_a_place(name: str) -> bool:
    """True for the (lower-case) name of a field that tells an upstream where it is."""
    return _names_a_place(name) if len(name) <= _LONGEST_NAME else name.startswith("x-forwarded-")


def names_a_client(name: str) -> bool:
    """True for the (lower-case) name of a field by which a proxy tells who its client is."""
    return _names_a_client(name) if len(name) <= _LONGEST_NAME else name.startswith("x-forwarded-")


@lru_cache(maxsize=1024)
def _names_a_place(name: str) -> bool:
    return _PLACE.fullmatch(name) is not None


@lru_cache(maxsize=1024)
def _names_a_client(name: str) -> bool:
    return _CLIENT.fullmatch(name) is not None
