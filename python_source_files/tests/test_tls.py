"""HTTPS towards clients: `--tls-cert` and `--tls-key`."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import requests

from api_relaying_server.configuration.validity import shown, validity_of
from api_relaying_server.operations import health
from api_relaying_server.serving.tls import RECORD, TlsStream
from tests.certificates import Authority, Pair, make_expired
from tests.relay_support import (
    PATIENCE,
    SOURCES,
    Asked,
    Reply,
    RunningRelay,
    Script,
    ScriptedOrigin,
    eventually,
    read_reply,
    request_bytes,
    response,
    without_settings,
)

FRESH = [("Cache-Control", "max-age=600")]
LARGE = bytes(range(256)) * 32768
"""8 MiB: more than a socket and its buffers take at once."""
GARBAGE = b"\x17\x03\x03\x00\x20" + b"A" * 32
"""A record that nobody has encrypted."""


def answer(asked: Asked) -> Script:
    if asked.target == "/large":
        return response(200, FRESH, LARGE)
    if asked.target == "/vary":
        proto = asked.get("x-forwarded-proto") or "none"
        return response(200, [*FRESH, ("Vary", "X-Forwarded-Proto")], proto.encode())
    if asked.method == "POST":
        return response(200, [], asked.body)
    return response(200, FRESH, asked.target.encode())


class Limited(RunningRelay):
    """One that may have few connections."""

    begin = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (330, 330))"


class TlsClient:
    """A client that decides which bytes of which record go out when."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")
        self.ended = False

    def shake(self) -> TlsClient:
        """Does the handshake."""
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.flush()
                self._more()
            else:
                self.flush()
                return self

    def records(self, *pieces: bytes) -> bytes:
        """Each piece as a record of its own."""
        for piece in pieces:
            self.tls.write(piece)
        return self.outgoing.read()

    def flush(self) -> None:
        self.sock.sendall(self.outgoing.read())

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()

    def read_until(self, end: bytes) -> bytes:
        """What comes until it ends so."""
        got = b""
        while not got.endswith(end):
            try:
                piece = self.tls.read(65536)
            except ssl.SSLWantReadError:
                self._more()
                continue
            if not piece:
                raise AssertionError(f"the end came after {got!r}")
            got += piece
        return got

    def read_end(self) -> str:
        """How the server ends: `close_notify`, or `cut`."""
        while True:
            try:
                if not self.tls.read(65536):
                    return "close_notify"
            except ssl.SSLWantReadError:
                self._more()
            except ssl.SSLZeroReturnError:
                return "close_notify"
            except ssl.SSLError:
                return "cut"


class TlsTestCase(unittest.TestCase):
    """An authority, and a relay with its certificate."""

    folder: Path
    authority: Authority
    pair: Pair
    origin: ScriptedOrigin
    context: ssl.SSLContext

    @classmethod
    def setUpClass(cls) -> None:
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = Path(folder.name)
        cls.authority = Authority(cls.folder)
        cls.pair = cls.authority.issue("localhost")
        cls.origin = ScriptedOrigin(answer)
        cls.origin.__enter__()
        cls.addClassCleanup(cls.origin.__exit__, None, None, None)
        cls.context = ssl.create_default_context(cafile=str(cls.authority.file))

    def start(self, pair: Pair, *flags: str) -> RunningRelay:
        files = ("--tls-cert", str(pair.certificate), "--tls-key", str(pair.key))
        relay = RunningRelay(self.origin.url, *files, *flags)
        self.addCleanup(relay.__exit__, None, None, None)
        return relay

    def tls(self, relay: RunningRelay) -> ssl.SSLSocket:
        """A connection whose handshake is done."""
        sock = self.context.wrap_socket(relay.connect(), server_hostname="localhost")
        self.addCleanup(sock.close)
        return sock

    def ask(self, sock: socket.socket, target: str = "/x", method: str = "GET") -> Reply:
        sock.sendall(request_bytes(method, target))
        return read_reply(sock, method)


class SpeakingTest(TlsTestCase):
    """One relay for all."""

    relay: RunningRelay

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        files = ("--tls-cert", str(cls.pair.certificate), "--tls-key", str(cls.pair.key))
        cls.relay = RunningRelay(cls.origin.url, *files, "--log-level", "debug")
        cls.addClassCleanup(cls.relay.__exit__, None, None, None)

    def client(self) -> TlsClient:
        sock = self.relay.connect()
        self.addCleanup(sock.close)
        return TlsClient(sock, self.context).shake()

    # What it is.

    def s_client(self, *flags: str, said: str = "") -> str:
        """What `openssl s_client` tells of a connection."""
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{self.relay.port}"]
        command += ["-CAfile", str(self.authority.file), "-servername", "localhost", *flags]
        done = subprocess.run(command, input=said, capture_output=True, text=True, timeout=PATIENCE)
        return done.stdout + done.stderr

    def test_it_is_told_at_the_start(self) -> None:
        self.assertEqual(self.relay.scheme, "https")

    def test_versions(self) -> None:
        for flag, spoken in (("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")):
            told = self.s_client(flag)
            self.assertIn(f"New, {spoken}, Cipher is", told)
            self.assertIn("Verify return code: 0 (ok)", told)
        # Old ones are still offered at the lowest level of security only.
        for flag in ("-tls1", "-tls1_1"):
            told = self.s_client(flag, "-cipher", "DEFAULT:@SECLEVEL=0")
            self.assertIn("alert protocol version", told)
            self.assertIn("Cipher is (NONE)", told)

    def test_ciphers(self) -> None:
        for cipher in ("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"):
            self.assertIn(f"Cipher is {cipher}", self.s_client("-tls1_2", "-cipher", cipher))
        # Without forward secrecy, or without authenticated encryption.
        for cipher in ("ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "AES128-GCM-SHA256"):
            told = self.s_client("-tls1_2", "-cipher", f"{cipher}:@SECLEVEL=0")
            self.assertIn("alert handshake failure", told, cipher)

    def test_what_is_agreed_on(self) -> None:
        told = self.s_client("-alpn", "h2,http/1.1")
        self.assertIn("ALPN protocol: http/1.1", told)
        self.assertIn("Compression: NONE", told)
        self.assertIn("No ALPN negotiated", self.s_client("-alpn", "h2"))

    def test_no_renegotiation(self) -> None:
        told = self.s_client("-tls1_2", said="R\n")
        self.assertIn("RENEGOTIATING", told)
        self.assertIn("no renegotiation", told)

    def test_sessions_are_resumed(self) -> None:
        for version in ("-tls1_2", "-tls1_3"):
            kept = str(self.folder / f"session{version}")
            asked = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            command = ("-ign_eof", "-crlf", version)
            told = self.s_client(*command, "-msg", "-sess_out", kept, said=asked)
            self.assertIn("New, TLS", told)
            self.assertEqual(len(re.findall("<<< .*NewSessionTicket", told)), 1)
            self.assertIn("Reused, TLS", self.s_client(*command, "-sess_in", kept, said=asked))

    def test_clients_that_verify(self) -> None:
        url = f"https://localhost:{self.relay.port}/x"
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(self.authority.file)
            self.assertEqual(session.get(url, timeout=PATIENCE).text, "/x")
            session.verify = True
            with self.assertRaises(requests.exceptions.SSLError):
                session.get(url, timeout=PATIENCE)
        curl = shutil.which("curl")
        assert curl is not None, "curl is missing"
        command = [curl, "-sS", "--noproxy", "*", "--cacert", str(self.authority.file), url, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        self.assertEqual((done.stdout, done.stderr), ("/x/x", ""))

    def test_what_the_upstream_hears(self) -> None:
        with self.tls(self.relay) as sock:
            self.assertEqual(self.ask(sock, "/vary").body, b"https")
            self.assertIn("hit", self.ask(sock, "/vary").cache_status)

    # Records and requests.

    def test_hits_whatever_the_records(self) -> None:
        one = request_bytes("GET", "/x")
        client = self.client()
        client.sock.sendall(client.records(one))
        client.read_until(b"\r\n\r\n/x")
        for what, pieces in (
            ("one", [one]),
            ("three in one record", [one * 3]),
            ("three in three records", [one] * 3),
            ("one in many", [one[at : at + 1] for at in range(len(one))]),
            ("one and a half, then the rest", [one + one[:9], one[9:]]),
            ("an empty line before it", [b"\r\n", one]),
        ):
            with self.subTest(what):
                client.sock.sendall(client.records(*pieces))
                for _ in range(b"".join(pieces).count(b"GET ")):
                    self.assertIn(b"hit", client.read_until(b"\r\n\r\n/x"))

    def test_a_record_that_comes_in_pieces(self) -> None:
        client = self.client()
        data = client.records(request_bytes("GET", "/x"))
        for at in range(0, len(data), 7):
            client.sock.sendall(data[at : at + 7])
            time.sleep(0.001)  # so that most come one by one; it has to work either way
        self.assertIn(b" 200 ", client.read_until(b"\r\n\r\n/x"))

    def test_a_request_with_the_end_of_the_handshake(self) -> None:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            context = ssl.create_default_context(cafile=str(self.authority.file))
            context.minimum_version = context.maximum_version = version
            with self.relay.connect() as sock:
                client = TlsClient(sock, context)
                with contextlib.suppress(ssl.SSLWantReadError):
                    client.tls.do_handshake()
                client.flush()
                while version == ssl.TLSVersion.TLSv1_3:
                    client._more()
                    with contextlib.suppress(ssl.SSLWantReadError):
                        client.tls.do_handshake()
                        break  # with its Finished unsent
                else:
                    client.shake()
                sock.sendall(client.records(request_bytes("GET", "/x")))
                client.read_until(b"\r\n\r\n/x")

    def test_bodies_of_requests(self) -> None:
        for size in (1, 16384, 16385, 300_000, 3 << 20):  # by the loop, and by a thread
            with self.subTest(size=size), self.tls(self.relay) as sock:
                body = LARGE[:1000] * (size // 1000) + LARGE[: size % 1000]
                sock.sendall(request_bytes("POST", "/up", (), body))
                self.assertEqual(read_reply(sock, "POST").body, body)
                self.assertEqual(self.ask(sock).body, b"/x")

    def test_large_answers_to_slow_readers(self) -> None:
        with self.tls(self.relay) as fast:
            self.assertEqual(self.ask(fast, "/large").body, LARGE)  # by a thread
        slow = []
        for _ in range(3):  # by the loop
            with contextlib.closing(self.relay.connect()) as plain:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                sock = self.context.wrap_socket(plain, server_hostname="localhost")
            self.addCleanup(sock.close)
            sock.sendall(request_bytes("GET", "/large"))
            slow.append(sock)
        with self.tls(self.relay) as sock:
            self.assertEqual(self.ask(sock).body, b"/x")
        for sock in slow:
            self.assertEqual(read_reply(sock, "GET").body, LARGE)
            self.assertEqual(self.ask(sock).body, b"/x")

    # How connections end.

    def test_the_end_is_told(self) -> None:
        client = self.client()
        close = request_bytes("GET", "/x", [("Connection", "close")])
        client.sock.sendall(client.records(close))
        self.assertEqual(client.read_end(), "close_notify")
        client = self.client()  # with an error, and bytes behind it
        client.sock.sendall(client.records(b"GET x\r\n\r\nmore"))
        self.assertEqual(client.read_end(), "close_notify")

    def test_the_clients_end_is_obeyed(self) -> None:
        client = self.client()
        client.sock.sendall(client.records(request_bytes("GET", "/x")))
        client.read_until(b"\r\n\r\n/x")
        with contextlib.suppress(ssl.SSLError):
            client.tls.unwrap()
        client.flush()
        self.assertEqual(client.read_end(), "close_notify")

    def test_the_clients_end_is_obeyed_that_comes_with_its_request(self) -> None:
        for target in ("/x", "/miss-before-the-end", ""):
            for behind in (b"", GARBAGE, GARBAGE * 40):
                with self.subTest(target, behind=len(behind)):
                    client = self.client()
                    asked = client.records(request_bytes("GET", target)) if target else b""
                    with contextlib.suppress(ssl.SSLError):
                        client.tls.unwrap()
                    client.sock.sendall(asked + client.outgoing.read() + behind)
                    got = b""
                    with contextlib.suppress(ConnectionResetError):  # bytes behind the end
                        while piece := client.sock.recv(65536):
                            got += piece
                    # This client of TLS reads no answer any more.
                    self.assertGreater(len(got), 200 if target else 0)
                    other = self.client()
                    other.sock.sendall(other.records(request_bytes("GET", "/x")))
                    other.read_until(b"\r\n\r\n/x")

    def test_plain_http_is_told_what_to_do(self) -> None:
        for data in (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"G", b"HEAD / HTTP/1.0\r\n\r\n"):
            with self.subTest(data):
                got = self.relay.raw(data)
                head, _, body = got.partition(b"\r\n\r\n")
                self.assertTrue(head.startswith(b"HTTP/1.1 400 "), got)
                self.assertIn(b"application/problem+json", head)
                self.assertIn(b"Connection: close", head)
                self.assertEqual(b"https://" in body, not data.startswith(b"HEAD"))

    def test_what_is_no_tls_ends_quietly(self) -> None:
        for data in (b"\x00" * 99, b"\x80\x2e\x01", b"get /", b"\n", b"\xff"):
            self.assertEqual(self.relay.raw(data), b"", data)
        # What begins like TLS gets its alert.
        self.assertEqual(self.relay.raw(b"\x16\x03\x01\x00\x05hello")[:1], b"\x15")
        levels = {line.split()[1] for line in self.relay.log().splitlines() if "TLS" in line}
        self.assertEqual(levels, {"debug"})

    def test_garbage_behind_the_handshake(self) -> None:
        client = self.client()
        client.sock.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
        self.assertEqual(client.read_end(), "cut")

    def test_handshakes_hold_up_nobody(self) -> None:
        """Many at once, while hits go on on a connection."""
        with self.tls(self.relay) as sock:
            self.ask(sock)
            stop = threading.Event()

            def shake() -> None:
                while not stop.is_set():
                    with contextlib.suppress(OSError), self.relay.connect() as plain:
                        self.context.wrap_socket(plain, server_hostname="localhost").close()

            threads = [threading.Thread(target=shake) for _ in range(4)]
            for thread in threads:
                thread.start()
            try:
                for _ in range(300):
                    self.assertIn("hit", self.ask(sock).cache_status)
            finally:
                stop.set()
                for thread in threads:
                    thread.join()


class KeyChanges:
    """TLS that answers each read with the content of one record, and owes the client `owed`."""

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, owed: bytes) -> None:
        self.incoming, self.outgoing, self.owed = incoming, outgoing, owed

    def read(self, size: int) -> bytes:
        self.outgoing.write(self.owed)
        return self.incoming.read(size)


class OwedTest(unittest.TestCase):
    """A client may have its keys changed all the time (RFC 8446, 4.6.3), and say one byte between:
    what that is answered must not wait here for an answer to its request.
    """

    def setUp(self) -> None:
        self.client, sock = socket.socketpair()
        self.addCleanup(self.client.close)
        self.addCleanup(sock.close)
        sock.setblocking(False)
        self.client.settimeout(PATIENCE)
        self.stream = TlsStream(sock, ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    def owe(self, owed: bytes) -> None:
        stream = self.stream
        stream._tls = KeyChanges(stream._incoming, stream._outgoing, owed)  # type: ignore

    def test_it_is_sent_at_once(self) -> None:
        self.owe(b"keys")
        for _ in range(3):
            self.client.sendall(b"x")
            self.assertEqual(self.stream.recv(9), b"x")
            self.assertEqual(self.client.recv(99), b"keys")

    def test_who_takes_none_of_it_is_cut(self) -> None:
        self.owe(b"k" * RECORD)
        with self.assertRaises(ConnectionAbortedError):
            for _ in range(10_000):
                self.client.sendall(b"x")
                self.stream.recv(9)


class OneByOneTest(TlsTestCase):
    """A relay for each."""

    def certificate(self, relay: RunningRelay) -> bytes:
        """What the relay shows now."""
        with self.tls(relay) as sock:
            shown = sock.getpeercert(binary_form=True)
        assert shown is not None
        return shown

    def certificates(self, relay: RunningRelay) -> set[bytes]:
        """What its workers show now, of which either may answer."""
        return {self.certificate(relay) for _ in range(8)}

    def copy(self, pair: Pair, name: str) -> Pair:
        copied = Pair(self.folder / f"{name}.pem", self.folder / f"{name}.key")
        shutil.copy(pair.certificate, copied.certificate)
        shutil.copy(pair.key, copied.key)
        return copied

    def test_files_are_read_again_with_one_worker_and_with_two(self) -> None:
        for workers in ("1", "2"):
            with self.subTest(workers=workers):
                self.change_files(workers)

    def change_files(self, workers: str) -> None:
        """To good ones, which new connections get; to wrong ones, which are told and not used."""
        pair = self.copy(self.pair, f"now{workers}")
        relay = self.start(pair, "--workers", workers)
        before = self.certificate(relay)
        kept = self.tls(relay)
        self.assertEqual(self.ask(kept).status, 200)
        (self.folder / workers).mkdir()
        other = Authority(self.folder / workers, "other")
        self.context.load_verify_locations(other.file)
        self.copy(other.issue("localhost"), f"now{workers}")
        relay.signal(signal.SIGHUP)
        eventually(lambda: "have changed: tls-cert, tls-key" in relay.log(), "the reload")
        self.assertEqual(self.ask(kept).status, 200)  # on the old connection
        eventually(lambda: before not in self.certificates(relay), "the new certificate")
        shown = self.certificates(relay)
        self.assertEqual(len(shown), 1)
        stay = "the old settings stay in use"
        pair.key.write_text("no key")
        relay.signal(signal.SIGHUP)
        eventually(lambda: stay in relay.log(), "the complaint")
        self.assertIn("--tls-key", relay.log().rpartition(stay)[2])
        self.assertEqual(self.certificates(relay), shown)

    def test_session_tickets_are_good_for_all_workers(self) -> None:
        relay = self.start(self.pair, "--workers", "2")
        first = self.tls(relay)
        self.ask(first)  # with TLS 1.3 tickets come after the handshake
        for _ in range(8):
            plain = relay.connect()
            self.addCleanup(plain.close)
            again = self.context.wrap_socket(
                plain, server_hostname="localhost", session=first.session
            )
            self.addCleanup(again.close)
            self.assertTrue(again.session_reused)

    def test_connections_in_the_handshake_count(self) -> None:
        files = ("--tls-cert", str(self.pair.certificate), "--tls-key", str(self.pair.key))
        relay = Limited(self.origin.url, *files)
        self.addCleanup(relay.__exit__, None, None, None)
        kept = [relay.connect() for _ in range(100)]  # more than there may be
        for sock in kept:
            self.addCleanup(sock.close)
            sock.sendall(b"\x16")
        with self.tls(relay) as sock:
            self.assertEqual(self.ask(sock).body, b"/x")
        kept[0].settimeout(PATIENCE)
        with contextlib.suppress(ConnectionResetError):
            self.assertEqual(kept[0].recv(1), b"")  # the one that is idle longest made room

    def test_the_health_check_knows_that_it_is_well(self) -> None:
        relay = self.start(self.pair)  # without an admin address
        question = health.question_for(relay.pid)
        assert question is not None
        self.assertEqual(health.why_unwell(question), "")

    def test_a_handshake_has_a_time(self) -> None:
        relay = self.start(self.pair, "--timeout-head", "3")
        begun = []
        for data in (b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"):
            sock = relay.connect()
            self.addCleanup(sock.close)
            sock.sendall(data)
            begun.append(sock)
        with relay.connect() as plain:
            shaken = TlsClient(plain, self.context).shake()
            began = time.monotonic()
            for sock in begun:
                self.assertEqual(sock.recv(1), b"")
            self.assertLess(time.monotonic() - began, 8.0)  # 10 s are the default
            self.assertEqual(shaken.read_end(), "close_notify")  # it never asked

    def test_one_client_has_its_share(self) -> None:
        relay = self.start(self.pair, "--connections-per-client", "1", "--timeout-head", "3")
        with relay.connect() as begun:
            begun.sendall(b"\x16")
            with relay.connect() as more, contextlib.suppress(ConnectionResetError):
                self.assertEqual(more.recv(1), b"")
            self.assertEqual(begun.recv(1), b"")
        self.ask(self.tls(relay))

    def test_an_idle_connection_ends(self) -> None:
        relay = self.start(self.pair, "--timeout-idle", "1")
        with relay.connect() as sock:
            client = TlsClient(sock, self.context).shake()
            sock.sendall(client.records(request_bytes("GET", "/x")))
            client.read_until(b"\r\n\r\n/x")
            self.assertEqual(client.read_end(), "close_notify")

    def test_a_stop_in_the_middle_of_a_handshake(self) -> None:
        relay = self.start(self.pair, "--timeout-head", "60", "--drain", "60")
        with relay.connect() as begun, self.tls(relay) as idle:
            self.ask(idle)
            begun.sendall(b"\x16")
            self.assertEqual(relay.stop(), 0)

    def test_it_asks_itself_to_warm(self) -> None:
        from api_relaying_server.operations.warm import RelayClient
        from api_relaying_server.operations.warm_at import _unverified

        relay = self.start(self.pair)
        client = RelayClient(relay.url, _unverified())
        with contextlib.closing(client):
            self.assertEqual(client.ask("/x").body, b"/x")

    def test_over_a_unix_socket_too(self) -> None:
        path = str(self.folder / "relay.sock")
        relay = self.start(self.pair, "--listen", f"unix:{path}")
        self.assertEqual(self.ask(self.tls(relay)).body, b"/x")
        self.assertEqual(self.origin.requests[-1].get("x-forwarded-proto"), "https")


class WrongFilesTest(TlsTestCase):
    def complaint(self, *flags: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "api_relaying_server", "--demo", "--cache=memory://"]
            + ["--admin=off", *flags],
            cwd=SOURCES,
            env=without_settings(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        self.assertEqual((done.returncode, done.stdout), (2, ""), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        return done.stderr

    def test_each_is_one_line_that_names_the_flag(self) -> None:
        certificate, key = map(str, self.pair)
        other = str(self.authority.issue("other").key)
        encrypted = str(self.folder / "encrypted.key")
        command = ["openssl", "pkey", "-in", key, "-out", encrypted, "-aes128"]
        subprocess.run([*command, "-passout", "pass:secret"], check=True, capture_output=True)
        for cert, private, told in (
            (certificate, "", "--tls-cert: is of no use alone; give --tls-key too"),
            ("", key, "--tls-key: is of no use alone; give --tls-cert too"),
            (key, key, f"--tls-cert: {key} is not a certificate"),
            (certificate, certificate, f"--tls-key: {certificate} is not a private key"),
            (certificate, other, f"--tls-key: {other} does not match the certificate"),
            (certificate, encrypted, f"--tls-key: {encrypted} is encrypted"),
            ("/no/such/file", key, "--tls-cert: /no/such/file cannot be read"),
            (certificate, str(self.folder), f"--tls-key: {self.folder} is not a plain file"),
        ):
            with self.subTest(told):
                flags = [f"--tls-cert={cert}"] * bool(cert) + [f"--tls-key={private}"] * bool(
                    private
                )
                self.assertIn(told, self.complaint(*flags))
        self.assertIn(
            "encrypted", self.complaint("--tls-cert", certificate, "--tls-key", encrypted)
        )

    def test_a_file_with_both(self) -> None:
        both = self.folder / "both.pem"
        both.write_bytes(self.pair.key.read_bytes() + self.pair.certificate.read_bytes())
        relay = self.start(Pair(both, both))
        self.assertEqual(self.ask(self.tls(relay)).body, b"/x")

    def check(self, pair: Pair) -> subprocess.CompletedProcess[str]:
        """What `--check` does with these files."""
        certificate, key = map(str, pair)
        return subprocess.run(
            [sys.executable, "-m", "api_relaying_server", "--demo", "--cache=memory://", "--check"]
            + ["--port=0", f"--tls-cert={certificate}", f"--tls-key={key}"],
            cwd=SOURCES,
            env=without_settings(),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def test_check_shows_where_they_are_and_until_when_they_are_valid(self) -> None:
        certificate = self.pair.certificate
        done = self.check(self.pair)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertTrue(re.search(rf"--tls-cert +{certificate} ", done.stdout), done.stdout)
        self.assertRegex(
            done.stdout,
            rf"(?m)^ok: --tls-cert: {certificate} matches its key, and is valid until 20..-.*Z$",
        )

    def test_one_that_has_expired_is_a_warning(self) -> None:
        """As with `nginx -t`: the relay starts, and who does not check may go on."""
        pair = self.authority.issue("expired")
        make_expired(pair)
        end = validity_of(pair.certificate.read_bytes()).end
        told = f"--tls-cert: {pair.certificate} expired at {shown(end)}; renew it"
        done = self.check(pair)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn(f"api-relaying-server: warning: {told}", done.stderr)
        self.assertIn(f"ok: --tls-cert: {pair.certificate} matches its key\n", done.stdout)
        relay = self.start(pair)
        self.assertIn(f"warning: {told}", relay.log())
        relay.signal(signal.SIGHUP)
        eventually(lambda: relay.log().count(told) == 2, "the warning after the reload")


if __name__ == "__main__":
    unittest.main()
