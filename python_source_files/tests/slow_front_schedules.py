"""The worlds of `test_front_schedules`, in an eighth of the orders that two interruptions make."""

from __future__ import annotations

import unittest

from tests import test_front_schedules


class FrontSchedulesTest(test_front_schedules.FrontSchedulesTest):
    """Most faults of order need no more than two."""

    interruptions, one_in = 2, 8


if __name__ == "__main__":
    unittest.main()
