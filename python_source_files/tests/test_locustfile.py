"""The load test's guard: no load may reach an API that others depend on.

Locust itself is not needed for these tests; what the file imports from it is stood in for.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import sys
import threading
import types
import unittest
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

LOCUSTFILE = Path(__file__).resolve().parents[2] / "locustfile.py"


class Event:
    """Locust's event hook, as far as listeners are added."""

    def add_listener(self, listener: Any) -> Any:
        """Used as a decorator."""
        return listener


class StopUser(Exception):
    """Locust's way of ending a user."""


def stand_ins() -> dict[str, types.ModuleType]:
    """Modules with the names that the file imports."""

    def module(name: str, **content: object) -> types.ModuleType:
        made = types.ModuleType(name)
        vars(made).update(content)
        return made

    events = types.SimpleNamespace(init_command_line_parser=Event(), test_start=Event())
    return {
        "gevent": module("gevent", spawn=lambda function: function()),
        "locust": module(
            "locust",
            FastHttpUser=object,
            between=lambda least, most: lambda user: (least + most) / 2,
            constant=lambda pause: lambda user: pause,
            events=events,
            task=lambda function: function,
        ),
        "locust.env": module("locust.env", Environment=object),
        "locust.exception": module("locust.exception", StopUser=StopUser),
    }


def loaded() -> Any:
    """The file as a module, freshly executed."""
    spec = importlib.util.spec_from_file_location("locustfile_under_test", LOCUSTFILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with mock.patch.dict(sys.modules, stand_ins()):
        spec.loader.exec_module(module)
    return module


@contextlib.contextmanager
def upstream(server: str | None) -> Iterator[tuple[str, list[str]]]:
    """A server on loopback that knows no path and calls itself so; its URL, the paths asked."""
    paths: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            paths.append(self.path)
            self.send_response_only(404)
            if server is not None:
                self.send_header("Server", server)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}", paths
        finally:
            running.shutdown()
            thread.join()


class Environment:
    """Locust's environment, as far as the guard uses it."""

    def __init__(self, host: str | None, allow_live: bool = False) -> None:
        self.host = host
        self.parsed_options = types.SimpleNamespace(allow_live=allow_live, think_time=0.0)
        self.process_exit_code: int | None = None
        self.runner = self
        self.stopped = False

    def quit(self) -> None:
        """The runner's end."""
        self.stopped = True


class Guard(unittest.TestCase):
    def setUp(self) -> None:
        self.file = loaded()

    def test_the_sample_api_may_be_loaded(self) -> None:
        for name in ("sample-menu-api", "Sample-Menu-API/1.2"):
            with self.subTest(server=name), upstream(name) as (url, _):
                self.assertIsNone(self.file.reason_to_refuse(url))

    def test_anything_else_on_this_machine_may_not(self) -> None:
        for name in ("uvicorn", "sample-menu-api-2", "", None):
            with self.subTest(server=name), upstream(name) as (url, _):
                self.assertIn("not the sample API", self.file.reason_to_refuse(url))

    def test_each_check_asks_for_a_path_that_no_cache_knows(self) -> None:
        with upstream("sample-menu-api") as (url, paths):
            self.file.reason_to_refuse(url)
            self.file.reason_to_refuse(f"{url}/api/")
        self.assertEqual(len({path.rpartition("/")[2] for path in paths}), 2, paths)
        self.assertTrue(paths[0].startswith("/restaurant/"), paths)
        self.assertTrue(paths[1].startswith("/api/restaurant/"), paths)

    def test_an_address_elsewhere_is_not_even_asked(self) -> None:
        with mock.patch.object(self.file.http.client, "HTTPConnection") as connection:
            # addresses for documentation, RFC 5737 and RFC 3849
            for host in ("192.0.2.1", "[2001:db8::1]", "0.0.0.0"):
                self.assertIn(
                    "not on this machine", self.file.reason_to_refuse(f"http://{host}:80")
                )
        connection.assert_not_called()

    def test_what_is_no_address_of_a_relay_is_named(self) -> None:
        for url in ("https://localhost", "localhost:8000", "http://", "http://localhost:99999"):
            with self.subTest(url=url):
                self.assertIn(url, self.file.reason_to_refuse(url))

    def test_nobody_there_is_a_reason_too(self) -> None:
        with upstream("sample-menu-api") as (url, _):
            pass
        self.assertIn("no relay answers", self.file.reason_to_refuse(url))

    def test_a_refused_run_ends_with_exit_code_1_and_sends_nothing(self) -> None:
        with upstream("uvicorn") as (url, paths):
            environment = Environment(url)
            with self.assertLogs("menu_load", "ERROR"):
                self.file.before_load(environment)
            user = self.file.MenuUser()
            user.environment = environment
            user.on_start()
            with self.assertRaises(StopUser):
                user.look_for_lunch()
        self.assertTrue(environment.stopped)
        self.assertEqual(environment.process_exit_code, 1)
        self.assertEqual(len(paths), 1)

    def test_allow_live_asks_nothing_and_refuses_nothing(self) -> None:
        with upstream("uvicorn") as (url, paths):
            environment = Environment(url, allow_live=True)
            self.file.before_load(environment)
        self.assertEqual((paths, environment.stopped), ([], False))

    def test_another_server_in_the_middle_of_a_run_ends_it(self) -> None:
        user = self.file.MenuUser()
        user.environment, user.allow_live = Environment(None), False
        good = types.SimpleNamespace(
            status_code=200, headers={"Server": "sample-menu-api"}, content=b"{}"
        )
        self.assertEqual(user.body(good), b"{}")
        good.headers = {"Server": "uvicorn"}
        with self.assertLogs("menu_load", "ERROR"), self.assertRaises(StopUser):
            user.body(good)
        self.assertTrue(user.environment.stopped)

    def test_live_is_off_and_there_is_no_pause_unless_asked_for(self) -> None:
        parser = argparse.ArgumentParser()
        self.file.add_flags(parser)
        options = parser.parse_args([])
        self.assertEqual((options.allow_live, options.think_time), (False, 0))
        user = self.file.MenuUser()
        user.pause = options.think_time
        self.assertEqual(user.wait_time(), 0)


class Answers(unittest.TestCase):
    def setUp(self) -> None:
        self.file = loaded()

    def test_lists_of_both_forms_become_path_segments(self) -> None:
        first = '{"restaurants": [{"identifier": "räv/ö"}]}'.encode()
        self.assertEqual(self.file.restaurants_in(first, "identifier"), ["r%C3%A4v%2F%C3%B6"])
        self.assertEqual(self.file.restaurants_in(b'{"restaurants": [{"id": 7}]}', "id"), ["7"])

    def test_what_is_no_list_is_told(self) -> None:
        for body in (b"", b"[]", b"null", b'{"restaurants": [1]}', b'{"restaurants": []}', b"\xff"):
            with self.subTest(body=body), self.assertRaises(ValueError):
                self.file.restaurants_in(body, "identifier")

    def test_menus_of_both_forms_and_of_closed_restaurants_are_right(self) -> None:
        for body in (
            b'{"restaurant": {"menu": [{"dish": "x"}]}}',
            b'{"restaurant": {"menu": []}}',
            b'{"menu_items": [{"id": 1}]}',
            b'{"menu_items": null}',
        ):
            self.assertIsNone(self.file.menu_problem(body), body)

    def test_what_is_no_menu_is_told(self) -> None:
        for body in (
            b"",
            b"3",
            b"[]",
            b"{}",
            b'{"restaurant": {}}',
            b'{"restaurant": {"menu": 1}}',
        ):
            self.assertIsNotNone(self.file.menu_problem(body), body)


if __name__ == "__main__":
    unittest.main()
