"""The tables of the documents, each made from a file in `benchmarks/results`.

A document has a table between `<!-- figures NAME -->` and `<!-- /figures -->`; `benchmarks/tables`
writes there what the function of that name in `TABLES` says. Nothing here measures.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[1] / "results"
BLOCK = re.compile(r"(<!-- figures ([a-z0-9-]+) -->\n).*?(<!-- /figures -->)", re.DOTALL)
PEERS = ("nginx", "haproxy", "varnish", "squid")
Json = dict[str, Any]


@cache
def result(name: str) -> Json:
    """A result file's content."""
    found: Json = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def source(name: str) -> str:
    """The line under a table: the file, the machine, the date and the commit."""
    machine = result(name)["machine"]
    commits = machine.get("commits") or {"": machine["commit"]}
    cores = f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel'].split('-')[0]}"
    versions = machine.get("versions") or result(name).get("versions") or {}
    peers = [f"{peer} {number}" for peer, number in versions.items() if number != "missing"]
    parts = [cores, machine["python"], *peers]
    parts.append(f"{machine['date'][:10]}, commit {', '.join(commits.values())}")
    lines, line = [], f"Source: `benchmarks/results/{name}.json`."
    for word in "; ".join(parts).split():
        if len(line) + len(word) > 98:
            lines.append(line)
            line = word
        else:
            line += " " + word
    return "\n".join([*lines, line]) + ".\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first stand right."""
    rule = ["---", *("--:" for _ in head[1:])]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows)) + "\n"


# --- compare


def median(scenario: Json, server: str, metric: str) -> float | None:
    """The median of a metric, None where this server has none in this scenario."""
    value = scenario["servers"].get(server, {}).get("median", {}).get(metric)
    return None if value is None else float(value)


def ratio(scenario: Json, peer: str, metric: str = "rate") -> float | None:
    """The relay's median as a multiple of a peer's."""
    own, other = median(scenario, "relay", metric), median(scenario, peer, metric)
    return own / other if own is not None and other else None


NO_VALUE = "-"


def cell(value: float | None, form: str = "{:,.0f}") -> str:
    """A number in a table."""
    return NO_VALUE if value is None else form.format(value)


def _loads(data: Json) -> list[Json]:
    """The scenarios that have a rate; those in which the relay is furthest behind come first."""
    found = [one for one in data["scenarios"].values() if median(one, "relay", "rate")]
    return sorted(found, key=_worst)


def _worst(scenario: Json) -> float:
    ratios = [ratio(scenario, peer) for peer in PEERS]
    return min((one for one in ratios if one is not None), default=9.0)


def _compare_rows(scenarios: Sequence[Json]) -> str:
    head = ["scenario", "relay, req/s", "× nginx", "× HAProxy", "× Varnish", "× Squid"]
    head += ["p99 µs: relay", "nginx", "CPU µs: relay", "nginx", "HAProxy"]
    rows = []
    for one in scenarios:
        row = [one["title"], cell(median(one, "relay", "rate"))]
        row += [cell(ratio(one, peer), "{:.2f}") for peer in PEERS]
        row += [cell(median(one, server, "p99")) for server in ("relay", "nginx")]
        row += [cell(median(one, who, "cpu"), "{:.1f}") for who in ("relay", "nginx", "haproxy")]
        rows.append(row)
    return table(head, rows)


def compare_behind(data: Json) -> str:
    """The loads in which the relay is behind one of nginx and HAProxy, and the goals it misses."""
    behind = []
    for one in _loads(data):
        ratios = [found for peer in ("nginx", "haproxy") if (found := ratio(one, peer)) is not None]
        if min(ratios, default=9.0) < 1:
            behind.append(one)
    missed = [
        [one["title"], *bar["text"].removesuffix(", MISSED").rsplit(": ", 1)]
        for one in data["scenarios"].values()
        for bar in one["bars"]
        if bar["met"] is False and bar["server"] == "relay"
    ]
    text = _compare_rows(behind) if behind else "In no load of this run.\n"
    if missed:
        text += "\nGoals that this run missed:\n\n" + table(["load", "goal", "reached"], missed)
    return text


def compare(data: Json) -> str:
    """All loads."""
    note = f"Medians of {data['rounds']} rounds of {data['seconds']} s.\n"
    return _compare_rows(_loads(data)) + "\n" + note


def compare_more(data: Json) -> str:
    """What is no rate beside a peer's: processor time, memory, start, the first design. What this
    run has not measured is left out.
    """
    scenarios = data["scenarios"]
    same, misses, start = scenarios["same-url"], scenarios["misses"], scenarios["start"]
    rows = [
        ["CPU of a hit, relay", cell(median(same, "relay", "cpu"), "{:.2f} µs")],
        [
            "CPU of a C loop that only receives and sends",
            cell(median(same, "floor-c", "cpu"), "{:.2f} µs"),
        ],
        ["misses that are stored, relay", cell(median(misses, "relay", "rate"), "{:,.0f}/s")],
        [
            "the same calls by a bare `requests.Session`",
            cell(median(misses, "session", "rate"), "{:,.0f}/s"),
        ],
        [
            "one URL, the first design of this project",
            cell(median(same, "seed", "rate"), "{:,.0f}/s"),
        ],
        ["memory at the start", cell(median(start, "relay", "pss"), "{:.0f} MiB")],
        [
            "memory with 10,000 idle connections",
            cell(median(scenarios["idle"], "relay", "pss"), "{:.0f} MiB"),
        ],
        [
            "memory with 100,000 URLs by Zipf's law",
            cell(median(scenarios["zipf"], "relay", "pss"), "{:.0f} MiB"),
        ],
        ["from the start to the first answer", cell(median(start, "relay", "first"), "{:.0f} ms")],
    ]
    return table(["what", "measured"], [row for row in rows if row[1] != NO_VALUE])


# --- what is inside of a hit


def micro(data: Json) -> str:
    """Pieces of a request's way."""
    rows = [[one["what"], f"{one['us']:,.2f}"] for one in data["pieces"]]
    return table(["piece", "µs"], rows)


def miss_budget(data: Json) -> str:
    """The steps of a miss, and their sum."""
    steps = [(one["what"], one["us"]) for one in data["steps"]]
    total = sum(us for _, us in steps)
    rows = [[what, f"{us:,.1f}", f"{us / total:.0%}"] for what, us in [*steps, ("all", total)]]
    return table(["step", "CPU µs", "share"], rows)


def hit_ratio(data: Json) -> str:
    """The rule that says which entry leaves memory, beside others."""
    names = {"Lru": "least recently used", "Clock": "clock", "OurRule": "S3-FIFO, the relay's"}
    head = ["scans among the requests", *(names[one["rule"]] for one in data["rows"][0]["rules"])]
    rows = [
        [f"{row['scan']:.0%}", *(f"{one['hits']:.3f}" for one in row["rules"])]
        for row in data["rows"]
    ]
    note = (
        f"\nThe share of hits among {data['requests']:,} requests for {data['keys']:,} keys by"
        f" Zipf's law, with room\nfor {data['room']:,}; the best possible is {data['best']:.3f}.\n"
    )
    return table(head, rows) + note


def growth(data: Json) -> str:
    """A store of few URLs and of many."""
    head = ["URLs in the store", "file", "to the first answer", "memory"]
    head += ["store hit p50", "p99", "`/api/status`"]
    rows = [
        [
            f"{row['urls']:,}", f"{row['file_mib']:,.0f} MiB", f"{row['start_ms']:,.0f} ms",
            f"{row['memory_mib']:.0f} MiB", f"{row['p50_ms']:.2f} ms", f"{row['p99_ms']:.2f} ms",
            f"{row['status_ms']:,.0f} ms",
        ]
        for row in data["rows"]
    ]  # fmt: skip
    return table(head, rows)


# --- users and workers


def _load_results(data: Json) -> Any:
    from load.report import from_json

    return from_json(data)


def load_capacity(data: Json) -> str:
    """How many users a core carries, by the service times of the load test."""
    from load.model import demands
    from load.queueing import carried_users, knee

    found = _load_results(data)
    rows = []
    for system, title in (("relay", "relay"), ("seed", "first design")):
        own = [one for one in found.rows if one.system == system and not one.run.all_cores]
        spent = statistics.median(demands(one)[0] for one in own)
        full = [f"{knee(spent, pause):,.0f}" for pause in (0, 1, 10)]
        carried = [f"{carried_users(spent, pause, 0.05):,}" for pause in (0, 1, 10)]
        rows.append([title, f"{spent * 1e6:,.0f} µs", *full, *carried])
    head = ["", "S", "full at 0 s pause", "1 s", "10 s", "50 ms at 0 s", "1 s", "10 s"]
    return table(head, rows)


def load_model(data: Json) -> str:
    """The queueing model beside the load test."""
    from load.report import model_table

    found = _load_results(data)
    note = f"{found.seconds:g} s a run.\n"
    return model_table(found) + "\n" + note


def workers(data: Json) -> str:
    """One worker on one core, two on two."""
    rows = data["second_worker"]
    one, two = rows
    text = table(
        ["workers", "hits/s", "p99 ms", "relay's cores", "wrk's cores", "CPU µs for a hit"],
        [
            [
                str(row["workers"]), f"{row['rate']:,.0f}", f"{row['p99_ms']:.2f}",
                f"{row['relay_cores']:.2f}", f"{row['load_cores']:.2f}", f"{row['cpu_us']:.1f}",
            ]
            for row in rows
        ],
    )  # fmt: skip
    gain = 2 * one["cpu_us"] / two["cpu_us"]
    text += f"\nBy the CPU time of a hit, two cores carry {gain:.2f} times as much as one.\n"
    return text


def workers_spread(data: Json) -> str:
    """How connections spread over two workers."""
    rows = [
        [
            row["connections"], f"{row['rate']:,.0f}", f"{row['p99_ms']:.2f}",
            f"{row['busiest']['median']:.0%}", f"{row['busiest']['worst']:.0%}",
        ]
        for row in data["spread"]
    ]  # fmt: skip
    head = ["connections", "hits/s", "p99 ms", "busier worker: median", "worst"]
    return table(head, rows)


# --- nodes


def simulated(data: Json) -> str:
    """Any number of nodes, simulated."""
    head = ["nodes", "requests/s", "from memory", "calls/s", "calls per popular key and TTL"]
    head += ["calls per needed one", "commands/s", "database", "listener"]
    head += ["purge heard: median ms", "longest ms"]
    rows = []
    for one in data["rows"]:
        row = [f"{one['setting']['nodes']:,}", f"{one['requests']:,.0f}"]
        row += [f"{one['hit_share']:.1%}", f"{one['calls']:,.3g}", f"{one['calls_each']:.2f}"]
        row += [f"{one['calls_over']:.2f}", f"{one['operations']:,.0f}"]
        row += [f"{one['database_load']:.1%}", f"{one['listener_load']:.1%}"]
        heard = ["cannot keep up", "-"]
        if not one["full"]:
            heard = [f"{one[name] * 1000:.1f}" for name in ("stale_half", "stale_longest")]
        rows.append([*row, *(heard if one["setting"]["nodes"] > 1 else ["-", "-"])])
    usual = data["rows"][0]["setting"]
    note = (
        f"\n{usual['keys']:,} keys by Zipf's law (exponent {usual['exponent']:g}),"
        f" {usual['rate']:g} requests a second on each node,\nfresh for {usual['ttl']:g} s, an"
        f" upstream that takes {usual['upstream'] * 1000:g} ms, room for {usual['room']:,} entries"
        f" in\nmemory, {usual['purges']:g} purges a second.\n"
    )
    return table(head, rows) + note


def simulate_check(data: Json) -> str:
    """Real relays beside the simulation."""
    rows_of = data["rows"]
    names = list(dict.fromkeys(name for row in rows_of for name in row if name not in _NO_PAIR))
    head = [""]
    for row in rows_of:
        head += [f"{row['nodes']}: measured", "simulated"]
    rows = []
    for name in names:
        cells = [f"`{name}`"]
        for row in rows_of:
            pair = row.get(name)
            cells += [f"{pair[k]:.1f}" if pair else "-" for k in ("measured", "simulated")]
        rows.append(cells)
    return table(head, rows)


_NO_PAIR = ("nodes", "wrong")


def simulate_costs(data: Json) -> str:
    """What the database and a listener take."""
    words = {
        "command": "a plain command, of Redis's CPU",
        "script": "the cheapest script",
        "delivery": "each subscriber that hears of a change",
        "hearing": "a change that a node hears of, of that node's CPU",
    }
    costs = data["costs"]
    rows = [[text, f"{costs[name] * 1e6:.1f}"] for name, text in words.items()]
    return table(["what", "µs"], rows)


def cluster(data: Json) -> str:
    """A cluster whose parts are killed in turn."""
    names = ("requests", "failed", "median ms", "p99 ms", "longest ms")
    rows = [[one["phase"], *(f"{one[name]:,}" for name in names)] for one in data["phases"]]
    total = sum(one["requests"] for one in data["phases"])
    failed = sum(one["failed"] for one in data["phases"])
    note = (
        f"\n{total:,} requests, {failed:,} failed: {data['clients']} clients, phases of"
        f" {data['seconds']:g} s, freshness {data['ttl']} s, an API that takes 50 ms.\n"
    )
    return table(["phase", *names], rows) + note


# --- what is hostile


def probe_peers(data: Json) -> str:
    """How many probes each server held against."""
    servers = list(data["groups"][0]["held"])
    rows = [
        [one["probes"], str(one["number"]), *(str(one["held"][name]) for name in servers)]
        for one in data["groups"]
    ]
    total = [str(sum(int(row[at]) for row in rows)) for at in range(1, len(servers) + 2)]
    text = table(["probes", "number", *servers], [*rows, ["all", *total]])
    return text


def slow_clients(data: Json) -> str:
    """What others see while slow clients are there."""
    rows = [
        [row["load"], row["kind"], *(f"{row[name] * 1000:.1f}" for name in _TIMES),
         str(row["failed"])]
        for row in data["rows"]
    ]  # fmt: skip
    head = ["slow clients", "answers", "median ms", "p99 ms", "worst ms", "not answered"]
    return table(head, rows)


_TIMES = ("median", "p99", "worst")


def upgrade(data: Json) -> str:
    """Requests lost while a new relay takes the place of an old one."""
    ways = {"beside": "starts beside the old one", "after": "starts when the old one has ended"}
    rows = [
        [ways[row["way"]], str(row["workers"]), str(row["upgrades"]), f"{row['requests']:,}",
         str(row["lost"]), f"{row['slowest']:.1f}"]
        for row in data["rows"]
    ]  # fmt: skip
    head = ["the new relay", "workers", "upgrades", "requests", "lost", "slowest, s"]
    return table(head, rows)


def encrypted(data: Json) -> str:
    """HTTPS beside nginx, of a run of `compare` with the rows for it."""
    head = ["load", "relay, req/s", "× nginx", "p99 µs: relay", "nginx", "CPU µs: relay", "nginx"]
    head += ["MiB: relay", "nginx"]
    rows = []
    for one in data["scenarios"].values():
        if one["title"].find("TLS") < 0:
            continue
        row = [
            one["title"],
            cell(median(one, "relay", "rate")),
            cell(ratio(one, "nginx"), "{:.2f}"),
        ]
        row += [cell(median(one, who, "p99")) for who in ("relay", "nginx")]
        row += [cell(median(one, who, "cpu"), "{:.1f}") for who in ("relay", "nginx")]
        row += [cell(median(one, who, "pss")) for who in ("relay", "nginx")]
        rows.append(row)
    note = f"Medians of {data['rounds']} rounds of {data['seconds']} s, one core each.\n"
    return table(head, rows) + "\n" + note


def connections(data: Json) -> str:
    """A new connection for each request: every server of a run of `compare`."""
    close = data["scenarios"]["close"]
    nginx = median(close, "nginx", "cpu") or 1.0
    rows = []
    for label in close["servers"]:
        cpu = median(close, label, "cpu")
        row = [label, cell(median(close, label, "rate")), cell(median(close, label, "p99"))]
        rows.append([*row, cell(cpu, "{:.1f}"), cell(cpu and cpu / nginx, "{:.2f}")])
    note = f"Medians of {data['rounds']} rounds of {data['seconds']} s, one core each.\n"
    head = ["server", "connections/s", "p99 µs", "CPU µs of each", "CPU, × nginx"]
    return table(head, rows) + "\n" + note


FLOORS = (
    ("records", "floor-c", "a C loop that sends the same bytes to whoever asks"),
    ("records-stored", "floor-stored", "a Python that only reads and sends"),
    ("zipf", "floor-stored", "a Python that only reads and sends"),
    ("misses", "floor-stored", "a Python that only fetches, stores and sends"),
    ("misses", "session", "a bare `requests.Session` in as many threads"),
)
"""The least that was measured for a row of `compare`, and what it is."""


def stored(row: str) -> Callable[[Json], str]:
    """Makes the table of a row of `compare`: an earlier commit, this one, nginx, and the floors."""

    def make(data: Json) -> str:
        one, rows = data["scenarios"][row], []
        names = [(_before(one), "before"), ("relay", "now"), ("nginx", "nginx")]
        names += [(server, what) for load, server, what in FLOORS if load == row]
        for name, what in names:
            rate, peer = median(one, name, "rate"), median(one, "nginx", "rate")
            share = rate / peer if rate is not None and peer else None
            cells = [f"{one['title']}: {what}", cell(rate), cell(share, "{:.2f}")]
            cells += [cell(median(one, name, "p99")), cell(median(one, name, "cpu"), "{:.1f}")]
            rows.append([*cells, cell(median(one, name, "pss"))])
        rounds = f"{data['rounds']} rounds of {data['seconds']} s"
        head = ["load", "req/s", "× nginx", "p99 µs", "CPU µs", "MiB"]
        return table(head, rows) + f"\nMedians of {rounds}, in turns, one core each.\n"

    return make


def _before(scenario: Json) -> str:
    """The server that is the relay of an earlier commit."""
    return next(name for name in scenario["servers"] if name.startswith("relay@"))


def compare_before(data: Json) -> str:
    """All loads: the relay of an earlier commit, and this one."""
    rows = []
    for one in data["scenarios"].values():
        before, now = (
            [median(one, name, what) for what in ("rate", "p99", "cpu")]
            for name in (_before(one), "relay")
        )
        if before[0] and now[0]:
            cells = [cell(each) for pair in zip(before[:2], now[:2]) for each in pair]
            cells += [cell(each, "{:.1f}") for each in (before[2], now[2])]
            rows.append([one["title"], *cells, f"{now[0] / before[0]:.2f}"])
    head = ["scenario", "req/s before", "now", "p99 µs before", "now", "CPU µs before", "now"]
    return table([*head, "req/s, now / before"], rows)


def mixed(data: Json) -> str:
    """Hits beside misses: the relay of an earlier commit, this one, and nginx."""
    one = data["scenarios"]["mixed"]
    before = _before(one)
    nginx = median(one, "nginx", "p99") or 1.0
    rows = []
    for name, what in ((before, "before"), ("relay", "now"), ("nginx", "nginx")):
        p99 = median(one, name, "p99")
        row = [what, cell(median(one, name, "rate")), cell(median(one, name, "p50")), cell(p99)]
        row += [cell(p99 and p99 / nginx, "{:.2f}"), cell(median(one, name, "cpu"), "{:.1f}")]
        row += [cell(median(one, name, "miss_rate")), cell(median(one, name, "miss_p99"))]
        rows.append(row)
    head = ["server", "hits/s", "p50 µs", "p99 µs", "p99, × nginx", "CPU µs of a request"]
    note = f"Medians of {data['rounds']} rounds of {data['seconds']} s, in turns, one core each.\n"
    return table([*head, "misses/s", "their p99 ms"], rows) + "\n" + note


def pythons(data: Json) -> str:
    """The relay by several interpreters, and nginx."""
    rows = []
    names = data["machine"]["pythons"]
    for one in data["scenarios"].values():
        for name in one["servers"]:
            rate, peer = median(one, name, "rate"), median(one, "nginx", "rate")
            share = rate / peer if rate is not None and peer else None
            row = [one["title"], names.get(name, name), cell(rate), cell(share, "{:.2f}")]
            rows.append([*row, cell(median(one, name, "cpu"), "{:.1f}")])
    note = f"Medians of {data['rounds']} rounds of {data['seconds']} s, in turns, one core each.\n"
    return table(["load", "by", "req/s", "× nginx", "CPU µs"], rows) + "\n" + note


def admin_cost(data: Json) -> str:
    """Hits per second without an admin address, and with one that is scraped."""
    rows = [
        [str(row["workers"]), f"{row['off']:,.0f}", f"{row['scraped']:,.0f}",
         f"{row['apart'] * 100:+.1f} %", f"{row['off_cpu_us']:.2f}",
         f"{row['scraped_cpu_us']:.2f}", f"{row['cpu_apart'] * 100:+.1f} %",
         f"{row['scrape_ms']:.0f}"]
        for row in data["rates"]
    ]  # fmt: skip
    head = ["workers", "hits/s, `--admin off`", "scraped each second", "apart",
            "CPU µs a hit, off", "scraped", "apart", "a scrape, ms"]  # fmt: skip
    return table(head, rows)


def admin_crowds(data: Json) -> str:
    """Hits beside callers of the admin address that are slow."""
    rows = [
        [row["callers"], f"{row['rate']:,.0f}", f"{row['p50_ms']:.2f}", f"{row['p99_ms']:.2f}"]
        for row in data["crowds"]
    ]
    return table(["callers of the admin address", "hits/s", "median ms", "p99 ms"], rows)


def purge_times(data: Json) -> str:
    """Hits before and during purges of many responses."""
    rows = []
    for row in data["purges"]:
        before, during = row["before"], row["during"]
        times = [f"{before[each]:.2f} / {during[each]:.2f}" for each in ("p50_ms", "p99_ms")]
        longest = f"{before['max_ms']:.0f} / {during['max_ms']:.0f}"
        rows.append([row["kind"], f"{row['purged']:,}", f"{row['took_ms']:,.0f}", *times, longest])
    head = ["purge", "targets", "answered in, ms", "median ms, before / during",
            "p99 ms", "longest ms"]  # fmt: skip
    return table(head, rows)


def soak(data: Json) -> str:
    """What is left after much of everything."""
    rows = [
        [name, f"{was['memory']:.0f} MiB", str(was["descriptors"]), str(was["threads"])]
        for name, was in data["looks"].items()
    ]
    note = (
        f"\n{data['actions']:,} actions in {data['seconds']:g} s, {data['wrong']} of them wrong;"
        f" write-ahead log {data['log_mib']:g} MiB at most.\n"
    )
    return table(["", "memory", "descriptors", "threads"], rows) + note


def compression(data: Json) -> str:
    """Bytes of hits in each coding, and the share of what they are without `--compress`."""
    whole = data["rows"][0]["forms"]
    names = {"without": "without `--compress`", "identity": "with it, without a coding"}
    rows = []
    for row in data["rows"]:
        cells = [
            f"{size:,} ({size / whole[form][part]:.0%})"
            for form, sizes in row["forms"].items()
            for part, size in sizes.items()
        ]
        rows.append([names.get(row["coding"], row["coding"]), *cells])
    told = "list", f"{data['menus']} menus"
    parts = [f"{form}: {part}" for form in whole for part in told]
    return table(["bytes of heads and bodies", *parts], rows)


def deployment(data: Json) -> str:
    """From a clone to a running relay: seconds and sizes."""
    rows = [
        [
            step["what"], f"`{step['command']}`",
            f"{step['cpu_seconds']:.1f} s of CPU time, {step['seconds']:.0f} s in all",
        ]
        for step in data["steps"]
    ]  # fmt: skip
    for name, size in data["bytes"].items():
        kind = "wheel" if name.endswith(".whl") else "sdist"
        rows.append([kind, f"`{name}`", f"{size / 1000:,.0f} kB"])
    image = data["image"]
    added = image["image_mb"] - image["base_mb"]
    rows.append(["image", "without its base", f"{added:.0f} MB"])
    rows.append(["exposure, 0 to 10", "`systemd-analyze security`", f"{data['exposure']:.1f}"])
    text = table(["what", "by", "measured"], rows)
    return text.replace("| --- | --: | --: |", "| --- | --- | --: |")


TABLES: dict[str, tuple[str, Callable[[Json], str]]] = {
    "compare-behind": ("compare", compare_behind),
    "compare": ("compare", compare),
    "compare-more": ("compare", compare_more),
    "compare-before": ("compare", compare_before),
    "micro": ("micro", micro),
    "miss-budget": ("miss_budget", miss_budget),
    "compression": ("compression", compression),
    "hit-ratio": ("hit_ratio", hit_ratio),
    "growth": ("growth", growth),
    "connections": ("connections/compare", connections),
    "load-capacity": ("load/report", load_capacity),
    "load-model": ("load/report", load_model),
    "workers": ("workers", workers),
    "workers-spread": ("workers", workers_spread),
    "simulate": ("simulate", simulated),
    "simulate-few-keys": ("simulate-few-keys", simulated),
    "simulate-check": ("simulate-check", simulate_check),
    "simulate-costs": ("simulate-costs", simulate_costs),
    "cluster": ("cluster", cluster),
    "probe-peers": ("probe_peers", probe_peers),
    "slow-clients": ("slow_clients", slow_clients),
    "soak": ("soak", soak),
    "upgrade": ("upgrade", upgrade),
    "encrypted": ("encrypted/compare", encrypted),
    "stored-records": ("stored/records/compare", stored("records")),
    "stored-little-memory": ("compare", stored("records-stored")),
    "stored-misses": ("compare", stored("misses")),
    "mixed": ("compare", mixed),
    "pythons": ("pythons/compare", pythons),
    "stored-zipf": ("stored/zipf/compare", stored("zipf")),
    "admin-cost": ("admin_cost", admin_cost),
    "admin-crowds": ("admin_cost", admin_crowds),
    "purge": ("purge", purge_times),
    "deployment": ("deployment", deployment),
}
"""By the name in a document: the result file, and what makes the table of its content."""


# --- into the documents


def documents(root: Path) -> Iterator[Path]:
    """The pages that may have figures."""
    yield root / "README.md"
    yield root / "CONTRIBUTING.md"
    yield from sorted((root / "docs").glob("*.md"))


def filled(text: str) -> str:
    """A document's text with each block as its result file has it; KeyError for an unknown name."""

    def block(found: re.Match[str]) -> str:
        name, make = TABLES[found[2]]
        return f"{found[1]}{make(result(name))}\n{source(name)}{found[3]}"

    return BLOCK.sub(block, text)


def compare_chart() -> str:
    """The chart of `compare`: requests per second as a multiple of nginx's."""
    from . import charts  # only who draws needs pygal

    data = result("compare")
    groups = []
    for scenario in _loads(data):
        nginx = median(scenario, "nginx", "rate")
        bars = []
        for server in ("relay", *PEERS):
            rate = median(scenario, server, "rate")
            if nginx and rate:
                bars.append((server, round(rate / nginx, 3), f"{rate / nginx:.2f}"))
        if bars:
            groups.append((scenario["title"][:48], bars))
    when = data["machine"]["date"][:10]
    return charts.bars(f"Requests per second on one core, nginx = 1 ({when})", groups)


def growth_chart() -> str:
    """The chart of `growth`: what a store of many URLs changes."""
    from . import charts  # only who draws needs pygal

    rows = result("growth")["rows"]
    lines = [
        ("file, MiB", [row["file_mib"] for row in rows]),
        ("to the first answer, ms", [row["start_ms"] for row in rows]),
        ("memory, MiB", [row["memory_mib"] for row in rows]),
        ("store hit p50, µs", [row["p50_ms"] * 1000 for row in rows]),
        ("store hit p99, µs", [row["p99_ms"] * 1000 for row in rows]),
    ]
    places = [f"{row['urls']:,}" for row in rows]
    return charts.curves("A store of so many URLs", places, lines)
