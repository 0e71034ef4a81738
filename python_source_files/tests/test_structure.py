"""The rooms of the package: who may import whom, and what the pure rooms may never touch."""

from __future__ import annotations

import ast
import unittest
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1] / "api_relaying_server"
NAME = "api_relaying_server"

# From the ground up: a room imports only from rooms above it in this list, or from itself.
ROOMS = (
    ("errors",),
    ("http1",),
    ("caching",),
    ("memory",),
    ("messages", "coordination"),
    ("stores",),
    ("upstream",),
    ("relaying",),
    ("serving",),
    ("cluster",),
    ("stores.databases",),
    ("operations",),
    ("configuration",),
    ("settings",),
    ("checking", "rereading"),
    ("early",),
    ("allocator", "collector", "process"),
    ("assembly",),
    ("one_process",),
    ("cluster.child_process", "cluster.supervisor", "cluster.workers"),
    ("cli",),
    ("__main__",),
)

ON_DEMAND = {("stores.store", "stores.databases.shared_store")}
"""Who imports what from a room below it, and only when somebody asks for that room."""

PURE = ("http1", "caching")
NOT_PURE = {"time", "threading", "socket", "requests", "requests_cache", "select", "random", "os"}

LIBRARIES = ("stores", "upstream")
LIBRARY_NAMES = {"requests", "requests_cache", "urllib3"}


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package by its name below it, with its syntax tree."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        yield name.replace(".__init__", ""), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """The modules that a module imports, wherever in it, but not those for its types alone."""
    found: set[str] = set()
    for node in _nodes(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        yield child
        yield from _nodes(child)


def room_of(module: str) -> int:
    """The place of a module's room in the order: the most particular name that fits."""
    best, place = -1, -1
    for index, names in enumerate(ROOMS):
        for name in names:
            if (module == name or module.startswith(name + ".")) and len(name) > best:
                best, place = len(name), index
    return place


class RoomsTest(unittest.TestCase):
    """Imports go one way."""

    def test_every_module_has_a_room(self) -> None:
        homeless = [name for name, _ in modules() if name != "__init__" and room_of(name) < 0]
        self.assertEqual(homeless, [])

    def test_imports_go_up_only(self) -> None:
        wrong = []
        for name, tree in modules():
            for other in imported(tree):
                if other.startswith(NAME + "."):
                    below = other[len(NAME) + 1 :]
                    if room_of(below) > room_of(name) and (name, below) not in ON_DEMAND:
                        wrong.append(f"{name} imports {below}")
        self.assertEqual(wrong, [])

    def test_rules_touch_no_clock_socket_or_thread(self) -> None:
        wrong = []
        for name, tree in modules():
            if name.partition(".")[0] in PURE:
                touched = {other.partition(".")[0] for other in imported(tree)} & NOT_PURE
                wrong += [f"{name} imports {other}" for other in sorted(touched)]
        self.assertEqual(wrong, [])

    def test_requests_is_known_to_stores_and_upstream_alone(self) -> None:
        wrong = []
        for name, tree in modules():
            if name.partition(".")[0] not in LIBRARIES:
                touched = {other.partition(".")[0] for other in imported(tree)} & LIBRARY_NAMES
                wrong += [f"{name} imports {other}" for other in sorted(touched)]
        self.assertEqual(wrong, [])

    def test_only_the_command_and_the_assembly_see_the_settings(self) -> None:
        seers = {name for name, tree in modules() if f"{NAME}.settings" in imported(tree)}
        self.assertLessEqual(
            seers, {"assembly", "checking", "cli", "one_process", "rereading", "cluster.workers"}
        )

    def test_no_function_is_longer_than_a_screen(self) -> None:
        long = []
        for name, tree in modules():
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef) and node.end_lineno is not None:
                    length = node.end_lineno - node.lineno + 1
                    if length > 50:
                        long.append(f"{name}.{node.name}: {length} lines")
        self.assertEqual(long, [])


if __name__ == "__main__":
    unittest.main()
