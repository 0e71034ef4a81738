"""`--upstream-header`: every call carries it, in place of what clients say; nothing shows it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

from api_relaying_server.upstream.exchange import UpstreamRequest
from api_relaying_server.upstream.translation import OwnField, own_names, with_own_fields
from tests.isolation_cases import Held, World
from tests.relay_support import (
    CLOSE,
    SOURCES,
    Asked,
    Field,
    RunningRelay,
    Script,
    eventually,
    response,
)

SECRET = "Bearer S3CRET"
OWN = (OwnField("Authorization", SECRET),)
CLIENTS = [("Authorization", "Bearer mine")]
FRESH = [("Cache-Control", "max-age=600")]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """The command, until its end."""
    command = [sys.executable, "-m", "api_relaying_server", *words]
    return subprocess.run(
        command, cwd=SOURCES, capture_output=True, text=True, timeout=20, check=False
    )


class FieldsTest(unittest.TestCase):
    """The fields of one call."""

    def test_ours_take_the_place_of_others(self) -> None:
        fields = [("Host", "a"), ("authorization", "x"), ("Accept", "b"), ("AUTHORIZATION", "y")]
        expected = [("Host", "a"), ("Accept", "b"), ("Authorization", SECRET)]
        self.assertEqual(with_own_fields("GET", fields, OWN), expected)

    def test_a_trace_has_none(self) -> None:
        self.assertEqual(with_own_fields("TRACE", [("Host", "a")], OWN), [("Host", "a")])

    def test_names_that_are_the_same_behind_cgi(self) -> None:
        self.assertEqual(own_names([OwnField("Api_Key", "x")]), {"api_key", "api-key"})

    def test_a_request_does_not_show_its_fields(self) -> None:
        request = UpstreamRequest("GET", "/a?key=S3CRET", [("Authorization", SECRET)])
        self.assertEqual(repr(request), "UpstreamRequest(GET /a?...)")


class SendingTest(unittest.TestCase):
    """A relay with a key of its own, and an API that notes what it gets."""

    workers: tuple[str, ...] = ()

    def setUp(self) -> None:
        self.world = World()
        self.world.origin.__enter__()
        self.addCleanup(self.world.origin.close)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.key = self.folder / "key"
        self.key.write_text(SECRET + "\n")

    def relay(self, *flags: str, name: str = "Authorization") -> RunningRelay:
        """A relay with the key, and these flags."""
        own = "--upstream-header", f"{name}: @{self.key}"
        more = "--cool-down", "0", "--log-level", "debug"
        running = RunningRelay(self.world.origin.url, *own, *more, *self.workers, *flags)
        self.addCleanup(running.stop)
        return running

    def answers(self, path: str, *fields: Field, status: int = 200, body: bytes = b"x") -> None:
        """Has the API answer this."""
        self.world.answers[path] = lambda asked, n: response(status, fields, body)

    def check(self, expected: str = SECRET, name: str = "authorization") -> None:
        """Every call so far has had it once, and nothing of a client's."""
        for asked in self.world.origin.requests:
            with self.subTest(f"{asked.method} {asked.target}"):
                self.assertEqual(asked.all(name), [expected])

    def test_each_kind_of_call_carries_it_once(self) -> None:
        relay = self.relay("--access-log", str(self.folder / "log"))
        self.answers("/miss", *FRESH)
        relay.get("/miss", CLIENTS)
        self.answers("/stale", ("Cache-Control", "max-age=0"), ("ETag", '"1"'))
        relay.get("/stale", CLIENTS)
        relay.get("/stale")
        part = [("ETag", '"1"'), *FRESH]
        parts = {"bytes=0-1": ("bytes 0-1/4", b"ab"), "bytes=2-": ("bytes 2-3/4", b"cd")}

        def part_of(asked: Asked, number: int) -> Script:
            if asked.get("range") is None:
                return response(200, part, b"abcd")
            place, content = parts[asked.get("range") or ""]
            return response(206, [("Content-Range", place), *part], content)

        self.world.answers["/part"] = part_of
        relay.get("/part", [*CLIENTS, ("Range", "bytes=0-1")])
        self.assertEqual(relay.get("/part").body, b"abcd")
        if not self.workers:  # another one may not see at once what this one has stored
            self.assertEqual(self.world.calls("/stale")[-1].get("if-none-match"), '"1"')
            self.assertEqual(self.world.calls("/part")[-1].get("range"), "bytes=2-")
        swr = ("Cache-Control", "max-age=5, stale-while-revalidate=60"), ("Age", "9")
        self.answers("/refresh", *swr)

        def is_renewed() -> bool:
            relay.get("/refresh", CLIENTS)
            return len(self.world.calls("/refresh")) > 1

        eventually(is_renewed, "it is renewed")
        self.answers("/warm", *FRESH)
        self.assertEqual(run("warm", "--relay", relay.url, "/warm").returncode, 0)
        self.answers("/no-store", ("Cache-Control", "no-store"))
        self.answers("/form")
        for method, target in (
            *(("HEAD", "/no-store"), ("GET", "/no-store"), ("POST", "/form"), ("PUT", "/form")),
            *(("DELETE", "/form"), ("OPTIONS", "/form"), ("QUERY", "/form")),
        ):
            body = b"x" if method in ("POST", "PUT", "QUERY") else None
            named = [("Connection", "authorization")]  # by which nobody can take it away
            self.assertEqual(relay.request(method, target, [*CLIENTS, *named], body).status, 200)
        self.check()
        self.assertGreaterEqual(len(self.world.origin.requests), 14)
        self.assertNotIn("S3CRET", relay.log())
        self.assertNotIn("S3CRET", (self.folder / "log").read_text())

    def test_a_probe_after_a_failure_carries_it(self) -> None:
        relay = self.relay("--cool-down", "0.1")
        self.answers("/x", status=503)
        relay.get("/x")
        self.answers("/x")
        eventually(lambda: relay.get("/x", CLIENTS).status == 200, "the probe")
        self.check()

    def test_a_trace_carries_nothing(self) -> None:
        relay = self.relay()
        self.answers("/x")
        relay.request("TRACE", "/x", [*CLIENTS, ("Max-Forwards", "3")])
        self.assertEqual(self.world.calls("/x")[0].all("authorization"), [])
        echo = relay.request("TRACE", "/x", [("Max-Forwards", "0")])
        self.assertNotIn(b"S3CRET", echo.body)

    def test_clients_with_and_without_a_key_of_theirs_share(self) -> None:
        for name in ("Authorization", "X-API-Key", "Cookie"):
            with self.subTest(name):
                relay = self.relay(name=name)
                self.answers("/guessed")  # no freshness from the API: --default-ttl
                self.answers("/varied", ("Vary", name), *FRESH)
                for path in ("/guessed", "/varied"):
                    before = len(self.world.calls(path))
                    relay.get(path, [(name, "one")])
                    for who in ([(name, "two")], [], [(name, "one")], [(name, "one")]):
                        # Another worker may wait until what is stored can be read.
                        self.assertRegex(relay.get(path, who).cache_status, "hit|collapsed")
                    self.assertEqual(len(self.world.calls(path)), before + 1)
                    self.assertEqual(self.world.calls(path)[-1].all(name.lower()), [SECRET])
                another = [("X-Session", "a")]  # a credential that is not ours counts as before
                self.assertIn("fwd=", relay.get("/guessed", another).cache_status)
                relay.stop()

    def test_they_share_a_fetch_that_is_under_way(self) -> None:
        relay = self.relay()
        held = Held()
        self.world.answers["/x"] = lambda asked, n: held.behind(response(200, (), b"x"))
        got: list[bytes] = []
        clients = [
            threading.Thread(target=lambda who=who: got.append(relay.get("/x", who).body))
            for who in (CLIENTS, [], [("Authorization", "Bearer other")])
        ]
        for client in clients:
            client.start()
        eventually(lambda: self.world.calls("/x"), "the first call")
        threading.Event().wait(0.3)
        held.let_go.set()
        for client in clients:
            client.join(20)
        self.assertEqual((got, len(self.world.calls("/x"))), ([b"x"] * 3, 1))

    def test_a_limit_of_the_key_is_everybodys(self) -> None:
        relay = self.relay("--cool-down", "60")
        self.answers("/x", status=429)
        self.answers("/y")
        relay.get("/x", CLIENTS)
        for who in ([], CLIENTS, [("Authorization", "Bearer other")]):
            self.assertEqual(relay.get("/y", who).status, 503)

    def test_what_is_refused_is_said_once_without_its_value(self) -> None:
        relay = self.relay()
        for status in (403, 401, 403):
            self.answers("/x", status=status)
            self.assertEqual(relay.get("/x").status, status)
        said = "the upstream answered 403 to a request with the relay's own Authorization"
        eventually(lambda: said in relay.log(), "the warning")
        self.assertEqual(relay.log().count("the relay's own"), 1)
        self.assertNotIn("S3CRET", relay.log())

    def test_a_refused_trace_is_no_word_about_the_key(self) -> None:
        """It did not carry it."""
        relay = self.relay()
        self.answers("/x", status=403)
        self.assertEqual(relay.request("TRACE", "/x", [("Max-Forwards", "3")]).status, 403)
        self.answers("/x", status=401)
        self.assertEqual(relay.get("/x").status, 401)
        said = "the upstream answered 401 to a request with the relay's own Authorization"
        eventually(lambda: said in relay.log(), "the warning")

    def test_no_error_shows_it(self) -> None:
        relay = self.relay()
        for number, answer in enumerate((b"no http\r\n\r\n", b"HTTP/1.1 200 OK\r\nBad\r\n\r\n")):
            path = f"/{number}"
            self.world.answers[path] = lambda asked, n, answer=answer: [answer, CLOSE]
            reply = relay.get(path)
            self.assertEqual(reply.status, 502)
            self.assertNotIn(b"S3CRET", reply.body)
            self.assertNotIn("S3CRET", str(reply.fields))
        self.world.origin.close()
        self.assertIn(relay.get("/gone").status, (502, 504))
        self.assertNotIn("S3CRET", relay.log())

    def test_a_changed_file_counts_after_a_signal(self) -> None:
        relay = self.relay()
        self.answers("/x", ("Cache-Control", "no-store"))
        relay.get("/x")
        with relay.connect() as kept:
            self.key.write_text("Bearer N3W")
            relay.signal(signal.SIGHUP)
            said = "these have changed: upstream-header"
            eventually(lambda: said in relay.log(), "the reload")

            def is_new() -> bool:
                relay.get("/x")
                return self.world.calls("/x")[-1].all("authorization") == ["Bearer N3W"]

            eventually(is_new, "the new value")
            kept.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertTrue(kept.recv(9).startswith(b"HTTP/1.1"))  # it was not dropped
        stays = "the old settings stay in use: "
        for wrong in ("", "a\nb"):
            self.key.write_text(wrong)
            count = relay.log().count(stays)
            relay.signal(signal.SIGHUP)
            eventually(
                lambda before=count: relay.log().count(stays) > before,  # type: ignore[misc]
                "a line",
            )
        self.key.unlink()
        relay.signal(signal.SIGHUP)
        eventually(lambda: "cannot be read (No such file or directory)" in relay.log(), "a line")
        relay.get("/x")
        self.assertEqual(self.world.calls("/x")[-1].all("authorization"), ["Bearer N3W"])
        self.key.write_text("Bearer N3W")
        relay.signal(signal.SIGHUP)
        eventually(lambda: "nothing has changed" in relay.log(), "the same again")
        self.assertNotRegex(relay.log(), "S3CRET|N3W")


class TwoWorkersTest(SendingTest):
    """The same with two workers."""

    workers = ("--workers", "2")

    def test_what_is_refused_is_said_once_without_its_value(self) -> None:
        """In both together; and once more where it is another key that is refused."""
        relay = self.relay()
        self.answers("/x", status=401)
        for _ in range(9):  # each worker has some of them
            relay.get("/x")
        eventually(lambda: "the relay's own Authorization" in relay.log(), "the warning")
        self.key.write_text("Bearer N3W")
        relay.signal(signal.SIGHUP)
        eventually(lambda: "these have changed: upstream-header" in relay.log(), "the reload")

        def is_new() -> bool:
            relay.get("/x")
            return self.world.calls("/x")[-1].all("authorization") == ["Bearer N3W"]

        eventually(is_new, "the new value")
        for _ in range(9):
            relay.get("/x")
        relay.stop()
        self.assertEqual(relay.log().count("the relay's own"), 2)
        self.assertNotRegex(relay.log(), "S3CRET|N3W")


class StartingTest(unittest.TestCase):
    """Before anything runs."""

    def test_check_shows_the_name_alone(self) -> None:
        done = run(
            "--offline",
            "--port",
            "0",
            "--check",
            "--upstream-header",
            "X-Key: S3CRET",
            "--cache",
            "memory://",
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"--upstream-header +X-Key: \*\*\*")
        self.assertNotIn("S3CRET", done.stdout + done.stderr)

    def test_what_is_wrong_is_one_line(self) -> None:
        for text in ("X-Key: @/no/such/S3CRET", "Host: S3CRET", "S3CRET", "X-Key: S3\nCRET"):
            done = run("--offline", "--port", "0", "--upstream-header", text)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
            self.assertIn("--upstream-header: ", done.stderr)
            if "@" not in text:
                self.assertNotRegex(done.stderr, "S3|CRET")


if __name__ == "__main__":
    unittest.main()
