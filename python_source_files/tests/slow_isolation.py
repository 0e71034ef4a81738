"""Two workers, and two nodes on one Redis: no client gets what is another's, or spoils it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests import isolation_cases
from tests.database_support import RedisServer
from tests.isolation_cases import World
from tests.relay_support import RunningRelay
from tests.test_isolation import FLAGS


class TwoWorkersTest(isolation_cases.IsolationCases):
    """All histories against two workers on one file."""

    processes = 2

    @classmethod
    def setUpClass(cls) -> None:
        cls.world = World()
        cls.world.origin.__enter__()
        cls.addClassCleanup(cls.world.origin.close)
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        store = f"sqlite:///{Path(folder.name) / 'cache.sqlite3'}"
        flags = (*FLAGS, "--workers", "2", "--cache", store)
        cls.here = cls.there = RunningRelay(cls.world.origin.url, *flags)
        cls.addClassCleanup(cls.here.stop)


class TwoNodesTest(isolation_cases.IsolationCases):
    """All histories against two relays on one Redis."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.world = World()
        cls.world.origin.__enter__()
        cls.addClassCleanup(cls.world.origin.close)
        redis = RedisServer()
        cls.addClassCleanup(redis.close)
        flags = (*FLAGS, "--cache", redis.url)
        cls.here = RunningRelay(cls.world.origin.url, *flags)
        cls.addClassCleanup(cls.here.stop)
        cls.there = RunningRelay(cls.world.origin.url, *flags)
        cls.addClassCleanup(cls.there.stop)
