"""The operator's rules for keys, bypassing and stale answers, each by a relay of its own."""

from __future__ import annotations

import unittest

from tests.isolation_cases import World, user
from tests.relay_support import Asked, RunningRelay, Script, eventually, response


class RelayTest(unittest.TestCase):
    """An origin that counts its answers to each path, and a relay with the flags of a test."""

    def setUp(self) -> None:
        self.world = World()
        self.world.origin.__enter__()
        self.addCleanup(self.world.origin.close)
        self.said: list[tuple[str, str]] = [("Cache-Control", "max-age=60")]

    def relay(self, *flags: str) -> RunningRelay:
        """A relay with these flags."""
        running = RunningRelay(self.world.origin.url, "--cool-down", "0", *flags)
        self.addCleanup(running.stop)
        return running

    def play(self, *paths: str) -> None:
        """Has the origin answer these paths with the number of the call and what was said."""
        for path in paths:
            self.world.answers[path] = self._numbered

    def _numbered(self, asked: Asked, number: int) -> Script:
        return response(200, self.said, b"%d" % number)

    def targets(self, path: str) -> list[str]:
        """The targets that the origin was asked for, of one path."""
        return [asked.target for asked in self.world.calls(path)]


class StaleWhileRevalidateTest(RelayTest):
    """`--stale-while-revalidate`."""

    def test_stale_at_once_and_renewed_once(self) -> None:
        relay = self.relay("--stale-while-revalidate", "60")
        self.play("/x", "/strict", "/given")
        self.said = [("Cache-Control", "max-age=9"), ("Age", "20")]
        self.assertEqual(relay.get("/x").body, b"1")
        self.said = [("Cache-Control", "max-age=60")]
        stale = relay.get("/x")
        self.assertEqual(stale.body, b"1")
        self.assertRegex(stale.cache_status, "^hit; ttl=-1.; detail=stale-while-revalidate$")
        eventually(lambda: relay.get("/x").body == b"2", "it is renewed")
        self.assertEqual(len(self.targets("/x")), 2)
        for said in ("max-age=9, must-revalidate", "max-age=9, stale-while-revalidate=0"):
            self.said = [("Cache-Control", said), ("Age", "20")]
            before = relay.get("/strict").body
            self.assertNotEqual(relay.get("/strict").body, before, said)

    def test_not_after_an_invalidation_nor_for_who_has_credentials(self) -> None:
        relay = self.relay("--stale-while-revalidate", "60", "--default-ttl", "1")
        self.play("/x", "/guess")
        self.said = [("Cache-Control", "max-age=9"), ("Age", "20")]
        relay.get("/x")
        relay.request("POST", "/x")
        self.assertIn("fwd=stale", relay.get("/x").cache_status)
        self.said = []
        relay.get("/guess")
        eventually(lambda: "ttl=-" in relay.get("/guess").cache_status, "it is stale")
        self.assertIn("fwd=", relay.get("/guess", user("A")).cache_status)


if __name__ == "__main__":
    unittest.main()
