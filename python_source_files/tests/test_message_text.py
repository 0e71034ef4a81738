"""What processes tell each other: each message arrives as what it was, and noise as a loss."""

from __future__ import annotations

import random
import unittest

from api_relaying_server.caching.purging import Effect
from api_relaying_server.cluster.message_text import decode, encode
from api_relaying_server.coordination import (
    Changed,
    Invalidated,
    MemoryLost,
    Message,
    MessagesLost,
    Paused,
    Purged,
    Resumed,
)

KEYS = ("GET /", "GET /a b", "GET /?q=%20@", 'GET /"', "HEAD /\udc80ü", "GET memory", "GET doubt x")
SCOPES = ("", "GET /a b", "a@b c%20d", "whole", "credentials 1f@", "/ü\udc80", " ")


class MessagesTest(unittest.TestCase):
    def test_each_arrives_as_what_it_was(self) -> None:
        messages: list[Message] = [MemoryLost(), MessagesLost()]
        messages += [Changed(key) for key in KEYS]
        messages += [Invalidated(key, 12.5, effect) for key in KEYS for effect in Effect]
        messages += [
            Purged((), (), (0.0, 0.0, 1.5)),
            Purged(KEYS, ("a b", 'q"', "\\"), (1.25, 0.0, 1e9)),
        ]
        for scope in SCOPES:
            messages.append(Resumed(scope))
            messages += [
                Paused(seconds, why, scope) for seconds in (0.0, 900.5) for why in ("", "a @b")
            ]
        self.assertEqual([decode(encode(message)) for message in messages], messages)
        self.assertEqual(len(set(map(encode, messages))), len(messages))

    def test_the_first_word_is_the_kind(self) -> None:
        texts: dict[Message, str] = {
            Changed("GET /a"): "changed GET /a",
            Invalidated("GET /a", 12.5): "invalidated 12.500000 GET /a",
            MemoryLost(): "memory-lost",
            Invalidated("GET /a", 12.5, Effect.GONE): "purged-key 12.500000 2 GET /a",
            Purged(("GET /",), ("g",), (0.0, 0.0, 1.5)): 'purged [["GET /"],["g"],[0.0,0.0,1.5]]',
            Paused(3.0, "503 for /a"): "paused 3.000  503 for /a",
            Paused(3.0, "429", "a b"): "paused 3.000 a%20b 429",
            Resumed("a b"): "resumed a b",
        }
        self.assertEqual({message: encode(message) for message in texts}, texts)

    def test_what_means_nothing_may_have_been_anything(self) -> None:
        for text in (
            "",
            None,
            "GET /a",
            "changed",
            "changed ",
            "invalidated",
            "invalidated ",
            "invalidated 12.5",
            "invalidated x GET /",
            "invalidated nan GET /",
            "paused",
            "paused x  why",
            "paused nan  y",
            "purged-key",
            "purged-key 12.5",
            "purged-key 12.5 2",
            "purged-key 12.5 7 GET /",
            "purged-key nan 2 GET /",
            "purged",
            "purged {}",
            "purged 7",
            "purged [[],[]]",
            "purged [[],[],[1.0,2.0]]",
            "purged [[],[],[1.0,2.0,NaN]]",
            'purged [[],[],[1.0,2.0,"x"]]',
            "purged [1,[],[1.0,2.0,3.0]]",
            "purged " + "[" * 100_000,
        ):
            with self.subTest(text=text):
                self.assertEqual(decode(text), MessagesLost())

    def test_no_noise_makes_it_fail(self) -> None:
        words = (
            "changed",
            "invalidated",
            "memory-lost",
            "paused",
            "purged",
            "purged-key",
            "[[],[],[1,2,3]]",
            "resumed",
            "%",
            "%zz",
            "%ff",
            " ",
            "1e999",
            "\udcff",
        )
        chance = random.Random(5)
        for _ in range(5000):
            decode("".join(chance.choices(words, k=chance.randint(0, 6))))


if __name__ == "__main__":
    unittest.main()
