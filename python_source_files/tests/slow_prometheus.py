"""The metrics, the alerts and the dashboard, as Prometheus itself takes them: it scrapes a relay,
and each alert fires once, by what it is for.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import subprocess
import tempfile
import threading
import unittest
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.admin_support import AdministeredRelay
from tests.relay_support import PATIENCE, SOURCES, Asked, ScriptedOrigin, eventually, response

DOCS = SOURCES.parent / "docs"
ALERTS = DOCS / "alerts.yaml"

# The relay, whose event loop can be held up by a client.
HELD_UP = """
import time
from api_relaying_server.serving.front import Front
received = Front.received
def hold_up(front, conn, data):
    if data.startswith(b"GET /hold "):
        time.sleep(0.7)
    received(front, conn, data)
Front.received = hold_up
"""


class HeldUpRelay(AdministeredRelay):
    """A relay whose event loop sleeps when /hold is asked for."""

    begin = HELD_UP


def promtool(*words: str, said: bytes = b"") -> tuple[int, str]:
    """Its exit code, and what it says."""
    found = shutil.which("promtool")
    assert found, "promtool is in Debian's package prometheus"
    done = subprocess.run([found, *words], input=said, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode()


class Prometheus:
    """Prometheus in a process of its own, on a free port, that scrapes an address each second."""

    def __init__(self, target: str, rules: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        folder = Path(self._folder.name)
        (folder / "rules.yml").write_text(rules)
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s, evaluation_interval: 1s}\n"
            "rule_files: [rules.yml]\n"
            "scrape_configs:\n"
            f"  - {{job_name: relay, static_configs: [{{targets: ['{target}']}}]}}\n"
        )
        command = ["prometheus", f"--config.file={folder}/prometheus.yml"]
        command += [f"--storage.tsdb.path={folder}/data", "--web.listen-address=127.0.0.1:0"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        eventually(self._port, "Prometheus listens")
        self._url = f"http://127.0.0.1:{self._port()}/api/v1"
        eventually(lambda: self._is_ready(), "Prometheus answers")

    def _read(self) -> None:
        assert self._process.stderr is not None
        self._lines.extend(self._process.stderr)

    def _port(self) -> int:
        found = re.search(r'"Listening on" address=127\.0\.0\.1:([0-9]+)', "".join(self._lines))
        return int(found[1]) if found is not None else 0

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            self.ask("targets")
            return True
        return False

    def ask(self, path: str, **query: str) -> Any:
        """The data of an answer."""
        url = f"{self._url}/{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
            told = json.load(answer)
        assert told["status"] == "success", told
        return told["data"]

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        alerts = self.ask("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def value(self, query: str) -> float | None:
        """The value of a query now, None for none."""
        found = self.ask("query", query=query)["result"]
        return float(found[0]["value"][1]) if found else None

    def close(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stderr is not None
        self._process.stderr.close()
        self._folder.cleanup()


def at_once(rules: str) -> str:
    """Alerts that fire as soon as their expression holds."""
    return re.sub(r"(?m)^ +for: .*\n", "", rules)


class FilesTest(unittest.TestCase):
    """What promtool says of the files."""

    def test_the_alerts(self) -> None:
        code, said = promtool("check", "rules", str(ALERTS))
        self.assertEqual(code, 0, said)
        code, said = promtool("test", "rules", str(SOURCES / "tests" / "alerts_test.yaml"))
        self.assertEqual(code, 0, said)

    def test_the_metrics(self) -> None:
        with ScriptedOrigin([]) as origin, AdministeredRelay(origin.url) as relay:
            relay.get("/a")
            for flags in ([], ["--extended"]):
                said = relay.call("/metrics").content
                code, words = promtool("check", "metrics", *flags, said=said)
                self.assertEqual(code, 0, words)
                self.assertNotRegex(words, "(?m)^relay_.* should")


class Scene:
    """A relay in front of an origin that can fail, and the Prometheus that watches it."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        self.store = Path(folder, "cache.sqlite3")
        self.fails = False
        self.origin = stack.enter_context(ScriptedOrigin(self.answer))
        self.relay = HeldUpRelay(
            *(self.origin.url, "--cache", f"sqlite:///{self.store}"),
            *("--hot-size", "256KiB", "--cool-down", "30", "--upstream-rate", "1000/s"),
        )
        stack.enter_context(self.relay)
        target = f"127.0.0.1:{self.relay.admin}"
        self.prometheus = Prometheus(target, at_once(ALERTS.read_text()))
        stack.callback(self.prometheus.close)

    def answer(self, asked: Asked) -> bytes:
        if self.fails:
            return response(503)
        return response(200, [("Cache-Control", "max-age=600")], b"x" * 4000)

    def fires(self, name: str, meanwhile: Any = lambda: None) -> None:
        """Waits until an alert fires."""

        def is_firing() -> bool:
            meanwhile()
            return name in self.prometheus.firing()

        eventually(is_firing, f"{name} fires", 3 * PATIENCE)


class AlertsTest(unittest.TestCase):
    """Each fires by what it is for."""

    def test_each_alert_fires_once(self) -> None:
        with contextlib.ExitStack() as stack:
            scene = Scene(stack)
            relay, prometheus = scene.relay, scene.prometheus
            relay.get("/a")
            eventually(lambda: prometheus.value("relay_build_info") == 1.0, "a scrape")
            rules = prometheus.ask("rules")["groups"][0]["rules"]
            eventually(
                lambda: (
                    {rule["health"] for rule in prometheus.ask("rules")["groups"][0]["rules"]}
                    == {"ok"}
                ),
                "all rules are evaluated",
            )
            self.assertEqual(len(rules), 5)
            # A machine that stood still while the relay began has a lag to tell of, for a while.
            eventually(lambda: not prometheus.firing(), "none fires")

            numbers = iter(range(1_000_000))
            scene.fires(
                "RelayEvictions", lambda: [relay.get(f"/many/{next(numbers)}") for _ in range(40)]
            )
            self.assert_dashboard_is_filled(prometheus)
            scene.fires("RelayLoopLag", lambda: relay.get("/hold"))
            with self.locked(scene.store):
                scene.fires(
                    "RelayStoreDown",
                    lambda: [relay.get(f"/more/{next(numbers)}") for _ in range(5)],
                )
            scene.fails = True
            scene.fires(
                "RelayErrorRate", lambda: [relay.get(f"/bad/{next(numbers)}") for _ in range(20)]
            )
            scene.fires("RelayUpstreamResting")
            eventually(lambda: prometheus.value("relay_store_up") == 1.0, "the store is well again")
            eventually(lambda: prometheus.value("up") == 1.0, "a scrape that ends in time")

    @contextlib.contextmanager
    def locked(self, store: Path) -> Iterator[None]:
        """Nobody else can write to the store meanwhile."""
        with contextlib.closing(sqlite3.connect(store, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield
            connection.execute("ROLLBACK")

    def assert_dashboard_is_filled(self, prometheus: Prometheus) -> None:
        """Each query of the dashboard has an answer."""
        dashboard = json.loads((DOCS / "grafana.json").read_text())
        queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        self.assertGreater(len(queries), 20)
        for query in queries:
            for name, value in (
                ("$__rate_interval", "10s"),
                ("$__range", "1m"),
                ("$job", ".*"),
                ("$instance", ".*"),
            ):
                query = query.replace(name, value)
            self.assertNotIn("$", query)
            with self.subTest(query):
                eventually(lambda: prometheus.value(query) is not None, query)  # noqa: B023


if __name__ == "__main__":
    unittest.main()
