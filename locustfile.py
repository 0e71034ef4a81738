"""Load on a relay in front of a menu API: users list the restaurants, take menus, and repeat.

    cd python_source_files; python -m api_relaying_server --demo           # in one terminal
    locust -f locustfile.py --headless -u 10 -r 10 -t 10s --host http://localhost:8000

Without ``--headless`` there is a page at http://localhost:8089. Both forms of the menu API will do.
A user does not pause between requests unless ``--think-time`` says so.

A load test must never reach an API that others depend on. Before any load is sent, and whenever the
load starts anew, the target has to pass two checks:

1. its address is a loopback one;
2. it answers a path that nobody has asked for before, so that no cache can know the answer, and the
   answer is the sample API's: it carries ``Server: sample-menu-api``, which a relay passes on.

The second check costs the API behind the relay one call, whoever it is. If one of them fails, or an
answer comes from another server later on, the run ends with exit code 1. ``--allow-live`` skips all
of this: use it only where you may load the API behind the relay.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import logging
import random
import secrets
import socket
import urllib.parse
from typing import Any

import gevent
from locust import FastHttpUser, between, constant, events, task
from locust.env import Environment
from locust.exception import StopUser

DEFAULT_HOST = "http://localhost:8000"
SAMPLE_SERVER = "sample-menu-api"
CHECK_SECONDS = 10
# Path of the list and the keys under which a restaurant and its name are found, for each form.
FORMS = {"/restaurant": "identifier", "/restaurants?limit=100": "id"}
MENUS_PER_ROUND = 5

log = logging.getLogger("menu_load")


def reason_to_refuse(url: str) -> str | None:
    """Why a load on this relay could reach an API that others depend on; None if it cannot."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return f"{url} is not an http:// address of a relay"
    try:
        port = parts.port or 80
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:
        return f"{url}: {error}"
    addresses = [str(entry[4][0]) for entry in found]
    if not all(
        ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in addresses
    ):
        return f"{url} is not on this machine"
    return _reason_in_answer(url, parts.hostname, port, parts.path.rstrip("/"))


def _reason_in_answer(url: str, host: str, port: int, base: str) -> str | None:
    connection = http.client.HTTPConnection(host, port, timeout=CHECK_SECONDS)
    try:
        connection.request("GET", f"{base}/restaurant/load-check-{secrets.token_hex(8)}")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"no relay answers at {url} ({error})"
    finally:
        connection.close()
    if not is_sample(answer.getheader("Server")):
        return f"what {url} relays to is not the sample API (start the relay with --demo)"
    return None


def is_sample(server: str | None) -> bool:
    """Whether a Server field names the sample API, with or without a version."""
    return (server or "").partition("/")[0].strip().lower() == SAMPLE_SERVER


def restaurants_in(body: bytes, key: str) -> list[str]:
    """The restaurants of a list as they stand in a URL; ValueError when it is no such list."""
    try:
        found = [str(entry[key]) for entry in json.loads(body)["restaurants"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a list of restaurants: {error!r}") from error
    if not found:
        raise ValueError("an empty list of restaurants")
    return [urllib.parse.quote(name, safe="") for name in found]


def menu_problem(body: bytes) -> str | None:
    """What is wrong with a menu in either form, None if nothing is."""
    try:
        answer = json.loads(body)
        # a closed restaurant: an empty list in the one form, null in the other
        menu = (
            answer["restaurant"]["menu"] if "restaurant" in answer else answer["menu_items"] or []
        )
        return None if isinstance(menu, list) else "the menu is not a list"
    except (ValueError, KeyError, TypeError) as error:
        return f"not a menu: {error!r}"


class Refusal:
    """Whether the running test may send anything; one per process, set when a test starts."""

    reason: str | None = None

    def check(self, environment: Environment) -> None:
        """Look at the target anew, and end the test if it may not be loaded."""
        options = environment.parsed_options
        self.reason = None
        if options is not None and options.allow_live:
            return
        reason = reason_to_refuse(environment.host or DEFAULT_HOST)
        if reason:
            self.end(environment, reason)

    def end(self, environment: Environment, reason: str) -> None:
        """End the test with exit code 1, saying why once."""
        if self.reason is None:
            log.error("refused: %s; --allow-live loads it all the same", reason)
            self.reason = reason
            environment.process_exit_code = 1
            if environment.runner is not None:
                gevent.spawn(environment.runner.quit)


refusal = Refusal()


@events.init_command_line_parser.add_listener
def add_flags(parser: Any) -> None:
    """The flags of this file beside Locust's own."""
    parser.add_argument(
        "--allow-live",
        action="store_true",
        default=False,
        help="load the target whatever API is behind it",
    )
    parser.add_argument(
        "--think-time",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="mean pause of a user between two rounds (default: 0)",
    )


@events.test_start.add_listener
def before_load(environment: Environment, **_: Any) -> None:
    """No user sends anything before the target has been looked at."""
    refusal.check(environment)


class MenuUser(FastHttpUser):
    """Someone who looks for lunch: the list, a few menus, and again."""

    host = DEFAULT_HOST

    def on_start(self) -> None:
        """Find out which form of the API this is."""
        self.pause = self.environment.parsed_options.think_time
        self.allow_live = self.environment.parsed_options.allow_live
        self.list_path = next(iter(FORMS))
        for path in FORMS if refusal.reason is None else ():
            with self.client.get(path, name=path.partition("?")[0], catch_response=True) as answer:
                answer.success()
                if answer.status_code == 200:
                    self.list_path = path
                    break

    def wait_time(self) -> float:
        """Seconds until the next round, half to one and a half times the mean."""
        pause = self.pause
        wait = between(pause / 2, pause * 1.5) if pause else constant(0)
        return float(wait(self))

    @task
    def look_for_lunch(self) -> None:
        """One round."""
        if refusal.reason:
            raise StopUser
        key = FORMS[self.list_path]
        with self.client.get(
            self.list_path, name=self.list_path.partition("?")[0], catch_response=True
        ) as answer:
            try:
                restaurants = restaurants_in(self.body(answer), key)
            except ValueError as error:
                answer.failure(str(error))
                return
        for restaurant in random.sample(restaurants, min(MENUS_PER_ROUND, len(restaurants))):
            self.take_menu(restaurant)

    def take_menu(self, restaurant: str) -> None:
        """Get one menu and look at it."""
        path, tail = self.list_path.partition("?")[0], ""
        if FORMS[self.list_path] == "id":
            tail = "/menu?limit=100"
        with self.client.get(
            f"{path}/{restaurant}{tail}",
            name=f"{path}/[id]{tail.partition('?')[0]}",
            catch_response=True,
        ) as answer:
            try:
                problem = menu_problem(self.body(answer))
            except ValueError as error:
                problem = str(error)
            if problem:
                answer.failure(problem)

    def body(self, answer: Any) -> bytes:
        """The body of a good answer; ValueError for another one. Ends the run if it is not ours."""
        if answer.status_code != 200:
            raise ValueError(f"status {answer.status_code}")
        if not self.allow_live and not is_sample(answer.headers.get("Server")):
            refusal.end(self.environment, "an answer did not come from the sample API")
            raise StopUser
        return bytes(answer.content)
