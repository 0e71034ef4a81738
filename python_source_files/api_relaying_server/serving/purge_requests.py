"""`PURGE` on the main port: who may send it, and what it is answered.

It never goes upstream, whatever its letters' case. Who sends it is judged by the peer's address.
Where the request came through a proxy, the peer's address is the proxy's, and anybody may have sent
it: then it counts only from a proxy that is trusted, by the address that this one names.
"""

from __future__ import annotations

from typing import Callable

from api_relaying_server.caching.purging import PURGED_GROUPS, PurgeRule, groups_to_purge
from api_relaying_server.errors import BadRequest, NotAllowed
from api_relaying_server.http1.fields import names_a_client
from api_relaying_server.http1.message import Fields, RequestHead
from api_relaying_server.relaying.answer import Answer
from api_relaying_server.serving.peers import TrustedPeers
from api_relaying_server.serving.problems import json_answer
from api_relaying_server.upstream.translation import Client

_OF_PROXIES = frozenset(("forwarded", "via"))


class PurgeRequests:
    """Answers the requests to purge; `purge` does it, and tells of how many targets something was
    stored.
    """

    def __init__(
        self, purge: Callable[[PurgeRule], int], allowed: TrustedPeers, proxies: TrustedPeers
    ) -> None:
        self._purge = purge
        self._allowed = allowed
        self._proxies = proxies

    def answer(self, request: RequestHead, client: Client) -> Answer:
        """The answer to a PURGE. Raises NotAllowed and BadRequest."""
        if not self._may_purge(request.fields, client):
            raise NotAllowed("this client may not purge (--purge-from)", status=405)
        rule = PurgeRule(paths=(request.target,))
        if PURGED_GROUPS in request.fields:
            groups = groups_to_purge(request.fields)
            if groups is None:
                raise BadRequest('Purge-Groups is no list of strings, such as "a", "b"')
            rule = PurgeRule(groups=tuple(sorted(groups)))
        return json_answer({"purged": self._purge(rule)})

    def _may_purge(self, fields: Fields, client: Client) -> bool:
        if not any(name in _OF_PROXIES or names_a_client(name) for name in fields.names()):
            return self._allowed.trusts(client.address)
        if not client.trusted:
            return False
        named = ",".join(fields.all("x-forwarded-for")).split(",")
        for address in map(str.strip, reversed(named)):
            try:
                if not self._proxies.trusts(address):
                    return self._allowed.trusts(address)
            except ValueError:
                return False
        return False
