"""The model of the differential test against small histories, allowed ones and forbidden ones."""

from __future__ import annotations

import gzip
import unittest
from email.utils import formatdate

from tests.differential.events import Answer, Asked, Purged, content_in, name_content, rendered
from tests.differential.model import (
    Log,
    Setting,
    credentials,
    judge,
    kind_to_the_upstream,
    passed_on,
    words,
)
from tests.differential.origin import spans_of, takes_gzip
from tests.differential.plans import draw

T = "/t"
ALICE, BOB = {"cookie": "sid=alice"}, {"cookie": "sid=bob"}
CHANGED = formatdate(1_700_000_000, usegmt=True)


def answer(
    serial: int,
    at: float,
    cache: str = "",
    seen: dict[str, str] | None = None,
    *more: tuple[str, str],
    tag: str = "",
    status: int = 200,
    method: str = "GET",
    version: int = 1,
    whole: bool = True,
    gzip: bool = False,
    content: str = "",
) -> Answer:
    """An answer of the origin that arrives and leaves at a moment; without a tag its own alone."""
    fields = [("X-Serial", str(serial)), ("Date", formatdate(1_700_000_000, usegmt=True)), *more]
    if cache:
        fields.append(("Cache-Control", cache))
    if tag:
        fields.append(("ETag", f'"{tag}"'))
    if gzip:
        fields.append(("Content-Encoding", "gzip"))
    about = f"{T} v{version} {tag or '#' + str(serial)}"
    return Answer(
        serial, at, at + 0.01, at + 0.02, method, T, seen or {}, status, tuple(fields),
        f"{about}{' gzip' if gzip else ''}", content or name_content(about, gzip, 200), version,
        whole,
    )  # fmt: skip


def got(
    at: float,
    of: Answer,
    sent: dict[str, str] | None = None,
    *more: tuple[str, str],
    fields_of: Answer | None = None,
    method: str = "GET",
    status: int = 0,
    body: bytes | None = None,
    number: int = 7,
    took: float = 0.2,
    node: int = 0,
    address: str = "127.0.0.1",
    outcome: str = "answered",
) -> Asked:
    """A request at a moment that got the content of an answer, with its fields or another's."""
    status = status or of.status
    if body is None:
        body = b"" if method == "HEAD" or status in (204, 304) else rendered(of.content)
    fields = (*(fields_of or of).fields, *more)
    return Asked(
        number, node, address, at, at + took, at + took, method, T, sent or {}, outcome, status,
        fields, body,
    )  # fmt: skip


def numbered(number: int, fields: dict[str, str] | None = None) -> dict[str, str]:
    """Fields as the origin saw them, from the request that told this number."""
    return {**(fields or {}), "x-number": str(number), "x-forwarded-for": "127.0.0.1"}


def rules(asked: Asked, *answers: Answer, others: tuple[Asked, ...] = (), **told) -> list[str]:
    """The rules that an answer breaks after this history."""
    log = Log(answers, [*others, asked])
    return sorted({found.rule for found in judge(asked, log, Setting(**told))})


class Whose(unittest.TestCase):
    """Credentials, private, Set-Cookie, Vary."""

    def test_own_answers_are_always_allowed(self):
        for cache in ("", "no-store", "private", "max-age=0"):
            own = answer(1, 1.0, cache, numbered(7, ALICE), ("Set-Cookie", "k1=1"))
            self.assertEqual(rules(got(0.9, own, ALICE), own), [])
        unmarked = answer(1, 1.0, "no-store", ALICE)
        self.assertEqual(rules(got(0.9, unmarked, ALICE, number=0), unmarked), [])
        self.assertEqual(rules(got(0.9, unmarked, BOB, number=0), unmarked), ["private"])
        self.assertEqual(rules(got(1.1, unmarked, ALICE, number=0), unmarked), ["private"])
        self.assertEqual(rules(got(0.9, unmarked, ALICE, number=7), unmarked), ["private"])

    def test_private_and_no_store_are_for_nobody_else(self):
        for cache in ("private, max-age=60", "no-store", "no-store, public, max-age=60"):
            self.assertEqual(rules(got(2.0, answer(1, 1.0, cache)), answer(1, 1.0, cache)),
                             ["private"])  # fmt: skip
        partly = answer(1, 1.0, 'private="set-cookie", max-age=60')
        self.assertEqual(rules(got(2.0, partly), partly), [])

    def test_credentials_need_the_origins_permission(self):
        for seen, cache, allowed in (
            (ALICE, "max-age=60", False),
            (ALICE, "max-age=60, must-revalidate", False),
            (ALICE, "public, max-age=60", True),
            (ALICE, "s-maxage=60", True),
            (ALICE, "public", False),
            ({"authorization": "x"}, "max-age=60", False),
            ({"authorization": "x"}, "max-age=60, must-revalidate", True),
            ({"authorization": "x", **ALICE}, "max-age=60, must-revalidate", False),
            ({"x-api-key": "x"}, "max-age=60", False),
            ({"x-api-key": "x"}, "s-maxage=60", True),
            ({"x-lang": "en"}, "max-age=60", True),
        ):
            with self.subTest(seen=seen, cache=cache):
                one = answer(1, 1.0, cache, seen)
                expected = [] if allowed else ["credentials"]
                self.assertEqual(rules(got(2.0, one), one), expected)
        targeted = ("CDN-Cache-Control", "max-age=60")
        for name, expected in (("cookie", []), ("authorization", ["credentials"])):
            one = answer(1, 1.0, "", {name: "x"}, targeted)
            self.assertEqual(rules(got(2.0, one), one), expected)

    def test_a_lifetime_of_the_relays_own_is_not_for_credentials(self):
        plain = answer(1, 1.0)
        self.assertEqual(rules(got(2.0, plain), plain), [])
        self.assertEqual(rules(got(2.0, plain, ALICE), plain), ["credentials"])
        self.assertEqual(rules(got(2.0, plain, ALICE), plain, ignored=("cookie",)), [])
        given = answer(1, 1.0, "max-age=60")
        self.assertEqual(rules(got(2.0, given, ALICE), given), [])

    def test_what_is_validated_for_credentials_may_be_what_anybody_brought(self):
        one = answer(1, 1.0, tag="x")
        again = answer(2, 5.0, "", numbered(7, ALICE), tag="x", status=304)
        self.assertEqual(rules(got(4.9, one, ALICE), one, again), [])
        for cache, allowed in (("", False), ("public", True), ("max-age=60", False)):
            hers = answer(1, 1.0, cache, BOB, tag="x")
            expected = [] if allowed else ["credentials"]
            self.assertEqual(rules(got(4.9, hers, ALICE), hers, again), expected)
            mine = got(4.9, hers, ALICE, fields_of=again)
            self.assertEqual(rules(mine, hers, again), expected)

    def test_a_401_is_not_for_those_who_bring_credentials(self):
        one = answer(1, 1.0, "max-age=60", status=401)
        self.assertEqual(rules(got(2.0, one), one), [])
        self.assertEqual(rules(got(2.0, one, ALICE), one), ["credentials"])

    def test_a_cookie_belongs_to_the_one_who_got_it(self):
        for cache, allowed in (
            ("max-age=60", False),
            ("public, max-age=60", True),
            ('public, private="set-cookie", max-age=60', False),
        ):
            one = answer(1, 1.0, cache, None, ("Set-Cookie", "k1=1"))
            self.assertEqual(rules(got(2.0, one), one), [] if allowed else ["set-cookie"])
        without = answer(1, 1.0, "max-age=60")
        cookie = answer(1, 1.0, "max-age=60", None, ("Set-Cookie", "k1=1"))
        self.assertEqual(rules(got(2.0, without), cookie), [])
        renewed = answer(1, 1.0, "max-age=60", tag="x")
        again = answer(2, 1.5, "", None, ("Set-Cookie", "k2=1"), tag="x", status=304)
        self.assertEqual(rules(got(2.0, renewed, fields_of=again), renewed, again), ["set-cookie"])
        renewed = answer(1, 1.0, "public, max-age=60", tag="x")
        self.assertEqual(rules(got(2.0, renewed, fields_of=again), renewed, again), [])
        unspecified = answer(1, 1.0, "", None, ("Set-Cookie", "k1=1"))
        self.assertEqual(rules(got(2.0, answer(1, 1.0)), unspecified), ["set-cookie"])

    def test_vary_selects_by_what_the_origin_saw(self):
        for vary, seen, sent, allowed in (
            ("X-Lang", {"x-lang": "en"}, {"x-lang": "en"}, True),
            ("X-Lang", {"x-lang": "en"}, {"x-lang": "EN"}, False),
            ("X-Lang", {"x-lang": "en"}, {"x-lang": "en,"}, False),
            ("X-Lang", {"x-lang": "en"}, {}, False),
            ("*", {}, {}, False),
            ("X-Lang X-Place", {"x-lang": "en"}, {"x-lang": "en"}, False),
            ("Accept", {"accept": "a/b, c/d"}, {"accept": "c/d, a/b"}, False),
            ("Accept-Language", {"accept-language": "sv, en"}, {"accept-language": "en,sv"}, True),
            ("Accept-Language", {"accept-language": "sv"}, {"accept-language": "sv;q=.5"}, False),
            ("X-Forwarded-For", {"x-forwarded-for": "127.0.0.1"}, {}, True),
            ("X-Forwarded-For", {"x-forwarded-for": "127.0.0.9"}, {}, False),
            ("X-Forwarded-Proto", {"x-forwarded-proto": "https"},
             {"x-forwarded-proto": "https"}, False),
        ):  # fmt: skip
            with self.subTest(vary=vary, seen=seen, sent=sent):
                one = answer(1, 1.0, "max-age=60", seen, ("Vary", vary))
                expected = [] if allowed else ["selected"]
                self.assertEqual(rules(got(2.0, one, sent), one), expected)

    def test_a_304_selects_by_what_it_was_asked_with(self):
        vary = ("Vary", "X-Lang")
        one = answer(1, 1.0, "max-age=60", {"x-lang": "sv"}, vary, tag="x")
        for lang, allowed in (("en", True), ("fi", False)):
            again = answer(2, 1.5, "max-age=60", {"x-lang": lang}, vary, tag="x", status=304)
            found = rules(got(2.0, one, {"x-lang": "en"}), one, again)
            self.assertEqual(found, [] if allowed else ["selected"])

    def test_origins_are_of_three_classes(self):
        a, b = {"origin": "https://a"}, {"origin": "https://b"}
        for allow, sent, allowed in (
            ((), b, True), ((), {}, False), (("*",), b, True), (("https://a",), b, False),
            (("https://a",), a, True),
        ):  # fmt: skip
            more = [("Vary", "Origin"), *(("Access-Control-Allow-Origin", v) for v in allow)]
            one = answer(1, 1.0, "max-age=60", a, *more)
            expected = [] if allowed else ["selected"]
            self.assertEqual(rules(got(2.0, one, sent), one), expected)


class When(unittest.TestCase):
    """Freshness, validation, staleness, the order of time."""

    def test_not_older_than_its_lifetime(self):
        for cache, status, lifetime in (
            ("max-age=5", 200, 5.0), ("s-maxage=3, max-age=60", 200, 3.0), ("", 200, 2.0),
            ("", 404, 1.0), ("max-age=5", 500, 5.0),
            ("max-age=1, stale-while-revalidate=4", 200, 5.0),
        ):  # fmt: skip
            with self.subTest(cache=cache, status=status):
                one = answer(1, 1.0, cache, status=status)
                self.assertEqual(rules(got(1.0 + lifetime, one), one), [])
                self.assertEqual(rules(got(1.7 + lifetime, one), one), ["stale"])

    def test_what_has_no_lifetime_is_not_shared_later(self):
        for status in (302, 403, 500):
            one = answer(1, 1.0, "", status=status)
            self.assertEqual(rules(got(1.5, one), one), ["status"])
            self.assertEqual(rules(got(0.9, one), one), [])

    def test_what_must_be_validated_is_sent_after_the_client_came(self):
        for cache in (
            "no-cache",
            "max-age=0",
            "no-cache, max-age=60",
            "max-age=0, must-revalidate",
        ):
            with self.subTest(cache=cache):
                one = answer(1, 1.0, cache, tag="x")
                self.assertEqual(rules(got(0.9, one), one), [])
                self.assertEqual(rules(got(1.005, one), one), ["validate"])
                again = answer(2, 3.0, cache, tag="x", status=304)
                self.assertEqual(rules(got(2.9, one), one, again), [])
                self.assertEqual(rules(got(3.1, one), one, again), ["validate"])

    def test_a_304_lets_what_is_stored_be_used_again(self):
        one = answer(1, 1.0, "max-age=2", tag="x")
        again = answer(2, 5.0, "max-age=2", tag="x", status=304)
        other = answer(2, 5.0, "max-age=2", tag="y", status=304)
        self.assertEqual(rules(got(6.0, one), one, again), [])
        self.assertEqual(rules(got(6.0, one, fields_of=again), one, again), [])
        self.assertEqual(rules(got(6.0, one), one, other), ["stale"])
        late = again._replace(sent=6.3)
        self.assertEqual(rules(got(6.0, one), one, late), ["stale"])
        broken = answer(3, 1.1, "max-age=2", tag="x", whole=False)
        self.assertEqual(rules(got(6.0, one), one, broken, again), [])
        part = answer(2, 5.0, "max-age=2", tag="x", status=206)
        self.assertEqual(rules(got(6.0, one), one, part), [])
        self.assertNotEqual(rules(got(6.0, one), one, part._replace(whole=False)), [])
        for cache, seen, rule in (
            ("private, max-age=2", {}, "stale"), ("no-store", {}, "stale"),
            ("must-revalidate", ALICE, "stale"), ("max-age=2", ALICE, None),
        ):  # fmt: skip
            again = answer(2, 5.0, cache, seen, tag="x", status=304)
            self.assertEqual(rules(got(6.0, one), one, again), [rule] if rule else [])

    def test_a_304_without_words_has_those_of_what_it_renews(self):
        for cache, allowed in (("public, max-age=2", True), ("max-age=2", False)):
            one = answer(1, 1.0, cache, tag="x")
            again = answer(2, 5.0, "", ALICE, tag="x", status=304)
            self.assertEqual(rules(got(6.0, one), one, again), [])
            found = rules(got(6.0, one, fields_of=again), one, again)
            self.assertEqual(found, [] if allowed else ["merged"])

    def test_a_head_renews_what_it_is_about(self):
        one = answer(1, 1.0, "max-age=2")

        def head(length: str, status: int = 200, tag: str = "") -> Answer:
            more = ("Content-Length", length)
            return answer(2, 5.0, "max-age=2", None, more, tag=tag, status=status, method="HEAD")

        for renewed, allowed in (
            (head("200"), True), (head("201"), False), (head("200", 404), False),
            (head("200", tag="z"), False),
        ):  # fmt: skip
            self.assertEqual(rules(got(6.0, one), one, renewed), [] if allowed else ["stale"])
            found = rules(got(2.0, one, fields_of=renewed), one, renewed._replace(sent=1.5))
            self.assertEqual(found, [] if allowed else ["mixed"])
        tagged = answer(1, 1.0, "max-age=2", tag="x")
        self.assertEqual(rules(got(6.0, tagged), tagged, head("7", tag="x")), [])
        bare = head("7")._replace(serial=9, sent=0.5, content=tagged.content)
        asked = got(6.0, tagged, method="HEAD")
        self.assertEqual(rules(asked, bare, tagged, head("7", tag="x")), [])
        again = answer(2, 5.0, "max-age=2", None, ("Content-Length", "200"))
        self.assertEqual(rules(got(6.0, one), one, again), ["stale"])

    def test_a_304_takes_the_place_of_the_fields_that_it_has(self):
        targeted = ("CDN-Cache-Control", "max-age=9")
        one = answer(1, 1.0, "max-age=1", None, targeted, tag="x")
        again = answer(2, 5.0, "max-age=1", tag="x", status=304)
        self.assertEqual(rules(got(13.0, one), one, again), [])
        shorter = answer(2, 5.0, "", None, ("CDN-Cache-Control", "max-age=2"), tag="x", status=304)
        self.assertEqual(rules(got(9.0, one), one, shorter), [])
        self.assertEqual(rules(got(11.0, one), one, shorter), ["stale"])

    def test_fields_of_a_304_that_is_not_for_others_are_not_merged(self):
        one = answer(1, 1.0, "max-age=60", tag="x")
        for cache, seen in (("private", {}), ("max-age=2", ALICE)):
            again = answer(2, 1.5, cache, seen, tag="x", status=304)
            self.assertEqual(rules(got(2.0, one, fields_of=again), one, again), ["merged"])
        head = answer(2, 1.5, "no-store", tag="x", method="HEAD")
        self.assertEqual(rules(got(2.0, one, fields_of=head), one, head), ["merged"])

    def test_stale_only_where_the_upstream_failed_and_it_may(self):
        failed = answer(2, 9.0, "", status=500)
        broken = answer(2, 9.0, "max-age=1", whole=False)
        for cache, allowed in (
            ("max-age=1", True), ("max-age=1, must-revalidate", False), ("s-maxage=1", False),
            ("max-age=1, proxy-revalidate", False), ("no-cache, max-age=60", False),
        ):  # fmt: skip
            one = answer(1, 1.0, cache)
            with self.subTest(cache=cache):
                for failure in (failed, broken):
                    found = rules(got(8.95, one), one, failure)
                    self.assertEqual(found == [], allowed)
                self.assertNotEqual(rules(got(8.0, one), one, failed), [])
                self.assertNotEqual(rules(got(9.8, one), one, failed), [])
        one = answer(1, 1.0, "max-age=1")
        soon = answer(2, 9.0, "max-age=0", status=500)
        self.assertEqual(rules(got(8.95, one), one, soon), [])
        for no_failure in (answer(2, 9.0), answer(2, 9.0, "max-age=1", status=500)):
            self.assertEqual(rules(got(8.95, one), one, no_failure), ["stale"])
        self.assertEqual(rules(got(8.95, one), one, failed, stale_if_error=2.0), ["stale"])
        self.assertEqual(rules(got(8.0, one, took=1.1), one), [])
        self.assertEqual(rules(got(20.0, one), one, failed, cool_down=1.0), [])

    def test_a_client_may_wish_for_something_stale(self):
        wish = {"cache-control": "max-stale=5"}
        for cache, allowed in (("max-age=1", True), ("max-age=1, must-revalidate", False),
                               ("no-cache, max-age=1", False)):  # fmt: skip
            one = answer(1, 1.0, cache)
            self.assertEqual(rules(got(5.0, one, wish), one) == [], allowed)
            self.assertNotEqual(rules(got(9.0, one, wish), one), [])

    def test_the_lifetime_of_a_path_is_no_permission(self):
        def fixed(at: float, one: Answer, sent: dict[str, str] | None = None) -> list[str]:
            target = "/s/fixed/r"
            one = one._replace(target=target)
            return rules(got(at, one, sent)._replace(target=target), one, fixed_ttl=5.0)

        for cache, status in (("", 200), ("max-age=0", 200), ("no-cache", 200), ("", 302)):
            self.assertEqual(fixed(5.0, answer(1, 1.0, cache, status=status)), [])
            self.assertEqual(fixed(7.0, answer(1, 1.0, cache, status=status)), ["stale"])
        self.assertEqual(fixed(2.0, answer(1, 1.0, "", ALICE)), ["credentials"])
        self.assertEqual(fixed(2.0, answer(1, 1.0), ALICE), ["credentials"])
        given = answer(1, 1.0, "max-age=60")
        self.assertEqual((fixed(9.0, given), fixed(9.0, given, ALICE)), (["stale"], []))
        strict = answer(1, 1.0, "no-cache, max-age=60")
        self.assertEqual((fixed(2.0, strict), fixed(2.0, strict, ALICE)), ([], ["validate"]))
        self.assertEqual(fixed(2.0, answer(1, 1.0, "private")), ["private"])
        self.assertEqual(fixed(2.0, answer(1, 1.0, status=400)), ["status"])
        self.assertEqual(fixed(2.0, answer(1, 1.0, status=503)), ["status"])

    def test_nothing_from_before_an_unsafe_request_that_was_answered(self):
        old = answer(1, 1.0, "max-age=60", tag="x")
        post = answer(2, 2.0, "", numbered(3), method="POST", version=2)
        change = got(1.9, post, method="POST", number=3, took=0.2)
        new = answer(3, 2.05, "max-age=60", tag="z", version=2)
        later = got(2.2, old)
        self.assertEqual(rules(later, old, post, others=(change,)), ["old-after-new"])
        self.assertEqual(rules(got(2.05, old), old, post, others=(change,)), [])
        self.assertEqual(rules(got(2.2, new), old, post, new, others=(change,)), [])
        elsewhere = got(2.2, old, node=1)
        self.assertEqual(rules(elsewhere, old, post, others=(change,)), [])
        self.assertEqual(
            rules(got(2.7, old, node=1), old, post, others=(change,)), ["old-after-new"]
        )
        refused = answer(2, 2.0, "", numbered(3), method="POST", status=400)
        change = got(1.9, refused, method="POST", number=3, took=0.2)
        self.assertEqual(rules(later, old, refused, others=(change,)), [])
        bare = answer(4, 2.15, "max-age=60", numbered(9), ("Content-Length", "200"), method="HEAD",
                      version=2)  # fmt: skip
        change = got(1.9, post, method="POST", number=3, took=0.2)
        self.assertEqual(
            rules(got(2.3, old, fields_of=bare), old, post, bare, others=(change,)),
            ["old-after-new"],
        )


class PurgedTest(unittest.TestCase):
    """What was asked for before a purge is validated before it is used, or gone."""

    def judged(self, asked: Asked, answers: tuple[Answer, ...], *purged: Purged) -> list[str]:
        log = Log(answers, [asked], (), purged)
        return sorted({found.rule for found in judge(asked, log, Setting())})

    def test_what_was_asked_for_before(self):
        one = answer(1, 1.0, "max-age=60", None, ("Cache-Groups", '"a", "b"'))
        for covers in ({"target": T}, {"prefix": "/"}, {"groups": frozenset("b")}):
            for rule, expected in (
                ("soft", ["purged"]), ("invalidated", ["purged"]), ("hard", ["gone"]),
            ):  # fmt: skip
                purge = Purged(rule, 0, 2.0, 2.1, **covers)
                self.assertEqual(self.judged(got(3.0, one), (one,), purge), expected)
                self.assertEqual(self.judged(got(2.05, one), (one,), purge), [])
                self.assertEqual(self.judged(got(2.3, one, node=1), (one,), purge), [])
                self.assertEqual(self.judged(got(3.0, one, node=1), (one,), purge), expected)
                before = purge._replace(since=0.9, until=0.95)
                self.assertEqual(self.judged(got(3.0, one), (one,), before), [])
        for covers in ({"target": "/u"}, {"prefix": "/u"}, {"groups": frozenset("c")}):
            purge = Purged("hard", 0, 2.0, 2.1, **covers)
            self.assertEqual(self.judged(got(3.0, one), (one,), purge), [])

    def test_what_is_validated_after_it(self):
        one = answer(1, 1.0, "max-age=60", tag="x")
        again = answer(2, 2.5, "max-age=60", tag="x", status=304)
        for rule, expected in (("soft", []), ("invalidated", []), ("hard", ["gone"])):
            purge = Purged(rule, 0, 2.0, 2.1, target=T)
            self.assertEqual(self.judged(got(3.0, one), (one, again), purge), expected)

    def test_in_an_outage_what_is_softly_purged_may_still_answer(self):
        one = answer(1, 1.0, "max-age=60")
        failed = answer(2, 3.1, status=503)
        for rule, expected in (
            ("soft", []), ("invalidated", ["purged"]), ("hard", ["gone"]),
        ):  # fmt: skip
            purge = Purged(rule, 0, 2.0, 2.1, target=T)
            self.assertEqual(self.judged(got(3.0, one), (one, failed), purge), expected)

    def test_a_change_at_the_origin_invalidates_the_groups_that_it_names(self):
        one = answer(1, 1.0, "max-age=60", None, ("Cache-Groups", '"a"'))
        for names, status, expected in (
            ('"b", "a"', 200, ["purged"]), ('"b"', 200, []), ('"a"', 404, []),
        ):  # fmt: skip
            changed = answer(
                2, 2.0, "", numbered(8), ("Cache-Group-Invalidation", names), method="POST",
                status=status,
            )._replace(target="/other")  # fmt: skip
            post = got(1.9, changed, method="POST", number=8)._replace(target="/other")
            self.assertEqual(rules(got(3.0, one), one, changed, others=(post,)), expected)


class What(unittest.TestCase):
    """Methods, status, bytes, ranges, codings, conditions."""

    def test_an_unsafe_request_gets_its_own_answer(self):
        own = answer(1, 1.0, "max-age=60", numbered(7), method="POST")
        self.assertEqual(rules(got(0.9, own, method="POST"), own), [])
        self.assertEqual(rules(got(1.1, own, method="POST", number=8), own), ["own"])
        stored = answer(1, 1.0, "max-age=60")
        self.assertEqual(rules(got(2.0, stored, method="POST"), stored), ["own"])
        self.assertEqual(rules(got(2.0, own, number=8), own), ["mixed"])
        other = answer(1, 1.0, "", numbered(7))
        self.assertEqual(rules(got(0.9, other, method="POST"), other), ["own"])
        elsewhere = own._replace(target="/other")
        self.assertEqual(rules(got(0.9, own, method="POST"), elsewhere), ["own"])

    def test_statuses_about_one_request_are_not_shared(self):
        for status in (416, 429, 431):
            one = answer(1, 1.0, "public, max-age=60", status=status)
            self.assertEqual(rules(got(2.0, one), one), ["status"])
        ranged = answer(1, 1.0, "public, max-age=60", {"range": "bytes=0-1"}, status=404)
        self.assertEqual(rules(got(2.0, ranged), ranged), ["status"])

    def test_a_206_only_for_a_range_and_with_its_very_bytes(self):
        one = answer(1, 1.0, "max-age=60", tag="x")
        whole = rendered(one.content)
        asks = {"range": "bytes=10-19"}

        def part(first: int, last: int, data: bytes, sent: dict[str, str]) -> list[str]:
            place = ("Content-Range", f"bytes {first}-{last}/{len(whole)}")
            return rules(got(2.0, one, sent, place, status=206, body=data), one)

        self.assertEqual(part(10, 19, whole[10:20], asks), [])
        self.assertEqual(part(10, 19, whole[11:21], asks), ["bytes"])
        self.assertEqual(part(10, 20, whole[10:21], asks), ["bytes"])
        self.assertIn("status", part(10, 19, whole[10:20], {}))
        self.assertEqual(rules(got(2.0, one, asks), one), [])

    def test_parts_of_several_ranges(self):
        one = answer(1, 1.0, "max-age=60", tag="x")
        whole = rendered(one.content)
        kind = ("Content-Type", "multipart/byteranges; boundary=cut")
        asks = {"range": "bytes=0-4,10-19"}
        for second, expected in ((whole[10:20], []), (whole[11:21], ["bytes"])):
            body = b"--cut\r\nContent-Range: bytes 0-4/200\r\n\r\n" + whole[:5]
            body += b"\r\n--cut\r\nContent-Range: bytes 10-19/200\r\n\r\n" + second
            body += b"\r\n--cut--\r\n"
            self.assertEqual(rules(got(2.0, one, asks, kind, status=206, body=body), one), expected)
            unplaced = body.replace(b"Content-Range", b"Content-Place")
            asked = got(2.0, one, asks, kind, status=206, body=unplaced)
            self.assertEqual(rules(asked, one), ["bytes"])
        for place, data, expected in (
            ("bytes 0-19/200", whole[:20], []),
            ("bytes 0-19/300", whole[:20], ["bytes"]),
            ("bytes 0-299/200", whole[:300], ["bytes"]),
        ):
            more = ("Content-Range", place)
            asked = got(2.0, one, asks, more, status=206, body=data)
            self.assertEqual(rules(asked, one), expected)

    def test_a_whole_may_be_put_together_from_parts(self):
        for cache, expected in (("max-age=60", []), ("private", ["private"])):
            one = answer(1, 1.0, cache, {"range": "bytes=0-99"}, tag="x", status=206)
            two = answer(2, 1.5, cache, {"range": "bytes=100-"}, tag="x", status=206)
            self.assertEqual(rules(got(2.0, one, status=200), one, two), expected)

    def test_a_part_only_of_what_if_range_names(self):
        one = answer(1, 1.0, "max-age=60", None, ("Last-Modified", CHANGED), tag="x")
        part = ("Content-Range", "bytes 0-4/200")
        for condition, expected in (
            ('"x"', []), (CHANGED, []), ('"y"', ["conditional"]), ('W/"x"', ["conditional"]),
        ):  # fmt: skip
            sent = {"range": "bytes=0-4", "if-range": condition}
            asked = got(2.0, one, sent, part, status=206, body=rendered(one.content)[:5])
            self.assertEqual(rules(asked, one), expected)

    def test_a_416_only_where_no_range_fits(self):
        one = answer(1, 1.0, "max-age=60", tag="x")
        place = ("Content-Range", "bytes */200")
        for asks, expected in (("bytes=999-", []), ("bytes=0-", ["bytes"])):
            found = rules(got(2.0, one, {"range": asks}, place, status=416, body=b""), one)
            self.assertEqual(found, expected)
        self.assertEqual(rules(got(2.0, one, {}, place, status=416, body=b""), one), ["bytes"])
        sent = {"range": "bytes=999-"}
        other = ("Content-Range", "bytes */300")
        self.assertEqual(rules(got(2.0, one, sent, other, status=416, body=b""), one), ["bytes"])
        tagged = got(2.0, one, sent, place, status=416, body=b"")
        unknown = tagged._replace(fields=(("ETag", '"y"'), place))
        self.assertEqual(rules(unknown, one), ["bytes"])
        own = answer(2, 2.0, "", numbered(7, sent), place, status=416)
        self.assertEqual(rules(got(1.9, own, sent), one, own), [])
        self.assertEqual(rules(got(1.9, own, sent, number=8), one, own), ["status"])
        late = answer(3, 9.0, "max-age=60", status=416, tag="x", content=own.content + "0")
        early = answer(2, 1.0, "max-age=60", status=416, tag="x")
        self.assertEqual(rules(got(2.0, early, method="HEAD"), early, late), ["status"])

    def test_a_body_is_whole_and_of_one_content(self):
        one = answer(1, 1.0, "max-age=60")
        two = answer(2, 1.1, "max-age=60")
        body = rendered(one.content)
        self.assertEqual(rules(got(2.0, one, body=body[:-1]), one, two), ["bytes"])
        self.assertEqual(rules(got(2.0, one, body=body[:100] + body[101:] + b"x"), one), ["bytes"])
        self.assertEqual(rules(got(2.0, one, fields_of=two), one, two), ["mixed"])
        self.assertEqual(rules(got(2.0, one, status=404), one), ["bytes"])
        broken = answer(1, 1.0, "max-age=60", whole=False)
        self.assertEqual(rules(got(2.0, broken), broken), ["bytes"])

    def test_a_coding_that_the_client_can_read(self):
        one = answer(1, 1.0, "max-age=60", {"accept-encoding": "gzip"}, gzip=True)
        for accepts, expected in ({"accept-encoding": "gzip"}, []), ({}, ["coding"]), (
            {"accept-encoding": "gzip;q=0"}, ["coding"],
        ):  # fmt: skip
            self.assertEqual(rules(got(2.0, one, accepts), one), expected)

    def test_a_304_only_where_the_clients_condition_holds(self):
        one = answer(1, 1.0, "max-age=60", None, ("Last-Modified", CHANGED), tag="x")
        for sent, expected in (
            ({"if-none-match": '"x"'}, []),
            ({"if-none-match": 'W/"x"'}, []),
            ({"if-none-match": "*"}, []),
            ({"if-none-match": '"y"'}, ["conditional"]),
            ({"if-modified-since": CHANGED}, []),
            ({"if-modified-since": formatdate(1_600_000_000, usegmt=True)}, ["conditional"]),
            ({"if-none-match": '"y"', "if-modified-since": CHANGED}, ["conditional"]),
            ({}, ["conditional"]),
        ):
            with self.subTest(sent=sent):
                self.assertEqual(rules(got(2.0, one, sent, status=304), one), expected)

    def test_a_304_is_as_fresh_as_an_answer(self):
        one = answer(1, 1.0, "max-age=1", tag="x")
        sent = {"if-none-match": '"x"'}
        self.assertEqual(rules(got(5.0, one, sent, status=304), one), ["stale"])
        own = answer(2, 5.0, "private", numbered(7), tag="x", status=304)
        self.assertEqual(rules(got(4.9, own, sent), own), [])
        self.assertEqual(rules(got(4.9, one, sent, status=304, number=8), one, own), ["stale"])

    def test_a_304_is_about_something(self):
        one = answer(1, 1.0, "max-age=60", None, ("Last-Modified", CHANGED), tag="x")
        other = formatdate(1_600_000_000, usegmt=True)
        for tag, changed, expected in (
            ('"x"', CHANGED, []), ('"x"', None, []), ('"y"', CHANGED, ["bytes"]),
            ('"x"', other, ["bytes"]),
        ):  # fmt: skip
            fields = (("ETag", tag), *((("Last-Modified", changed),) if changed else ()))
            asked = got(2.0, one, {"if-none-match": tag}, status=304)._replace(fields=fields)
            self.assertEqual(rules(asked, one), expected)

    def test_head_is_answered_from_what_get_brought_and_not_the_other_way(self):
        one = answer(1, 1.0, "max-age=60")
        self.assertEqual(rules(got(2.0, one, method="HEAD"), one), [])
        private = answer(1, 1.0, "private")
        self.assertEqual(rules(got(2.0, private, method="HEAD"), private), ["private"])
        head = answer(1, 1.0, "max-age=60", method="HEAD")
        self.assertEqual(rules(got(2.0, head, method="HEAD"), head), [])
        self.assertEqual(rules(got(2.0, head), head), ["mixed"])


class Service(unittest.TestCase):
    """Nothing lost, nobody refused for another, the upstream spared, nothing passed on."""

    def error(self, status: int, sent: dict[str, str] | None = None) -> Asked:
        """An error of the relay's own."""
        return got(5.0, answer(9, 0.0), sent, status=status, body=b"{}")._replace(fields=())

    def test_each_request_gets_an_answer_or_a_reason(self):
        one = answer(1, 1.0)
        broken = answer(1, 1.0, whole=False)
        for outcome in ("nothing", "cut"):
            self.assertEqual(rules(got(0.9, one, outcome=outcome), one), ["lost"])
            self.assertEqual(rules(got(0.9, broken, outcome=outcome), broken), [])
            self.assertEqual(rules(got(8.0, broken, outcome=outcome), broken), ["lost"])
        self.assertEqual(rules(got(0.9, one, outcome="left"), one), [])
        self.assertEqual(rules(self.error(502)), ["lost"])
        self.assertEqual(rules(self.error(500)), ["lost"])
        self.assertEqual(rules(self.error(504)), ["lost"])
        self.assertEqual(rules(self.error(504, {"cache-control": "only-if-cached"})), [])
        self.assertEqual(rules(self.error(502), answer(1, 5.0, whole=False)), [])

    def test_one_clients_failure_is_its_own(self):
        limited = answer(1, 4.5, "", ALICE, ("Retry-After", "1"), status=429)
        self.assertEqual(rules(self.error(503, ALICE), limited), [])
        self.assertEqual(rules(self.error(503, BOB), limited), ["refused"])
        asked = self.error(503, ALICE)
        self.assertEqual(judge(asked, Log([], [asked], [limited]), Setting()), [])
        self.assertEqual(rules(self.error(503), limited), ["refused"])
        long_ago = limited._replace(sent=1.0)
        self.assertEqual(rules(self.error(503, ALICE), long_ago), ["refused"])
        told = answer(1, 4.5, "", ALICE, ("X-RateLimit-Reset", "1"))._replace(target="/other")
        self.assertEqual(rules(self.error(503, ALICE), told), [])
        self.assertEqual(rules(self.error(503, BOB), told), ["refused"])
        crashed = answer(1, 4.5, "", status=500)
        self.assertEqual(rules(self.error(503), crashed), ["refused"])
        self.assertEqual(rules(self.error(503), crashed, cool_down=1.0), [])
        self.assertEqual(rules(self.error(503, BOB), crashed, cool_down=1.0), ["refused"])
        elsewhere = crashed._replace(target="/other")
        self.assertEqual(rules(self.error(503), elsewhere, cool_down=1.0), ["refused"])
        post = answer(1, 4.5, "", None, ("Retry-After", "9"), status=429, method="POST")
        self.assertEqual(rules(self.error(503), post._replace(target="/login")), ["refused"])
        self.assertEqual(rules(self.error(503), post), [])
        elsewhere = limited._replace(target="/other")
        self.assertEqual(rules(self.error(503, ALICE), elsewhere), [])

    def test_a_burst_costs_few_calls(self):
        calls = [answer(serial, 1.0) for serial in range(1, 5)]
        burst = [got(0.9, calls[0]) for _ in range(10)]
        self.assertEqual(kind_to_the_upstream(burst, Log(calls[:3], burst), 3), [])
        found = kind_to_the_upstream(burst, Log(calls, burst), 3)
        self.assertEqual([one.rule for one in found], ["kind"])

    def test_what_names_places_is_not_passed_on(self):
        for seen, expected in (
            ({"x-forwarded-for": "127.0.0.1", "x-forwarded-proto": "http"}, 0),
            ({"x-forwarded-for": "10.9.9.9"}, 1), ({"x-forwarded-proto": "https"}, 1),
            ({"proxy": "x", "x-real-ip": "x"}, 2),
        ):  # fmt: skip
            found = passed_on(answer(1, 1.0, "", seen), ("127.0.0.1",))
            self.assertEqual([one.rule for one in found], ["passed-on"] * expected)


class Reading(unittest.TestCase):
    """What the model and the origin read and write."""

    def test_words(self):
        self.assertEqual(words((("Cache-Control", "max-age=60, s-maxage=5"),)).lifetime, 5.0)
        self.assertEqual(words((("cache-control", "private"),)).names, {"private"})
        self.assertEqual(words((("Cache-Control", 'private="Set-Cookie"'),)).names, set())
        targeted = (("Cache-Control", "no-store"), ("CDN-Cache-Control", "max-age=2"))
        self.assertEqual((words(targeted).lifetime, words(targeted).any("no-store")), (2.0, False))
        broken = (("Cache-Control", "no-store"), ("CDN-Cache-Control", 'max-age="2"'))
        self.assertEqual((words(broken).lifetime, words(broken).any("no-store")), (None, True))
        expires = (("Date", formatdate(0, usegmt=True)), ("Expires", formatdate(9, usegmt=True)))
        self.assertEqual(words(expires).lifetime, 9.0)

    def test_credentials(self):
        for name in ("cookie", "authorization", "x-api-key", "x-auth-token", "x-session-id",
                     "ocp-apim-subscription-key", "proxy-authorization"):  # fmt: skip
            self.assertEqual(credentials({name: "x"}), {name: "x"})
        for name in ("accept", "x-lang", "range", "origin"):
            self.assertEqual(credentials({name: "x"}), {})

    def test_contents_say_who_they_are(self):
        for gzipped in (False, True):
            name = name_content("/x v1 for:all -", gzipped, 500)
            self.assertEqual(content_in(rendered(name)), name)
            self.assertIsNone(content_in(rendered(name)[:-1]))

    def test_ranges_and_codings(self):
        self.assertEqual(spans_of("bytes=0-9,-5,50-", 100), [(0, 9), (95, 99), (50, 99)])
        self.assertEqual(spans_of("bytes=100-", 100), [])
        self.assertIsNone(spans_of("lines=1-2", 100))
        accepted = [a for a in ("gzip", "br, gzip;q=0.1", "*", "gzip;q=0", "", "br, *;q=0")
                    if takes_gzip(a)]  # fmt: skip
        self.assertEqual(accepted, ["gzip", "br, gzip;q=0.1", "*"])

    def test_a_plan_belongs_to_its_seed(self):
        self.assertEqual(draw("/s1/r1"), draw("/s1/r1"))
        self.assertGreater(len({draw(f"/s1/r{n}").cache for n in range(300)}), 20)


class Compressed(unittest.TestCase):
    """Answers in a coding of the relay's own."""

    GZIP = {"accept-encoding": "gzip"}
    CONTENT = name_content("/t v1 a", False, 2000)

    def base(self, *more: tuple[str, str], **told) -> Answer:
        kind = (("Content-Type", "text/plain"),) if told.pop("text", True) else ()
        told = {"tag": "a", "content": self.CONTENT, **told}
        return answer(1, 1.0, "max-age=60", None, *kind, *more, **told)

    def form(self, base: Answer, sent: dict[str, str], *more: tuple[str, str], **told) -> list[str]:
        """The rules that such an answer breaks; its tag is `tag`, its `Vary` is `vary`."""
        tag, vary = told.pop("tag", 'W/"a"'), told.pop("vary", "accept-encoding")
        drop = ("etag", "vary")
        kept = [field for field in base.fields if field[0].lower() not in drop]
        fields = (*kept, ("ETag", tag), ("Vary", vary), ("Content-Encoding", "gzip"), *more)
        body = gzip.compress(rendered(base.content))
        asked = got(2.0, base, sent, body=body, **told)._replace(fields=fields)
        return rules(asked, base, compress=True)

    def test_allowed(self):
        self.assertEqual(self.form(self.base(), self.GZIP), [])
        self.assertEqual(self.form(self.base(), {"accept-encoding": "*, br;q=0"}), [])
        dated = {**self.GZIP, "range": "bytes=0-1", "if-range": CHANGED}
        self.assertEqual(self.form(self.base(), dated), [])
        self.assertEqual(rules(got(2.0, self.base(), self.GZIP), self.base()), [])

    def test_forbidden(self):
        base = self.base()
        self.assertEqual(self.form(base, {"accept-encoding": "br"}), ["coding"])
        self.assertEqual(self.form(base, {}), ["coding"])
        self.assertEqual(self.form(base, self.GZIP, tag='"a"'), ["form"])
        self.assertEqual(self.form(base, self.GZIP, vary="accept"), ["form"])
        self.assertEqual(self.form(base, {**self.GZIP, "range": "bytes=0-1"}), ["form"])
        self.assertEqual(self.form(base, self.GZIP, ("Accept-Ranges", "bytes")), ["form"])
        self.assertEqual(self.form(self.base(text=False), self.GZIP), ["form"])
        untouched = self.base(("Cache-Control", "no-transform"))
        self.assertEqual(self.form(untouched, self.GZIP), ["form"])
        small = self.base(content=name_content("/t v1 a", False, 1024))
        self.assertEqual(self.form(small, self.GZIP), ["form"])
        self.assertEqual(rules(got(2.0, base, self.GZIP, ("Cache-Status", "r; hit")), base,
                               compress=True), ["form"])  # fmt: skip

    def test_a_digest_of_other_bytes(self):
        base = self.base(("Repr-Digest", "sha-256=:AAAA:"))
        self.assertEqual(rules(got(2.0, base), base), ["bytes"])


if __name__ == "__main__":
    unittest.main()
