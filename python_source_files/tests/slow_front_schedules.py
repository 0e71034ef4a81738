"""The worlds of `test_front_schedules`, in a quarter of the orders that two interruptions make."""

from __future__ import annotations

import unittest

from tests import test_front_schedules


class FrontSchedulesTest(test_front_schedules.FrontSchedulesTest):
    """Most faults of order need no more than two."""

    interruptions, one_in = 2, 4


if __name__ == "__main__":
    unittest.main()
