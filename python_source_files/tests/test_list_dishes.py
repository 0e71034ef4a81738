"""The dish tool as a child process in a pipe: each call of its contract, each exit code."""

from __future__ import annotations

import contextlib
import datetime
import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from dish_shell_tool import list_dishes
from sample_menu_api import data
from sample_menu_api.server import SampleMenuApi
from tests import dish_tool_support as support
from tests.dish_tool_support import FakeRelay, Result, ToolTestCase, answer, listed, menu

THURSDAY = datetime.date(2026, 3, 5)
SUNDAY = datetime.date(2026, 3, 8)
MATCH = "\x1b[1;33m"


def refused_port() -> int:
    """Return a port of this machine where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert isinstance(port, int)
    return port


class SampleTestCase(ToolTestCase):
    """Tests against the sample API, both forms of it, on a fixed day."""

    apis: dict[str, SampleMenuApi]

    @classmethod
    def setUpClass(cls) -> None:
        cls.apis = {}
        for form in ("v1", "v2"):
            api = SampleMenuApi(api=form, today=THURSDAY)
            api.start()
            cls.addClassCleanup(api.close)
            cls.apis[form] = api

    def ask(self, *arguments: str, api: str = "v1", **environment: str) -> Result:
        """Run the tool against one of the APIs."""
        return self.run_tool(*arguments, RELAY_URL=self.apis[api].url, **environment)

    def ask_json(self, *arguments: str, api: str = "v1") -> tuple[int, dict[str, Any]]:
        """Run the tool with --json; the document is as the schema says, whatever happened."""
        result = self.ask("--json", *arguments, api=api)
        document = json.loads(result.out)
        self.assertEqual(support.schema_errors(document, support.schema(), support.schema()), [])
        return result.code, document


class ListTest(SampleTestCase):
    """Without a flag that asks for dishes."""

    def test_both_forms_list_identifier_name_region(self) -> None:
        for api, column in (("v1", 0), ("v2", 1)):
            result = self.ask(api=api)
            self.assertEqual((result.code, result.err), (0, ""))
            expected = [[r.identifier, r.name, r.region] for r in data.RESTAURANTS]
            self.assertEqual(
                [row[column:] for row in result.rows], [row[column:] for row in expected]
            )

    def test_regions_and_distances(self) -> None:
        for api in ("v1", "v2"):
            result = self.ask("--region", "uppsala", "--near", "59.85,17.63", api=api)
            self.assertEqual(result.code, 0)
            self.assertEqual({row[2] for row in result.rows}, {"Uppsala"})
            metres = [int(row[3]) for row in result.rows]
            self.assertEqual(metres, sorted(metres))
            half = str(metres[len(metres) // 2])
            near = self.ask(
                "--region", "UPPSALA", "--near", "59.85,17.63", "--within", half, api=api
            )
            self.assertLess(len(near.rows), len(metres))
            self.assertTrue(near.rows)

    def test_near_a_restaurant_and_south_of_the_equator(self) -> None:
        first = data.RESTAURANTS[0]
        result = self.ask("--near", first.identifier)
        self.assertEqual(result.rows[0], [first.identifier, first.name, first.region, "0"])
        self.assertEqual(self.ask("--near", "-33.9,18.4", "--within", "9").code, 3)

    def test_markdown(self) -> None:
        result = self.ask("--format", "markdown")
        self.assertEqual(len(result.out.splitlines()), 2 + len(data.RESTAURANTS))
        self.assertTrue(result.out.startswith("| Identifier | Name | Region |\n| --- |"))

    def test_the_relay_flag_wins_over_the_environment(self) -> None:
        result = self.run_tool("--relay", self.apis["v1"].url, RELAY_URL="http://127.0.0.1:1")
        self.assertEqual(result.code, 0)


class DishesTest(SampleTestCase):
    """With a flag that asks for dishes."""

    menus: dict[data.Restaurant, tuple[data.Dish, ...]]
    open: list[data.Restaurant]
    closed: list[data.Restaurant]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.menus = {r: data.menu(r, THURSDAY) for r in data.RESTAURANTS}
        cls.open = [r for r, dishes in cls.menus.items() if dishes]
        cls.closed = [r for r, dishes in cls.menus.items() if not dishes]

    def number(self, restaurant: data.Restaurant) -> str:
        """Return a restaurant's identifier in the second form."""
        return str(1 + data.RESTAURANTS.index(restaurant))

    def test_restaurants_in_the_order_given(self) -> None:
        wanted = [self.open[3], self.open[0]]
        rows = [[r.name, dish.text] for r in wanted for dish in self.menus[r]]
        result = self.ask("--restaurant", wanted[0].identifier, wanted[1].identifier)
        self.assertEqual(result.code, 0)
        self.assertEqual([row[1:] for row in result.rows], rows)
        second = self.ask("--restaurant", *map(self.number, wanted), api="v2")
        self.assertEqual([row[1:3] for row in second.rows], rows)
        self.assertTrue(all(row[3].endswith(" kr") for row in second.rows))

    def test_all(self) -> None:
        count = sum(map(len, self.menus.values()))
        for api in ("v1", "v2"):
            result = self.ask("--all", api=api)
            self.assertEqual((result.code, len(result.rows)), (0, count))
            self.assertIn("closed today", result.err)

    def test_find_is_blind_to_accents_and_marks_the_match(self) -> None:
        _, document = self.ask_json("--find", "koTTbullar", '"ärtsoppa med"')
        texts = [dish["dish"] for r in document["restaurants"] for dish in r["dishes"]]
        expected = [
            dish.text
            for dishes in self.menus.values()
            for dish in dishes
            if "Köttbullar" in dish.text or "rtsoppa med" in dish.text
        ]
        self.assertTrue(expected)
        self.assertEqual(texts, expected)
        coloured = self.ask("--find", "kottbullar", CLICOLOR_FORCE="1").out
        self.assertIn(f"{MATCH}Köttbullar\x1b[0m", coloured)
        plain = self.ask("--find", "kottbullar", CLICOLOR_FORCE="1", NO_COLOR="1").out
        self.assertNotIn("\x1b", plain)

    def test_vegetarian_dishes_are_a_guess(self) -> None:
        code, document = self.ask_json("--vegetarian")
        dishes = [dish for r in document["restaurants"] for dish in r["dishes"]]
        self.assertEqual(code, 0)
        self.assertTrue(dishes)
        self.assertTrue(all(dish["vegetarian_guess"] for dish in dishes))
        self.assertLess(len(dishes), sum(map(len, self.menus.values())))

    def test_nothing_found(self) -> None:
        result = self.ask("--find", "surströmmingsglass")
        self.assertEqual(result, Result(3, "", "list-dishes: nothing found\n"))
        self.assertEqual(self.ask_json("--find", "surströmmingsglass")[1]["restaurants"], [])
        result = self.ask("--region", "Norrköping")
        self.assertEqual((result.code, result.out), (3, ""))
        self.assertIn("there are Flemingsberg, Solna, Uppsala", result.err)

    def test_a_closed_restaurant(self) -> None:
        closed = self.closed[0]
        result = self.ask("--restaurant", closed.identifier)
        self.assertEqual((result.code, result.out), (3, ""))
        self.assertRegex(result.err, rf"^list-dishes: {closed.name}: closed today")
        code, document = self.ask_json("--restaurant", self.number(closed), api="v2")
        self.assertEqual((code, document["restaurants"][0]["dishes"]), (3, []))

    def test_an_unknown_restaurant_beside_a_known_one(self) -> None:
        known = self.open[0]
        result = self.ask("--restaurant", known.identifier[:-1] + "x", known.identifier)
        self.assertEqual(result.code, 4)
        self.assertEqual(len(result.rows), len(self.menus[known]))
        self.assertIn(f"did you mean {known.identifier}?", result.err)
        code, document = self.ask_json("--restaurant", "4711", api="v2")
        self.assertEqual(code, 4)
        self.assertIn("unknown restaurant '4711'", document["restaurants"][0]["error"])

    def test_json_of_everything_in_both_forms(self) -> None:
        for api in ("v1", "v2"):
            code, document = self.ask_json("--all", "--near", "59.3,18", api=api)
            self.assertEqual(code, 0)
            self.assertEqual(document["relay"], self.apis[api].url)
            self.assertEqual(len(document["restaurants"]), len(data.RESTAURANTS))
            about = document["restaurants"][0]
            self.assertIs(about["stale"], False)
            self.assertIn(about["age_s"], range(60))  # it counts whole seconds, from 0 on
            self.assertIn("distance_m", about)

    def test_json_in_a_locale_without_accents(self) -> None:
        environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
        result = self.ask("--json", **environment)
        names = [about["name"] for about in json.loads(result.out)["restaurants"]]
        self.assertEqual(names, [r.name for r in data.RESTAURANTS])
        self.assertEqual(self.ask(**environment).code, 0)

    def test_only_the_menus_wanted_are_asked_for(self) -> None:
        with FakeRelay(
            {"/restaurant": answer(listed("a", "b")), "/restaurant/b": answer(menu("Lax"))}
        ) as relay:
            self.assertEqual(self.run_tool("--relay", relay.url, "--restaurant", "b").code, 0)
            self.assertEqual(relay.targets, ["/restaurant", "/restaurant/b"])

    def test_the_form_of_the_api_is_remembered(self) -> None:
        url = "/restaurants?limit=100&offset=0"
        reply = answer({"restaurants": [{"id": 1}], "total": 1})
        with FakeRelay({url: reply}) as relay:
            self.assertEqual(self.run_tool("--relay", relay.url).code, 0)
            self.assertEqual(self.run_tool("--relay", relay.url).code, 0)
            self.assertEqual(relay.targets, ["/restaurant", url, url])


class AgeTest(ToolTestCase):
    """What the tool tells of the data's age."""

    def test_stale_and_old_data_say_so(self) -> None:
        stale = ("Age: 7200", "Cache-Status: api-relaying-server; hit; ttl=-60")
        replies = {
            "/restaurant": answer(listed("a"), "Age: 60"),
            "/restaurant/a": answer(menu("Lax"), *stale),
        }
        with FakeRelay(replies) as relay:
            plain = self.run_tool("--all", "--relay", relay.url)
            self.assertRegex(
                plain.err,
                r"Matsal a: menu from .*\d\d:\d\d, 2 h old, stale: the upstream does not answer",
            )
            table = self.run_tool("--all", "--relay", relay.url, "--format", "table")
            self.assertIn("2 h old, stale: the upstream does not answer", table.out)
            self.assertEqual(table.err, "")
            document = json.loads(self.run_tool("--all", "--relay", relay.url, "--json").out)
            about = document["restaurants"][0]
            self.assertEqual((about["age_s"], about["stale"]), (7200, True))


class FailureTest(ToolTestCase):
    """Exit codes of what goes wrong, each with one line."""

    def test_wrong_usage(self) -> None:
        calls = (
            ["--nonsense"],
            ["positional"],
            ["--format", "xml"],
            ["--restaurant"],
            ["--within", "5"],
            ["--within", "-5", "--near", "1,2"],
            ["--near", "91,2"],
            ["--timeout", "nan"],
            ["--timeout", "0"],
            ["--find", "&"],
            ["--all", "--restaurant", "a"],
            ["--watch", "--json"],
            ["--format", "plain", "--json"],
            ["--open", "a", "--all"],
            ["--relay", "ftp://x"],
            ["--relay", "http://example.org", "--start"],
            ["--relay", "http://localhost:8000/api", "--start"],
            ["--relay", "x\x1b[2Jy:z"],
        )
        for call in calls:
            with self.subTest(call=call):
                code, out, err = self.run_here(*call)
                self.assertEqual(code, 2)
                self.assertEqual(bool(out), "--json" in call)
                self.assertEqual(err.count("\n"), 1)
                self.assertNotIn("\x1b", err)
                self.assertIn(call[0].lstrip("-"), err)

    def run_here(self, *arguments: str) -> Result:
        """Run the command in this process, where a call that asks no relay costs little."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = list_dishes.main(arguments)
        return Result(code, out.getvalue(), err.getvalue())

    def test_a_wrong_url_in_the_environment_is_named(self) -> None:
        result = self.run_tool(RELAY_URL="http://a:b")
        self.assertEqual((result.code, result.out), (2, ""))
        self.assertIn("RELAY_URL 'http://a:b': the port", result.err)

    def test_json_of_wrong_usage_is_json(self) -> None:
        result = self.run_tool("--json", "--find", "&")
        document = json.loads(result.out)
        self.assertEqual(support.schema_errors(document, support.schema(), support.schema()), [])
        self.assertIn("--find", document["error"])

    def test_no_relay(self) -> None:
        url = f"http://127.0.0.1:{refused_port()}"
        result = self.run_tool("--relay", url)
        self.assertEqual((result.code, result.out), (5, ""))
        self.assertEqual(result.err.count("\n"), 1)
        self.assertIn(f"no relay answers at {url}", result.err)
        self.assertIn("--start", result.err)
        self.assertIn("python -m api_relaying_server", result.err)
        document = json.loads(self.run_tool("--relay", url, "--json", "--all").out)
        self.assertIn("no relay answers", document["error"])
        self.assertEqual(document["restaurants"], [])

    def test_one_failing_restaurant_is_a_note(self) -> None:
        problem = answer(
            {"title": "Bad Gateway", "detail": "no route \x1b[31mto it"},
            "Proxy-Status: api-relaying-server; error=connection_refused",
            "Retry-After: 7",
            status="502 Bad Gateway",
        )
        replies = {
            "/restaurant": answer(listed("a", "b")),
            "/restaurant/a": problem,
            "/restaurant/b": answer(menu("Lax")),
        }
        with FakeRelay(replies) as relay:
            result = self.run_tool("--all", "--relay", relay.url)
            self.assertEqual((result.code, result.out), (0, "b\tMatsal b\tLax\n"))
            self.assertEqual(
                result.err,
                "list-dishes: Matsal a: the relay got no answer from its upstream"
                " (status 502: no route to it); try again in 7 s\n",
            )
            alone = self.run_tool("--restaurant", "a", "--relay", relay.url)
            self.assertEqual(alone.code, 5)

    def test_dishes_without_the_list(self) -> None:
        replies = {"/restaurant": answer("", status="500 X"), "/restaurant/a": answer(menu("Lax"))}
        with FakeRelay(replies) as relay:
            result = self.run_tool("--restaurant", "a", "--relay", relay.url)
            self.assertEqual((result.code, result.out), (0, "a\ta\tLax\n"))
            self.assertIn("could not get the list of restaurants: answered status 500", result.err)
            self.assertEqual(self.run_tool("--restaurant", "b", "--relay", relay.url).code, 4)
            self.assertEqual(self.run_tool("--all", "--relay", relay.url).code, 5)

    def test_a_hanging_relay_is_given_up(self) -> None:
        names = [str(n) for n in range(40)]
        replies: dict[str, support.Reply] = {"/restaurant": answer(listed(*names))}
        with FakeRelay(replies) as relay:
            replies.update({f"/restaurant/{name}": relay.silence for name in names})
            result = self.run_tool("--all", "--relay", relay.url, "--timeout", "1.5")
            self.assertEqual((result.code, result.out), (5, ""))
            self.assertIn("no answer within 1.5 s", result.err)
            self.assertIn("skipped, since the relay does not answer", result.err)
            self.assertLess(len(relay.targets), 30)

    def test_an_interrupt_is_one_whatever_it_leaves_behind(self) -> None:
        def interrupted(options: object) -> int:
            try:
                raise KeyboardInterrupt
            finally:
                raise RuntimeError("cannot release a lock that is not held")

        errors = io.StringIO()
        with mock.patch.object(list_dishes, "_call", interrupted):
            with contextlib.redirect_stderr(errors):
                self.assertEqual(list_dishes.main([]), 130)
        self.assertEqual(errors.getvalue(), "list-dishes: interrupted\n")

    def test_an_interrupt_ends_it_at_once(self) -> None:
        replies: dict[str, support.Reply] = {"/restaurant": answer(listed("a"))}
        with FakeRelay(replies) as relay:
            replies["/restaurant/a"] = relay.silence
            for arguments, count in (([], 2), (["--json"], 4)):
                process = self.start("--all", "--relay", relay.url, *arguments)
                relay.wait_for(count)
                start = time.monotonic()
                process.send_signal(signal.SIGINT)
                result = self.finish(process)
                self.assertEqual((result.code, result.err), (130, "list-dishes: interrupted\n"))
                self.assertLess(time.monotonic() - start, support.TIMEOUT / 2)
            self.assertEqual(json.loads(result.out)["error"], "interrupted")

    def test_a_reader_that_leaves_is_no_error(self) -> None:
        with FakeRelay({"/restaurant": answer(listed(*range(3000)))}) as relay:
            process = self.start("--relay", relay.url)
            assert process.stdout and process.stderr
            process.stdout.close()
            self.assertEqual(process.stderr.read(), b"")
            self.assertEqual(process.wait(support.TIMEOUT), 0)

    def test_a_listed_restaurant_without_a_menu(self) -> None:
        with FakeRelay({"/restaurant": answer(listed("a"))}) as relay:
            result = self.run_tool("--restaurant", "a", "--relay", relay.url)
        self.assertEqual((result.code, result.out), (5, ""))
        self.assertIn("Matsal a: is in the list, but has no menu in the API", result.err)

    def test_the_second_form_is_asked_even_without_its_list(self) -> None:
        url = "/restaurants?limit=100&offset=0"
        listing = answer({"restaurants": [{"id": 1}], "total": 1})
        dishes = answer({"menu_items": [{"name": "Lax"}], "total": 1})
        replies: dict[str, support.Reply | Sequence[support.Reply]] = {
            url: [listing, answer("", status="503 X")],
            "/restaurants/1/menu?limit=100&offset=0": dishes,
        }
        with FakeRelay(replies) as relay:
            for _ in range(2):
                result = self.run_tool("--restaurant", "1", "--relay", relay.url)
                self.assertEqual((result.code, result.out), (0, "1\t1\tLax\n"))
        self.assertIn("could not get the list of restaurants", result.err)

    def test_output_that_cannot_be_written(self) -> None:
        with FakeRelay({"/restaurant": answer(listed("a"))}) as relay:
            for output, words in ((">/dev/full", "No space left"), (">&-", "failed")):
                for flag in ("", "--json"):
                    command = f'exec "$0" "$1" --relay {relay.url} {flag} {output}'
                    done = subprocess.run(
                        ["sh", "-c", command, sys.executable, str(support.SCRIPT)],
                        env=self.environment({}),
                        stderr=subprocess.PIPE,
                        timeout=support.TIMEOUT,
                    )
                    self.assertEqual(done.returncode, 1)
                    self.assertRegex(done.stderr.decode(), f"^list-dishes: .*{words}.*\n$")


class OtherCallsTest(ToolTestCase):
    """--watch, --open, --completion, ways to run it."""

    def test_watch_shows_what_changed_and_only_that(self) -> None:
        replies: dict[str, support.Reply | Sequence[support.Reply]] = {
            "/restaurant": answer(listed("a")),
            "/restaurant/a": [answer(menu("Lax"), f"Age: {n}") for n in range(5)]
            + [answer(b"{")] * 2
            + [answer(menu("Sill"))],
        }
        with FakeRelay(replies) as relay:
            process = self.start("--all", "--watch", "0.01", "--relay", relay.url)
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(3)]
            relay.wait_for(20)
            process.send_signal(signal.SIGINT)
            result = self.finish(process)
        self.assertEqual(lines, [b"a\tMatsal a\tLax\n", b"\n", b"a\tMatsal a\tSill\n"])
        self.assertEqual((result.code, result.out), (130, ""))
        self.assertEqual(result.err.count("the answer is not JSON"), 1)

    def test_watch_says_when_the_relay_is_there_again(self) -> None:
        good, bad = answer(listed("a")), answer("", status="503 X")
        with FakeRelay({"/restaurant": [good, bad, bad, good, good, bad, good]}) as relay:
            process = self.start("--watch", "0.01", "--relay", relay.url)
            relay.wait_for(9)
            process.send_signal(signal.SIGINT)
            result = self.finish(process)
        said = [
            line.partition("of restaurants: ")[2] or line[-23:] for line in result.err.splitlines()
        ]
        self.assertEqual(said[:-1], ["answered status 503", "the relay answers again"] * 2)
        self.assertEqual(result.out.count("Matsal a"), 1)

    def test_watch_outlives_a_relay_that_fails_for_a_while(self) -> None:
        replies = {
            "/restaurant": [answer(listed("a")), answer(b"{"), answer(listed("b"))],
        }
        with FakeRelay(replies) as relay:
            process = self.start("--watch", "0.01", "--relay", relay.url)
            assert process.stdout
            lines = [process.stdout.readline() for _ in range(3)]
            process.send_signal(signal.SIGINT)
            result = self.finish(process)
        self.assertEqual(lines, [b"a\tMatsal a\tSolna\n", b"\n", b"b\tMatsal b\tSolna\n"])
        self.assertIn("the answer is not JSON", result.err)

    def test_open_starts_the_browser(self) -> None:
        seen = self.home / "seen"
        browser = self.home / "browser"
        browser.write_text(f'#!/bin/sh\necho "$1" >"{seen}.new"; mv "{seen}.new" "{seen}"\n')
        browser.chmod(0o700)
        pages = {"homepage": "https://home.example/", "menuUrl": "https://menu.example/"}
        with FakeRelay({"/restaurant": answer(listed("a", **pages))}) as relay:
            result = self.run_tool("--open", "a", "--relay", relay.url, BROWSER=f"{browser} %s")
            self.assertEqual((result.code, result.out), (0, ""))
            self.assertEqual(seen.read_text(), "https://menu.example/\n")
            self.assertEqual(self.run_tool("--open", "b", "--relay", relay.url).code, 4)

    def test_open_without_a_page(self) -> None:
        pages = {"homepage": "", "menuUrl": "file:///etc/passwd"}
        with FakeRelay({"/restaurant": answer(listed("a", **pages))}) as relay:
            result = self.run_tool("--open", "a", "--relay", relay.url, BROWSER="false %s")
            self.assertEqual((result.code, result.err), (3, "list-dishes: Matsal a has no page\n"))

    def test_help_names_every_exit_code(self) -> None:
        result = self.run_tool("--help")
        self.assertEqual(result.code, 0)
        for words in ("0 found", "2 wrong usage", "4 unknown", "130 interrupted", "--vegetarian"):
            self.assertIn(words, result.out)


class SchemaTest(ToolTestCase):
    """The validator of these tests refuses what the schema excludes."""

    GOOD: dict[str, Any] = {
        "schema": 1,
        "relay": "http://localhost:8000",
        "restaurants": [
            {
                "identifier": "a",
                "name": "A",
                "region": "",
                "coordinate": [59.0, 18],
                "homepage": None,
                "menu_url": "https://a.example",
                "dishes": [{"dish": "Lax", "vegetarian_guess": False, "price": 95}],
                "age_s": None,
                "stale": False,
            }
        ],
    }

    def errors(self, document: object) -> list[str]:
        return support.schema_errors(document, support.schema(), support.schema())

    def test_good_and_bad_documents(self) -> None:
        self.assertEqual(self.errors(self.GOOD), [])
        for path, value in (
            (["schema"], 2),
            (["schema"], True),
            (["relay"], None),
            (["extra"], 1),
            (["restaurants"], {}),
            (["restaurants", 0, "identifier"], ""),
            (["restaurants", 0, "coordinate"], [1]),
            (["restaurants", 0, "coordinate"], [1, 181]),
            (["restaurants", 0, "menu_url"], "ftp://a"),
            (["restaurants", 0, "age_s"], -1),
            (["restaurants", 0, "age_s"], 1.5),
            (["restaurants", 0, "stale"], 0),
            (["restaurants", 0, "dishes", 0, "price"], 0),
            (["restaurants", 0, "dishes", 0, "price"], True),
            (["restaurants", 0, "dishes", 0, "extra"], 1),
        ):
            with self.subTest(path=path, value=value):
                document = json.loads(json.dumps(self.GOOD))
                place = document
                for step in path[:-1]:
                    place = place[step]
                place[path[-1]] = value
                self.assertNotEqual(self.errors(document), [])

    def test_the_schema_ships_beside_the_script(self) -> None:
        self.assertTrue((Path(support.FOLDER) / "list_dishes.schema.json").is_file())
