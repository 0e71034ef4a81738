"""The rules of the package: who may import whom, what the pure rooms may never touch, and what
every function, lock and module must have. A failure names the rule and says how to mend it.
"""

from __future__ import annotations

import ast
import functools
import re
import unittest
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "api_relaying_server"
NAME = "api_relaying_server"

# From the ground up: a room imports only from rooms above it in this list, or from itself.
CORE = (
    ("errors", "short_keys"),
    ("http1",),
    ("caching",),
    ("memory",),
    ("coordination",),
    ("turnstile",),
    ("stores",),
    ("upstream",),
    ("relaying",),
    ("serving",),
    ("counters", "figures"),
    ("configuration",),
    ("settings",),
    ("checking", "admin_address"),
    ("early", "importing", "version"),
    ("runtime", "process"),
    ("assembly",),
    ("asking",),
    ("one_process",),
    ("cli",),
    ("__main__",),
    ("manual",),
    ("attached",),
    ("testing",),
    ("pytest_plugin",),
)

# The relay runs without these (tests/test_without_rooms.py), so no module of the core imports them
# but in a function, where a setting asks for one.
OPTIONAL = (
    ("cluster",),
    ("stores.databases",),
    ("operations",),
    ("cluster.child_process", "cluster.supervisor"),
    ("cluster.workers", "cluster.admin_process"),
)

ON_REQUEST = {
    ("assembly", "operations"),
    ("cli", "cluster"),
    ("cli", "operations"),
    ("stores.store", "stores.databases"),
}
"""Who of the core imports what of an optional room, in a function."""

ROOMS = (*CORE, *OPTIONAL)

PURE = ("http1", "caching")
NOT_PURE = {"time", "threading", "socket", "requests", "requests_cache", "select", "random", "os"}

LIBRARIES = ("stores", "upstream")
LIBRARY_NAMES = {"requests", "requests_cache", "urllib3"}

MOST_LINES = 50  # of a function: a screen
MOST_PARAMETERS = 5  # without self or cls

LOCKS = {"Lock", "RLock", "Condition", "Semaphore", "BoundedSemaphore", "Mutex"}

GUARDS = re.compile(r"\b[Gg]uards (?:changes of |writing to )?(`?\w+`?(?:, `?\w+`?(?=[,.:;]|$))*)")
"""What a lock guards: one name, or several with commas between them."""

Function = (ast.FunctionDef, ast.AsyncFunctionDef)


@functools.cache
def modules() -> list[tuple[str, ast.Module]]:
    """Every module of the package by its name below it, with its syntax tree."""
    return [(name, ast.parse(text)) for name, text in sources()]


@functools.cache
def sources() -> list[tuple[str, str]]:
    """Every module of the package by its name below it, with its text."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found.append((name.replace(".__init__", ""), path.read_text(encoding="utf-8")))
    return found


def imported(tree: ast.AST, at_once: bool = False) -> set[str]:
    """The modules that a module imports, but not those for its types alone; wherever in it, or only
    those `at_once`, when it is imported itself.
    """
    found: set[str] = set()
    for node in _nodes(tree, at_once):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _nodes(tree: ast.AST, at_once: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if at_once and isinstance(child, Function):
            continue
        yield child
        yield from _nodes(child, at_once)


def place_in(module: str, rooms: tuple[tuple[str, ...], ...]) -> int:
    """The place of a module's room in a list: the most particular name that fits; -1 if none."""
    best, place = -1, -1
    for index, names in enumerate(rooms):
        for name in names:
            if (module == name or module.startswith(name + ".")) and len(name) > best:
                best, place = len(name), index
    return place


def is_optional(module: str) -> bool:
    """True for a module of an optional room."""
    return place_in(module, ROOMS) >= len(CORE)


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of the package by the name of its module, class and function."""
    for name, tree in modules():
        yield from _functions(name, tree)


def _functions(path: str, tree: ast.AST) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef):
            yield f"{path}.{child.name}", child
        named = isinstance(child, (ast.FunctionDef, ast.ClassDef))
        yield from _functions(f"{path}.{child.name}" if named else path, child)  # type: ignore[attr-defined]


def parameters_of(function: ast.FunctionDef) -> int:
    """How many parameters a function has, without self and cls."""
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


class StructureCase(unittest.TestCase):
    def assert_kept(self, rule: str, mend: str, broken: list[str]) -> None:
        """No place where a rule is broken; else it is named, and the way to mend it."""
        if broken:
            places = "\n  ".join(broken)
            self.fail(f"\nThe rule: {rule}\nIt is broken here:\n  {places}\nHow to mend it: {mend}")


class RoomsTest(StructureCase):
    """Imports go one way."""

    def test_every_module_has_a_room(self) -> None:
        self.assert_kept(
            "every module belongs to a room",
            "put the file into a folder that is a room, or its name into CORE in this file",
            [name for name, _ in modules() if name != "__init__" and place_in(name, ROOMS) < 0],
        )

    def test_imports_go_up_only(self) -> None:
        wrong = []
        for name, tree in modules():
            for other in _ours(imported(tree)):
                late = place_in(other, ROOMS) > place_in(name, ROOMS)
                if late and not (is_optional(other) and not is_optional(name)):
                    wrong.append(f"{name} imports {other}")
        self.assert_kept(
            "a room imports only from rooms above it in CORE and OPTIONAL in this file",
            "hand the object in as an argument, or move what is needed to a room above",
            wrong,
        )

    def test_the_core_imports_no_optional_room(self) -> None:
        wrong = []
        for name, tree in modules():
            if is_optional(name) or name == "__init__":
                continue
            optional = {other for other in _ours(imported(tree)) if is_optional(other)}
            at_once = imported(tree, at_once=True)
            for other in sorted(optional):
                on_request = any(name == who and other.startswith(what) for who, what in ON_REQUEST)
                if f"{NAME}.{other}" in at_once or not on_request:
                    wrong.append(f"{name} imports {other}")
        self.assert_kept(
            "the core runs without cluster/, stores/databases/ and operations/",
            "let assembly.py hand the object in; it imports the room in the function that a "
            "setting leads to, and checking.py says which setting needs it",
            wrong,
        )

    def test_rules_touch_no_clock_socket_or_thread(self) -> None:
        wrong = []
        for name, tree in modules():
            if name.partition(".")[0] in PURE:
                touched = {other.partition(".")[0] for other in imported(tree)} & NOT_PURE
                wrong += [f"{name} imports {other}" for other in sorted(touched)]
        self.assert_kept(
            "http1/ and caching/ touch no clock, socket or thread",
            "take the time as an argument `now`, and the bytes as an argument",
            wrong,
        )

    def test_requests_is_known_to_stores_and_upstream_alone(self) -> None:
        wrong = []
        for name, tree in modules():
            if name.partition(".")[0] not in LIBRARIES:
                touched = {other.partition(".")[0] for other in imported(tree)} & LIBRARY_NAMES
                wrong += [f"{name} imports {other}" for other in sorted(touched)]
        self.assert_kept(
            "only stores/ and upstream/ import requests, requests_cache and urllib3",
            "use what upstream/ and stores/ offer",
            wrong,
        )

    def test_only_the_command_and_the_assembly_see_the_settings(self) -> None:
        may = {"assembly", "asking", "checking", "cli", "one_process", "cluster.workers", "manual"}
        may |= {"admin_address", "cluster.admin_process"}
        may |= {"operations.health"}  # those of another process
        seers = {name for name, tree in modules() if f"{NAME}.settings" in imported(tree)}
        self.assert_kept(
            "only the command and the assembly see the settings object",
            "take plain arguments, and let assembly.py read them from the settings",
            sorted(seers - may),
        )


def _ours(names: set[str]) -> set[str]:
    """Those of imported names that are modules of the package, by their names below it."""
    known = {name for name, _ in sources()}
    below = {name[len(NAME) + 1 :] for name in names if name.startswith(NAME + ".")}
    return below & known


class FunctionsTest(StructureCase):
    """What every function, module and lock has."""

    def test_no_function_is_longer_than_a_screen(self) -> None:
        wrong = []
        for name, function in functions():
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > MOST_LINES:
                wrong.append(f"{name}: {length} lines")
        self.assert_kept(
            f"a function has {MOST_LINES} lines at most", "give a part of it a name", wrong
        )

    def test_no_function_has_too_many_parameters(self) -> None:
        wrong = [name for name, each in functions() if parameters_of(each) > MOST_PARAMETERS]
        self.assert_kept(
            f"a function has {MOST_PARAMETERS} parameters at most, without self and cls",
            "give those that travel together a name: a NamedTuple, or an object with the method",
            wrong,
        )

    def test_every_lock_says_what_it_guards(self) -> None:
        wrong = []
        for name, text in sources():
            tree, lines = ast.parse(text), text.splitlines()
            for node in ast.walk(tree):
                if not isinstance(node, ast.Call) or not is_new_lock(node):
                    continue
                guarded = guarded_names(comment_at(lines, node.lineno))
                unknown = [each for each in guarded if each not in names_in(tree)]
                if not guarded or unknown:
                    line = lines[node.lineno - 1].strip()
                    wrong.append(f"{name}, line {node.lineno}: {line} {unknown or ''}")
        self.assert_kept(
            "every lock names the attributes or variables that it guards",
            "add `# guards _one, _other` behind it or in the lines above, or "
            "`# guards nothing: ...`",
            wrong,
        )

    def test_every_module_says_what_it_is(self) -> None:
        self.assert_kept(
            "every module opens with what it is for",
            "write a docstring of one sentence or more",
            [name for name, tree in modules() if not ast.get_docstring(tree)],
        )


def is_new_lock(call: ast.Call) -> bool:
    """True where a lock is made; a condition that is given one shares it."""
    name = _called(call)
    return name in LOCKS and not (name == "Condition" and call.args)


def comment_at(lines: list[str], number: int) -> str:
    """The comment behind a line, or the one in the lines above it."""
    behind = lines[number - 1].partition("  # ")[2]
    if behind:
        return behind
    above: list[str] = []
    for line in reversed(lines[: number - 1]):
        if not line.strip().startswith("#"):
            break
        above.insert(0, line.strip().lstrip("# "))
    return " ".join(above)


def guarded_names(comment: str) -> list[str]:
    """The words behind "guards" that must be names: the first, and those between commas."""
    found = GUARDS.search(comment)
    return re.findall(r"\w+", found[1]) if found else []


def names_in(tree: ast.AST) -> set[str]:
    """The attributes and variables of a module."""
    found = {"nothing"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
    return found


def _called(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


class RulesTest(unittest.TestCase):
    """The rules above see what they should."""

    def test_a_broken_rule_is_told_with_its_mend(self) -> None:
        with self.assertRaisesRegex(AssertionError, "The rule: r\nIt .*:\n  a\n  b\nHow .*: m"):
            StructureCase().assert_kept("r", "m", ["a", "b"])

    def test_imports_are_seen_wherever_they_are(self) -> None:
        tree = ast.parse(
            "from typing import TYPE_CHECKING\nimport a\nif TYPE_CHECKING:\n    import b\n"
            "def f():\n    from c import d\n"
        )
        self.assertEqual(imported(tree), {"typing", "typing.TYPE_CHECKING", "a", "c", "c.d"})
        self.assertEqual(imported(tree, at_once=True), {"typing", "typing.TYPE_CHECKING", "a"})

    def test_locks_are_known_by_the_names_behind_them(self) -> None:
        for comment, names in (
            ("guards `_idle`, `_closed`", ["_idle", "_closed"]),
            ("guards _held. Not held while it is asked.", ["_held"]),
            ("guards `_ring` among threads: no other", ["_ring"]),
            ("guards nothing: it wakes", ["nothing"]),
            ("guards changes of _a, _b, and of more", ["_a", "_b"]),
            ("guards the two below", ["the"]),
            ("one at a time", []),
            ("", []),
        ):
            with self.subTest(comment):
                self.assertEqual(guarded_names(comment), names)
        self.assertEqual(
            comment_at(["a", "# guards", "# `_b`", "_lock = Lock()"], 4), "guards `_b`"
        )

    def test_parameters_are_counted_without_self(self) -> None:
        (tree,) = ast.parse("def f(self, a, /, b, *args, c, d=1, **more): pass").body
        assert isinstance(tree, ast.FunctionDef)
        self.assertEqual(parameters_of(tree), 4)

    def test_rooms_are_known_by_their_most_particular_name(self) -> None:
        self.assertGreater(
            place_in("cluster.workers", ROOMS), place_in("cluster.fencing_tokens", ROOMS)
        )
        self.assertTrue(is_optional("stores.databases.redis"))
        self.assertFalse(is_optional("stores.store"))


if __name__ == "__main__":
    unittest.main()
