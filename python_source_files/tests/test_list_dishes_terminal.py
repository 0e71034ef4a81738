"""The dish tool on a pseudo-terminal: widths, columns that line up, colours, progress, Ctrl-C."""

from __future__ import annotations

import datetime
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Sequence

from rich.cells import cell_len

from sample_menu_api import data
from sample_menu_api.server import SampleMenuApi
from tests import dish_tool_support as support
from tests.dish_tool_support import FakeRelay, ToolTestCase, answer, listed, menu, without_colour

THURSDAY = datetime.date(2026, 3, 5)
WIDTHS = (40, 80, 200)

_BAR = re.compile(r"\A\x1b\[\?25lmenus .*\x1b\[\?25h\r\x1b\[1A\x1b\[2K", re.DOTALL)


def without_bar(text: str) -> str:
    """Return `text` without the progress bar, which a busy machine has time to draw and to wipe."""
    return _BAR.sub("", text)


class TerminalTest(ToolTestCase):
    """What is drawn on terminals of several widths."""

    api: SampleMenuApi

    @classmethod
    def setUpClass(cls) -> None:
        cls.api = SampleMenuApi(today=THURSDAY)
        cls.api.start()
        cls.addClassCleanup(cls.api.close)

    def draw(self, *arguments: str, columns: int, **environment: str) -> str:
        """Return what is on the terminal; every line fits, and nothing but colour was sent."""
        result = self.run_on_terminal(
            "--relay", self.api.url, *arguments, columns=columns, **environment
        )
        self.assertEqual(result.code, 0)
        text = without_colour(without_bar(result.out))
        self.assertNotIn("\x1b", text)
        for line in text.splitlines():
            self.assertLessEqual(cell_len(line), columns, line)
        return text

    def test_the_list_fits_every_width(self) -> None:
        for columns in WIDTHS:
            text = self.draw(columns=columns)
            for restaurant in data.RESTAURANTS:
                for word in (restaurant.identifier, *restaurant.name.split(), restaurant.region):
                    self.assertIn(word, text)
            self.assertIn(f"{len(data.RESTAURANTS)} restaurants · list from", text)

    def test_menus_fit_every_width(self) -> None:
        for columns in WIDTHS:
            text = self.draw("--all", "--near", "59.35,18", columns=columns)
            words = " ".join(text.split())
            for restaurant in data.RESTAURANTS:
                self.assertIn(restaurant.name, words)
                for dish in data.menu(restaurant, THURSDAY):
                    for word in dish.text.split():
                        self.assertIn(word, text)
            self.assertIn("closed today", text)
            self.assertRegex(words, r"menu from \d\d:\d\d, new")
            self.assertRegex(words, r"\d km")

    def test_wide_characters_line_up(self) -> None:
        entries = listed("ascii", "寿司屋", "åäö", "🍣", "ẹ̈é", region="Região")
        with FakeRelay({"/restaurant": answer(entries)}) as relay:
            result = self.run_on_terminal("--relay", relay.url, columns=80)
        rows = [line for line in without_colour(result.out).splitlines() if "Região" in line]
        self.assertEqual(len(rows), 5)
        self.assertEqual(len({cell_len(row.partition("Matsal")[0]) for row in rows}), 1)
        self.assertEqual(len({cell_len(row.partition("Região")[0]) for row in rows}), 1)

    def test_a_menu_with_prices_lines_up(self) -> None:
        with SampleMenuApi(api="v2", today=THURSDAY) as api:
            for columns in (40, 80):
                result = self.run_on_terminal(
                    "--relay", api.url, "--restaurant", "1", columns=columns
                )
                lines = without_colour(result.out).splitlines()
                priced = [line for line in lines if line.endswith(" kr")]
                self.assertEqual(len(priced), len(data.menu(data.RESTAURANTS[0], THURSDAY)))
                self.assertEqual(len({cell_len(line) for line in priced}), 1, columns)

    def test_a_match_stands_out(self) -> None:
        arguments = ("--relay", self.api.url, "--find", "soppa", "lax")
        coloured = self.run_on_terminal(*arguments, columns=80).out
        self.assertRegex(coloured, r"\x1b\[1;33m[Ll]ax\x1b\[0m")
        for environment in ({"NO_COLOR": "1"}, {"CLICOLOR": "0"}, {"TERM": "dumb"}):
            plain = self.run_on_terminal(*arguments, columns=80, **environment).out
            plain = without_bar(plain)
            self.assertNotIn("\x1b", plain)
            self.assertRegex(plain, r"\*[Ll]ax\*")
        self.assertRegex(plain, r"\d+ dishes in \d+ restaurants")

    def test_a_pipe_can_have_the_table_and_its_colours(self) -> None:
        arguments = ("--relay", self.api.url, "--format", "table")
        plain = self.run_tool(*arguments, COLUMNS="40").out
        self.assertNotIn("\x1b", plain)
        self.assertLessEqual(max(map(cell_len, plain.splitlines())), 40)
        self.assertIn("\x1b[", self.run_tool(*arguments, CLICOLOR_FORCE="1").out)

    def test_a_terminal_of_one_column_is_no_reason_to_fail(self) -> None:
        for columns in (0, 1):
            result = self.run_on_terminal("--all", "--relay", self.api.url, columns=columns)
            self.assertEqual(result.code, 0)


class WaitingTest(ToolTestCase):
    """What a user sees who has to wait."""

    def test_a_progress_bar_comes_after_half_a_second_and_goes(self) -> None:
        shown = threading.Event()

        def once_shown(connection: socket.socket) -> None:
            shown.wait(support.TIMEOUT)
            connection.sendall(answer(menu("Lax")))

        replies: dict[str, support.Reply] = {"/restaurant": answer(listed("a", "b"))}
        with FakeRelay(replies) as relay:
            replies.update({"/restaurant/a": answer(menu("Lax")), "/restaurant/b": once_shown})
            process, master = self.start_on_terminal("--all", "--relay", relay.url)
            seen = b""
            for part in support.terminal_output(master):
                seen += part
                if b"1/2" in seen:
                    shown.set()
            self.assertEqual(process.wait(support.TIMEOUT), 0)
            # A machine that stops for as long makes one slow that would be quick.
            quick = [
                self.run_on_terminal("--restaurant", "a", "--relay", relay.url).out
                for _ in range(3)
            ]
        slow = seen.decode()
        self.assertIn("1/2", slow)
        self.assertIn("\x1b[?25h", slow)  # the cursor is there again
        self.assertNotIn("1/2", slow[slow.rindex("Matsal a") :])
        self.assertTrue(without_colour(without_bar(slow)).startswith("Matsal a"), slow)
        out = min(quick, key=len)
        self.assertNotIn("/1", out.replace(relay.url, ""))
        self.assertNotIn("\x1b[?25l", out)

    def test_an_interrupt_leaves_the_terminal_as_it_was(self) -> None:
        replies: dict[str, support.Reply] = {"/restaurant": answer(listed("a"))}
        with FakeRelay(replies) as relay:
            replies["/restaurant/a"] = relay.silence
            process, master = self.start_on_terminal("--all", "--relay", relay.url)
            seen = b""
            for part in support.terminal_output(master):
                shown, seen = b"0/1" in seen, seen + part
                if b"0/1" in seen and not shown:
                    start = time.monotonic()
                    process.send_signal(signal.SIGINT)
            self.assertEqual(process.wait(support.TIMEOUT), 130)
            self.assertLess(time.monotonic() - start, support.TIMEOUT / 2)
        text = seen.decode()
        self.assertGreater(text.rindex("\x1b[?25h"), text.rindex("\x1b[?25l"))
        self.assertTrue(text.endswith("list-dishes: interrupted\r\n"))

    def test_watch_wipes_a_trouble_that_is_over(self) -> None:
        good, bad = answer(listed("a")), answer("", status="503 X")
        with FakeRelay({"/restaurant": [good, bad, good]}) as relay:
            process, master = self.start_on_terminal("--watch", "0.01", "--relay", relay.url)
            seen = b""
            for part in support.terminal_output(master):
                seen += part
                if (
                    seen.count(b"\x1b[H\x1b[2J") == 2
                    and b"Matsal" in seen.rpartition(b"\x1b[2J")[2]
                ):
                    break
            os.kill(process.pid, signal.SIGINT)
            seen += b"".join(support.terminal_output(master))
            self.assertEqual(process.wait(support.TIMEOUT), 130)
        _, first, last = seen.decode().split("\x1b[H\x1b[2J")
        self.assertIn("answered status 503", first)
        self.assertNotIn("503", last)
        self.assertIn("Matsal a", last)

    def test_watch_redraws_the_screen(self) -> None:
        replies: dict[str, support.Reply | Sequence[support.Reply]] = {
            "/restaurant": answer(listed("a")),
            "/restaurant/a": [answer(menu("Lax")), answer(menu("Lax")), answer(menu("Sill"))],
        }
        with FakeRelay(replies) as relay:
            process, master = self.start_on_terminal(
                "--all", "--watch", "0.01", "--relay", relay.url
            )
            seen = b""
            for part in support.terminal_output(master):
                seen += part
                if b"Sill" in seen:
                    break
            os.kill(process.pid, signal.SIGINT)
            seen += b"".join(support.terminal_output(master))
            self.assertEqual(process.wait(support.TIMEOUT), 130)
        screens = seen.decode().split("\x1b[H\x1b[2J")
        self.assertEqual(len(screens), 3)
        self.assertEqual([bool(re.search(r"Lax", screen)) for screen in screens], [0, 1, 0])
