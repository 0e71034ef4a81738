"""Errors that are handed from one request to others."""

from __future__ import annotations

import unittest
from copy import copy

from api_relaying_server import errors
from api_relaying_server.upstream.budget import SlotsTaken
from api_relaying_server.upstream.exchange import ConnectionLost

RAISED = (
    errors.UpstreamPaused("it rests", "cooling-down", 7.0),
    errors.UpstreamCut("cut"),
    errors.UpstreamTimeout("late", retry_after=3),
    errors.BadRequest("bad", status=431),
    ConnectionLost("lost"),
    SlotsTaken("no slot", "busy", 0.0),
)


class CopyTest(unittest.TestCase):
    """A copy says the same and leads to no frame."""

    def test_all(self) -> None:
        """Whatever a class is made from."""
        for error in RAISED:
            try:
                raise error
            except errors.RelayError as raised:
                made = copy(raised)
            self.assertIs(type(made), type(error))
            self.assertEqual(vars(made), vars(error))
            self.assertEqual(str(made), str(error))
            self.assertIsNotNone(error.__traceback__)
            self.assertIsNone(made.__traceback__)
