"""Tests that notice: `python -m tests.mutation --per-file 60 --seed 1`.

Changes one little thing in a module, a mutant, and runs the quick tests about that module: they
ought to fail. Who survives is either listed in `mutation_survivors.txt` with the reason, or shows
what no test looks at; then the exit status is 1. With `--per-file 5` it is over in a minute or two.

A mutant is written to a copy of the sources, so that processes which a test starts have it too.
Which mutants are tried depends on the seed and on each mutant itself: a change elsewhere in the
module leaves the choice as it is, and a smaller number chooses from what a larger one does.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import hashlib
import os
import shutil
import signal
import sys
import tempfile
import time
import unittest
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from hypothesis import Phase, settings

SOURCES = Path(__file__).resolve().parents[1]
PACKAGE = "api_relaying_server"
LISTED = Path(__file__).with_name("mutation_survivors.txt")

CACHING = ("test_guards", "test_caching_model", "test_caching_end_to_end")
PATH = ("test_straight_path", "test_caching_model", "test_interleavings")
LAST = ("test_high_cardinality", "test_caching_end_to_end", "test_isolation")

TESTS: dict[str, tuple[str, ...]] = {
    "relaying/relay.py": (*PATH, *LAST),
    "relaying/memory_answers.py": (*PATH, *LAST),
    "relaying/transfer.py": (*PATH, *LAST),
    "relaying/plain_miss.py": ("test_plain_miss", *PATH, *LAST),
    "relaying/fetching.py": (*PATH, *LAST),
    "relaying/receiving.py": (*PATH, *LAST),
    "relaying/answering.py": ("test_answering", *PATH, *LAST),
    "relaying/keeping.py": (
        "test_keeping",
        "test_caching_model",
        "test_worker_coordinator",
        "test_interleavings",
    ),
    "relaying/flight.py": ("test_flight", "test_interleavings"),
    "relaying/shared_body.py": ("test_flight", "test_interleavings"),
    "relaying/key_facts.py": ("test_key_facts", "test_caching_model", "test_interleavings"),
    "relaying/last_known.py": ("test_last_known", "test_caching_model"),
    "memory/hot.py": ("test_hot", "test_admission", "test_room", "test_caching_model"),
    "memory/admission.py": ("test_admission", "test_hot"),
    "caching/compression.py": ("test_compression", "test_forms"),
    "http1/codings.py": ("test_compression",),
    "relaying/forms.py": ("test_forms",),
    "caching/storing.py": ("test_storing", "test_reuse", "test_validation", *CACHING),
    "caching/reuse.py": ("test_reuse", "test_freshness", "test_responding", *CACHING),
}
"""The quick tests about each module, those that find most per second first."""

SECONDS, CPU_SECONDS = 120, 30
"""After so long a module of tests counts as failed: it waits for ever, or never ends."""

ORDERS = "60"
"""Orders played of each small world: what a mutant spoils shows in the first ones."""

AT_ONCE = 2
NEGATED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.GtE,
    ast.LtE: ast.Gt,
    ast.Gt: ast.LtE,
    ast.GtE: ast.Lt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
SHIFTED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
}
SHOWN = 90


class Mutant(NamedTuple):
    """A change of a module: its name, the line it is in, and its number among all of them."""

    name: str
    line: int
    number: int


class Place(NamedTuple):
    """Where a node stands: `parent.field`, or `parent.field[number]`."""

    node: ast.AST
    parent: ast.AST
    field: str
    number: int | None
    function: str

    def put(self, node: ast.AST) -> ast.AST:
        """Puts a node here; what was here."""
        if self.number is None:
            before: ast.AST = getattr(self.parent, self.field)
            setattr(self.parent, self.field, node)
            return before
        nodes = getattr(self.parent, self.field)
        before, nodes[self.number] = nodes[self.number], node
        return before


# What can be changed.


def places(node: ast.AST, function: str = "") -> Iterator[Place]:
    """All nodes below one that do something, from the top of the module down."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list", "type_comment"):
            continue
        many = isinstance(value, list)
        for index, child in enumerate(value if many else [value]):
            if not isinstance(child, ast.AST):
                continue
            inner = function
            if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
                inner = f"{function}.{child.name}".lstrip(".")
            yield Place(child, node, field, index if many else None, function)
            yield from places(child, inner)


def changes_of(place: Place) -> Iterator[ast.AST]:
    """What may stand in place of a node."""
    node = place.node
    if place.field == "test" and isinstance(node, ast.expr):
        yield ast.Constant(False)
        if not isinstance(place.parent, ast.While):
            yield ast.Constant(True)
    if place.field == "ifs":
        yield ast.Constant(False)
        yield ast.Constant(True)
    if isinstance(node, ast.Compare):
        yield from _compared(node)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.Constant):
        yield from _counted(node)
    elif isinstance(node, ast.Return):
        yield from _returned(node, place.parent)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not _logs(node.value):
        yield ast.Pass()


def _compared(node: ast.Compare) -> Iterator[ast.AST]:
    for table in (NEGATED, SHIFTED):
        for number, operator in enumerate(node.ops):
            if type(operator) in table:
                changed = copy.copy(node)
                changed.ops = list(node.ops)
                changed.ops[number] = table[type(operator)]()
                yield changed


def _counted(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)


def _returned(node: ast.Return, parent: ast.AST) -> Iterator[ast.AST]:
    if node.value is not None and not _is_nothing(node.value):
        yield ast.Return(ast.Constant(None))
    if not isinstance(parent, ast.FunctionDef):
        yield ast.Pass()


def _is_nothing(node: ast.expr) -> bool:
    """True where None would do as well for most."""
    if isinstance(node, (ast.Tuple, ast.List)):
        return not node.elts
    return isinstance(node, ast.Constant) and not node.value


def _logs(call: ast.Call) -> bool:
    return ast.unparse(call.func).startswith("_log.")


def mutants_of(source: str) -> list[Mutant]:
    """Every mutant of a module."""
    found: list[Mutant] = []
    names: Counter[str] = Counter()
    for name, line, _ in _walk(ast.parse(source)):
        names[name] += 1
        name += f" #{names[name]}" if names[name] > 1 else ""
        found.append(Mutant(name, line, len(found)))
    return found


def changed(source: str, mutant: Mutant) -> str:
    """A module as a mutant has it."""
    for number, (_, _, tree) in enumerate(_walk(ast.parse(source))):
        if number == mutant.number:
            return ast.unparse(ast.fix_missing_locations(tree))
    raise LookupError(mutant.name)


def _walk(tree: ast.AST) -> Iterator[tuple[str, int, ast.AST]]:
    """The tree with one change after the other, as what and where."""
    for place in places(tree):
        whole = isinstance(place.node, (ast.stmt, ast.Compare, ast.BoolOp))
        for change in changes_of(place):
            before, line = _told(place, whole), getattr(place.node, "lineno", 0)
            original = place.put(change)
            yield f"{place.function or 'module'}: {before} -> {_told(place, whole)}", line, tree
            place.put(original)


def _told(place: Place, whole: bool) -> str:
    """A node as it stands now, with what is around it where that is short."""
    number, field = place.number, getattr(place.parent, place.field)
    now: ast.AST = field if number is None else field[number]
    if whole and place.field not in ("test", "ifs"):
        return _short(now)
    if place.field == "test":
        return f"{type(place.parent).__name__.lower()} {_short(now)}"
    around = ast.unparse(place.parent) if not isinstance(place.parent, ast.stmt) else ""
    if isinstance(place.parent, (ast.Assign, ast.AnnAssign, ast.Return, ast.AugAssign)):
        around = ast.unparse(place.parent)
    return around if around and len(around) <= SHOWN else _short(now)


def _short(node: ast.AST) -> str:
    words = " ".join(ast.unparse(node).split())
    return words if len(words) <= SHOWN else words[: SHOWN - 3] + "..."


def chosen(mutants: Sequence[Mutant], seed: int, number: int) -> list[Mutant]:
    """Some of them, always the same."""

    def rank(mutant: Mutant) -> str:
        return hashlib.sha256(f"{seed} {mutant.name}".encode()).hexdigest()

    return sorted(sorted(mutants, key=rank)[:number], key=lambda mutant: mutant.line)


# Running the tests.


class Run(NamedTuple):
    """Tests under way against a mutant, or against none: by whom, where, and of which module, with
    its source.
    """

    pid: int
    slot: Path
    file: str
    mutant: Mutant | None
    source: str
    began: float


class Verdict(NamedTuple):
    """What came of it: the module and the test that failed, empty where none did."""

    file: str
    mutant: Mutant | None
    module: str
    test: str
    seconds: float


def start(slot: Path, file: str, mutant: Mutant | None, tests: tuple[str, ...]) -> Run:
    """Runs tests in a process, in a group of its own."""
    source = ""
    if mutant is not None:
        target = _target(slot, file)
        source = target.read_text()
        target.write_text(changed(source, mutant))
    (slot / "told").write_text("")
    shutil.rmtree(slot / "tmp", ignore_errors=True)
    (slot / "tmp").mkdir()
    pid = os.fork()
    if pid == 0:
        status = 3
        try:
            os.setsid()
            status = _test(slot, tests)
        finally:
            os._exit(status)
    return Run(pid, slot, file, mutant, source, time.monotonic())


def _target(slot: Path, file: str) -> Path:
    return slot / "python_source_files" / PACKAGE / file


def _test(slot: Path, tests: tuple[str, ...]) -> int:
    """The child: runs the tests until one fails; 1 then."""
    sources = str(slot / "python_source_files")
    output = os.open(slot / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(sources)
    os.environ["TMPDIR"] = str(slot / "tmp")
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # two mutants in a second look alike to it
    sys.dont_write_bytecode = True
    tempfile.tempdir = None
    sys.path[:] = [sources, *(path for path in sys.path if path not in ("", str(SOURCES)))]
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]
    os.environ["RELAY_TEST_ORDERS"] = ORDERS
    for module in tests:
        (slot / "told").write_text(f"{module} time")
        signal.alarm(SECONDS)  # both end the process
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        suite = unittest.defaultTestLoader.loadTestsFromName(f"tests.{module}")
        result = unittest.TextTestRunner(failfast=True, warnings="error").run(suite)
        if not result.wasSuccessful():
            bad = [test.id() for test, _ in result.failures + result.errors]
            (slot / "told").write_text(f"{module} {bad[0] if bad else 'unexpected success'}")
            return 1
    return 0


def ended(run: Run) -> Verdict | None:
    """What came of a run if it is over; the sources are then as they were."""
    over = os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if over is None:
        return None
    stop(run)
    told, _, test = (run.slot / "told").read_text().partition(" ")
    seconds = time.monotonic() - run.began
    if over.si_status == 0 and over.si_code == os.CLD_EXITED:
        return Verdict(run.file, run.mutant, "", "", seconds)
    return Verdict(run.file, run.mutant, told or "start", test, seconds)


def stop(run: Run) -> None:
    """Ends a run and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)
    os.kill(run.pid, signal.SIGKILL)  # it may have no group of its own yet
    os.waitpid(run.pid, 0)
    if run.mutant is not None:
        _target(run.slot, run.file).write_text(run.source)


Job = tuple[str, "Mutant | None", "tuple[str, ...]"]


def run_all(jobs: Sequence[Job], slots: Sequence[Path]) -> Iterator[Verdict]:
    """Runs all, one in each slot at a time."""
    left, free, running = list(reversed(jobs)), list(slots), list[Run]()
    try:
        while left or running:
            while left and free:
                running.append(start(free.pop(), *left.pop()))
            time.sleep(0.02)
            for run in list(running):
                verdict = ended(run)
                if verdict is not None:
                    running.remove(run)
                    free.append(run.slot)
                    yield verdict
    finally:
        for run in running:
            stop(run)


def make_slots(folder: Path) -> list[Path]:
    """Copies of the sources."""
    slots = [folder / f"slot{number}" for number in range(AT_ONCE)]
    for slot in slots:
        shutil.copytree(SOURCES, slot / "python_source_files")
        for name in (".ci", "README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks", "docs"):
            (slot / name).symlink_to(SOURCES.parent / name)
    return slots


# Telling.


def listed_survivors() -> dict[str, str]:
    """The reason of each mutant that may survive, by file and name."""
    found: dict[str, str] = {}
    for line in LISTED.read_text().splitlines():
        if line and not line.startswith("#"):
            name, _, reason = line.rpartition(" | ")
            found[name] = reason
    return found


def tell(words: str) -> None:
    """Says something at once."""
    sys.stdout.write(words + "\n")
    sys.stdout.flush()


def baseline(modules: set[str], slots: Sequence[Path]) -> bool:
    """Whether those tests pass that have failed: else it was not the mutants that they noticed."""
    jobs: list[Job] = [("", None, (module,)) for module in sorted(modules)]
    bad = [verdict for verdict in run_all(jobs, slots) if verdict.module]
    for verdict in bad:
        tell(f"FAILS WITHOUT A MUTANT: {verdict.module} {verdict.test}")
    return not bad


def run(asked: argparse.Namespace, slots: Sequence[Path]) -> bool:
    """Tries the mutants that are asked for; whether none survives that is not listed."""
    allowed = listed_survivors()
    jobs: list[Job] = []
    counts: dict[str, Counter[str]] = {}
    for file, tests in TESTS.items():
        if not asked.file or file in asked.file:
            mutants = mutants_of((SOURCES / PACKAGE / file).read_text())
            some = chosen(mutants, asked.seed, asked.per_file)
            left = [one for one in some if f"{file} | {one.name}" not in allowed]
            jobs += [(file, mutant, tests) for mutant in left if asked.only in mutant.name]
            counts[file] = Counter(listed=len(some) - len(left))
            tell(f"{file}: {len(some)} of {len(mutants)} mutants")
    killers: set[str] = set()
    for verdict in run_all(jobs, slots):
        assert verdict.mutant is not None
        kind = "killed" if verdict.module else "SURVIVED"
        counts[verdict.file][kind] += 1
        if verdict.module:
            killers.add(verdict.module)
        if kind == "SURVIVED" or asked.all:
            what = f"{verdict.file}:{verdict.mutant.line} | {verdict.mutant.name}"
            tell(f"{kind} {verdict.seconds:.1f} s {verdict.module} {verdict.test} {what}")
    for file, count in counts.items():
        tell(f"{file}: " + ", ".join(f"{number} {kind}" for kind, number in count.items()))
    total = sum(counts.values(), Counter())
    share = total["killed"] / max(sum(total.values()), 1)
    tell(f"all: {dict(total)}, {share:.1%} killed")
    return baseline(killers, slots) and not total["SURVIVED"]


def main() -> int:
    """Run it and say who survived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--per-file", type=int, default=5, help="mutants of each module")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--file", action="append", choices=TESTS, help="only this module")
    parser.add_argument("--only", default="", help="only mutants whose name has this in it")
    parser.add_argument("--all", action="store_true", help="tell of those killed, too")
    asked = parser.parse_args()
    settings.register_profile("found", phases=(Phase.explicit, Phase.generate), database=None)
    settings.load_profile("found")  # one example is enough, however long
    with tempfile.TemporaryDirectory(prefix="relay-mutants-") as folder:
        return 0 if run(asked, make_slots(Path(folder))) else 1


if __name__ == "__main__":
    sys.exit(main())
