"""Tries each target for a share of the time, and says how much was tried.

The exit code is 1 where a target failed; the input is then told, in Base64 or by its bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = ("request_head", "chunked_body", "response", "record", "config_file")


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--keep", type=Path, help="a folder for the inputs that reached new code")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if unknown := set(asked.targets) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if asked.one:
        return _with_hypothesis(asked.one, asked.seconds)
    names = asked.targets or NAMES
    failed = [name for name in names if not _try(name, asked.seconds / len(names), asked.keep)]
    for name in failed:
        _say(f"FAILED: {name}")
    return 1 if failed else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _try(name: str, seconds: float, keep: Path | None) -> bool:
    """One target in a process of its own; True where it held."""
    if not _has_atheris():
        command = [sys.executable, "-m", "fuzz", "--one", name, "--seconds", str(seconds)]
        return subprocess.run(command, check=False).returncode == 0
    with tempfile.TemporaryDirectory() as folder:
        corpus = keep / name if keep is not None else Path(folder) / "corpus"
        corpus.mkdir(parents=True, exist_ok=True)
        _write_seeds(name, corpus)
        before = len(list(corpus.iterdir()))
        command = [sys.executable, "-m", "fuzz.guided", name, str(corpus), "-print_final_stats=1"]
        command += [f"-max_total_time={max(1, round(seconds))}", "-max_len=2048", "-timeout=10"]
        command.append(f"-artifact_prefix={folder}/")
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        found = re.search(r"number_of_executed_units: *([0-9]+)", done.stderr)
        tried = int(found[1]) if found is not None else 0
        new = len(list(corpus.iterdir())) - before
        _say(f"{name}: {tried} inputs in {seconds:.0f} s, {new} reached new code (Atheris)")
        if done.returncode:
            _say(done.stdout[-4000:] + done.stderr[-8000:])
        return done.returncode == 0


def _has_atheris() -> bool:
    return importlib.util.find_spec("atheris") is not None


def _write_seeds(name: str, folder: Path) -> None:
    from fuzz.seeds import CORPUS, seeds

    for number, seed in enumerate(seeds(name)):
        (folder / f"seed-{number:04}").write_bytes(seed)
    if (CORPUS / name).is_dir() and folder != CORPUS / name:
        for path in (CORPUS / name).iterdir():
            shutil.copy(path, folder / path.name)


def _with_hypothesis(name: str, seconds: float) -> int:
    """Examples of Hypothesis, in rounds, until the time is over."""
    from hypothesis import given, seed, settings
    from hypothesis import strategies as st

    from fuzz.seeds import seeds
    from fuzz.targets import TARGETS

    tried = 0
    samples = seeds(name)
    words = st.sampled_from(sorted({word for sample in samples for word in _words(sample)}))

    @st.composite
    def mutated(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(samples))
        for _ in range(draw(st.integers(0, 4))):
            at, gone = draw(st.integers(0, len(data))), draw(st.integers(0, 4))
            data = data[:at] + draw(words | st.binary(max_size=3)) + data[at + gone :]
        return data

    @settings(max_examples=500, deadline=None, database=None)
    @given(mutated() | st.binary(max_size=300))
    def check(data: bytes) -> None:
        nonlocal tried
        tried += 1
        TARGETS[name](data)

    until, number = time.monotonic() + seconds, 0
    while time.monotonic() < until:
        seed(number)(check)()
        number += 1
    _say(f"{name}: {tried} inputs in {seconds:.0f} s (Hypothesis)")
    return 0


def _words(sample: bytes) -> list[bytes]:
    return [word for word in re.split(rb"(\r\n|[ :;,=])", sample[:300]) if len(word) < 40]


if __name__ == "__main__":
    sys.exit(main())
