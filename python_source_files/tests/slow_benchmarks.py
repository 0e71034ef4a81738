"""The benchmark's arithmetic, reports and processes, on made-up figures and tiny programs."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from unittest import mock

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

load: Any = importlib.import_module("harness.load")
measure: Any = importlib.import_module("harness.measure")
processes: Any = importlib.import_module("harness.processes")
report: Any = importlib.import_module("harness.report")
runner: Any = importlib.import_module("harness.runner")
scenarios: Any = importlib.import_module("harness.scenarios")
servers: Any = importlib.import_module("harness.servers")

SCENARIO = {scenario.name: scenario for scenario in scenarios.scenarios(1000)}


def load_tests(loader: unittest.TestLoader, found: unittest.TestSuite, _: object) -> Any:
    """The benchmark pins processes and reads /proc: it is for Linux, and so are its tests."""
    return found if sys.platform == "linux" else unittest.TestSuite()


def outcome(name: str, **rates: float) -> Any:
    """An outcome of this scenario with one sample per server."""
    samples = {label: [{"rate": rate, "cpu": 1e6 / rate}] for label, rate in rates.items()}
    return runner.Outcome(SCENARIO[name], samples)


class Reading(unittest.TestCase):
    """What /proc and load generators say."""

    def test_a_stat_line_with_blanks_and_parentheses_in_the_command(self) -> None:
        rest = "S 42 1 1 0 -1 0 0 0 0 0 70 30 0 0 20 0 1 0 9876 0 0"
        self.assertEqual(processes.parse_stat(f"7 (a ) b) {rest}"), (42, 100, 9876))

    def test_own_cpu_and_memory_are_seen(self) -> None:
        own = [processes.os.getpid()]
        before = processes.cpu_seconds(own)
        processes.wait_for(lambda: processes.cpu_seconds(own) > before, 20, pause=0)
        self.assertGreater(processes.cpu_seconds(own), before)
        self.assertGreater(processes.pss_mib(own), 1)

    def test_the_report_is_the_last_line_of_json(self) -> None:
        errors = {"connect": 1, "read": 2, "write": 3, "status": 4, "timeout": 5}
        line = {"requests": 30, "duration_us": 2_000_000, "p50_us": 5, "p99_us": 9}
        text = "Running 2s test\n" + json.dumps({**line, "errors": errors}) + "\nbye\n"
        found = load.parse_report(text)
        self.assertEqual((found.rate, found.p50, found.p99), (15, 5, 9))
        self.assertEqual((found.errors, found.not_2xx), (11, 4))

    def test_a_generator_without_report_is_an_error_that_quotes_it(self) -> None:
        with self.assertRaisesRegex(processes.BenchmarkError, "unable to connect"):
            load.parse_report("unable to connect\n")


class Tools(unittest.TestCase):
    """The commands start, and write what the documents are made from."""

    def run_tool(self, name: str, *words: str, python: str = sys.executable) -> Any:
        """A tool's end and what it said."""
        command = [python, str(BENCHMARKS / name), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    def test_pieces_are_timed_and_written_with_machine_date_and_commit(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "new", "micro.json")
            done = self.run_tool("micro", "key", "--output", str(path))
            self.assertEqual(done.returncode, 0, done.stderr)
            told = json.loads(path.read_text(encoding="utf-8"))
        self.assertEqual([one["piece"] for one in told["pieces"]], ["key"])
        self.assertEqual(told["machine"]["command"], "benchmarks/micro key")
        self.assertLessEqual({"cpu", "cores", "python", "date", "commit"}, set(told["machine"]))

    def test_the_steps_of_a_miss_are_timed(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "budget.json")
            done = self.run_tool("miss_budget", "--misses", "200", "--output", str(path))
            self.assertEqual(done.returncode, 0, done.stderr)
            told = json.loads(path.read_text(encoding="utf-8"))
        self.assertTrue(all(one["us"] > 0 for one in told["steps"]), told["steps"])

    def test_every_tool_explains_itself(self) -> None:
        for name in ("compare", "load_test", "simulate", "workers", "cluster", "outage", "soak",
                     "slow_clients", "probe_peers", "micro", "miss_budget", "hit_ratio",
                     "compression", "flame", "deployment", "upgrade", "growth",
                     "tables"):  # fmt: skip
            with self.subTest(name):
                done = self.run_tool(name, "--help")
                self.assertEqual(done.returncode, 0, done.stderr)

    def test_without_the_relays_packages_one_line_says_what_to_do(self) -> None:
        environment = importlib.import_module("harness.environment")
        with mock.patch.object(environment, "OWN", Path("/nowhere")):
            with self.assertRaises(SystemExit) as ended:
                environment.enter("no_such_package")
        self.assertRegex(str(ended.exception), r"\Abenchmarks/.*no_such_package.*pip install.*\Z")


class Verdicts(unittest.TestCase):
    """Bars, tables and charts."""

    def test_a_bar_is_met_exactly_at_its_factor(self) -> None:
        bar = scenarios.at_least(1.5, "nginx")
        self.assertIs(report.verdict(outcome("gzip", relay=150, nginx=100), bar, "relay")[1], True)
        self.assertIs(report.verdict(outcome("gzip", relay=149, nginx=100), bar, "relay")[1], False)

    def test_a_ceiling_is_the_other_way_round(self) -> None:
        bar = scenarios.at_most(0.5, "nginx", "cpu")
        self.assertIs(report.verdict(outcome("gzip", relay=200, nginx=100), bar, "relay")[1], True)
        self.assertIs(report.verdict(outcome("gzip", relay=199, nginx=100), bar, "relay")[1], False)

    def test_without_the_peer_a_bar_cannot_be_told(self) -> None:
        text, met = report.verdict(
            outcome("gzip", relay=1), scenarios.at_least(1, "nginx"), "relay"
        )
        self.assertIsNone(met)
        self.assertIn("cannot be told", text)

    def test_the_table_has_ratios_absences_and_bars_of_every_relay(self) -> None:
        found = outcome("gzip", **{"relay": 150, "relay@/old": 50, "nginx": 100})
        found.absent["squid"] = "not installed (Debian package squid)"
        text = report.table(found)
        self.assertRegex(text, r"relay +150 .* 1\.50 ")
        self.assertIn("squid: not measured, not installed", text)
        self.assertIn("bar, relay: req/s at least 1 x nginx: 1.5, met", text)
        self.assertIn("bar, relay@/old: req/s at least 1 x nginx: 0.5, MISSED", text)

    def test_a_scenario_that_nobody_could_take_part_in_has_a_table_too(self) -> None:
        text = report.table(runner.Outcome(SCENARIO["gzip"], absent={"nginx": "gone"}))
        self.assertIn("nginx: not measured, gone", text)

    def test_every_metric_that_is_printed_or_asked_for_has_a_heading(self) -> None:
        for scenario in SCENARIO.values():
            wanted = {*scenario.columns, *(bar.metric for bar in scenario.bars)}
            self.assertLessEqual(wanted, set(report.COLUMNS), scenario.name)

    def test_an_outcome_survives_json(self) -> None:
        found = report.as_json(outcome("gzip", relay=150, nginx=100))
        self.assertEqual(json.loads(json.dumps(found)), found)
        self.assertEqual(found["servers"]["relay"]["median"]["rate"], 150)


class Configurations(unittest.TestCase):
    """The templates in peers/."""

    def test_every_placeholder_of_every_template_is_known(self) -> None:
        known = {"FILES", "CONNECTIONS", "OPEN_FILES", "DIR", "PORT", "ORIGIN", "ACCESS_LOG"}
        known |= {"MEGABYTES", "SLOW", "STATUS", "SSL", "CERTIFICATE"}
        templates = list((BENCHMARKS / "peers").iterdir())
        self.assertEqual(len(templates), 5)
        with tempfile.TemporaryDirectory() as directory:
            for template in templates:
                target = Path(directory, template.name)
                servers.fill_template(template, target, dict.fromkeys(known, "x"))
                self.assertNotRegex(target.read_text(), r"@[A-Z_]+@")


class Trees(unittest.TestCase):
    """Which relay a label means."""

    def test_a_directory_a_default_and_what_is_neither(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            package = Path(directory, "python_source_files", "api_relaying_server")
            package.mkdir(parents=True)
            bench = servers.Bench(Path(directory), 0, 1, sys.executable, Path(directory))
            with self.assertRaisesRegex(processes.BenchmarkError, "holds no relay"):
                servers.relay_tree("relay", bench)
            (package / "__main__.py").touch()
            expected = Path(directory).resolve()
            self.assertEqual(servers.relay_tree("relay", bench).resolve(), expected)
            self.assertEqual(servers.relay_tree(f"relay@{directory}", bench), expected)
            self.assertEqual(servers.relay_tree(f"relay@{directory}+/x/python", bench), expected)
            self.assertEqual(servers.python_of("relay@a+/x/python", bench), "/x/python")
            self.assertEqual(servers.python_of("relay@a", bench), sys.executable)
            with self.assertRaisesRegex(processes.BenchmarkError, "nonsense is n"):
                servers.relay_tree("relay@nonsense", bench)


class Rounds(unittest.TestCase):
    """The order of measurements and what is kept of them."""

    def test_each_round_begins_with_another_server_and_failures_are_noted(self) -> None:
        order: list[str] = []

        def measured(run: Any, server: Any, turn: int) -> dict[str, float]:
            order.append(server.label)
            if server.label == "b" and turn:
                raise processes.BenchmarkError("died")
            return {"rate": 1.0, "foreign": 0.0}

        found = self.run_with(measured, ["a", "b", "c"], rounds=3)
        self.assertEqual("".join(order), "abc" + "bca" + "ca")
        self.assertEqual(
            {label: len(s) for label, s in found.samples.items()}, {"a": 3, "b": 1, "c": 3}
        )
        self.assertEqual(found.absent, {"b": "died"})

    def test_a_disturbed_sample_is_taken_again_and_the_quietest_kept(self) -> None:
        foreign = [50.0, 20.0, 30.0]
        limit = runner.RETRIES
        found = self.run_with(
            lambda run, server, turn: {"rate": 1.0, "foreign": foreign.pop(0)}, ["a"], rounds=1
        )
        self.assertEqual(found.samples["a"], [{"rate": 1.0, "foreign": 20.0}])
        self.assertEqual(len(foreign), 2 - limit)

    def run_with(self, measured: Any, labels: list[str], rounds: int) -> Any:
        class Standing:
            def __init__(self, label: str, *others: object) -> None:
                self.label = label

            def wait(self) -> None: ...

            def stop(self) -> None: ...

        scenario = scenarios.Scenario("name", "title", measured)
        real, runner.Server = runner.Server, Standing
        self.addCleanup(setattr, runner, "Server", real)
        run = measure.Run(None, None)
        return runner.run_scenario(run, scenario, labels, rounds, lambda text: None)


class Programs(unittest.TestCase):
    """Processes that are really started."""

    def child(self, code: str) -> Any:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        core = min(processes.os.sched_getaffinity(0))
        child = processes.Child([sys.executable, "-c", code], core, Path(directory.name, "log"))
        self.addCleanup(child.stop)
        return child

    def test_stopping_ends_children_that_would_stay(self) -> None:
        sleeper = "import time; time.sleep(60)"
        child = self.child(
            "import signal, subprocess, sys, time\n"
            "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\n"
            f"subprocess.Popen([sys.executable, '-c', {sleeper!r}], start_new_session=True)\n"
            "time.sleep(60)"
        )
        self.assertTrue(processes.wait_for(lambda: len(child.pids()) == 2, 10))
        pids = child.pids()
        processes.STOP_SECONDS, usual = 0.5, processes.STOP_SECONDS
        self.addCleanup(setattr, processes, "STOP_SECONDS", usual)
        child.stop()
        gone = processes.wait_for(
            lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), 10
        )
        self.assertTrue(gone)

    def test_a_program_that_ends_early_is_quoted(self) -> None:
        child = self.child("raise SystemExit('port in use')")
        with self.assertRaisesRegex(processes.BenchmarkError, "ended with 1: port in use"):
            child.wait_until(lambda: False, 10)

    def test_the_floor_answers_with_the_bytes_of_its_file(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            answer = Path(directory, "answer")
            answer.write_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
            port = processes.free_port()
            arguments = [str(BENCHMARKS / "floor.py"), str(port), str(answer)]
            child = self.child(
                f"import runpy, sys; sys.argv = {arguments!r};"
                " runpy.run_path(sys.argv[0], run_name='__main__')"
            )
            child.wait_until(lambda: processes.accepts(port), 10)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as found:
                self.assertEqual(found.read(), b"hi")

    def test_idle_connections_are_answered_and_held(self) -> None:
        arrived: list[object] = []

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                arrived.append(self.client_address)
                self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                self.close_connection = True

            def log_message(self, *_: object) -> None: ...

        with HTTPServer(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,))
            thread.start()
            words = [sys.executable, str(BENCHMARKS / "idle_connections.py")]
            done = subprocess.run(
                [*words, str(server.server_port), "3", "/x"],
                input="",
                capture_output=True,
                text=True,
                timeout=20,
            )
            server.shutdown()
            thread.join()
        self.assertEqual(done.stdout, "held 3\n", done.stderr)
        self.assertEqual(len(set(arrived)), 3)

    def test_the_command_names_what_is_wrong(self) -> None:
        for words, code, message in (
            (["--only", "nonsense"], 1, "no scenario 'nonsense'; there are same-url"),
            (["--servers", "apache"], 1, "no server 'apache'"),
            (["--cores", "0"], 1, "two numbers are needed"),
            (["--rounds", "0"], 2, "'0' is not a number above 0"),
        ):
            with self.subTest(words=words):
                done = subprocess.run(
                    [sys.executable, str(BENCHMARKS / "compare"), *words],
                    capture_output=True,
                    text=True,
                    timeout=30,
                )
                self.assertEqual(done.returncode, code)
                self.assertIn(message, done.stderr)
                self.assertIsNone(re.search("Traceback", done.stderr))


if __name__ == "__main__":
    unittest.main()
