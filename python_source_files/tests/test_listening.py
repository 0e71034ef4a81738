"""Who is sent away when the relay stops, and when."""

from __future__ import annotations

import unittest

from api_relaying_server.serving.writing import LAST_WORDS, StreamListener
from tests.caching_support import fields


class ListeningTest(unittest.TestCase):
    def dismissed_after(self, *lines: str) -> list[bool]:
        """Whether he is sent away before the stop, at its begin, and when its grace is over."""
        stopping, now = [False], [100.0]
        listening = StreamListener(7, fields(*lines), lambda: stopping[0], lambda: now[0])
        told = [listening.is_dismissed()]
        stopping[0] = True
        told.append(listening.is_dismissed())
        now[0] += LAST_WORDS
        told.append(listening.is_dismissed())
        return told

    def test_an_event_stream_ends_at_once(self) -> None:
        for kind in ("text/event-stream", "Text/Event-Stream ; charset=utf-8"):
            self.assertEqual(self.dismissed_after(f"Content-Type: {kind}"), [False, True, True])

    def test_another_without_a_length_soon(self) -> None:
        for lines in ((), ("Content-Type: text/event-streams",)):
            self.assertEqual(self.dismissed_after(*lines), [False, False, True])

    def test_what_has_an_end_has_time(self) -> None:
        lines = ("Content-Type: text/event-stream", "Content-Length: 5")
        self.assertEqual(self.dismissed_after(*lines), [False, False, False])


if __name__ == "__main__":
    unittest.main()
