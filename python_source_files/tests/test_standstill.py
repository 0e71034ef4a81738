"""What a test may leave out of a time: that in which its process got no turn, and no more."""

from __future__ import annotations

import time
import unittest

from tests import forks
from tests.standstill import Standstill

STOPPED = """
from tests.standstill import Standstill
ours, theirs = os.pipe(), os.pipe()

def watch():
    with Standstill() as standstill:
        began = time.monotonic()
        os.write(ours[1], b"!")
        os.read(theirs[0], 1)
        found, took = standstill.since(began), time.monotonic() - began
        assert 0.4 < found <= took, (found, took)
        assert standstill.since(time.monotonic()) < 0.1

child = forked(watch)
os.read(ours[0], 1)
os.kill(child, signal.SIGSTOP)
os.waitpid(child, os.WUNTRACED)
time.sleep(0.5)
os.kill(child, signal.SIGCONT)
os.write(theirs[1], b"!")
all_well(child)
result(True)
"""


class StandstillTest(unittest.TestCase):
    def test_a_process_that_is_stopped(self) -> None:
        self.assertTrue(forks.run(STOPPED))

    def test_time_that_is_spent_here_counts(self) -> None:
        """Also where a thread waits, or works: at least once of a few times on a busy machine."""

        def found() -> float:
            with Standstill() as standstill:
                began = until = time.monotonic()
                time.sleep(0.1)
                while time.monotonic() < until + 0.2:
                    pass
                return standstill.since(began)

        self.assertLess(min(found() for _ in range(5)), 0.15)


if __name__ == "__main__":
    unittest.main()
