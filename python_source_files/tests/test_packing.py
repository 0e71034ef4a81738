"""A packed field section says the same as before, in a quarter of the room."""

from __future__ import annotations

import unittest
from typing import Callable

from hypothesis import given
from hypothesis import strategies as st

from api_relaying_server.http1.message import Fields
from api_relaying_server.http1.rendering import render_fields

NAMES = st.text("abcXYZ-_!#09", min_size=1, max_size=12)
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"))

WAYS = st.sampled_from((Fields.pack, Fields.render, lambda fields: None))
"""What may have been done with a section before."""


class Packing(unittest.TestCase):
    @given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
    def test_it_says_the_same(self, pairs: list[tuple[str, str]]) -> None:
        fields, packed = Fields(pairs), Fields(pairs)
        packed.pack()
        self.assertEqual(packed, fields)
        self.assertEqual(hash(packed), hash(fields))
        self.assertEqual((packed.items, list(packed)), (fields.items, pairs))
        self.assertEqual(packed.names(), fields.names())
        for name in [*fields.names(), "absent"]:
            self.assertEqual(packed.all(name), fields.all(name))
            self.assertEqual(packed.get(name), fields.get(name))
            self.assertEqual(name in packed, name in fields)
        self.assertEqual(packed.text_size, fields.text_size)
        self.assertEqual(packed.text_size, len(render_fields(fields)))
        self.assertEqual(render_fields(packed), render_fields(fields))

    def test_it_is_rendered_once(self) -> None:
        fields = Fields([("A", "1"), ("B", "")])
        fields.pack()
        lines = fields.lines
        self.assertEqual(lines, b"A: 1\r\nB: \r\n")
        self.assertEqual(fields.get("b"), "")
        fields.pack()
        self.assertIs(fields.lines, lines)

    def test_what_is_rendered_is_sent_as_it_is_and_with_more_behind_it(self) -> None:
        fields = Fields([("A", "1"), ("B", "2")])
        fields.render()
        self.assertIs(fields.lines, fields.lines)
        self.assertIs(fields.apart().lines, fields.lines)
        self.assertIs(fields.items, fields.items)
        more = fields.plus(("C", "3"))
        self.assertIs(more.lines, more.lines)

    def test_what_is_edited_is_another_section(self) -> None:
        fields = Fields([("A", "1"), ("B", "2")])
        fields.pack()
        self.assertEqual(fields.without(lambda name: name == "a").items, (("B", "2"),))
        self.assertEqual(fields.plus(("C", "3")).lines, b"A: 1\r\nB: 2\r\nC: 3\r\n")
        self.assertEqual(fields.items, (("A", "1"), ("B", "2")))


class Edited(unittest.TestCase):
    """A section made from another one finds its fields as one that was made from the pairs."""

    @given(st.lists(st.tuples(NAMES, VALUES), max_size=8), NAMES, VALUES, WAYS)
    def test_it_is_found_by_name(
        self,
        pairs: list[tuple[str, str]],
        name: str,
        value: str,
        prepare: Callable[[Fields], None],
    ) -> None:
        fields = Fields(pairs)
        prepare(fields)
        less = [pair for pair in pairs if pair[0].lower() != name.lower()]
        for made, items in (
            (fields.plus((name, value), ("A", "1")), [*pairs, (name, value), ("A", "1")]),
            (fields.without(lambda had: had == name.lower()), less),
            (fields.replaced(name, value), [*less, (name, value)]),
            (fields.apart(), pairs),
        ):
            anew = Fields(items)
            self.assertEqual(made, anew)
            self.assertEqual(made.lines, anew.lines)
            self.assertEqual(made.text_size, anew.text_size)
            self.assertEqual(made.names(), anew.names())
            for one in [*anew.names(), "absent"]:
                self.assertEqual(made.all(one), anew.all(one))

    @given(
        st.lists(st.tuples(NAMES, VALUES), max_size=8),
        st.lists(st.tuples(NAMES, VALUES), max_size=4),
        WAYS,
        WAYS,
    )
    def test_one_behind_another_is_found_by_name(
        self,
        pairs: list[tuple[str, str]],
        more: list[tuple[str, str]],
        prepare: Callable[[Fields], None],
        prepare_more: Callable[[Fields], None],
    ) -> None:
        fields, behind, anew = Fields(pairs), Fields(more), Fields([*pairs, *more])
        prepare(fields)
        prepare_more(behind)
        made = fields.followed_by(behind)
        self.assertEqual(made, anew)
        self.assertEqual((made.names(), made.lines), (anew.names(), anew.lines))
        for one in [*anew.names(), "absent"]:
            self.assertEqual(made.all(one), anew.all(one))
        self.assertEqual((fields, behind), (Fields(pairs), Fields(more)))

    def test_packing_what_is_stored_leaves_what_is_answered(self) -> None:
        fields = Fields([("A", "1")])
        stored = fields.apart()
        stored.pack()
        self.assertIs(fields.items, fields.items)
        self.assertEqual(stored, fields)
