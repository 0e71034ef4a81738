"""The pytest fixture `relay_before`; pytest finds it by itself where the relay is installed.

    def test_client(relay_before):
        relay = relay_before(application, "--default-ttl", "60")
        assert client(relay.url).restaurants()

From a copy of the sources: `pytest_plugins = ["api_relaying_server.pytest_plugin"]`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Callable

import pytest

from api_relaying_server.testing import Application, Relay, running_relay

RelayBefore = Callable[..., Relay]
"""`relay_before(upstream, *flags, env=None)`, as `testing.running_relay`."""


@pytest.fixture
def relay_before() -> Iterator[RelayBefore]:
    """Starts a relay before a URL or a WSGI application; all of them stop when the test ends."""
    with ExitStack() as stack:

        def start(
            upstream: str | Application, *flags: str, env: Mapping[str, str] | None = None
        ) -> Relay:
            return stack.enter_context(running_relay(upstream, *flags, env=env))

        yield start
