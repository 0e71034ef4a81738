"""The report: Markdown, JSON and charts of what was measured. Says nothing that figures do not."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.tables import table

from .generators import FULL, Figures, Loaded, Second, Usage
from .model import demands, held_against
from .plan import PHASES, RELAY, SEED, Run
from .queueing import carried_users, knee
from .running import Phase, Row

# Cores taken by strange programs beyond which a line is called disturbed.
DISTURBED = 0.05
PRE_ANALYSIS = """\
The load is that of people who look for lunch (`locustfile.py`): each asks for the list of the
restaurants, then for five menus, and begins again without a pause. There are 19 URLs, and all are
asked for once before the load: what is measured is how a relay answers from its cache, and how it
does so when more users come.

Users who never pause are a closed system: each has one request on its way. Once the server's core
is full, more users cannot raise the rate; they wait longer instead, users divided by rate on
average. So the rate should rise to a level and stay there, and the times grow in proportion to the
users. A design that spends twice the time per request has half that level. All runs are repeated
with the first design of this project (`benchmarks/seed_server.py`: `requests.get` in a thread per
connection through an installed SQLite cache; with all cores, in a process per request).
"""
METHOD = """\
One process: the server has one core, Locust and the sample API have another. All cores: nothing is
pinned, the relay runs with `--workers auto`, Locust as a master and four workers. Every line is a
server started anew, asked once for each URL before the load. Times are Locust's; it rounds
percentiles to whole milliseconds, and above 100 ms to two digits. CPU is read from /proc over the
last three quarters of the load. A line marked with * is one in which Locust was the limit: its
busiest process had at least 90 % of a core, or its cores were full and it had half of them or
more. Such a line is repeated with wrk on as many connections, over the same URLs; wrk adds to its
percentiles the answers that a stall kept it from asking for. "Others" is what programs that have
nothing to do with the test took meanwhile, in percent of a core: above 5 the line is disturbed.
"""
LIMITS = """\
- Load and server share a machine, and on all cores they share the cores: what Locust takes, the
  server does not get.
- Loopback has no delay and loses nothing; real users are far away and slow.
- Users without a pause are the hardest case per user: a person pauses for seconds.
- One short run per line: no spread is told. Repeat it, or take more `--seconds`, before trusting
  differences below a tenth.
- wrk checks no body and no header, which Locust's users do.
"""


@dataclass
class Results:
    """All that a run of the command has found so far."""

    machine: dict[str, Any]
    seconds: float
    cores: int
    rows: list[Row] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)


def ms(seconds: float) -> str:
    """A time in milliseconds, as exact as it is small."""
    value = seconds * 1000
    return f"{value:,.2f}" if value < 10 else f"{value:,.0f}"


def _cells(figures: Figures) -> list[str]:
    return [
        f"{figures.rate:,.0f}",
        ms(figures.average),
        ms(figures.p95),
        ms(figures.p99),
        f"{figures.failures:,} of {figures.requests:,}",
    ]


def rows_table(rows: Sequence[Row]) -> str:
    """The runs' table."""
    lines = [
        ["run", "by", "requests/s", "average ms", "p95 ms", "p99 ms", "failures"]
        + ["server CPU us", "Locust busiest %", "others %"]
    ]
    for row in rows:
        limit = row.loaded is not None and row.loaded.usage.locust_is_limit
        name = f"{row.run.title}: {row.system}{' *' if limit else ''}"
        busiest = f"{row.loaded.usage.busiest * 100:.0f}" if row.loaded else "-"
        others = f"{row.loaded.usage.others * 100:.0f}" if row.loaded else "-"
        spent = f"{demands(row)[0] * 1e6:,.0f}" if row.loaded else "-"
        lines.append([name, "Locust", *_cells(row.figures), spent, busiest, others])
        if row.by_wrk is not None:
            lines.append([name, "wrk", *_cells(row.by_wrk), "-", "-", "-"])
    return table(lines[0], lines[1:])


def pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Each run's relay with the first design beside it."""
    found = []
    for row in rows:
        if row.system == RELAY:
            found += [(row, one) for one in rows if one.run == row.run and one.system == SEED]
    return found


def best(row: Row) -> Figures:
    """The row's figures by the generator that was not the limit."""
    return row.by_wrk or row.figures


def analysis(results: Results) -> list[str]:
    """Sentences that the figures carry."""
    found = []
    for own, first in pairs(results.rows):
        if first.figures.rate > 0:
            ratio = own.figures.rate / first.figures.rate
            text = f"{own.run.title}: {ratio:.1f} times the requests of the first design"
            if own.by_wrk:
                text += f" by Locust, {own.by_wrk.rate / first.figures.rate:.0f} times by wrk"
            found.append(text + ".")
    for system in (RELAY, SEED):
        found += _growth([row for row in results.rows if row.system == system], system)
    limited = [row for row in results.rows if row.loaded and row.loaded.usage.locust_is_limit]
    if limited:
        names = ", ".join(f"{row.run.title} ({row.system})" for row in limited)
        found.append(
            f"Locust was the limit in: {names}. The rate there is Locust's, not the server's."
        )
    disturbed = [row for row in results.rows if row.loaded and row.loaded.usage.others > DISTURBED]
    if disturbed:
        found.append(
            f"{len(disturbed)} of {len(results.rows)} lines were disturbed by other programs:"
            " take their figures for lower bounds."
        )
    found += [f"{row.run.title} ({row.system}): {row.note}." for row in results.rows if row.note]
    return found or ["Too little was run to say anything."]


def _growth(rows: Sequence[Row], system: str) -> list[str]:
    one = sorted((row for row in rows if not row.run.all_cores), key=lambda row: row.run.users)
    if len(one) < 2:
        return []
    least, most = one[0], one[-1]
    if least.figures.rate <= 0 or least.figures.average <= 0:
        return []
    rate = most.figures.rate / least.figures.rate
    wait = most.figures.average / least.figures.average
    users = most.run.users / least.run.users
    return [
        f"{system}: from {least.run.users} to {most.run.users} users ({users:.0f} times) the rate"
        f" becomes {rate:.2f} times and the average time {wait:.1f} times what it was."
    ]


def conclusions(results: Results) -> list[str]:
    """What follows, said only as far as it was measured."""
    found = []
    for system in (RELAY, SEED):
        own = [row for row in results.rows if row.system == system]
        failed = sum(row.figures.failures for row in own)
        if own:
            total = sum(row.figures.requests for row in own)
            found.append(f"{system}: {failed:,} of {total:,} requests failed in all runs.")
    carried = [row for row in results.rows if row.system == RELAY and not row.run.all_cores]
    if carried:
        spent = statistics.median(demands(row)[0] for row in carried)
        if spent > 0:
            found.append(
                f"At {spent * 1e6:,.0f} us of CPU per request a core answers {1 / spent:,.0f}"
                f" requests a second: {knee(spent, 10):,.0f} users who ask every ten seconds, or"
                f" {carried_users(spent, 1, 0.05):,} who ask every second and wait for 50 ms on"
                " average."
            )
    for phase in results.phases:
        for system, loaded in phase.loads.items():
            figures = loaded.figures
            found.append(
                f"{phase.name}, {system}: {figures.failures:,} of {figures.requests:,} failed,"
                f" p99 {ms(figures.p99)} ms."
            )
    return found


def model_table(results: Results) -> str:
    """The queueing model beside the runs; empty when there is nothing to compare."""
    lines = [["run", "system", "foretold /s", "measured /s", "off by"]]
    for system in (RELAY, SEED):
        for told in held_against(results.rows, system, results.cores):
            off = "fitted" if told.fitted else f"{told.error:+.0%}"
            lines.append(
                [told.run.title, system, f"{told.foretold:,.0f}", f"{told.measured:,.0f}", off]
            )
    return table(lines[0], lines[1:]) if len(lines) > 1 else ""


def phase_text(phase: Phase) -> str:
    """A phase: its table and its own numbers."""
    lines = [["system", "requests/s", "average ms", "p95 ms", "p99 ms", "failures"]]
    lines += [[name, *_cells(loaded.figures)] for name, loaded in phase.loads.items()]
    text = f"### {phase.name}\n\n{PHASES[phase.name]}\n\n{table(lines[0], lines[1:])}\n"
    text += "".join(f"- {name}: {value:,.4g}\n" for name, value in phase.numbers.items())
    text += "".join(f"- {name} at {at:.1f} s\n" for name, at in phase.marks.items())
    for system, loaded in phase.loads.items():
        for error, count in sorted(loaded.errors.items(), key=lambda item: -item[1])[:5]:
            text += f"- {system}, {count} times: {' '.join(error.split())[:120]}\n"
    return text


def _list(lines: Sequence[str]) -> str:
    return "".join(f"- {line}\n" for line in lines)


def markdown(results: Results, pictures: Sequence[tuple[str, str]]) -> str:
    """The whole report; ``pictures`` are (title, file name)."""
    parts = ["# Load test\n", "## Before it\n", PRE_ANALYSIS, "## Machine\n"]
    parts.append(_list([f"{name}: {value}" for name, value in results.machine.items()]))
    parts += ["## Method\n", METHOD, f"{results.seconds:g} s per line.\n"]
    if results.rows:
        parts += ["## Runs\n", rows_table(results.rows)]
    parts += [f"![{title}]({name})\n" for title, name in pictures]
    if results.phases:
        parts += ["## Further phases\n", *(phase_text(phase) for phase in results.phases)]
    if results.missing:
        lines = [f"{name}: {why}" for name, why in results.missing.items()]
        parts += ["## Not measured\n", _list(lines)]
    if results.rows:
        parts += ["## Analysis\n", _list(analysis(results))]
    foretold = model_table(results)
    if foretold:
        parts += ["### The queueing model beside it\n", "See `docs/capacity.md`.\n", foretold]
    parts += ["## Conclusions\n", _list(conclusions(results)), "## Limits\n", LIMITS]
    return "\n".join(parts)


def as_json(results: Results) -> dict[str, Any]:
    """Everything, for machines."""
    rows = []
    for row in results.rows:
        told = dataclasses.asdict(row)
        told["run"]["name"] = row.run.name
        if row.loaded is not None:
            told["locust_is_limit"] = row.loaded.usage.locust_is_limit
        rows.append(told)
    return {
        "machine": results.machine,
        "seconds": results.seconds,
        "locust_full_at": FULL,
        "rows": rows,
        "phases": [dataclasses.asdict(phase) for phase in results.phases],
        "missing": results.missing,
    }


def _loaded(told: dict[str, Any] | None) -> Loaded | None:
    if told is None:
        return None
    seconds = [Second(**one) for one in told["seconds"]]
    return Loaded(Figures(**told["figures"]), Usage(**told["usage"]), seconds, told["errors"])


def from_json(told: dict[str, Any]) -> Results:
    """What `as_json` was made of."""
    found = Results(told["machine"], told["seconds"], 2, missing=told["missing"])
    for row in told["rows"]:
        run = Run(row["run"]["users"], row["run"]["all_cores"])
        by_wrk = Figures(**row["by_wrk"]) if row["by_wrk"] else None
        figures, loaded = Figures(**row["figures"]), _loaded(row["loaded"])
        found.rows.append(Row(run, row["system"], figures, loaded, by_wrk, row["note"]))
    for phase in told["phases"]:
        loads = {name: one for name in phase["loads"] if (one := _loaded(phase["loads"][name]))}
        found.phases.append(Phase(phase["name"], loads, phase["numbers"], phase["marks"]))
    return found


def pictures_of(results: Results) -> dict[str, tuple[str, str]]:
    """The charts: (title, SVG) by file name."""
    from harness import charts  # only who draws needs pygal

    found: dict[str, tuple[str, str]] = {}
    if results.rows:
        rates, times = [], []
        for run in dict.fromkeys(row.run for row in results.rows):
            own = [row for row in results.rows if row.run == run]
            lines = [(row.system, row.figures.rate, f"{row.figures.rate:,.0f}") for row in own]
            lines += [
                (f"{row.system} by wrk", row.by_wrk.rate, f"{row.by_wrk.rate:,.0f}")
                for row in own
                if row.by_wrk
            ]
            rates.append((run.title, lines))
            waits = [(row.system, row.figures.p95, f"{ms(row.figures.p95)} ms") for row in own]
            times.append((run.title, waits))
        found["rate.svg"] = "Requests per second", charts.bars("Requests per second", rates)
        title = "Time within which 95 % of the answers came"
        found["p95.svg"] = title, charts.bars(title, times)
    for phase in results.phases:
        for system, loaded in phase.loads.items():
            curves = [
                (system, [(one.at, one.rate) for one in loaded.seconds]),
                ("failed", [(one.at, one.failed) for one in loaded.seconds]),
            ]
            title = f"{phase.name}, {system}: requests and failures per second"
            picture = charts.timeline(title, curves, list(phase.marks.items()))
            found[f"{phase.name}-{re.sub('[^a-z0-9]+', '-', system)}.svg"] = title, picture
    return found


def write(directory: Path, results: Results) -> None:
    """Write report.md, report.json and the charts; an OSError tells where it cannot."""
    directory.mkdir(parents=True, exist_ok=True)
    pictures = pictures_of(results)
    for name, (_, picture) in pictures.items():
        (directory / name).write_text(picture, encoding="utf-8")
    named = [(title, name) for name, (title, _) in pictures.items()]
    (directory / "report.md").write_text(markdown(results, named), encoding="utf-8")
    told = json.dumps(as_json(results), indent=1) + "\n"
    (directory / "report.json").write_text(told, encoding="utf-8")
