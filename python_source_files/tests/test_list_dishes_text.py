"""The dish tool's texts: what is dropped, what is found, what sounds vegetarian."""

from __future__ import annotations

import unicodedata
import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from dish_shell_tool._text import Search, clean, fold, marked, sounds_vegetarian


def found(search: str, text: str) -> str | None:
    """Return the text with what was found in brackets, or None."""
    spans = Search([search]).spans(text)
    return None if spans is None else marked(text, spans[0], "[", "]")


class CleanTest(unittest.TestCase):
    """`clean` leaves what may be shown."""

    CASES = (
        ("Ärtsoppa & «pannkakor» – 95:-", "Ärtsoppa & «pannkakor» – 95:-"),
        ("a\x1b[31;1mröd\x1b[0m", "aröd"),
        ("\x1b]0;title\x07Lax", "Lax"),
        ("\x1b]8;;http://a/\x1b\\Lax\x1b]8;;\x1b\\", "Lax"),
        ("\x9b2JLax\x9d0;x\x9c", "Lax"),
        ("\x1bPq#0\x1b\\Lax\x1bc", "Lax"),
        ("Lax\x1b[", "Lax"),
        ("a\nb\tc\r\nd\u2028e\u00a0f", "a b c d e f"),
        ("a\x00\x07\x08\x7fb", "ab"),
        ("\u202egnis\u202c \u2066x\u2069\u200f", "gnis x"),
        ("köt\u00adt\u200bbullar\ufeff", "köttbullar"),
        ("half \ud83d surrogate", "half surrogate"),
        ("o\u0308l", "öl"),
        ("z" + "\u0335" * 50 + "o", "z\u0335\u0335o"),
        (" \n ", ""),
        ("寿司 🍣", "寿司 🍣"),
    )

    def test_each_case(self) -> None:
        for text, expected in self.CASES:
            with self.subTest(text=text):
                self.assertEqual(clean(text), expected)

    def test_the_limit_counts_the_ellipsis(self) -> None:
        for length in (0, 1, 4, 5, 6, 1000):
            cleaned = clean("x" * length, 5)
            self.assertEqual(cleaned, "x" * length if length <= 5 else "xxxx…")

    @given(st.text(st.characters(), max_size=60))
    @settings(max_examples=60, deadline=None)
    def test_nothing_that_a_terminal_obeys_is_left(self, text: str) -> None:
        cleaned = clean(text)
        bad = [c for c in cleaned if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
        self.assertEqual(bad, [])
        self.assertEqual(clean(cleaned), cleaned)
        cleaned.encode()


class SearchTest(unittest.TestCase):
    """`--find`: words from their start, accents and case aside, phrases, alternatives."""

    CASES = (
        ("kottbullar", "Köttbullar med gräddsås", "[Köttbullar] med gräddsås"),
        ("ARTSOPPA", "Ärtsoppa", "[Ärtsoppa]"),
        ("ärtsoppa", "Artsoppa", "[Artsoppa]"),
        ("lax", "Laxpudding och lax", "[Lax]pudding och [lax]"),
        ("lax", "Avslaxad", None),
        ("lax", "Rökt-lax", "Rökt-[lax]"),
        ("dill lax", "Laxpudding med dillsmör", "[Lax]pudding med [dill]smör"),
        ("dill lax", "Laxpudding", None),
        ('"med dill"', "Laxpudding med dillsmör", "Laxpudding [med dill]smör"),
        ('"dill med"', "Laxpudding med dillsmör", None),
        ('"pudding med"', "Laxpudding med dillsmör", None),
        ("”med dill”", "Lax med dill", "Lax [med dill]"),
        ('"med', "Lax med dill", "Lax [med] dill"),
        ("creme", "Crème brûlée", "[Crème] brûlée"),
        ("strasse", "Straße", "[Straße]"),
        ("stras", "Straße", "[Straß]e"),
        ("rod", "Rødspætte & rödbeta", "[Rød]spætte & [röd]beta"),
        ("pasta", "pizza", None),
        ("a ab", "ab", "[ab]"),
        ("mac&cheese", "Mac & Cheese", "[Mac & Cheese]"),
    )

    def test_each_case(self) -> None:
        for search, text, expected in self.CASES:
            with self.subTest(search=search, text=text):
                self.assertEqual(found(search, text), expected)

    def test_texts_are_alternatives(self) -> None:
        search = Search(["lax dill", "ärtsoppa"])
        self.assertIsNotNone(search.spans("Ärtsoppa med fläsk"))
        self.assertIsNotNone(search.spans("Dillstuvad lax"))
        self.assertIsNone(search.spans("Stekt lax"))

    def test_words_may_stand_in_name_and_description(self) -> None:
        spans = Search(["lax potatis"]).spans("Stekt lax", "med potatis")
        self.assertEqual(spans, [[(6, 9)], [(4, 11)]])

    def test_a_text_without_words_is_refused(self) -> None:
        for text in ("", " ", "&", '""', "…", "\x1b[0m"):
            with self.subTest(text=text), self.assertRaises(ValueError):
                Search([text])

    @given(st.text(max_size=40), st.text(max_size=8))
    @settings(max_examples=60, deadline=None)
    def test_spans_are_in_order_and_inside(self, text: str, wanted: str) -> None:
        text = clean(text)
        try:
            spans = Search([wanted]).spans(text)
        except ValueError:
            return
        ends = [0] + [edge for span in (spans or [[]])[0] for edge in span] + [len(text)]
        self.assertEqual(ends, sorted(ends))

    @given(st.text(st.characters(categories=["L"]), min_size=1, max_size=12))
    @settings(max_examples=40, deadline=None)
    def test_every_word_finds_itself(self, word: str) -> None:
        self.assertIsNotNone(Search([clean(word)]).spans(clean(f"x {word} y")))

    def test_folding_is_blind_to_case_and_marks(self) -> None:
        for word in ("Ärtsoppa", "ÅÄÖ", "Crème", "smørrebrød"):
            self.assertEqual(fold(word), fold(word.upper()))
        self.assertEqual(fold("Åsele ÆØ"), "asele aeo")


class VegetarianTest(unittest.TestCase):
    """The guess, on the words that it goes by."""

    def test_each_case(self) -> None:
        for dish, expected in (
            ("Vegetarisk lasagne", True),
            ("Chili (VEGAN)", True),
            ("Veg: pasta", True),
            ("Vegetarisk korv med bröd", True),
            ("Halloumiburgare", True),
            ("Halloumi- & baconburgare", False),
            ("Falafel med nötter", True),
            ("Falafel med nötfärs", False),
            ("Linsgryta", True),
            ("Sojakorv", True),
            ("Köttbullar", False),
            ("Lax med vegetabilier", False),
            ("", False),
        ):
            with self.subTest(dish=dish):
                self.assertIs(sounds_vegetarian(dish), expected)
