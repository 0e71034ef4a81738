"""What `requests` alone can do: GETs of ever new URLs in N threads, a session in each of them.

``bare_session.py ORIGIN THREADS SECONDS PREFIX`` prints one line of JSON: requests, duration_us and
the median and 99th percentile of the latency in microseconds. No cache, no server: a relay's miss
does this and more, so this is its floor.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import requests


def load(origin: str, prefix: str, end: float, latencies: list[float]) -> None:
    """GET ``origin``/miss/``prefix``-N for N = 0, 1, … until the monotonic time ``end``."""
    with requests.Session() as session:
        number = 0
        before = time.monotonic()
        while before < end:
            answer = session.get(f"{origin}/miss/{prefix}-{number}", timeout=30)
            answer.raise_for_status()
            number += 1
            now = time.monotonic()
            latencies.append(now - before)
            before = now


def main() -> None:
    """Run the threads and print what they did."""
    origin, threads, seconds, prefix = sys.argv[1:]
    results: list[list[float]] = [[] for _ in range(int(threads))]
    start = time.monotonic()
    end = start + float(seconds)
    workers = [
        threading.Thread(target=load, args=(origin, f"{prefix}-{index}", end, latencies))
        for index, latencies in enumerate(results)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    latencies = sorted(latency for result in results for latency in result)
    report = {
        "requests": len(latencies),
        "duration_us": round((time.monotonic() - start) * 1e6),
        "p50_us": round(latencies[len(latencies) // 2] * 1e6),
        "p99_us": round(latencies[len(latencies) * 99 // 100] * 1e6),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
