"""The load test's arithmetic, bounds and report, on made-up figures; no Locust is needed."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import importlib
import io
import json
import re
import sys
import tempfile
import unittest
import xml.etree.ElementTree
from pathlib import Path
from typing import Any
from unittest import mock

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

charts: Any = importlib.import_module("harness.charts")
command: Any = importlib.import_module("load.command")
generators: Any = importlib.import_module("load.generators")
model: Any = importlib.import_module("load.model")
origin: Any = importlib.import_module("load.origin")
plan: Any = importlib.import_module("load.plan")
processes: Any = importlib.import_module("harness.processes")
queueing: Any = importlib.import_module("load.queueing")
report: Any = importlib.import_module("load.report")
running: Any = importlib.import_module("load.running")
targets: Any = importlib.import_module("load.targets")

STATS = (
    "Type,Name,Request Count,Failure Count,Median Response Time,Average Response Time,"
    "Requests/s,Failures/s,95%,99%\n"
    "GET,/restaurant,5,0,1,1.0,1.0,0,2,3\n"
    ",Aggregated,{count},2,1,12.5,600.25,0.5,40,90\n"
)
HISTORY = (
    "Timestamp,Name,Total Request Count,Total Failure Count\n"
    "100,Aggregated,0,0\n100,other,9,9\n101,Aggregated,50,0\n103,Aggregated,150,4\n"
)


def load_tests(loader: unittest.TestLoader, found: unittest.TestSuite, _: object) -> Any:
    """The load test pins processes and reads /proc: it is for Linux, and so are its tests."""
    return found if sys.platform == "linux" else unittest.TestSuite()


def figures(rate: float, average: float = 0.01, failures: int = 0) -> Any:
    """What users saw in ten seconds at this rate."""
    return generators.Figures(int(rate * 10), failures, rate, average, average * 2, average * 3)


def usage(server: float = 0.5, locust: float = 0.4, busiest: float = 0.4, **more: float) -> Any:
    """CPU figures of a quiet run, except what is said."""
    quiet = {"share": locust, "full": locust, "others": 0.0, "memory": 50.0}
    return generators.Usage(server, locust, busiest, **{**quiet, **more})


def row(users: int, system: str, rate: float, used: Any = None, average: float = 0.01) -> Any:
    """A line of the table on one process."""
    told = figures(rate, average)
    loaded = generators.Loaded(told, used or usage(), [], {})
    return running.Row(plan.Run(users, False), system, told, loaded)


def results(*rows: Any) -> Any:
    """A run of the command that found these."""
    return report.Results({"cpu": "made up"}, 10.0, 2, list(rows))


class PlanTest(unittest.TestCase):
    """What is run."""

    def test_the_seven_runs(self) -> None:
        one = [run.users for run in plan.RUNS if not run.all_cores]
        every = [run.users for run in plan.RUNS if run.all_cores]
        self.assertEqual((one, every), ([10, 50, 100, 150, 200], [200, 300]))

    def test_names_choose_and_unknown_ones_are_told(self) -> None:
        self.assertEqual(plan.chosen(None), (list(plan.RUNS), list(plan.PHASES)))
        runs, phases = plan.chosen("cold, one-50")
        self.assertEqual(([run.name for run in runs], phases), (["one-50"], ["cold"]))
        self.assertEqual(plan.chosen("phases"), ([], list(plan.PHASES)))
        for wrong in ("one-11", ",", "cold,,nothing"):
            with self.subTest(wrong), self.assertRaises(processes.BenchmarkError):
                plan.chosen(wrong)

    def test_every_phase_has_a_runner(self) -> None:
        self.assertEqual(set(running.PHASE_RUNNERS), set(plan.PHASES))

    def test_seconds_are_bounded(self) -> None:
        self.assertEqual([plan.seconds_of(text) for text in ("2", "10.5", "600")], [2, 10.5, 600])
        for wrong in ("0", "1.9", "601", "-3", "nan", "inf", "ten", ""):
            with self.subTest(wrong), self.assertRaisesRegex(ValueError, "2 to 600"):
                plan.seconds_of(wrong)

    def test_bodies_vary_within_their_bounds(self) -> None:
        sizes = sorted(plan.body_size(number) for number in range(plan.URLS))
        self.assertEqual(sizes[0], plan.LEAST_BODY)
        self.assertGreater(sizes[-1], plan.MOST_BODY * 0.99)
        self.assertLessEqual(sizes[-1], plan.MOST_BODY)
        self.assertLess(sizes[len(sizes) // 2], 5_000)


class QueueingTest(unittest.TestCase):
    """The closed model against what is known in closed form."""

    def test_one_user_never_waits(self) -> None:
        told = queueing.predict([0.02, 0.03], 0.05, 1)
        self.assertAlmostEqual(told.response, 0.05)
        self.assertAlmostEqual(told.rate, 10)

    def test_equal_stations_share_the_users_evenly(self) -> None:
        # X(N) = N / (S (N + K - 1)) for K equal stations without a delay
        for users in (1, 2, 10, 100):
            rate = queueing.predict([0.01, 0.01, 0.01], 0, users).rate
            self.assertAlmostEqual(rate, users / (0.01 * (users + 2)))

    def test_the_machine_repairman(self) -> None:
        # two users, one station: from the balance equations of the three states
        service, pause = 0.2, 1.0
        ratio = service / pause
        empty = 1 / (1 + 2 * ratio + 2 * ratio**2)
        told = queueing.predict([service], pause, 2)
        self.assertAlmostEqual(told.rate, (1 - empty) / service)

    def test_little_holds(self) -> None:
        told = queueing.predict([0.004, 0.001], 0.03, 40)
        self.assertAlmostEqual(told.rate * (told.response + 0.03), 40)

    def test_the_slowest_station_bounds_the_rate(self) -> None:
        self.assertAlmostEqual(queueing.predict([0.005, 0.001], 0, 500).rate, 200, places=3)

    def test_a_fitted_delay_gives_the_rate_again(self) -> None:
        delay = queueing.fitted_delay([0.001, 0.002], 10, 100)
        self.assertAlmostEqual(queueing.predict([0.001, 0.002], delay, 10).rate, 100, places=4)
        self.assertEqual(queueing.fitted_delay([0.1], 10, 50), 0.0)

    def test_users_a_core_carries(self) -> None:
        carried = queueing.carried_users(0.001, 1.0, 0.01)
        within = queueing.predict([0.001], 1.0, carried).response
        beyond = queueing.predict([0.001], 1.0, carried + 1).response
        self.assertLessEqual(within, 0.01)
        self.assertGreater(beyond, 0.01)
        self.assertEqual(queueing.carried_users(0.02, 1.0, 0.01), 0)
        self.assertAlmostEqual(queueing.knee(0.001, 1.0), 1001)

    def test_nonsense_is_refused(self) -> None:
        for demands, delay, users in (([], 0, 1), ([0.0], 0, 1), ([-1], 0, 1), ([1], -1, 1)):
            with self.assertRaises(ValueError):
                queueing.predict(demands, delay, users)
        for wrong in (lambda: queueing.predict([1], 0, 0), lambda: queueing.knee(0, 1)):
            with self.assertRaises(ValueError):
                wrong()


class ReadingTest(unittest.TestCase):
    """What Locust, wrk and /proc say."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "file.csv"

    def test_figures_are_those_of_all_requests_in_seconds(self) -> None:
        self.path.write_text(STATS.format(count=6000))
        told = generators.read_figures(self.path)
        self.assertEqual(told, generators.Figures(6000, 2, 600.25, 0.0125, 0.04, 0.09))

    def test_no_request_and_no_file_are_told(self) -> None:
        for content in (STATS.format(count=0), "Name\n", "", "Name\nAggregated\n"):
            self.path.write_text(content)
            with self.subTest(content), self.assertRaises(processes.BenchmarkError):
                generators.read_figures(self.path)
        with self.assertRaises(processes.BenchmarkError):
            generators.read_figures(self.path.with_name("none"))

    def test_the_history_is_differences_of_counts(self) -> None:
        self.path.write_text(HISTORY)
        self.assertEqual(
            generators.read_seconds(self.path),
            [generators.Second(1, 50, 0), generators.Second(3, 50, 2)],
        )
        self.assertEqual(generators.read_seconds(self.path.with_name("none")), [])

    def test_failures_add_up(self) -> None:
        self.path.write_text("Error,Occurrences\nstatus 503,3\nstatus 503,4\nother,1\n")
        self.assertEqual(generators.read_errors(self.path), {"status 503": 7, "other": 1})

    def test_wrk_is_read_and_its_average_is_by_little(self) -> None:
        line = {"requests": 200, "duration_us": 2_000_000, "p95_us": 5, "p99_us": 9, "failed": 3}
        told = generators.read_wrk(f"noise\n{json.dumps(line)}\n", 50)
        self.assertEqual((told.rate, told.average, told.failures), (100, 0.5, 3))
        for nothing in ("unable to connect", json.dumps({**line, "requests": 0})):
            with self.assertRaises(processes.BenchmarkError):
                generators.read_wrk(nothing, 50)

    def test_ended_children_count_as_spent(self) -> None:
        rest = "S 42 1 1 0 -1 0 0 0 0 0 7 3 20 10 20 0 1 0 9876 0 0"
        self.assertEqual(generators.parse_spent(f"7 (a ) b) {rest}"), 40)

    def test_usage_leaves_the_start_out(self) -> None:
        glances = [
            generators.Glance(0, 0, (0, 0), 0, 0, 0, 10),
            generators.Glance(6, 5, (5, 5), 15, 6, 12, 30),
            generators.Glance(10, 7, (8, 6), 22, 10, 20, 20),
        ]
        # eight seconds loaded, a quarter of which is left out: from the glance at 4 or before
        told = generators.usage_between(glances, 1, 2, 8)
        self.assertAlmostEqual(told.server, 0.7)
        # five seconds loaded: from the glance at 6.25 or before
        told = generators.usage_between(glances, 2, 2, 5)
        self.assertAlmostEqual(told.server, 0.5)
        self.assertAlmostEqual(told.busiest, 0.75)
        self.assertAlmostEqual(told.locust, 1.0)
        self.assertAlmostEqual(told.share, 0.5)
        self.assertAlmostEqual(told.full, 0.5)
        self.assertAlmostEqual(told.others, 0.25)
        self.assertAlmostEqual(told.load_taken, 0.125)
        self.assertAlmostEqual(told.server_taken, 0.125)
        self.assertEqual(told.memory, 30)
        self.assertEqual(generators.usage_between(glances[:1], 1, 2, 4).server, 0)

    def test_each_core_has_its_own_strangers(self) -> None:
        glances = [
            generators.Glance(0, 0, (0,), 0, 0, 0, 0),
            # of 10 s the server has 4, Locust 3, the API 1; its core is busy 5, theirs 10
            generators.Glance(10, 4, (3,), 8, 10, 15, 0),
        ]
        told = generators.usage_between(glances, 1, 2, 10)
        self.assertAlmostEqual(told.server_taken, 0.1)
        self.assertAlmostEqual(told.load_taken, 0.6)
        self.assertAlmostEqual(told.others, 0.7)

    def test_when_locust_is_the_limit(self) -> None:
        self.assertFalse(usage().locust_is_limit)
        self.assertTrue(usage(busiest=0.9).locust_is_limit)
        self.assertFalse(usage(busiest=0.89).locust_is_limit)
        self.assertTrue(usage(share=0.5, full=0.9).locust_is_limit)
        self.assertFalse(usage(share=0.49, full=1.0).locust_is_limit)
        self.assertFalse(usage(share=0.6, full=0.89).locust_is_limit)


class LocustLineTest(unittest.TestCase):
    """How Locust is started."""

    def test_one_process(self) -> None:
        load = generators.Load(50, 2.4)
        [words] = generators.locust_words("locust", load, "http://127.0.0.1:1", Path("p"), 9)
        line = " ".join(words)
        self.assertRegex(line, r"-u 50 -r 50 -t 2s --host http://127\.0\.0\.1:1 ")
        self.assertNotIn("--allow-live", line)
        self.assertNotIn("--master", line)

    def test_a_master_and_four_workers_on_loopback(self) -> None:
        load = generators.Load(300, 10, distributed=True)
        master, *workers = generators.locust_words("l", load, "http://h", Path("p"), 9)
        self.assertEqual(len(workers), 4)
        self.assertIn("--master-bind-host 127.0.0.1 --master-bind-port 9", " ".join(master))
        self.assertIn("--expect-workers 4", " ".join(master))
        for worker in workers:
            self.assertIn("--worker --master-host 127.0.0.1 --master-port 9", " ".join(worker))

    def test_a_missing_locust_is_named(self) -> None:
        with mock.patch.object(generators.shutil, "which", return_value=None):
            with mock.patch.object(generators.sys, "executable", "/nowhere/python"):
                with self.assertRaisesRegex(processes.BenchmarkError, "locust is missing"):
                    generators.find_locust(None)
            with self.assertRaisesRegex(processes.BenchmarkError, "no such command"):
                generators.find_locust("locuts")


class ModelTest(unittest.TestCase):
    """The model beside rows."""

    def test_it_is_fitted_to_the_fewest_users_and_tells_the_rest(self) -> None:
        # 1 ms at the server, 0.5 ms at Locust, 20 ms that nobody computes
        rows = []
        for users in (200, 10, 50):
            rate = queueing.predict([0.001, 0.0005], 0.02, users).rate
            used = usage(server=rate * 0.001, locust=rate * 0.0005)
            rows.append(row(users, plan.RELAY, rate, used))
        told = model.held_against(rows, plan.RELAY, 2)
        self.assertEqual([one.fitted for one in told], [False, True, False])
        for one in told:
            self.assertAlmostEqual(one.error, 0, places=4)

    def test_what_others_take_makes_a_core_slower(self) -> None:
        rows = []
        for users, taken in ((10, 0.0), (100, 0.5)):
            rate = queueing.predict([0.001 / (1 - taken), 0.0002], 0.02, users).rate
            used = usage(rate * 0.001, rate * 0.0002, server_taken=taken, load_taken=0.9)
            rows.append(row(users, plan.RELAY, rate, used))
        for one in model.held_against(rows, plan.RELAY, 2):
            self.assertAlmostEqual(one.error, 0, places=4)

    def test_nothing_measured_nothing_told(self) -> None:
        self.assertEqual(model.held_against([], plan.RELAY, 2), [])
        idle = row(10, plan.RELAY, 100, usage(server=0.0))
        self.assertEqual(model.held_against([idle], plan.RELAY, 2), [])


class ReportTest(unittest.TestCase):
    """What is written."""

    def test_the_table_has_the_figures_asked_for(self) -> None:
        own = row(50, plan.RELAY, 4000, usage(busiest=0.97))
        own.by_wrk = figures(90_000, 0.0005)
        text = report.rows_table([own, row(50, plan.SEED, 500)])
        self.assertIn("| 50 users, one process: relay * | Locust | 4,000 | 10 | 20 | 30 |", text)
        self.assertIn("| 50 users, one process: relay * | wrk | 90,000 | 0.50 |", text)
        self.assertIn("| 50 users, one process: seed | Locust | 500 |", text)
        widths = {line.count("|") for line in text.splitlines()}
        self.assertEqual(len(widths), 1)

    def test_the_analysis_says_what_the_figures_say(self) -> None:
        slow = row(10, plan.SEED, 500, average=0.02)
        lines = report.analysis(
            results(row(10, plan.RELAY, 4000, usage(busiest=0.97)), slow, row(200, plan.SEED, 250))
        )
        text = "\n".join(lines)
        self.assertIn("8.0 times the requests of the first design", text)
        self.assertIn("seed: from 10 to 200 users (20 times) the rate becomes 0.50 times", text)
        self.assertIn("Locust was the limit in: 10 users, one process (relay).", text)
        self.assertNotIn("disturbed", text)
        loud = row(10, plan.RELAY, 4000, usage(others=0.06))
        self.assertIn("1 of 1 lines were disturbed", "\n".join(report.analysis(results(loud))))
        self.assertEqual(report.analysis(results()), ["Too little was run to say anything."])

    def test_all_parts_and_files_are_there(self) -> None:
        seconds = [generators.Second(1, 50, 0), generators.Second(2, 60, 1)]
        errors = {"status 503": 4, "a | b\nc": 1}
        loaded = generators.Loaded(figures(100, failures=4), usage(), seconds, errors)
        found = results(row(10, plan.RELAY, 4000), row(10, plan.SEED, 500))
        found.phases.append(
            running.Phase("outage", {"relay": loaded}, {"calls": 3}, {"killed": 1.5})
        )
        found.missing["cold"] = "no <room>"
        with tempfile.TemporaryDirectory() as directory:
            target = Path(directory, "deep", "er")
            report.write(target, found)
            text = (target / "report.md").read_text()
            told = json.loads((target / "report.json").read_text())
            named = re.findall(r"\]\(([^)]*\.svg)\)", text)
            for name in named:
                xml.etree.ElementTree.parse(target / name)
        self.assertEqual(named, ["rate.svg", "p95.svg", "outage-relay.svg"])
        for part in ("Before it", "Machine", "Method", "Runs", "Analysis", "Conclusions", "Limits"):
            self.assertIn(f"\n## {part}\n", text)
        self.assertIn("killed at 1.5 s", text)
        self.assertIn("relay, 4 times: status 503", text)
        self.assertIn("- relay, 1 times: a | b c\n", text)
        self.assertEqual(told["rows"][0]["run"]["name"], "one-10")
        self.assertEqual(told["phases"][0]["loads"]["relay"]["figures"]["failures"], 4)

    def test_charts_of_nothing_are_still_charts(self) -> None:
        for picture in (charts.bars("none & none", []), charts.timeline("<none>", [("a", [])])):
            xml.etree.ElementTree.fromstring(picture)

    def test_the_same_figures_make_the_same_chart_with_their_values_in_words(self) -> None:
        groups = [("g", [("a", 50.0, "fifty"), ("b & c", 100.0, "hundred")])]
        picture = charts.bars("t", groups)
        self.assertEqual(picture, charts.bars("t", groups))
        texts = [one.text for one in xml.etree.ElementTree.fromstring(picture).iter()]
        for words in ("fifty", "hundred", "b & c", "g"):
            self.assertIn(words, texts)


class CommandTest(unittest.TestCase):
    """The command line."""

    def run_command(self, *words: str) -> tuple[int, str, str]:
        """Exit code, output and errors."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            with mock.patch.object(command.interrupts, "listen"):
                try:
                    code = command.main(words)
                except SystemExit as end:
                    code = int(end.code or 0)
        return code, out.getvalue(), err.getvalue()

    def test_the_list_starts_nothing(self) -> None:
        code, out, _ = self.run_command("--list")
        self.assertEqual(code, 0)
        self.assertEqual(len(out.splitlines()), len(plan.RUNS) + len(plan.PHASES))

    def test_mistakes_are_named_in_a_line(self) -> None:
        for words, names in (
            (["--only", "one-12"], "one-12"),
            (["--seconds", "0"], "2 to 600"),
            (["--seconds", "many"], "many"),
        ):
            code, _, err = self.run_command(*words)
            self.assertEqual(code, 2)
            self.assertIn(names, err.splitlines()[-1])

    def test_a_missing_locust_is_an_error_not_a_traceback(self) -> None:
        code, _, err = self.run_command("--only", "one-10", "--locust", "/nowhere/locust")
        self.assertEqual(code, 1)
        self.assertEqual(err, "load_test: --locust /nowhere/locust: there is no such command\n")

    def test_what_fails_is_reported_and_does_not_end_the_rest(self) -> None:
        found = results()

        def fails() -> Any:
            raise processes.BenchmarkError("no port")

        with contextlib.redirect_stderr(io.StringIO()):
            command._attempt(found, "cold", found.phases.append, fails)
            command._attempt(found, "outage", found.phases.append, lambda: "done")
        self.assertEqual((found.missing, found.phases), ({"cold": "no port"}, ["done"]))


class OriginTest(unittest.TestCase):
    """The origin with varied data."""

    def answer(self, *pieces: bytes) -> bytes:
        """All that it writes to a client who sends these pieces."""
        transport = mock.Mock(spec=asyncio.Transport)
        transport.is_closing.return_value = False
        connection = origin.ItemConnection()
        connection.connection_made(transport)
        for piece in pieces:
            connection.data_received(piece)
        return b"".join(bytes(call.args[0]) for call in transport.write.call_args_list)

    def test_an_item_is_as_long_as_planned_and_says_who_it_is(self) -> None:
        head, _, body = self.answer(b"GET /item/17 HTTP/1.1\r\n", b"\r\n").partition(b"\r\n\r\n")
        self.assertIn(b"Content-Length: %d" % plan.body_size(17), head)
        self.assertEqual(len(body), plan.body_size(17))
        self.assertTrue(body.startswith(b"item 17\n"))

    def test_anything_else_is_not_found(self) -> None:
        for path in (b"/item/100000", b"/item/-1", b"/item/x", b"/", b"/other/1"):
            told = self.answer(b"GET " + path + b" HTTP/1.1\r\n\r\n")
            self.assertTrue(told.startswith(b"HTTP/1.1 404 "), path)
        self.assertTrue(self.answer(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 404 "))

    def test_the_count_counts_items(self) -> None:
        before = int(self.answer(b"GET /count HTTP/1.1\r\n\r\n").rpartition(b"\n")[2])
        self.answer(b"GET /item/1 HTTP/1.1\r\n\r\nGET /item/2 HTTP/1.1\r\n\r\n")
        after = int(self.answer(b"GET /count HTTP/1.1\r\n\r\n").rpartition(b"\n")[2])
        self.assertEqual(after - before, 2)


class SeedTest(unittest.TestCase):
    """The first design, which is loaded beside the relay."""

    def test_both_variants_answer_from_their_cache_in_the_name_of_the_api(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            core = str(targets.cores_of_this_process()[0])
            place = targets.Place(Path(directory), sys.executable, core, core)
            self.addCleanup(place.stop_all)
            api = targets.SampleApi(place)
            for forking, version in ((False, 11), (True, 10)):
                before = api.count()
                server = targets.seed(place, api.url, forking)
                for _ in range(2):
                    told = self.asked(server.port, version)
                    self.assertTrue(told.startswith("sample-menu-api"), told)
                self.assertEqual(api.count() - before, 1)
            place.stop_all()
            self.assertEqual([child.running for child in place.children], [False] * 3)

    def asked(self, port: int, version: int) -> str:
        """The Server field of a good answer, in this version of the protocol."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", "/restaurant")
            answer = connection.getresponse()
            self.assertEqual((answer.status, answer.version), (200, version))
            self.assertIn("restaurants", json.loads(answer.read()))
            return str(answer.getheader("Server"))


if __name__ == "__main__":
    unittest.main()
