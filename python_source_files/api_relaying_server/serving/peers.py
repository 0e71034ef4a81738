"""Who may speak for others: the addresses from which the `X-Forwarded` fields count.

An address is a text, as the system gives it; that of everybody who comes by a Unix socket is UNIX.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Union

UNIX = "unix:"
"""What stands for the address of a client by a Unix socket, which has none; as in nginx."""

Peer = Union[ipaddress.IPv4Network, ipaddress.IPv6Network, str]
"""A block of addresses, or UNIX."""


class TrustedPeers:
    """The proxies that are believed. False where there are none."""

    def __init__(self, peers: Iterable[Peer] = ()) -> None:
        self._peers = tuple(peers)
        self._networks = [peer for peer in self._peers if not isinstance(peer, str)]

    def __bool__(self) -> bool:
        return bool(self._peers)

    def trusts(self, address: str) -> bool:
        """True where the peer at this address is one of them."""
        if address == UNIX:
            return UNIX in self._peers
        peer = ipaddress.ip_address(address.partition("%")[0])
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in network for network in self._networks)
