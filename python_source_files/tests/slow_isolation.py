"""Two workers, and two nodes on one Redis: no client gets what is another's, or spoils it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from tests import isolation_cases
from tests.admin_support import AdministeredRelay
from tests.database_support import RedisServer
from tests.isolation_cases import World
from tests.relay_support import eventually
from tests.test_isolation import FLAGS


class Counted(isolation_cases.IsolationCases):
    """Relays that tell how many clients are there, wherever these are held up."""

    here: ClassVar[AdministeredRelay]
    there: ClassVar[AdministeredRelay]

    def wait_for_clients(self, count: int, target: str, before: int = 0) -> None:
        """Waits until so many are there."""

        def there_are() -> float:
            return sum(
                relay.metrics()[f'relay_connections{{state="{state}"}}']
                for relay in {self.here, self.there}
                for state in ("waiting", "handled")
            )

        eventually(lambda: there_are() >= count, f"{count} clients")


class TwoWorkersTest(Counted):
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
        cls.here = cls.there = AdministeredRelay(cls.world.origin.url, *flags)
        cls.addClassCleanup(cls.here.stop)


class TwoNodesTest(Counted):
    """All histories against two relays on one Redis."""

    @classmethod
    def setUpClass(cls) -> None:
        cls.world = World()
        cls.world.origin.__enter__()
        cls.addClassCleanup(cls.world.origin.close)
        redis = RedisServer()
        cls.addClassCleanup(redis.close)
        flags = (*FLAGS, "--cache", redis.url)
        cls.here = AdministeredRelay(cls.world.origin.url, *flags)
        cls.addClassCleanup(cls.here.stop)
        cls.there = AdministeredRelay(cls.world.origin.url, *flags)
        cls.addClassCleanup(cls.there.stop)


del Counted
