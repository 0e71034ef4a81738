"""The live page in a real Chromium, against a real relay."""

from __future__ import annotations

import re
import signal
import time
import unittest
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, ClassVar
from urllib.request import Request, urlopen

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from tests.browser_support import PATIENCE_MS, Browser
from tests.database_support import free_port
from tests.relay_support import (
    Asked,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)

LOST = "net::ERR_"
"""What Chromium complains of while the relay is away."""

FRESH = [("Cache-Control", "max-age=60"), ("Cache-Groups", '"menus"')]
HOSTILE = "/x/'-alert(1)-'/&lt;img/%3Cscript%3Ealert(1)%3C/script%3E?q=[b]&r={}"

expect.set_options(timeout=PATIENCE_MS)


def admin_of(relay: RunningRelay) -> str:
    """The URL of a relay's admin address."""
    line = re.compile(r"^ +admin +(http://\S+)$", re.MULTILINE)
    eventually(lambda: line.search(relay.log()) is not None, "a line about the admin address")
    return str(line.findall(relay.log())[0])


def fresh(asked: Asked) -> Script:
    return response(200, FRESH, b"x" * 2000)


class PageCase(unittest.TestCase):
    browser: ClassVar[Browser]

    @classmethod
    def setUpClass(cls) -> None:
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self) -> None:
        self.opened = ExitStack()
        self.addCleanup(self.opened.close)

    def origin(self, script: Callable[[Asked], Script] = fresh) -> ScriptedOrigin:
        """An upstream for the test."""
        return self.opened.enter_context(ScriptedOrigin(script))

    def relay(
        self, origin: ScriptedOrigin, *flags: str, admin: str = "127.0.0.1:0"
    ) -> RunningRelay:
        """A relay in front of it, with an admin address."""
        return self.opened.enter_context(RunningRelay(origin.url, "--admin", admin, *flags))

    def page(self, relay: RunningRelay, **more: Any) -> Page:
        """The live page, which has had its first status unless `more` says otherwise."""
        return self.opened.enter_context(self.browser.page(admin_of(relay) + "/", **more))

    def well(self, page: Page) -> None:
        """Waits until the page says that all is well."""
        expect(page.locator("#state")).to_have_text("All is well")


class NumbersTest(PageCase):
    def test_what_happens_is_counted(self) -> None:
        origin = self.origin()
        relay = self.relay(origin)
        page = self.page(relay)
        self.well(page)
        expect(page.locator("#about")).to_contain_text(origin.url)
        for _ in range(5):
            relay.get("/a")
        expect(page.locator("#tile-saved")).to_have_text("4")
        expect(page.locator("#tile-share")).to_have_text("80 %")
        counts = page.locator("#counts dd")
        expect(counts.nth(0)).to_have_text("4 fresh")
        expect(counts.nth(2)).to_have_text("1 nothing stored")
        for name, total in (("Requests", 5), ("Hits", 4), ("Misses", 1), ("Calls saved", 4)):
            label = re.compile(f"^{name}: .* at most .*/s, {total} [a-z]+ in all$")
            expect(page.locator("#charts svg").nth(chart_of(page, name))).to_have_attribute(
                "aria-label", label
            )
        page.locator("#minutes summary").click()
        expect(page.locator("#minutes-body tr")).to_have_text(re.compile(r"0 to 15401\D?14$"))
        expect(page.locator("#workers tr")).to_have_count(1)

    def test_the_upstream_rests_and_the_time_counts_down(self) -> None:
        origin = self.origin()
        relay = self.relay(origin, "--cool-down", "30")
        page = self.page(relay)
        self.well(page)
        origin.close()
        relay.get("/failing")
        expect(page.locator("#state")).to_have_text("The upstream is resting")
        seen = set()

        def falls() -> bool:
            text = page.locator("#countdown").text_content() or ""
            found = re.fullmatch(r"It is asked again in (\d+) s", text)
            if found:
                seen.add(int(found[1]))
            page.wait_for_timeout(100)
            return len(seen) >= 3

        eventually(falls, "three numbers of the countdown")

    def test_the_most_used_entries_and_their_freshness(self) -> None:
        def script(asked: Asked) -> Script:
            if asked.target == "/short":
                return response(200, [("Cache-Control", "max-age=1")], b"x")
            return fresh(asked)

        relay = self.relay(self.origin(script))
        relay.get("/short")
        for path, times in (("/often", 9), ("/once", 1), ("/twice", 4), ("/other/x", 2)):
            for _ in range(times):
                relay.get(path)
        page = self.page(relay)
        first = page.locator("#entries tr").first
        expect(first.locator("th")).to_have_text("/often")
        before = first.locator(".freshness").text_content() or ""
        self.assertRegex(before, r"^fresh for (1 min 0|\d+) s$")
        expect(first.locator(".freshness")).not_to_have_text(before)
        short = page.locator("#entries tr").filter(has_text="/short").locator(".freshness")
        expect(short).to_have_text(re.compile(r"^stale for \d+ s$"))
        expect(short).to_have_class(re.compile(r"\bstale\b"))
        page.fill("#search-input", "/o")
        page.keyboard.press("Enter")
        expect(page.locator("#entries th")).to_have_text(["/often", "/other/x", "/once"])
        expect(page.locator("#search-result")).to_have_text("3 entries.")
        page.fill("#search-input", "/nothing")
        page.click("#search-form button")
        expect(page.locator("#search-result")).to_have_text("Nothing stored begins so.")
        expect(page.locator("#entries-table")).to_be_hidden()

    def test_the_most_used_are_found_among_many(self) -> None:
        relay = self.relay(self.origin(), "--workers", "2")
        for number in range(250):
            relay.get(f"/many/{number}")
        for _ in range(5):
            relay.get("/often")
        page = self.page(relay)
        expect(page.locator("#entries tr").first.locator("th")).to_have_text("/often")
        expect(page.locator("#entries tr")).to_have_count(20)
        told = "The 20 entries most used; more begin so."
        expect(page.locator("#search-result")).to_have_text(told)

    def test_a_restart_is_survived_and_nothing_is_negative(self) -> None:
        origin = self.origin()
        admin = f"127.0.0.1:{free_port()}"
        with RunningRelay(origin.url, "--admin", admin) as relay:
            page = self.page(relay, may_err=(LOST,))
            self.well(page)
            for _ in range(50):
                relay.get("/a")
            self.expect_requests(page, 50)
        expect(page.locator("#state")).to_have_text("No connection to the relay; trying again")
        expect(page).to_have_title("No connection to the relay; trying again – api_relaying_server")
        stopped = int(time.time())
        # The chart has a place for each second: what lies within one of them is no gap.
        eventually(lambda: int(time.time()) > stopped, "the next second")
        relay = self.relay(origin, admin=admin)
        self.well(page)
        relay.get("/b")
        relay.get("/b")
        expect(page.locator("#tile-saved")).to_have_text("1")
        self.expect_requests(page, 52)
        expect(page).to_have_title("api_relaying_server")
        drawn = page.eval_on_selector_all(
            "#charts path", "paths => paths.map(path => path.getAttribute('d')).join(' ')"
        )
        heights = [float(y) for y in re.findall(r"[ML][\d.-]+ ([\d.-]+)", drawn)]
        self.assertTrue(heights)
        self.assertGreaterEqual(min(heights), 0)
        self.assertLessEqual(max(heights), 100)
        self.expect_a_gap(page)
        page.locator("#minutes summary").click()
        self.assertNotIn("-", page.locator("#minutes-body").text_content() or "")

    def test_a_relay_that_hangs_is_noticed_and_the_time_is_a_gap(self) -> None:
        relay = self.relay(self.origin())
        page = self.page(relay, may_err=(LOST,))
        self.well(page)
        relay.get("/a")
        self.expect_requests(page, 1)
        relay.signal(signal.SIGSTOP)
        try:
            expect(page.locator("#state")).to_contain_text("No connection to the relay")
        finally:
            relay.signal(signal.SIGCONT)
        self.well(page)
        relay.get("/a")
        self.expect_requests(page, 2)
        self.expect_a_gap(page)

    def test_what_was_before_the_page_is_shown_at_once_and_after_a_reload(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers):
                relay = self.relay(self.origin(), "--workers", workers)
                for _ in range(30):
                    relay.get("/a")
                    time.sleep(0.1)  # so that they are in several seconds
                page = self.page(relay)
                self.well(page)
                self.expect_requests(page, 30)
                page.reload()
                self.well(page)
                self.expect_requests(page, 30)
                expect(page.locator("#tile-share")).to_have_text("96 %")

    def expect_requests(self, page: Page, count: int) -> None:
        """Waits until the chart has so many requests."""
        label = re.compile(f", {count} requests in all$")
        expect(page.locator("#charts svg").nth(0)).to_have_attribute("aria-label", label)

    def expect_a_gap(self, page: Page) -> None:
        """The line of the first chart is broken once; a busy machine may let more seconds pass."""
        line = page.locator("#charts path:not(.area)").first.get_attribute("d") or ""
        self.assertIn(line.count("M"), range(2, 5), line)

    def test_more_pages_than_may_listen(self) -> None:
        relay = self.relay(self.origin())
        taken = []
        try:
            for _ in range(16):
                taken.append(urlopen(admin_of(relay) + "/api/events"))
            page = self.page(relay, may_err=("503",))
            expect(page.locator("#state")).to_contain_text("The relay refuses: ")
        finally:
            for each in taken:
                each.close()
        self.well(page)


def chart_of(page: Page, name: str) -> int:
    """The place of a chart among the charts."""
    names: list[str] = page.locator("#charts b").all_text_contents()
    return names.index(name)


class FormsTest(PageCase):
    def test_explain_by_keyboard_alone(self) -> None:
        relay = self.relay(self.origin())
        relay.get("/a?x=1")
        page = self.page(relay, may_err=("400",))
        self.well(page)
        page.focus("#explain-path")
        page.keyboard.type("/a?x=1")
        page.keyboard.press("Tab")
        page.keyboard.type("Accept: text/html")
        page.keyboard.press("Tab")
        page.keyboard.press("Space")
        expect(page.locator("#explain-result")).to_contain_text("hit: ")
        expect(page.locator("#explained")).to_contain_text("max-age")
        expect(page.locator("#explained h3")).to_have_text("Stored response 1")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Explain")
        page.fill("#explain-path", "no-path")
        page.keyboard.press("Enter")
        expect(page.locator("#explain-result")).to_contain_text("Not done: ")
        expect(page.locator("#explained h3")).to_have_count(0)

    def test_an_entry_is_explained_and_purged_where_it_stands(self) -> None:
        relay = self.relay(self.origin())
        relay.get("/a")
        page = self.page(relay)
        page.get_by_role("button", name="Explain /a").click()
        expect(page.locator("#explain-result")).to_contain_text("hit: ")
        page.get_by_role("button", name="Purge /a").click()
        expect(page.locator("#search-result")).to_have_text("Purged /a: 1")
        eventually(lambda: "hit" not in relay.get("/a").cache_status, "a validation")

    def test_purge(self) -> None:
        relay = self.relay(self.origin())
        for path in ("/a", "/b", "/c/1", "/c/2"):
            relay.get(path)
        page = self.page(relay)
        self.well(page)
        result = page.locator("#purge-result")
        page.click("#purge-form button")
        expect(result).to_have_text("Not done: say what to purge")
        page.fill("#purge-words", "/a\n\n /b \n")
        page.click("#purge-form button")
        expect(result).to_have_text("Purged 2 targets.")
        page.check("input[value=prefix]")
        expect(page.locator("#purge-label")).to_have_text("A path; what begins with it is purged")
        page.click("#purge-form button")
        expect(result).to_have_text("Not done: one path at a time")
        page.fill("#purge-words", "/c/")
        page.click("#purge-form button")
        expect(result).to_have_text("Purged 2 targets.")
        page.check("input[value=groups]")
        page.fill("#purge-words", "menus")
        page.click("#purge-form button")
        expect(result).to_have_text("Purged 4 targets.")

    def test_everything_only_after_a_question(self) -> None:
        relay = self.relay(self.origin())
        relay.get("/a")
        page = self.page(relay, width=360)
        self.well(page)
        asked: list[str] = []
        answers = [False, True]

        def answer(dialog: Any) -> None:
            asked.append(dialog.message)
            if answers.pop(0):
                dialog.accept()
            else:
                dialog.dismiss()

        page.on("dialog", answer)
        page.check("input[value=all]")
        for part in ("#purge-words", "#purge-label"):
            expect(page.locator(part)).to_be_hidden()
        page.check("#purge-hard")
        page.click("#purge-form button")
        expect(page.locator("#purge-result")).to_have_text("Nothing was purged.")
        page.click("#purge-form button")
        expect(page.locator("#purge-result")).to_have_text("Purged 1 target.")
        self.assertEqual(asked, ["Purge everything?"] * 2)
        expect(page.locator("#entries-table")).to_be_hidden()

    def test_warm(self) -> None:
        origin = self.origin()
        page = self.page(self.relay(origin))
        self.well(page)
        page.fill("#warm-paths", "/a\n/b")
        page.click("#warm-form button")
        expect(page.locator("#warm-result")).to_have_text("The relay fetches 2 paths.")
        self.assertEqual({each.target for each in origin.wait_for(2)}, {"/a", "/b"})


class TokenTest(PageCase):
    def test_it_is_asked_for_kept_for_the_tab_and_forgotten(self) -> None:
        relay = self.relay(self.origin(), "--admin-token", "the-right-one")
        page = self.page(relay, may_err=("401",))
        form = page.locator("#token")
        expect(form).to_be_visible()
        self.assertEqual(page.evaluate("document.activeElement.id"), "token-input")
        page.keyboard.type("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#token-result")).to_have_text("The relay does not take this token.")
        page.fill("#token-input", " the-right-one ")
        page.keyboard.press("Enter")
        self.well(page)
        expect(form).to_be_hidden()
        self.assertEqual(page.evaluate("document.activeElement.id"), "main")
        self.assertEqual(page.evaluate("[localStorage.length, document.cookie]"), [0, ""])
        page.reload()
        self.well(page)
        page.click("#forget")
        expect(form).to_be_visible()
        self.assertEqual(page.evaluate("sessionStorage.length"), 0)


class SafetyTest(PageCase):
    def test_what_others_say_is_text(self) -> None:
        relay = self.relay(self.origin())
        relay.get(HOSTILE)
        page = self.page(relay, may_err=("400",))
        expect(page.locator("#entries th").first).to_have_text(HOSTILE)
        page.get_by_role("button", name=f"Explain {HOSTILE}").click()
        expect(page.locator("#explained dd").first).to_have_text(HOSTILE)
        expect(page.locator("#explain-result")).to_contain_text("hit: ")
        page.fill("#explain-path", "/<img src=x onerror=alert(1)>")
        page.keyboard.press("Enter")
        expect(page.locator("#explain-result")).to_contain_text("Not done: ")
        self.assertEqual(page.locator("main img, main script, main b:not(figcaption b)").count(), 0)

    def test_the_policy_lets_nothing_else_run(self) -> None:
        relay = self.relay(self.origin())
        with urlopen(Request(admin_of(relay) + "/", headers={"Accept": "text/html"})) as answer:
            policy = answer.headers["Content-Security-Policy"]
        self.assertNotIn("unsafe", policy)
        self.assertIn("default-src 'none'", policy)
        refused = ("Content Security Policy", "Trusted", "The action has been blocked")
        page = self.page(relay, may_err=refused)
        self.well(page)
        made = page.evaluate(
            """() => {
                const taken = "document.title = 'taken'";
                const tries = [
                    () => { document.body.innerHTML = "<b>taken</b>"; },
                    () => {
                        const script = document.createElement("script");
                        script.append(taken);
                        document.body.append(script);
                        throw new Error("it does not run");
                    },
                    () => {
                        document.body.setAttribute("onclick", taken);
                        throw new Error("it was taken");
                    },
                ];
                const made = tries.filter((one) => {
                    try {
                        one();
                        return true;
                    } catch {
                        return false;
                    }
                });
                document.body.click();
                document.body.setAttribute("style", "display: none");
                return made.length;
            }"""
        )
        self.assertEqual(made, 0)
        self.assertEqual(page.title(), "api_relaying_server")
        expect(page.locator("h1")).to_be_visible()


class AccessTest(PageCase):
    def test_axe_finds_nothing(self) -> None:
        relay = self.relay(self.origin())
        for number in range(30):
            relay.get(f"/some/target/that/is/long/and/has/no/place/to/break/{number}")
        for width in (1200, 360):
            for dark in (False, True):
                with (
                    self.subTest(width=width, dark=dark),
                    self.browser.page(admin_of(relay) + "/", width=width, dark=dark) as page,
                ):
                    page.locator("#entries button").first.click()
                    expect(page.locator("#explained h3")).to_be_visible()
                    page.locator("#minutes summary").click()
                    expect(page.locator("#minutes-body tr")).not_to_have_count(0)
                    found = Axe().run(page).response["violations"]
                    told = [
                        (each["impact"], each["id"], [node["html"] for node in each["nodes"]])
                        for each in found
                    ]
                    self.assertEqual(told, [])
                    wide = page.evaluate("document.documentElement.scrollWidth")
                    self.assertLessEqual(wide, width)

    def test_live_regions_say_only_news(self) -> None:
        relay = self.relay(self.origin())
        page = self.page(relay)
        expect(page.locator("#search-result")).not_to_be_empty()
        page.evaluate(
            """() => {
                window.said = [];
                for (const place of document.querySelectorAll("[role=status], [aria-live]")) {
                    new MutationObserver(() => window.said.push(place.id))
                        .observe(place, { childList: true, characterData: true, subtree: true });
                }
            }"""
        )
        for _ in range(3):
            relay.get("/a")
        expect(page.locator("#tile-saved")).to_have_text("2")
        began = time.monotonic()
        eventually(lambda: wait(page) and time.monotonic() > began + 3, "three more events")
        self.assertEqual(page.evaluate("window.said"), [])

    def test_landmarks_headings_and_the_way_past_them(self) -> None:
        page = self.page(self.relay(self.origin()))
        self.well(page)
        self.assertEqual(page.get_by_role("main").count(), 1)
        self.assertEqual(page.get_by_role("banner").count(), 1)
        self.assertEqual(page.get_by_role("search").count(), 1)
        self.assertEqual(page.get_by_role("heading", level=1).count(), 1)
        for name in ("State", "The last ten minutes", "Upstream", "Most used entries", "Purge"):
            self.assertEqual(page.get_by_role("region", name=name, exact=True).count(), 1, name)
        page.keyboard.press("Tab")
        self.assertEqual(page.evaluate("document.activeElement.textContent"), "Skip to the numbers")
        page.keyboard.press("Enter")
        self.assertEqual(page.evaluate("document.activeElement.id"), "main")

    def test_no_motion_where_none_is_wanted(self) -> None:
        relay = self.relay(self.origin())
        for calm in (False, True):
            page = self.page(relay, calm=calm)
            moves = page.evaluate(
                "[...document.querySelectorAll('*')].filter(element => "
                "parseFloat(getComputedStyle(element).transitionDuration) > 0).length"
            )
            self.assertEqual(moves == 0, calm)


def wait(page: Page) -> bool:
    """Lets the page go on for a moment."""
    page.wait_for_timeout(200)
    return True


if __name__ == "__main__":
    unittest.main()
