"""The table of settings: every notation, every source, their order, and what is derived from it."""

from __future__ import annotations

import ipaddress
import os
import tempfile
import unittest
from collections.abc import Mapping, Sequence
from datetime import time
from pathlib import Path
from typing import Any

import certifi
from hypothesis import given, settings
from hypothesis import strategies as st

from api_relaying_server.caching.allow import AllowRule
from api_relaying_server.caching.wallclock import LocalMidnight, PathRule, Seconds
from api_relaying_server.cli import EXAMPLES, NOTES, PROGRAM, read_settings
from api_relaying_server.configuration import command_line, values
from api_relaying_server.configuration.secret import Secret
from api_relaying_server.configuration.setting import Setting
from api_relaying_server.configuration.sources import LARGEST_FILE, from_file
from api_relaying_server.configuration.weekly import Weekly
from api_relaying_server.errors import ConfigError
from api_relaying_server.serving.listeners import Descriptor, UnixSocket
from api_relaying_server.settings import (
    DEFAULT_UPSTREAM,
    GROUPS,
    TABLE,
    Settings,
    by_group,
    markdown_table,
)
from api_relaying_server.upstream.route import HttpProxy
from api_relaying_server.upstream.translation import OwnField

LONGEST_PATH = values.LONGEST_UNIX_PATH

PAGE = Path(__file__).resolve().parents[2] / "docs" / "settings.md"

PARSER = command_line.make_parser(list(by_group()), PROGRAM, EXAMPLES, NOTES)

STOCKHOLM = "Europe/Stockholm"
TLS_URL = f"rediss://u:p%40@[::1]:7000/5?ca={certifi.where()}"
WORKDAYS = frozenset(range(5))

MENUS = (PathRule("/restaurant/*", LocalMidnight("Europe/Stockholm")),)

# By setting: its default, texts with their meaning, texts that are refused with a word of the mend.
# A table of its own, so that a change of the contract has to be made twice.
STEERING = (
    *("Host", "Content-Length", "Transfer-Encoding", "Connection", "Keep-Alive", "TE", "Trailer"),
    *("Upgrade", "Via", "Expect", "Max-Forwards", "Proxy-Authorization", "Proxy-Connection"),
    *("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Anything", "X-Real-IP"),
    *("Range", "If-Range", "If-None-Match", "If-Modified-Since", "X-Original-URL"),
)

CASES: dict[str, tuple[Any, Sequence[tuple[str, Any]], Sequence[tuple[str, str]]]] = {
    "upstream": (
        DEFAULT_UPSTREAM,
        [
            ("http://127.0.0.1:8010/api", "http://127.0.0.1:8010/api"),
            ("https://Example.org/Api/", "https://example.org/Api"),
            ("HTTPS://example.org", "https://example.org"),
            ("https://example.org//", "https://example.org"),
            ("http://[::1]:80/a%20b/c", "http://[::1]:80/a%20b/c"),
            ("http://my_service.", "http://my_service."),
            ("http://x/@a", "http://x/@a"),
        ],
        [
            ("example.org/api", "https://example.org/api"),
            ("ftp://example.org", "http or https"),
            ("http:/example.org", "http or https"),
            ("http://", "host and port"),
            ("http:///api", "host and port"),
            ("http://:80/", "host and port"),
            ("http://x:0/", "host and port"),
            ("http://x:70000/", "not a URL"),
            ("http://x:80x/", "not a URL"),
            ("http://[::1/", "not a URL"),
            ("http://[fe80::1%25eth0]/", ""),
            ("http://-x-/", "host and port"),
            ("http://1.2.3/", "host and port"),
            ("http://x y/", "ASCII"),
            ("http://r\u00e4k.se/", "xn--"),
            ("http://x/\n", "ASCII"),
            ("http://u:secret@x/", "remove everything before the '@'"),
            ("http://x/?a=b", "before the '?'"),
            ("http://x/?", "before the '?'"),
            ("http://x/#f", "before the '?'"),
            ("http://x/a/../b", ".. segments"),
            ("http://x/a/%2e%2E", ".. segments"),
            ("http://x/a%2f../b", ".. segments"),
            ("http://x/a/..;x/b", ".. segments"),
            ("http://x/a/%2e%3Bx", ".. segments"),
            ("http://x/a%zz", "%XX"),
            ("http://x/a\\b", "%XX"),
        ],
    ),
    "demo": (False, [("on", True), ("TRUE", True), ("0", False), ("no", False)], [("x", "on or")]),
    "timeout_connect": (5.0, [("0.5", 0.5), ("1m", 60.0)], [("0", "0.001 to"), ("2d", "86400")]),
    "timeout_read": (30.0, [("90s", 90.0)], [("0", "0.001 to"), ("off", "give seconds")]),
    "public_host": (
        None,
        [("example.org", "example.org"), ("x:8443", "x:8443"), ("[::1]:80", "[::1]:80")],
        [("http://x", "such as"), ("x:0", "such as"), ("x:70000", "such as"), ("::1", "such as")],
    ),
    "host": (
        "localhost",
        [("0.0.0.0", "0.0.0.0"), ("::", "::"), ("[::1]", "::1"), ("a-b.c", "a-b.c")],
        [("", "such as"), ("a b", "such as"), ("1.2.3.400", "such as"), ("x:80", "such as")],
    ),
    "port": (
        8000,
        [("0", 0), ("1", 1), ("65535", 65535)],
        [("65536", "0 to 65535"), ("-1", "0 to"), ("80x", "0 to"), ("", "0 to"), ("8\u0663", "0")],
    ),
    "listen": (
        (),
        [
            ("unix:/run/relay.sock", (UnixSocket("/run/relay.sock"),)),
            ("unix:relay socket", (UnixSocket("relay socket"),)),
            ("unix:/" + "x" * (LONGEST_PATH - 1), (UnixSocket("/" + "x" * (LONGEST_PATH - 1)),)),
            ("fd:3", (Descriptor(3),)),
            ("fd:0", (Descriptor(0),)),
        ],
        [
            ("/run/relay.sock", "give unix:PATH or fd:N"),
            ("unix:", "give unix:PATH or fd:N"),
            ("unix:@relay", "names an abstract socket"),
            ("unix:a\x00b", "give unix:PATH or fd:N"),
            ("tcp:80", "give unix:PATH or fd:N"),
            ("fd:", "such as fd:3"),
            ("fd:x", "such as fd:3"),
            ("fd:-1", "such as fd:3"),
            ("fd:1000000", "such as fd:3"),
            ("unix:/" + "x" * LONGEST_PATH, f"at most {LONGEST_PATH} bytes"),
            ("unix:/" + "\u00e4" * (LONGEST_PATH // 2 + 1), f"at most {LONGEST_PATH} bytes"),
        ],
    ),
    "workers": (
        1,
        [("1", 1), ("256", 256), ("auto", values.cores())],
        [("0", "from 1 to 256"), ("257", "or auto"), ("-2", "from 1"), ("two", "or auto")],
    ),
    "threads": (64, [("1", 1), ("10000", 10000)], [("0", "from 1"), ("10001", "to 10000")]),
    "trust_forwarded": (
        (),
        [
            ("10.0.0.5", (ipaddress.ip_network("10.0.0.5/32"),)),
            ("10.0.0.0/8, ::1", (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1"))),
            ("unix:", ("unix:",)),
        ],
        [
            ("10.0.0.1/8", "give 10.0.0.0/8"),
            ("localhost", "such as"),
            ("unix:/x", "or unix:"),
            ("10.0.0.5,", "such as"),
        ],
    ),
    "purge_from": (
        (ipaddress.ip_network("127.0.0.0/8"), ipaddress.ip_network("::1")),
        [
            ("10.0.0.5", (ipaddress.ip_network("10.0.0.5/32"),)),
            ("10.0.0.0/8, unix:", (ipaddress.ip_network("10.0.0.0/8"), "unix:")),
        ],
        [("10.0.0.1/8", "give 10.0.0.0/8"), ("localhost", "such as"), ("", "such as")],
    ),
    "cache": (
        ...,
        [
            ("sqlite:///a/b.db", "sqlite:///a/b.db"),
            ("sqlite:////var/x y.db", "sqlite:////var/x y.db"),
            ("sqlite:///~/x.db", f"sqlite:///{os.path.expanduser('~')}/x.db"),
            ("memory://", "memory://"),
            ("none://", "none://"),
            ("redis://localhost", "redis://localhost"),
            (TLS_URL, TLS_URL),
            ("redis://h?namespace=menus.1", "redis://h?namespace=menus.1"),
            ("mongodb://a,b:7/relay?tls=true", "mongodb://a,b:7/relay?tls=true"),
        ],
        [
            ("sqlite", "sqlite:///PATH, redis://HOST, mongodb://HOST, memory:// or none://"),
            ("redis:/x", "redis://HOST"),
            ("redis://", "no valid host; give redis://[USER:PASSWORD@]HOST[:PORT][/NUMBER]"),
            ("redis://a,b", "more than one host"),
            ("redis://h:0", "no valid port"),
            ("redis://h:65536", "no valid port"),
            ("redis://h:x", "no valid host"),
            ("redis://h/x", "no valid database"),
            ("redis://h/0/1", "no valid database"),
            ("redis://h x", "write them as %XX"),
            ("redis://h#1", "write them as %XX"),
            ("redis://h?x", "NAME=VALUE"),
            ("redis://h?socket_timeout=9", "not known (socket_timeout)"),
            ("redis://h?ca=/x", "not known (ca)"),
            ("redis://h?namespace=a*", "a namespace of other than"),
            ("redis://me:secret@h:x", "'redis://me:***@h:x' has no valid host"),
            ("rediss://", "give rediss://"),
            ("rediss://h?ca=/nowhere", "names no readable file of certificates (ca)"),
            (f"rediss://h?ca={__file__}", "names no readable file of certificates (ca)"),
            ("mongodb://h:1,", "give mongodb://[USER:PASSWORD@]HOST[:PORT][/NAME]"),
            ("mongodb://h/a.b", "no valid database"),
            ("/tmp/x", "sqlite:///PATH"),
            ("tape://x", "sqlite:///PATH"),
            ("sqlite://x", "sqlite:////absolute"),
            ("sqlite:///", "sqlite:////absolute"),
            ("sqlite:////tmp/", "sqlite:////absolute"),
            ("sqlite:///a\0b", "sqlite:////absolute"),
            ("memory:///x", "give memory://"),
        ],
    ),
    "cache_size": (
        1024**3,
        [("1MiB", 1024**2), ("1.5GiB", 3 * 512 * 1024**2), ("10 MB", 10**7), ("1048576", 1048576)],
        [("1048575", "at least"), ("64M", "KiB"), ("", "KiB"), ("-1", "KiB"), ("1e9", "KiB")],
    ),
    "hot_size": (128 * 1024**2, [("0", 0), ("4096b", 4096)], [("x", "KiB")]),
    "offline": (False, [("yes", True)], [("maybe", "on or off")]),
    "ignore_query": (
        (),
        [("utm_*", ("utm_*",)), ("a b", ("a b",))],
        [("", "such as utm_*"), ("a\n", "such as utm_*")],
    ),
    "compress": (False, [("on", True), ("off", False)], [("gzip", "on or off")]),
    "sort_query": (False, [("on", True)], [("x", "on or off")]),
    "bypass": (
        (),
        [("/live/*", ("/live/*",)), ("*", ("*",))],
        [("live", "begin it"), ("", "begin it"), ("/a\n", "begin it")],
    ),
    "bypass_cookie": (
        (),
        [("nocache", ("nocache",)), ("s_*", ("s_*",))],
        [("", "such as nocache"), ("a=1", "such as nocache"), ("a b", "such as nocache")],
    ),
    "default_ttl": (300.0, [("0", 0.0), ("1h", 3600.0)], [("off", "give seconds"), ("-1", "give")]),
    "negative_ttl": (10.0, [("off", 0.0), ("1d", 86400.0)], [("99999999999", "2147483648")]),
    "ttl": (
        (),
        [
            ("/a/*=5m", (PathRule("/a/*", Seconds(300.0)),)),
            ("/restaurant/*=midnight@Europe/Stockholm", MENUS),
        ],
        [("60", "GLOB=WHEN"), ("/a=x", "give seconds"), ("a=1", "begin it")],
    ),
    "max_ttl": (
        MENUS,
        [("60", (PathRule("*", Seconds(60.0)),)), ("/a=1", (PathRule("/a", Seconds(1.0)),))],
        [("/a=midnight@Mars/X", "time zone")],
    ),
    "ignore_field": (
        ("cookie",),
        [("X-Session", ("x-session",))],
        [("a b", "such as cookie"), ("", "as cookie"), ("Host", "controls"), ("te", "controls")],
    ),
    "upstream_header": (
        (),
        [
            ("X-Key: a b ", (OwnField("X-Key", "a b"),)),
            ("authorization:Bearer x", (OwnField("authorization", "Bearer x"),)),
            ("X-Name: \u00e9", (OwnField("X-Name", "\u00c3\u00a9"),)),
        ],
        [
            ("S3CRET", "this is no field; give 'NAME: VALUE'"),
            ("S3 CRET: x", "this is no field; give"),
            (": x", "this is no field; give"),
            ("X-Key:", "is empty; give"),
            ("X-Key: S3\rCRET", "control character; give"),
            ("X-Key: S3\nCRET", "control character; give"),
            ("X-Key: S3\0CRET", "control character; give"),
            ("X-Key: " + "S3CRET" * 2000, "too long; give"),
            ("X-Key: @/no/such", "cannot be read (No such file or directory); give a file"),
            ("X-Key: @", "cannot be read (No such file or directory); give a file"),
            ("X-Key: @/", "is not a plain file; give"),
            ("X-Key: @/dev/null", "is not a plain file; give"),
            ("X-Key: @a\0b", "no name of a file; give"),
            *((f"{name}: S3CRET", "is for the relay to write") for name in STEERING),
        ],
    ),
    "allow": (
        (),
        [
            ("/a/*", (AllowRule(frozenset(("GET", "HEAD")), "/a/*"),)),
            ("POST /b c", (AllowRule(frozenset(("POST",)), "/b c"),)),
        ],
        [("a", "as in"), ("get /a", "is no method"), ("/%41", "encoded"), ("/a?x", "query")],
    ),
    "stale_if_error": (86400.0, [("off", 0.0), ("0", 0.0)], [("x", "or off")]),
    "stale_while_revalidate": (0.0, [("off", 0.0), ("1m", 60.0)], [("x", "or off")]),
    "refresh_ahead": (0.0, [("30", 30.0)], [("x", "or off")]),
    "warm_at": (
        (),
        [
            ("10:45@Europe/Stockholm", (Weekly(frozenset(range(7)), time(10, 45), STOCKHOLM),)),
            ("Mon-Fri 9:05@Europe/Stockholm", (Weekly(WORKDAYS, time(9, 5), STOCKHOLM),)),
            ("mon-fri,9:05@Europe/Stockholm", (Weekly(WORKDAYS, time(9, 5), STOCKHOLM),)),
            ("sat-mon,wed 0:00@UTC", (Weekly(frozenset((5, 6, 0, 2)), time(0, 0), "UTC"),)),
        ],
        [
            ("10:45", "give HH:MM@Area/City"),
            ("24:00@UTC", "give HH:MM@Area/City"),
            ("mon-day 10:45@UTC", "is not a day"),
            (", 10:45@UTC", "is not a day"),
            ("10:45@Solna", "such as Europe/Stockholm"),
            ("10:45@", "give HH:MM@Area/City"),
            ("", "give HH:MM@Area/City"),
        ],
    ),
    "upstream_ca": (None, [], [("", "give a file of cert"), ("/dev/null", "not a plain file")]),
    "upstream_cert": (None, [], [("/no/such", "give a file of cert"), (__file__, "in PEM")]),
    "upstream_key": (None, [], [("/no/such", "with a private key"), (__file__, "in PEM")]),
    "tls_cert": (None, [], [("/no/such", "give a file of cert"), (__file__, "in PEM")]),
    "tls_key": (None, [], [("/no/such", "with a private key"), (__file__, "in PEM")]),
    "upstream_proxy": (
        None,
        [
            ("http://proxy.test:3128", HttpProxy("proxy.test", 3128)),
            ("HTTP://Proxy.test/", HttpProxy("proxy.test", 80)),
            ("http://[::1]:3128/", HttpProxy("::1", 3128)),
            ("http://me:S3CRET@h:1", HttpProxy("h", 1, "Basic bWU6UzNDUkVU")),
            ("http://me%40x:a%3ab%2Fc@d@h:1", HttpProxy("h", 1, "Basic bWVAeDphOmIvY0Bk")),
            ("http://me@h:1", HttpProxy("h", 1, "Basic bWU6")),
        ],
        [
            (text, "such as http://proxy.example.org:3128")
            for text in (
                *("", "proxy:3128", "https://me:S3CRET@h:1", "socks5://S3CRET@h:1"),
                *("http://", "http://me:S3CRET@:1", "http://me:S3CRET@h:0", "http://h:65536"),
                *("http://me:S3CRET@h:1/path", "http://me:S3CRET@h:1?q", "http://S3CRET@h:1#f"),
                *("http://me%3A:S3CRET@h:1", "http://me:S3CRET%0a@h:1", "http://S3CRET h:1"),
                *("http://me:S3CRET/x@h y:1", "http://me:S3CRET@h/@x", "http://\udcff:S3CRET@h"),
            )
        ],
    ),
    "client_refresh": (False, [("1", True)], [("2", "on or off")]),
    "upstream_rate": (
        None,
        [
            ("5/s", values.Rate(5.0, 5)),
            ("60/m", values.Rate(1.0, 1)),
            ("60/m,10", values.Rate(1.0, 10)),
            ("2.5/s", values.Rate(2.5, 3)),
            ("36/h", values.Rate(0.01, 1)),
            ("off", None),
        ],
        [("5", "N/s"), ("5/d", "N/s"), ("0/s", "at least one"), ("5/s,0", "at least one")],
    ),
    "upstream_connections": (32, [("1", 1)], [("0", "from 1")]),
    "cool_down": (5.0, [("0", 0.0), ("off", 0.0)], [("x", "or off")]),
    "max_body": (64 * 1024**2, [("0", 0), ("1KB", 1000)], [("1 XiB", "KiB")]),
    "max_head": (32 * 1024, [("1KiB", 1024)], [("1023", "at least 1024")]),
    "timeout_head": (10.0, [("1", 1.0)], [("0", "0.001 to")]),
    "timeout_idle": (60.0, [("1d", 86400.0)], [("86401", "to 86400")]),
    "drain": (15.0, [("0", 0.0)], [("-1", "give seconds")]),
    "connections_per_client": (0, [("off", 0), ("1", 1)], [("0", "or off")]),
    "admin": (
        values.Address("localhost", 8001),
        [
            ("off", None),
            ("localhost:0", values.Address("localhost", 0)),
            ("127.0.0.1:65535", values.Address("127.0.0.1", 65535)),
            ("[::1]:8001", values.Address("::1", 8001)),
        ],
        [
            *((text, "give HOST:PORT") for text in ("", "8001", "localhost", "localhost:")),
            *((text, "give HOST:PORT") for text in ("localhost:65536", "::1:8001", "[a]:8001")),
            ("a b:8001", "not a host name"),
            (":8001", "not a host name"),
        ],
    ),
    "admin_token": (
        None,
        [("t0ken~", Secret("t0ken~"))],
        [
            ("", "is empty; give"),
            ("S3 CRET", "has spaces"),
            ("S3CRET\u00e9", "has spaces, other letters"),
            ("S3CRET" * 2000, "too long; give"),
            ("@/no/such", "cannot be read (No such file or directory); give a file"),
            ("@/dev/null", "is not a plain file; give"),
            ("@a\0b", "no name of a file; give"),
        ],
    ),
    "access_log": (
        None,
        [("-", "-"), ("a.log", "a.log"), ("off", None)],
        [("", "path of a file"), ("a\nb", "path of a file")],
    ),
    "access_log_format": ("combined", [("json", "json")], [("JSON", "combined or json")]),
    "log_level": ("info", [("debug", "debug")], [("loud", "debug, info, warning or error")]),
    "log_format": ("text", [("json", "json")], [("xml", "text or json")]),
    "config": (None, [], [("", "path of a file")]),
    "ask": (False, [("on", True)], [("x", "on or off")]),
    "check": (False, [("on", True)], [("x", "on or off")]),
}  # fmt: skip


def read(
    words: Sequence[str] = (), environ: Mapping[str, str] | None = None
) -> tuple[Settings, list[str]]:
    """Settings as the command would read them."""
    return read_settings(command_line.parse(PARSER, words, TABLE), environ or {})


class TomlFile(unittest.TestCase):
    """A test with a configuration file."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "relay.toml"

    def write(self, content: str | bytes) -> str:
        """Make the content the file's and return its path."""
        self.path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(self.path)

    def refused(self, content: str | bytes) -> str:
        """The message for this content, which leads with the file's name."""
        with self.assertRaises(ConfigError) as caught:
            read(["--config", self.write(content)])
        message = str(caught.exception)
        self.assertTrue(message.startswith(f"{self.path}: "), message)
        return message.partition(": ")[2]


class TableTest(unittest.TestCase):
    def test_every_setting_has_its_cases(self) -> None:
        self.assertEqual({row.name for row in TABLE} - set(CASES), set())

    def test_defaults(self) -> None:
        by_default = Settings.of()
        for row in TABLE:
            default = CASES[row.name][0]
            if default is not ...:
                with self.subTest(setting=row.name):
                    self.assertEqual(getattr(by_default, row.name), default)

    def test_texts_and_their_meaning(self) -> None:
        for row in TABLE:
            for text, meaning in CASES[row.name][1]:
                with self.subTest(setting=row.name, text=text):
                    self.assertEqual(row.read([text]), meaning)

    def test_wrong_texts_are_refused_with_the_mend(self) -> None:
        for row in TABLE:
            for text, mend in CASES[row.name][2]:
                with self.subTest(setting=row.name, text=text):
                    with self.assertRaises(ValueError) as caught:
                        row.read([text])
                    self.assertIn(mend, str(caught.exception))
                    self.assertRegex(str(caught.exception), "^.+; .+$")

    def test_a_password_is_never_repeated(self) -> None:
        with self.assertRaises(ValueError) as caught:
            values.upstream_url("https://me:secret@example.org/")
        self.assertNotIn("secret", str(caught.exception))

    def test_a_secret_is_shown_nowhere(self) -> None:
        found = Settings.of(upstream_header="X-Key: S3CRET")
        self.assertEqual(found.upstream_header[0].value, "S3CRET")
        self.assertEqual(found.written["upstream_header"].texts, ("X-Key: ***",))
        for shown in (repr(found), str(found.upstream_header), f"{found.upstream_header[0]}"):
            self.assertIn("X-Key: ***", shown)
            self.assertNotIn("S3CRET", shown)
        for name in ("upstream_header", "upstream_proxy"):
            for text, _ in CASES[name][2]:
                with self.assertRaises(ConfigError) as caught:
                    Settings.of(**{name: text})
                self.assertNotRegex(str(caught.exception), "S3|CRET")
        for words in (
            ["--upstream-header", "X-Key:", "S3CRET"],
            ["--upstream-header", "X-Key: S3CRET", "--upstream-header", "x-key: CRET"],
        ):
            with self.assertRaises(ConfigError) as caught:
                read(words)
            self.assertNotRegex(str(caught.exception), "S3|CRET")
            self.assertIn("--upstream-header: ", str(caught.exception))

    def test_a_secret_in_a_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "key")
            read_file = Settings.upstream_header.read
            path.write_bytes(b"  Bearer \xc3\xa9\r\n\n")
            value = "Bearer \u00c3\u00a9"
            self.assertEqual(read_file([f"X-Key: @{path}"]), (OwnField("X-Key", value),))
            for content, why in (
                (b"", "is empty"),
                (b" \n", "is empty"),
                (b"a\nb", "line end"),
                (b"x" * 8193, "too long"),
                (b"x" * 9000, "too large"),
            ):
                path.write_bytes(content)
                with self.assertRaisesRegex(ValueError, why):
                    read_file([f"X-Key: @{path}"])

    def test_a_token_is_shown_nowhere(self) -> None:
        found = Settings.of(admin_token="S3CRET")
        self.assertEqual(found.admin_token, Secret("S3CRET"))
        self.assertEqual(found.written["admin_token"].texts, ("***",))
        self.assertNotIn("S3CRET", repr(found) + str(found.admin_token))
        for text, _ in CASES["admin_token"][2]:
            with self.assertRaises(ConfigError) as caught:
                Settings.of(admin_token=text)
            self.assertNotRegex(str(caught.exception), "S3|CRET")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "token")
            path.write_text(" S3CRET\n")
            self.assertEqual(Settings.of(admin_token=f"@{path}").admin_token, Secret("S3CRET"))

    def test_an_address_for_everybody_needs_a_token(self) -> None:
        for address in (
            "0.0.0.0:8001",
            "[::]:8001",
            "10.1.2.3:0",
            "example.org:1",
            "localhost.a:1",
        ):
            with self.subTest(address):
                with self.assertRaises(ConfigError) as caught:
                    read(["--admin", address])
                self.assertRegex(str(caught.exception), "^--admin: .* give a token")
                self.assertEqual(
                    read(["--admin", address, "--admin-token", "x"])[0].admin_token, Secret("x")
                )
        for address in ("127.9.9.9:1", "[::1]:1", "LOCALHOST:1", "a.localhost.:1", "off"):
            self.assertIsNone(read(["--admin", address])[0].admin_token)

    def test_fields_in_the_environment_stand_one_a_line(self) -> None:
        texts = "Authorization: Bearer a b\n\n  X-Key: c\n"
        found, _ = read([], {"RELAY_UPSTREAM_HEADER": texts})
        own = (OwnField("Authorization", "Bearer a b"), OwnField("X-Key", "c"))
        self.assertEqual(found.upstream_header, own)

    def test_long_texts_are_cut_in_messages(self) -> None:
        with self.assertRaises(ValueError) as caught:
            Settings.port.read(["9" * 10_000])
        self.assertLess(len(str(caught.exception)), 200)

    def test_settings_are_never_changed(self) -> None:
        read_only = Settings.of(port="0")
        with self.assertRaises(AttributeError):
            read_only.port = 1
        with self.assertRaises(AttributeError):
            read_only.other = 1
        self.assertEqual(read_only.port, 0)

    def test_every_row_is_told_and_grouped(self) -> None:
        for row in TABLE:
            with self.subTest(setting=row.name):
                self.assertIn(row.group, GROUPS)
                self.assertTrue(row.help)
                self.assertNotIn("\n", row.help + row.more)
        self.assertEqual([row for _, rows in by_group() for row in rows], list(TABLE))

    @settings(max_examples=300, deadline=None)
    @given(row=st.sampled_from(TABLE), text=st.text(max_size=40))
    def test_any_text_is_read_or_refused(self, row: Setting[Any], text: str) -> None:
        try:
            row.read([text])
        except ValueError as wrong:
            self.assertRegex(str(wrong), r"(?s)\A.+; .+\Z")


class DependentDefaultsTest(unittest.TestCase):
    def test_cookies_mean_nothing_where_that_is_known(self) -> None:
        self.assertEqual(Settings.of().ignore_field, ("cookie",))
        self.assertEqual(Settings.of(demo="on").ignore_field, ("cookie",))
        self.assertEqual(Settings.of(upstream="http://x/api").ignore_field, ())
        self.assertEqual(Settings.of(ignore_field="x-a").ignore_field, ("x-a",))

    def test_menus_end_at_midnight_only_where_there_are_menus(self) -> None:
        self.assertEqual(Settings.of().max_ttl, MENUS)
        self.assertEqual(Settings.of(demo="on").max_ttl, MENUS)
        self.assertEqual(Settings.of(upstream=DEFAULT_UPSTREAM + "/").max_ttl, MENUS)
        self.assertEqual(Settings.of(upstream="http://x/api").max_ttl, ())
        self.assertEqual(
            Settings.of(upstream="http://x/api", max_ttl="1h").max_ttl,
            (PathRule("*", Seconds(3600.0)),),
        )

    def test_by_default_no_two_upstreams_share_a_cache(self) -> None:
        caches = [
            Settings.of().cache,
            Settings.of(demo="on").cache,
            Settings.of(upstream="http://x/api").cache,
            Settings.of(upstream="https://x/api").cache,
            Settings.of(upstream="http://x-api").cache,
            Settings.of(upstream="http://x:1/api").cache,
        ]
        self.assertEqual(len(set(caches)), len(caches))
        for cache in caches:
            path = values.cache_file(cache)
            assert path is not None
            self.assertTrue(os.path.isabs(path))
            self.assertEqual(Path(path).parent.name, "api_relaying_server")
        self.assertEqual(caches[2], Settings.of(upstream="http://x/api/").cache)

    def test_only_sqlite_has_a_file(self) -> None:
        self.assertEqual(values.cache_file("sqlite:///a/b"), "a/b")
        self.assertEqual(values.cache_file("sqlite:////a/b"), "/a/b")
        self.assertIsNone(values.cache_file("memory://"))

    def test_contradictions(self) -> None:
        for words, named in (
            (["--demo", "--upstream", "http://x"], ["--demo", "--upstream"]),
            (["--offline", "--cache", "none://"], ["--offline", "none://"]),
            (["--listen", "fd:3", "--port", "80"], ["--listen", "--port"]),
            (["--listen", "fd:3", "--host", "::"], ["--listen", "--host"]),
            (["--listen", "fd:3", "--listen", "fd:3"], ["--listen", "fd:3"]),
        ):
            with self.subTest(words=words), self.assertRaises(ConfigError) as caught:
                read(words)
            for name in named:
                self.assertIn(name, str(caught.exception))
        read(["--no-demo", "--upstream", "http://x"])
        read(["--offline", "--cache", "memory://"])


class SourcesTest(TomlFile):
    def test_each_setting_means_the_same_from_flag_variable_and_file(self) -> None:
        for row in TABLE:
            for text, meaning in CASES[row.name][1]:
                if not row.in_file or (row.is_switch and text != "on"):
                    continue
                with self.subTest(setting=row.name, text=text):
                    flag = [row.flag] if row.is_switch else [f"{row.flag}={text}"]
                    self.assertEqual(getattr(read(flag)[0], row.name), meaning)
                    # Repeatable values have no white space but that which divides them.
                    if not row.repeatable or " " not in text:
                        from_variable = read((), {row.variable: text})[0]
                        self.assertEqual(getattr(from_variable, row.name), meaning)
                    path = self.write(f"{row.key} = '{text}'")
                    self.assertEqual(getattr(read(["--config", path])[0], row.name), meaning)

    def test_flag_before_variable_before_file_before_default(self) -> None:
        path = self.write("port = 1\nhost = '127.0.0.1'\nthreads = 2")
        environ = {"RELAY_PORT": "3", "RELAY_HOST": "::1", "RELAY_CONFIG": path}
        found, warnings = read(["--port", "4"], environ)
        self.assertEqual((found.port, found.host, found.threads), (4, "::1", 2))
        self.assertEqual(found.timeout_read, 30.0)
        self.assertEqual(warnings, [])
        places = [found.written[name].place for name in ("port", "host", "threads", "timeout_read")]
        self.assertEqual(places, ["--port", "RELAY_HOST", f"{path}: threads", "default"])

    def test_the_file_of_the_flag_is_the_one_that_is_read(self) -> None:
        path = self.write("port = 1")
        found, _ = read(["--config", path], {"RELAY_CONFIG": "/nowhere/at/all"})
        self.assertEqual(found.port, 1)

    def test_an_empty_variable_is_not_set(self) -> None:
        found, warnings = read((), {"RELAY_PORT": "", "RELAY_HOST": "  "})
        self.assertEqual((found.port, found.host, warnings), (8000, "localhost", []))

    def test_repeated_values_keep_their_order(self) -> None:
        expected = (PathRule("/a", Seconds(1.0)), PathRule("*", Seconds(2.0)))
        path = self.write('ttl = ["/a=1", "*=2"]')
        for words, environ in (
            (["--ttl", "/a=1", "--ttl", "*=2"], {}),
            ([], {"RELAY_TTL": "/a=1  *=2"}),
            (["--config", path], {}),
        ):
            with self.subTest(words=words):
                self.assertEqual(read(words, environ)[0].ttl, expected)
        # They are replaced as a whole, never mixed.
        self.assertEqual(read(["--config", path, "--ttl", "*=2"])[0].ttl, expected[1:])

    def test_the_last_of_a_flag_given_twice_counts(self) -> None:
        self.assertEqual(read(["--port", "1", "--port", "2"])[0].port, 2)
        self.assertFalse(read(["--offline", "--no-offline"])[0].offline)

    def test_a_switch_is_turned_off_again(self) -> None:
        self.assertTrue(read((), {"RELAY_DEMO": "1"})[0].demo)
        self.assertFalse(read(["--no-demo"], {"RELAY_DEMO": "1"})[0].demo)

    def test_a_message_names_the_place(self) -> None:
        path = self.write("port = '80x'")
        for words, environ, place in (
            (["--port", "80x"], {}, "--port"),
            ([], {"RELAY_PORT": "80x"}, "RELAY_PORT"),
            (["--config", path], {}, f"{path}: port"),
        ):
            with self.subTest(place=place), self.assertRaises(ConfigError) as caught:
                read(words, environ)
            mend = "'80x' is not a port number; give a number from 0 to 65535"
            self.assertEqual(str(caught.exception), f"{place}: {mend}")

    def test_a_variable_that_means_nothing_is_told(self) -> None:
        _, warnings = read((), {"RELAY_PROT": "1", "RELAY_XYZZY": "1", "PORT": "x"})
        self.assertEqual(
            warnings,
            [
                "RELAY_PROT is not a setting, ignored; did you mean RELAY_PORT?",
                "RELAY_XYZZY is not a setting, ignored; see -h for the list",
            ],
        )

    def test_the_dish_tool_has_a_variable_of_its_own(self) -> None:
        self.assertEqual(read((), {"RELAY_URL": "http://localhost:8000"})[1], [])


class FileTest(TomlFile):
    def test_values_in_the_types_of_toml(self) -> None:
        path = self.write(
            "# a comment\nport = 0x10\ndemo = true\nrefresh_ahead = false\n"
            'timeout-read = 2.5\nmax-ttl = 60\ntrust-forwarded = ["::1", "10.0.0.0/8"]\n'
        )
        found, _ = read(["--config", path])
        self.assertEqual((found.port, found.demo, found.refresh_ahead), (16, True, 0.0))
        self.assertEqual(found.timeout_read, 2.5)
        self.assertEqual(found.max_ttl, (PathRule("*", Seconds(60.0)),))
        self.assertEqual(len(found.trust_forwarded), 2)

    def test_an_empty_file_changes_nothing(self) -> None:
        found, _ = read(["--config", self.write("")])
        self.assertEqual(found.port, 8000)

    def test_what_is_wrong_in_a_file(self) -> None:
        for content, told in (
            ("port = ", "not valid TOML: "),
            ("port = 1\nport = 2", "not valid TOML: "),
            (b"\xff", "not UTF-8"),
            ("prt = 1", "'prt' is not a setting; did you mean port?"),
            ("xyzzy = 1", "'xyzzy' is not a setting; see -h for the list"),
            ("[server]\nport = 1", "'server' is not a setting"),
            ("config = 'x'", "'config' is not a setting"),
            ("cool-down = 1\ncool_down = 2", "cool-down is given twice"),
            ("port = [1]", "port: found a list; give one value"),
            ("port = {a = 1}", "port: found a table"),
            ("port = 2026-01-01", "port: found a date or time"),
            ("ttl = [['/a=1']]", "ttl: found a list; give a value or a list"),
            ("port = true", "port: 'on' is not a port number"),
            ("port = nan", "port: 'nan' is not a port number"),
            ("port = 0x" + "f" * 5000, "port: the number is too large"),
            ("a = " + "[" * 50_000, "not valid TOML"),
        ):
            with self.subTest(content=content[:40]):
                self.assertIn(told, self.refused(content))

    def test_a_file_that_cannot_be_read(self) -> None:
        for path in (str(self.path), str(self.path.parent)):
            with self.subTest(path=path), self.assertRaises(ConfigError) as caught:
                read((), {"RELAY_CONFIG": path})
            self.assertTrue(
                str(caught.exception).startswith(f"RELAY_CONFIG: {path} cannot be read")
            )

    def test_a_file_that_is_too_large(self) -> None:
        path = self.write("#" * LARGEST_FILE)
        self.assertEqual(from_file(path, "--config", TABLE), {})
        with self.assertRaises(ConfigError) as caught:
            read(["--config", self.write("#" * (LARGEST_FILE + 1))])
        self.assertIn("too large", str(caught.exception))

    @settings(max_examples=150, deadline=None)
    @given(
        content=st.one_of(
            st.binary(max_size=60),
            st.builds(
                lambda row, value: f"{row.key} = {value}".encode("utf-8", "replace"),
                st.sampled_from(TABLE),
                st.one_of(st.integers(), st.floats(), st.text(max_size=20).map(repr)),
            ),
        )
    )
    def test_any_file_is_read_or_refused(self, content: bytes) -> None:
        try:
            read(["--config", self.write(content)])
        except ConfigError as wrong:
            self.assertIn(str(self.path), str(wrong))


class CommandLineTest(unittest.TestCase):
    def refused(self, *words: str) -> str:
        with self.assertRaises(ConfigError) as caught:
            read(words)
        return str(caught.exception)

    def test_words_that_mean_nothing(self) -> None:
        self.assertEqual(
            self.refused("--prot", "1"), "'--prot' is not a flag; did you mean --port?"
        )
        self.assertEqual(self.refused("--prot=1"), "'--prot' is not a flag; did you mean --port?")
        self.assertEqual(self.refused("-x"), "'-x' is not a flag; see -h for the list")
        self.assertEqual(self.refused("status"), "'status' is not a command; see -h for the list")
        # An abbreviation would mean something else as soon as there is another flag.
        self.assertIn("'--hos' is not a flag", self.refused("--hos", "x"))

    def test_a_flag_without_its_value_and_a_switch_with_one(self) -> None:
        self.assertRegex(self.refused("--port"), "^--port: .*; see -h$")
        self.assertRegex(self.refused("--demo=1"), "^--demo: .*; see -h$")

    @settings(max_examples=100, deadline=None)
    @given(
        words=st.lists(
            st.one_of(st.sampled_from([row.flag for row in TABLE]), st.text(max_size=10)),
            max_size=5,
        )
    )
    def test_any_words_are_read_or_refused(self, words: list[str]) -> None:
        try:
            read(words)
        except ConfigError as wrong:
            self.assertTrue(str(wrong))


class PageTest(unittest.TestCase):
    def test_every_setting_is_in_the_table(self) -> None:
        table = markdown_table()
        for row in TABLE:
            self.assertEqual(table.count(f"| `{row.flag} {row.metavar}".rstrip() + "` |"), 1)
        for line in table.splitlines():
            self.assertEqual(line.replace("\\|", "").count("|"), 4, line)

    def test_the_page_has_this_table(self) -> None:
        text = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        _, begin, rest = text.partition("<!-- settings -->\n")
        table, end, _ = rest.partition("<!-- /settings -->")
        self.assertTrue(
            begin and end, "docs/settings.md has no <!-- settings --> ... <!-- /settings -->"
        )
        self.assertEqual(
            table.strip(),
            markdown_table().strip(),
            "put what python -m api_relaying_server.settings prints into docs/settings.md",
        )


if __name__ == "__main__":
    unittest.main()
