"""The examples of docs/recipes.md, run as they stand there, with an API and ports of our own."""

from __future__ import annotations

import functools
import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import unittest
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar, NamedTuple

from api_relaying_server.settings import TABLE
from tests.certificates import Authority
from tests.database_support import free_port
from tests.proxy_support import SecureOrigin
from tests.relay_support import (
    PATIENCE,
    SOURCES,
    Asked,
    Field,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)

PAGE = SOURCES.parent / "docs" / "recipes.md"
API = "https://api.example.org/v1"
PAGES_ORIGIN = "http://localhost:5173"
_BLOCK = re.compile(
    r'^(?:```(\S+)(?: title="(\S+)")?\n(.*?)^```$|<!-- (.*?) -->$)', re.MULTILINE | re.DOTALL
)
_CHANGING = re.compile(r"(?<=ttl=)\d+|(?<=after )[\d.]+(?= s)|(?<=until )\S+")

for _command in ("caddy", "curl", "nginx", "chromium"):
    if shutil.which(_command) is None:
        raise unittest.SkipTest(f"needs the command {_command}")


def said(status: int, fields: Iterable[Field] = (), body: bytes = b"[]") -> bytes:
    """A response with the reason that belongs to its status."""
    reason = http.HTTPStatus(status).phrase.encode()
    return response(status, fields, body).replace(b" Status %d\r" % status, b" %b\r" % reason, 1)


class Block(NamedTuple):
    """A fenced block of the page, or a comment (`kind` is `comment`)."""

    kind: str
    name: str
    text: str


def recipes() -> dict[str, list[Block]]:
    """The blocks of each recipe by its title."""
    found = {}
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        found[title] = [
            Block("comment", "", m[4]) if m[4] else Block(m[1], m[2] or "", m[3])
            for m in _BLOCK.finditer(text)
        ]
    return found


def asked_and_told(text: str) -> Iterator[tuple[str, str]]:
    """Each command of a console block with the lines below it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, told = part.partition("\n")
        yield command, told


class RecipeCase(unittest.TestCase):
    """A folder, and the programs that a recipe starts in it."""

    seen: ClassVar[set[str]] = set()

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.running: dict[int, subprocess.Popen[bytes]] = {}  # by port
        self.addCleanup(self.stop_all)
        self.port, self.tls_port = free_port(), free_port()
        self.page_port = free_port()
        programs = self.folder / "programs"
        programs.mkdir()
        program = programs / "api-relaying-server"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m api_relaying_server "$@"\n')
        program.chmod(0o755)
        self.environ = {
            **{name: text for name, text in os.environ.items() if not name.startswith("RELAY_")},
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(SOURCES),
            "XDG_CONFIG_HOME": str(self.folder),  # Caddy's
            "XDG_DATA_HOME": str(self.folder),
            "RELAY_HOST": "127.0.0.1",
            "RELAY_PORT": str(self.port),
            "RELAY_URL": f"http://localhost:{self.port}",
        }
        for name, text in (("cache", "memory://"), ("admin", "off")):
            if any(row.name == name for row in TABLE):
                self.environ[f"RELAY_{name.upper()}"] = text

    def stop_all(self) -> None:
        """Ends what runs."""
        for port in list(self.running):
            self.stop(port)

    def stop(self, port: int) -> None:
        """Ends the program at a port."""
        process = self.running.pop(port)
        process.send_signal(signal.SIGTERM)
        process.wait(PATIENCE)

    def run_recipe(self, title: str, api: ScriptedOrigin) -> None:
        """Does what the page says, against this API."""
        api.__enter__()
        self.addCleanup(api.__exit__, None, None, None)
        if title not in recipes():
            self.fail(f"{PAGE} has no recipe {title!r}")
        for block in recipes()[title]:
            text = self.placed(block.text, api)
            if block.kind == "comment":
                self.assertEqual(text, "api: down")
                api.close()
            elif block.kind == "console":
                self.talk(text)
            elif block.name == "run":
                subprocess.run(["bash", "-ec", text], cwd=self.folder, check=True, timeout=PATIENCE)
            elif block.kind == "sh":
                port = self.port if block.name == "relay" else self.tls_port
                self.start(text, port)
            else:
                (self.folder / block.name).write_text(text)

    def placed(self, text: str, api: ScriptedOrigin) -> str:
        """A text with the places of here; all at once, for a port may hold the digits of
        another.
        """
        places = {
            API: f"{api.url}/v1",
            ":8000": f":{self.port}",
            "8443": str(self.tls_port),
            PAGES_ORIGIN: f"http://localhost:{self.page_port}",
        }
        return re.sub("|".join(map(re.escape, places)), lambda m: places[m[0]], text)

    def start(self, text: str, port: int) -> None:
        """Starts a program in place of the one at its port, and waits until it listens."""
        if port in self.running:
            self.stop(port)
        command = ["bash", "-c", f"exec {text}"]
        self.running[port] = process = subprocess.Popen(
            command, cwd=self.folder, env=self.environ, stderr=subprocess.DEVNULL
        )

        def listens() -> bool:
            self.assertIsNone(process.poll(), text)
            with socket.socket() as sock:
                return sock.connect_ex(("127.0.0.1", port)) == 0

        eventually(listens, f"{text} listens")

    def talk(self, text: str) -> None:
        """Runs the commands of a console block; each has to tell what stands below it."""
        for command, told in asked_and_told(text):
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self.environ,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
            found = _CHANGING.sub("N", done.stdout.replace("\r", ""))
            self.assertEqual(found, _CHANGING.sub("N", told), command + done.stderr)


class RecipesTest(RecipeCase):
    """One test for each recipe."""

    def test_a_key_for_a_team(self) -> None:
        def answer(asked: Asked) -> Script:
            known = asked.all("authorization") == ["Bearer 5ecret"]
            return said(200 if known else 401)

        api = ScriptedOrigin(answer)
        self.run_recipe("An API with a key, for a whole team", api)
        self.assertEqual([asked.target for asked in api.requests], ["/v1/reports"])
        self.assertEqual((self.folder / "key").stat().st_mode & 0o77, 0)

    def test_read_only(self) -> None:
        api = ScriptedOrigin(lambda asked: said(200))
        self.run_recipe("A read-only window to an API", api)
        (asked,) = api.requests
        self.assertEqual((asked.target, asked.get("cookie")), ("/v1/public/talks", None))

    def test_behind_a_web_server(self) -> None:
        server = Authority(self.folder).issue()
        shutil.copy(server.certificate, self.folder / "server.pem")
        shutil.copy(server.key, self.folder / "server.key")
        api = ScriptedOrigin(lambda asked: said(200))
        title = "Behind nginx or Caddy, with TLS"
        self.run_recipe(title, api)
        self.assertEqual([asked.target for asked in api.requests], ["/v1/talks"])
        lie = "-H 'X-Forwarded-For: 192.0.2.9' -H 'X-Forwarded-Proto: http'"
        for server_name in ("nginx", "caddy"):
            (block,) = (each for each in recipes()[title] if each.name == server_name)
            self.start(block.text, self.tls_port)
            self.talk(
                f"$ curl -s -o lie -w '%{{http_code}}\\n' {lie} --cacert server.pem "
                f"https://localhost:{self.tls_port}/{server_name}\n200\n"
            )
            asked = api.requests[-1]
            self.assertEqual(asked.target, f"/v1/{server_name}")
            self.assertEqual(asked.get("x-forwarded-proto"), "https")
            self.assertEqual(asked.get("x-forwarded-for"), "127.0.0.1, 127.0.0.1")

    def test_a_private_authority(self) -> None:
        authority = Authority(self.folder, "ca")
        authority.issue("relay")
        context = authority.wants_clients_of(authority.server())
        api = SecureOrigin(lambda asked: said(200), context)
        self.run_recipe("A private CA and a client certificate", api)
        self.assertEqual([asked.target for asked in api.requests], ["/v1", "/v1/talks"])

    def test_a_flaky_api(self) -> None:
        del self.environ["RELAY_CACHE"]
        api = ScriptedOrigin(lambda asked: said(200))
        self.run_recipe("A flaky API on the day of a demo", api)
        self.assertEqual(
            sorted(asked.target for asked in api.requests), ["/v1/speakers", "/v1/talks"]
        )

    def test_a_page_on_another_origin(self) -> None:
        allowed = [
            ("Access-Control-Allow-Origin", f"http://localhost:{self.page_port}"),
            ("Access-Control-Allow-Methods", "GET, POST"),
            ("Access-Control-Allow-Headers", "content-type"),
            ("Vary", "Origin"),
        ]

        def answer(asked: Asked) -> Script:
            status = {"OPTIONS": 204, "POST": 201}.get(asked.method, 200)
            return said(status, allowed, b'["Caches", "Queues"]' if status == 200 else b"")

        api = ScriptedOrigin(answer)
        self.run_recipe("A browser page on another origin", api)
        shown = self.browse("page.html")
        self.assertIn('<p id="talks">Caches, Queues</p>', shown)
        self.assertIn('<p id="votes">201</p>', shown)
        self.assertEqual([a.method for a in api.requests].count("GET"), 1)  # the page's was a hit
        (vote,) = (asked for asked in api.requests if asked.method == "POST")
        self.assertEqual(vote.body, b'{"talk":"Caches"}')

    def browse(self, name: str) -> str:
        """What a browser has made of a page of the folder, served from another port."""
        handler = functools.partial(_Quiet, directory=str(self.folder))
        with http.server.ThreadingHTTPServer(("127.0.0.1", self.page_port), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                return self._dump(f"http://localhost:{self.page_port}/{name}")
            finally:
                server.shutdown()
                thread.join(PATIENCE)

    def _dump(self, url: str) -> str:
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
        budget = "--virtual-time-budget=10000"  # until nothing happens any more, at most so long
        profile = f"--user-data-dir={self.folder}/profile"
        command = ["chromium", *flags, budget, profile, "--dump-dom", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    def test_each_recipe_has_its_test(self) -> None:
        with open(__file__, encoding="utf-8") as file:
            tests = file.read()
        for title in recipes():
            self.assertIn(f'"{title}"', tests)


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Nothing is said of requests."""


if __name__ == "__main__":
    unittest.main()
