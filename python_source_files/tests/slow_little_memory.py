"""A relay with little address space, as by `ulimit -v`: fewer at a time, and nobody's fault."""

from __future__ import annotations

import collections
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from tests.relay_support import Asked, RunningRelay, Script, ScriptedOrigin, response

CLIENTS = 40

LIMITED = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (%d << 20,) * 2)
"""


def slowly(asked: Asked) -> Script:
    time.sleep(0.5)
    return response(200, [("Cache-Control", "max-age=600")], b"x" * 1000)


class LittleMemoryTest(unittest.TestCase):
    def test_who_gets_no_answer_is_told_why(self) -> None:
        for mebibytes in (250, 400):

            class Limited(RunningRelay):
                begin = LIMITED % mebibytes

            with (
                self.subTest(mebibytes=mebibytes),
                ScriptedOrigin(slowly) as origin,
                Limited(origin.url) as relay,
                ThreadPoolExecutor(CLIENTS) as pool,
            ):
                replies = list(pool.map(relay.get, [f"/{number}" for number in range(CLIENTS)]))
                found = collections.Counter(reply.status for reply in replies)
                self.assertLessEqual(set(found), {200, 503}, found)
                for reply in replies:
                    if reply.status == 503:
                        self.assertIn(reply.get("retry-after"), ("1", "10"))
                self.assertEqual(relay.get("/0").status, 200)


if __name__ == "__main__":
    unittest.main()
