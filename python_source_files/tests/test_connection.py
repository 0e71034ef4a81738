"""The table of a connection's states."""

from __future__ import annotations

import socket
import unittest

from api_relaying_server.serving.connection import (
    CLOSED,
    IN_THREAD,
    MOVES,
    NAMES,
    NEW,
    READING,
    SHAKING,
    STATES,
    Connection,
    IllegalMove,
)


class StatesTest(unittest.TestCase):
    def test_every_state_has_a_name_and_moves(self) -> None:
        self.assertEqual(len(NAMES), len(STATES))
        self.assertEqual(set(MOVES), set(STATES))

    def test_every_state_can_be_reached_and_left(self) -> None:
        self.assertLessEqual(set(STATES) - {NEW}, set().union(*MOVES.values()))
        self.assertEqual([state for state in STATES if not MOVES[state]], [CLOSED])

    def test_nobody_closes_what_a_thread_has(self) -> None:
        """It has to be given back first."""
        self.assertEqual(
            [state for state in STATES if state != CLOSED and CLOSED not in MOVES[state]],
            [SHAKING, IN_THREAD],
        )

    def test_an_illegal_move(self) -> None:
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        conn = Connection(ours, None, 0.0)
        with self.assertRaisesRegex(IllegalMove, "NEW -> IN_THREAD"):
            conn.move(IN_THREAD)
        self.assertEqual(conn.state, NEW)
        conn.move(READING)
        self.assertEqual(conn.state, READING)


if __name__ == "__main__":
    unittest.main()
