"""The way to the upstream: private authorities, client certificates, and HTTP proxies."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar
from unittest import mock

from api_relaying_server.errors import (
    LackOfOwn,
    ProxyFailed,
    UpstreamConnectTimeout,
    UpstreamTlsAlert,
    UpstreamTlsError,
)
from api_relaying_server.upstream.dialling import Dialler
from api_relaying_server.upstream.exchange import Exchange, UpstreamRequest
from api_relaying_server.upstream.pool import ConnectionPool
from api_relaying_server.upstream.route import HttpProxy, Route
from api_relaying_server.upstream.session import RelaySession, Upstream
from api_relaying_server.upstream.tls import client_context
from api_relaying_server.upstream.translation import parse_base
from tests.certificates import Authority, Pair
from tests.database_support import free_port
from tests.proxy_support import ForwardProxy, SecureOrigin
from tests.relay_support import (
    PATIENCE,
    SOURCES,
    Asked,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    response,
)

NO_STORE = [("Cache-Control", "no-store")]
AUTHORIZATION = "Basic bWU6UzNDUkVU"
SECRETS = "S3CRET|bWU6UzNDUkVU"


def answer(asked: Asked) -> Script:
    """The answer to every request: what its target was."""
    return response(200, NO_STORE, asked.target.encode())


def run(*words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """The command, until its end."""
    command = [sys.executable, "-m", "api_relaying_server", *words]
    environ = {**os.environ, "RELAY_ADMIN": "off", **(env or {})}
    return subprocess.run(
        command, cwd=SOURCES, env=environ, capture_output=True, text=True, timeout=20, check=False
    )


class RouteCase(unittest.TestCase):
    """A folder with an authority, and what is started for a test."""

    folder: ClassVar[Path]
    authority: ClassVar[Authority]
    client: ClassVar[Pair]

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.authority = Authority(cls.folder)
        cls.client = cls.authority.issue("client")

    def start(self, origin: ScriptedOrigin) -> ScriptedOrigin:
        """Starts a server for this test."""
        origin.__enter__()
        self.addCleanup(origin.__exit__, None, None, None)
        return origin

    def secure(
        self, context: ssl.SSLContext | None = None, name: str = "localhost"
    ) -> SecureOrigin:
        """An origin behind TLS, of our authority unless told otherwise."""
        origin = SecureOrigin(answer, context or self.authority.server(), name)
        self.start(origin)
        return origin

    def relay(self, upstream: str, *flags: str, env: dict[str, str] | None = None) -> RunningRelay:
        """A relay without pauses."""
        relay = RunningRelay(upstream, "--cool-down", "0", *flags, env=env)
        self.addCleanup(relay.stop)
        return relay

    @property
    def trusts(self) -> tuple[str, str]:
        """Has a relay trust our authority."""
        return "--upstream-ca", str(self.authority.file)

    def check_502(self, reply: Reply, word: str) -> None:
        """It is the relay's own error, with this word of RFC 9209."""
        self.assertEqual(reply.status, 502, reply.body)
        self.assertIn(f"error={word}", reply.get("proxy-status") or "")
        self.assertIsNone(reply.get("proxy-authenticate"))
        self.assertIn(b'"status": 502', reply.body)


class CertificateTest(RouteCase):
    """Which certificates count, and what is said of those that do not."""

    def test_a_private_authority(self) -> None:
        relay = self.relay(self.secure().url, *self.trusts)
        self.assertEqual((relay.get("/a").status, relay.get("/b").body), (200, b"/b"))

    def test_it_takes_the_place_of_the_systems(self) -> None:
        origin = self.secure()
        system = {"SSL_CERT_FILE": str(self.authority.file)}
        self.assertEqual(self.relay(origin.url, env=system).get("/a").status, 200)
        another = Authority(self.folder, "another")
        relay = self.relay(origin.url, "--upstream-ca", str(another.file), env=system)
        self.check_502(relay.get("/a"), "tls_certificate_error")

    def test_variables_of_others_do_not_count(self) -> None:
        origin, file = self.secure(), str(self.authority.file)
        keys = self.folder / "session-keys"
        env = {"REQUESTS_CA_BUNDLE": file, "CURL_CA_BUNDLE": file, "SSLKEYLOGFILE": str(keys)}
        relay = self.relay(origin.url, env=env)
        self.check_502(relay.get("/a"), "tls_certificate_error")
        (self.folder / ".netrc").write_text("machine localhost login me password S3CRET\n")
        env = {"HOME": str(self.folder), "SSLKEYLOGFILE": str(keys)}
        relay = self.relay(origin.url, *self.trusts, env=env)
        self.assertEqual(relay.get("/a").status, 200)
        self.assertFalse(keys.exists())
        self.assertIsNone(origin.requests[-1].get("authorization"))

    def test_a_failure_is_said_again_after_a_success_or_for_another_reason(self) -> None:
        pool = ConnectionPool(Route(parse_base("https://a.test")), 1)
        first, second = UpstreamTlsError("one"), UpstreamTlsError("two")
        with self.assertLogs("api_relaying_server.upstream.pool") as logs:
            for error in (None, first, first, None, None, first, second, second):
                pool.note_tls(error)
        said = [line.rpartition(": ")[2] for line in logs.output]
        self.assertEqual(said, ["one", "one", "two"])

    def test_details_are_in_the_log_once_and_nowhere_else(self) -> None:
        relay = self.relay(self.secure(self.authority.server("other")).url, *self.trusts)
        for _ in range(3):
            reply = relay.get("/a")
            self.check_502(reply, "tls_certificate_error")
            self.assertNotRegex(str(reply), "mismatch|not valid for|CERTIFICATE_VERIFY")
        eventually(lambda: "Hostname mismatch" in relay.log(), "the line")
        self.assertEqual(relay.log().count("no secure connection to"), 1)

    def test_the_name_is_an_alternative_one(self) -> None:
        """The common name, `localhost`, is no name of a host."""
        for alternative, host, status in (
            ("email:a@b.test", "localhost", 502),
            ("IP:127.0.0.1", "localhost", 502),
            ("IP:127.0.0.1", "127.0.0.1", 200),
        ):
            origin = self.secure(self.authority.server(alternative=alternative), host)
            relay = self.relay(origin.url, *self.trusts)
            self.assertEqual(relay.get("/a").status, status, (alternative, host))

    def test_one_in_between_is_an_authority_too(self) -> None:
        between = Authority(self.folder, "between", by=self.authority)
        origin = self.secure(between.server(chain=between.file))
        for file in (self.authority.file, between.file):
            relay = self.relay(origin.url, "--upstream-ca", str(file))
            self.assertEqual(relay.get("/a").status, 200)

    def test_several_authorities_in_one_file_with_words_between_them(self) -> None:
        file = self.folder / "several.pem"
        first = Authority(self.folder, "first").file.read_bytes()
        file.write_bytes(b"# \xc3\xa9\n" + first + b"\n# ours\n" + self.authority.file.read_bytes())
        relay = self.relay(self.secure().url, "--upstream-ca", str(file))
        self.assertEqual(relay.get("/a").status, 200)

    def test_one_without_tls(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join, PATIENCE)
        relay = self.relay(f"https://localhost:{listener.getsockname()[1]}", *self.trusts)
        self.check_502(relay.get("/a"), "tls_protocol_error")

    def test_a_failure_concerns_everybody(self) -> None:
        relay = RunningRelay(self.secure(self.authority.server("other")).url, *self.trusts)
        self.addCleanup(relay.stop)
        self.check_502(relay.get("/a"), "tls_certificate_error")
        self.assertEqual(relay.get("/b").status, 503)


class MutualTest(RouteCase):
    """An upstream that wants a certificate of its clients."""

    def wanting(self, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> SecureOrigin:
        """Such an upstream."""
        context = self.authority.wants_clients_of(self.authority.server())
        context.maximum_version = newest
        return self.secure(context)

    def test_with_one(self) -> None:
        origin = self.wanting()
        both = self.folder / "both.pem"
        both.write_bytes(self.client.key.read_bytes() + self.client.certificate.read_bytes())
        for flags in (self.client.flags, ("--upstream-cert", str(both))):
            relay = self.relay(origin.url, *self.trusts, *flags)
            self.assertEqual((relay.get("/a").status, relay.get("/b").status), (200, 200))

    def test_without_one(self) -> None:
        for newest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            relay = self.relay(self.wanting(newest).url, *self.trusts)
            self.check_502(relay.get("/a"), "tls_alert_received")
            eventually(lambda relay=relay: "no secure connection" in relay.log(), "the line")  # type: ignore[misc]
            self.assertRegex(relay.log(), "(?i)alert")

    def test_one_that_is_wanted_for_certain_paths_only(self) -> None:
        def is_shown() -> bool:
            with contextlib.suppress(ssl.SSLWantReadError):
                origin.latest.recv(1)
            return "client" in str(origin.latest.getpeercert())

        def ask_later(asked: Asked) -> Iterator[bytes]:
            origin.latest.verify_client_post_handshake()
            yield b"HTTP/1.1 102 Processing\r\n\r\n"  # with this the question goes out
            origin.latest.settimeout(0)
            eventually(is_shown, "the certificate")
            origin.latest.settimeout(PATIENCE)
            yield response(200, NO_STORE)

        context = self.authority.wants_clients_of(self.authority.server())
        context.verify_mode = ssl.CERT_OPTIONAL
        context.post_handshake_auth = True
        origin = SecureOrigin(ask_later, context)
        self.start(origin)
        relay = self.relay(origin.url, *self.trusts, *self.client.flags)
        self.assertEqual(relay.get("/a").status, 200)

    def test_an_alert_behind_the_handshake_counts_though_the_connection_is_gone(self) -> None:
        """In TLS 1.3 our side is done before the other has looked at our certificate."""
        origin = self.wanting()
        route = Route(parse_base(origin.url), tls=client_context(self.authority.file.read_bytes()))
        pool = ConnectionPool(route, 1)
        self.addCleanup(pool.close)
        connection = pool.connect(PATIENCE, PATIENCE)
        self.addCleanup(connection.close)
        eventually(lambda: origin.faults_of_tls, "the handshake has failed there")
        exchange = Exchange(connection, "GET", PATIENCE, lambda *_: None)
        with self.assertRaises(UpstreamTlsAlert):
            for _ in range(100):  # until the other side's end has come here
                exchange.send(b"GET / HTTP/1.1\r\n\r\n", None, False)
                time.sleep(0.001)
            exchange.receive_head()

    def test_one_on_a_connection_that_was_idle_is_its_end(self) -> None:
        origin = self.start(ScriptedOrigin(answer))
        receive, calls = Exchange.receive_head, []

        def receive_head(exchange: Exchange, on_interim: object = None) -> object:
            calls.append(exchange)
            if len(calls) == 2:
                origin.wait_for(2)
                raise UpstreamTlsAlert("the key was changed")
            return receive(exchange)

        with RelaySession("memory") as session:
            upstream = Upstream(session, Route(parse_base(origin.url)), PATIENCE, PATIENCE, 1)
            self.addCleanup(upstream.close)
            with mock.patch.object(Exchange, "receive_head", receive_head):
                for _ in range(2):
                    fetch = upstream.fetch(UpstreamRequest("GET", "/a", [("Host", "a")]))
                    self.assertEqual(fetch.content, b"/a")
        self.assertEqual([asked.connection for asked in origin.requests], [0, 0, 1])

    def test_without_files_in_memory(self) -> None:
        """On systems that have none."""
        certificate, key = (file.read_bytes() for file in self.client)
        with mock.patch("api_relaying_server.upstream.tls.os", spec=[]):
            client_context(None, certificate, key)
            with self.assertRaisesRegex(ValueError, "does not match"):
                client_context(None, certificate, self.authority.issue("x").key.read_bytes())


class ProxyTest(RouteCase):
    """A proxy on the way."""

    def setUp(self) -> None:
        self.proxy = ForwardProxy(AUTHORIZATION)
        self.start(self.proxy)
        self.through = ("--upstream-proxy", f"http://me:S3CRET@127.0.0.1:{self.proxy.port}")

    def test_an_http_upstream_gets_the_absolute_form(self) -> None:
        origin = self.start(ScriptedOrigin(answer))
        relay = self.relay(origin.url + "/api", *self.through)
        mine = [("Proxy-Authorization", "Basic mine")]
        self.assertEqual(relay.get("/a?b=%41", mine).body, b"/api/a?b=%41")
        relay.request("POST", "/form", mine, b"content")
        relay.request("OPTIONS", "*", mine)
        lines = [(asked.method, asked.target) for asked in self.proxy.requests]
        base = origin.url
        expected = [("GET", f"{base}/api/a?b=%41"), ("POST", f"{base}/api/form"), ("OPTIONS", base)]
        self.assertEqual(lines, expected)
        for asked in self.proxy.requests:
            self.assertEqual(asked.all("host"), [base.partition("://")[2]])
            self.assertEqual(asked.all("proxy-authorization"), [AUTHORIZATION])
        self.assertEqual(self.proxy.requests[1].body, b"content")
        self.assertEqual(origin.requests[2].target, "*")
        self.assertEqual({asked.connection for asked in self.proxy.requests}, {0})
        self.assertNotRegex(relay.log(), SECRETS)

    def test_a_trace_would_show_what_is_the_proxys(self) -> None:
        origin = self.start(ScriptedOrigin(answer))
        for forwards in ("0", "1", "2"):
            relay = self.relay(origin.url, *self.through, "--cool-down", "5")
            reply = relay.request("TRACE", "/a", [("Max-Forwards", forwards)])
            self.assertNotRegex(str(reply), SECRETS)
            self.assertEqual(reply.status, 200 if forwards == "0" else 403)  # 0: the relay's own
            self.assertEqual(relay.get("/a").status, 200)  # and it is nobody else's matter
        self.assertEqual({asked.method for asked in self.proxy.requests}, {"GET"})
        open_to_all = ForwardProxy()
        self.start(open_to_all)
        relay = self.relay(origin.url, "--upstream-proxy", f"http://127.0.0.1:{open_to_all.port}")
        reply = relay.request("TRACE", "/a", [("Max-Forwards", "2")])
        self.assertEqual((reply.status, len(open_to_all.requests)), (200, 1))

    def test_an_https_upstream_gets_a_tunnel_that_is_used_again(self) -> None:
        origin = self.secure(self.authority.server("api.test"), "api.test")  # a name nobody knows
        relay = self.relay(origin.url, *self.through, *self.trusts)
        for path in ("/a", "/b", "/c"):
            mine = [("Proxy-Authorization", "Basic mine")]
            self.assertEqual(relay.get(path, mine).body, path.encode())
        (asked,) = self.proxy.requests
        place = f"api.test:{origin.port}"
        self.assertEqual((asked.method, asked.target), ("CONNECT", place))
        fields = [("Host", place), ("Proxy-Authorization", AUTHORIZATION)]
        self.assertEqual(asked.fields, fields)
        for inner in origin.requests:
            self.assertIsNone(inner.get("proxy-authorization"))
        self.assertEqual(len({inner.connection for inner in origin.requests}), 1)

    def test_the_certificate_behind_a_tunnel_counts(self) -> None:
        relay = self.relay(
            self.secure(self.authority.server("other")).url, *self.through, *self.trusts
        )
        self.check_502(relay.get("/a"), "tls_certificate_error")

    def test_a_407_is_about_the_relay(self) -> None:
        wrong = "--upstream-proxy", f"http://me:wrong@127.0.0.1:{self.proxy.port}"
        for url in (self.start(ScriptedOrigin(answer)).url, self.secure().url):
            trusts = self.trusts if url.startswith("https") else ()
            relay = self.relay(url, *wrong, *trusts, "--log-level", "debug")
            for _ in range(2):  # and it is not stored
                reply = relay.get("/a")
                self.check_502(reply, "proxy_configuration_error")
                self.assertNotIn("hit", reply.cache_status)
                self.assertNotIn(b"127.0.0.1", reply.body)
            self.assertNotRegex(relay.log() + str(reply), "wrong|bWU6d3Jvbmc")

    def test_the_upstreams_own_407_behind_a_tunnel_passes(self) -> None:
        origin = SecureOrigin(lambda asked: response(407), self.authority.server())
        self.start(origin)
        relay = self.relay(origin.url, *self.through, *self.trusts)
        self.assertEqual(relay.get("/a").status, 407)
        plain = self.start(ScriptedOrigin(lambda asked: response(407)))
        self.assertEqual(self.relay(plain.url).get("/a").status, 407)  # without a proxy, too

    def test_one_that_is_not_there(self) -> None:
        origin = self.start(ScriptedOrigin(answer))
        for place, word in (
            (f"127.0.0.1:{free_port()}", "connection_refused"),
            ("no.such.test:3128", "dns_error"),
        ):
            relay = self.relay(origin.url, "--upstream-proxy", f"http://me:S3CRET@{place}")
            reply = relay.get("/a")
            self.check_502(reply, word)
            said = f"the upstream proxy cannot be reached: {word.replace('_', ' ')}"
            self.assertIn(said.encode(), reply.body)
            self.assertNotRegex(relay.log() + str(reply), SECRETS)
            relay = RunningRelay(origin.url, "--upstream-proxy", f"http://me:S3CRET@{place}")
            self.addCleanup(relay.stop)
            relay.get("/a")
            self.assertEqual(relay.get("/b").status, 503)  # it concerns everybody
            self.assertNotRegex(relay.log(), SECRETS)
        self.assertEqual(origin.requests, [])

    def test_variables_do_not_count(self) -> None:
        origin, nowhere = self.start(ScriptedOrigin(answer)), f"http://127.0.0.1:{free_port()}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy")
        env = {**dict.fromkeys(names, nowhere), "NO_PROXY": ""}
        relay = self.relay(origin.url, env=env)
        self.assertEqual(relay.get("/a").status, 200)
        said = "http_proxy is set and not used: where the upstream needs a proxy, give"
        self.assertEqual(relay.log().count("is set and not used"), 1)
        self.assertIn(said, relay.log())
        secure = self.relay(self.secure().url, *self.trusts, env=env)
        self.assertEqual(secure.get("/a").status, 200)
        # And nothing takes away the proxy that is named.
        env = {"NO_PROXY": "*", "no_proxy": "*"}
        relay = self.relay(origin.url, *self.through, env={**env, "http_proxy": nowhere})
        self.assertEqual(relay.get("/a").status, 200)
        self.assertNotIn("is set and not used", relay.log())
        self.assertEqual(len(self.proxy.requests), 1)


class TunnelTest(RouteCase):
    """What a proxy may answer to CONNECT."""

    def fetch(self, proxy: ScriptedOrigin, connect_timeout: float = PATIENCE) -> bytes:
        """The content of an answer through it."""
        origin = self.secure()
        tls = client_context(self.authority.file.read_bytes())
        route = Route(parse_base(origin.url), HttpProxy("127.0.0.1", proxy.port), tls)
        with RelaySession("memory") as session:
            upstream = Upstream(session, route, connect_timeout, PATIENCE, 1)
            try:
                return upstream.fetch(UpstreamRequest("GET", "/a", [("Host", "a")])).content
            finally:
                upstream.close()

    def test_another_answer_than_a_tunnel(self) -> None:
        ok = b"HTTP/1.1 200 OK\r\n\r\n"
        for said, words in (
            (b"HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno", "answered 403 to CONNECT"),
            (b"HTTP/1.1 300 Choose\r\n\r\n", "answered 300 to CONNECT"),
            (b"HTTP/1.1 504 Gateway Timeout\r\n\r\n", "answered 504 to CONNECT"),
            (b"SSH-2.0-server\r\n\r\n", "malformed"),
            (b"HTTP/1.1 200 OK\r\nBad Name: a\r\n\r\n", "malformed"),
            (ok + b"x", "sent more than its answer"),
            (b"HTTP/1.1 100 Continue\r\n\r\n" * 32 + ok, "more than 32 interim"),
            (b"HTTP/1.1 200 OK\r\na: " + b"x" * 70_000, "too large"),
        ):
            with self.subTest(words), self.assertRaisesRegex(ProxyFailed, words):
                self.fetch(self.start(ForwardProxy(answer=lambda asked, said=said: said)))  # type: ignore[misc]

    def test_interim_answers_and_fields_are_no_matter(self) -> None:
        class Chatty(ForwardProxy):
            def _tunnel(self, connection: socket.socket, target: str) -> bool:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 31)
                return super()._tunnel(connection, target)

        self.assertEqual(self.fetch(self.start(Chatty())), b"/a")

    def test_a_lack_of_ours_is_no_fault_of_the_proxy(self) -> None:
        route = Route(parse_base("http://a.test"), HttpProxy("127.0.0.1", 1))
        pool = ConnectionPool(route, 1)
        with mock.patch.object(Dialler, "dial", side_effect=LackOfOwn("no descriptor")):
            with self.assertRaises(LackOfOwn):
                pool.connect(1.0, 1.0)

    def test_an_address_of_six(self) -> None:
        proxy = ForwardProxy()
        self.start(proxy)
        origin = self.secure(self.authority.server(alternative="IP:::1"), "[::1]")
        relay = self.relay(origin.url, *self.trusts, "--upstream-proxy", proxy.url)
        self.assertEqual(relay.get("/a").status, 200)
        place = f"[::1]:{origin.port}"
        self.assertEqual(proxy.requests[0].target, place)
        self.assertEqual(proxy.requests[0].all("host"), [place])

    def test_one_that_hangs_up(self) -> None:
        class Closing(ForwardProxy):
            def _serve_one(self, *_: object) -> bool:
                return False

        with self.assertRaisesRegex(ProxyFailed, "closed the connection|broke the connection"):
            self.fetch(self.start(Closing()))

    def test_the_time_to_connect_bounds_all_of_it(self) -> None:
        """A proxy that drips its answer, and one whose tunnel leads to silence."""

        class Dripping(ForwardProxy):
            def _tunnel(self, connection: socket.socket, target: str) -> bool:
                with contextlib.suppress(OSError):
                    for letter in b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100:
                        connection.sendall(bytes((letter,)))
                        time.sleep(0.05)
                return False

        class Silent(ForwardProxy):
            def _tunnel(self, connection: socket.socket, target: str) -> bool:
                time.sleep(3.5)
                connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                with contextlib.suppress(OSError):
                    while connection.recv(65536):
                        pass
                return False

        for proxy, seconds, too_long in (
            (Dripping(), 1.0, 20.0),  # as long as it drips
            (Silent(), 4.0, 7.3),  # 3.5 and then 4 again
        ):
            self.start(proxy)
            began = time.monotonic()
            with self.assertRaises(UpstreamConnectTimeout):
                self.fetch(proxy, seconds)
            took = time.monotonic() - began
            self.assertGreater(took, seconds - 0.1)
            self.assertLess(took, too_long)


class StartTest(RouteCase):
    """What is wrong is one line before anything runs, and no secret is in it."""

    def check(self, words: tuple[str, ...], why: str) -> None:
        """The command ends with 2 and says so."""
        with self.subTest(words):
            done = run("--port", "0", *words)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertRegex(done.stderr, why)
            self.assertNotRegex(done.stderr, SECRETS)

    def test_files(self) -> None:
        https = "--upstream", "https://localhost:1"
        empty, noise = self.folder / "empty", self.folder / "noise"
        empty.write_text("\n")
        broken = self.folder / "broken.pem"
        broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        noise.write_text("no certificate\n")
        sealed = self.folder / "sealed.key"
        subprocess.run(
            ["openssl", "pkey", "-in", str(self.client.key), "-aes256", "-passout", "pass:S3CRET"]
            + ["-out", str(sealed)],
            check=True,
        )
        other = self.authority.issue("other-client").key
        cert, ca = ("--upstream-cert", str(self.client.certificate)), "--upstream-ca"
        for words, why in (
            ((*https, ca, "/no/such"), "--upstream-ca: /no/such cannot be read .No such file"),
            ((*https, ca, str(self.folder)), "--upstream-ca: .* is not a plain file; give"),
            ((*https, ca, str(empty)), "--upstream-ca: .* is empty; give a file of certificates"),
            ((*https, ca, str(noise)), "is not a certificate .there is none in it.; give"),
            ((*https, ca, str(broken)), "is not a certificate .*; give"),
            ((*https, ca, str(self.client.key)), "is not a certificate .there is none in it."),
            ((*https, *cert), "--upstream-cert: .* holds no private key; give --upstream-key"),
            ((*https, *cert, "--upstream-key", str(other)), "--upstream-key: .* does not match"),
            ((*https, *cert, "--upstream-key", str(sealed)), "--upstream-key: .* is encrypted"),
            ((*https, *cert, "--upstream-key", cert[1]), "--upstream-key: .* not a private key"),
            ((*https, *self.client.flags[2:]), "--upstream-key: .* give --upstream-cert too"),
            (("--upstream", "http://a.test", ca, str(self.authority.file)), "without TLS"),
            (("--upstream", "http://a.test", *self.client.flags), "--upstream-cert: .*without TLS"),
            (("--demo", ca, str(self.authority.file)), "--upstream-ca: .*without TLS"),
            (("--demo", "--upstream-proxy", "http://me:S3CRET@a:1"), "--upstream-proxy: .*sample"),
            (("--upstream-proxy", "https://me:S3CRET@a:1"), "--upstream-proxy: .*https and socks"),
        ):
            self.check(words, why)

    def test_check_shows_files_and_no_password(self) -> None:
        proxy = "http://me:S3CRET@localhost:3128"
        words = "--check", "--port", "0", "--cache", "memory://", *self.trusts, *self.client.flags
        done = run(*words, env={"RELAY_UPSTREAM_PROXY": proxy})
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"--upstream-proxy +http://\*\*\*@localhost:3128 +RELAY_UP")
        self.assertRegex(done.stdout, f"--upstream-key +{self.client.key} ")
        self.assertNotRegex(done.stdout + done.stderr, SECRETS + "|BEGIN")

    def test_check_asks_on_that_route_and_tells_the_details(self) -> None:
        origin = self.secure(self.authority.server("api.test"), "api.test")
        proxy = ForwardProxy(AUTHORIZATION)
        self.start(proxy)
        words = "--check", "--ask", "--port", "0", "--cache", "memory://", "--upstream", origin.url
        through = "--upstream-proxy", f"http://me:S3CRET@127.0.0.1:{proxy.port}"
        done = run(*words, *through, *self.trusts)
        self.assertRegex(
            done.stdout,
            r"ok: --upstream: the upstream answered 200 after [0-9.]+ s; "
            "its certificate is valid until 20..-..-..T..:..:..Z\n",
        )
        done = run(*words, *through)
        self.assertEqual(done.returncode, 2)
        self.assertIn("CERTIFICATE_VERIFY_FAILED", done.stderr)
        self.assertNotRegex(done.stdout + done.stderr, SECRETS)

    def test_warm_tells_what_is_wrong_with_the_relays_certificate_once(self) -> None:
        done = run("warm", "--relay", self.secure().url, "/a")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (5, 1), done.stderr)
        self.assertIn("CERTIFICATE_VERIFY_FAILED", done.stderr)

    def test_check_looks_the_proxys_name_up_and_not_the_upstreams(self) -> None:
        words = (
            "--check",
            "--port",
            "0",
            "--cache",
            "memory://",
            "--upstream",
            "http://no.such.test",
        )
        done = run(*words, "--upstream-proxy", "http://localhost:1")
        self.assertIn("ok: --upstream-proxy: the name localhost is known", done.stdout)
        done = run(*words, "--upstream-proxy", "http://proxy.no.such.test:1")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--upstream-proxy: 'proxy.no.such.test' is not known", done.stderr)


class ReloadTest(RouteCase):
    """The files and the proxy are read again on SIGHUP."""

    workers: ClassVar[tuple[str, ...]] = ()

    def reload(self, relay: RunningRelay, said: str) -> None:
        """Has a relay read its settings, and waits until this is in the log once more."""
        before = relay.log().count(said)
        relay.signal(signal.SIGHUP)
        eventually(lambda: relay.log().count(said) > before, said)

    def comes_to(self, relay: RunningRelay, status: int) -> None:
        """Waits until the new settings count; from then on the answer is always the same."""
        eventually(lambda: relay.get("/a").status == status, f"{status}")
        self.assertEqual({relay.get("/a").status for _ in range(6)}, {status})

    def test_the_authorities(self) -> None:
        origin, file = self.secure(), self.folder / "changing.pem"
        another = Authority(self.folder, "another")
        file.write_bytes(another.file.read_bytes())
        relay = self.relay(origin.url, "--upstream-ca", str(file), *self.workers)
        self.comes_to(relay, 502)
        file.write_bytes(self.authority.file.read_bytes())
        self.reload(relay, "these have changed: upstream-ca")
        self.comes_to(relay, 200)
        for wrong in (b"", b"nothing", b"-----BEGIN CERTIFICATE-----\n"):
            file.write_bytes(wrong)
            self.reload(relay, "the old settings stay in use: --upstream-ca: ")
        self.assertEqual(relay.log().count("the old settings stay in use"), 3)
        self.comes_to(relay, 200)

    def test_the_client_certificate(self) -> None:
        """Old and new authority of a rotation; the upstream trusts the new one alone, later."""
        new = Authority(self.folder, "new")
        context = new.wants_clients_of(self.authority.server())
        origin = self.secure(context)
        pair = Pair(self.folder / "rotating.pem", self.folder / "rotating.key")
        for mine, old in zip(pair, self.client):
            mine.write_bytes(old.read_bytes())
        relay = self.relay(origin.url, *self.trusts, *pair.flags, *self.workers)
        self.comes_to(relay, 502)
        fresh = new.issue("client-again")
        pair.certificate.write_bytes(fresh.certificate.read_bytes())
        self.reload(relay, "the old settings stay in use: --upstream-key: ")  # half of it
        self.assertEqual(relay.log().count("the old settings stay in use"), 1)
        pair.key.write_bytes(fresh.key.read_bytes())
        self.reload(relay, "these have changed: upstream-cert, upstream-key")
        self.comes_to(relay, 200)
        self.assertNotIn("PRIVATE", relay.log())

    def test_the_proxy(self) -> None:
        origin, file = self.start(ScriptedOrigin(answer)), self.folder / "relay.toml"
        proxy = ForwardProxy(AUTHORIZATION)
        self.start(proxy)
        place = f"127.0.0.1:{proxy.port}"
        file.write_text(f'upstream-proxy = "http://me:wrong@{place}"')
        relay = self.relay(origin.url, "--config", str(file), *self.workers)
        self.comes_to(relay, 502)
        file.write_text(f'upstream-proxy = "http://me:S3CRET@{place}"')
        self.reload(relay, "these have changed: upstream-proxy")
        self.comes_to(relay, 200)
        file.write_text('upstream-proxy = "socks5://me:S3CRET@a"')
        self.reload(relay, f"the old settings stay in use: {file}: upstream-proxy: the URL is not")
        self.comes_to(relay, 200)
        self.assertNotRegex(relay.log(), SECRETS + "|wrong")


class TwoWorkersReloadTest(ReloadTest):
    """The same with two workers."""

    workers = ("--workers", "2")

    def test_a_worker_that_is_replaced_has_the_files_as_they_were(self) -> None:
        context = self.authority.wants_clients_of(self.authority.server())
        names = "ca.pem", "mine.pem", "mine.key"
        ca, mine, key = (self.folder / name for name in names)
        for copy, of in zip((ca, mine, key), (self.authority.file, *self.client)):
            copy.write_bytes(of.read_bytes())
        files = "--upstream-ca", str(ca), *Pair(mine, key).flags
        relay = self.relay(self.secure(context).url, *files, *self.workers)
        for file in (ca, mine, key):
            file.write_text("half written")
        children = Path(f"/proc/{relay.pid}/task/{relay.pid}/children")
        before = children.read_text().split()
        for child in before:
            os.kill(int(child), signal.SIGKILL)
        eventually(lambda: not set(children.read_text().split()).intersection(before), "new ones")
        self.comes_to(relay, 200)


if __name__ == "__main__":
    unittest.main()
