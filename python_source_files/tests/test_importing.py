"""How the relay imports: `api_relaying_server.importing`."""

from __future__ import annotations

import gc
import sys
import unittest
from unittest import mock

from api_relaying_server.importing import DRIVERS, FORMATS, quick_imports


class QuickImportsTest(unittest.TestCase):
    def test_what_is_not_used_seems_not_to_be_installed(self) -> None:
        there = {name: object() for name in DRIVERS[:1] + FORMATS[:1]}
        others = [name for name in (*DRIVERS, *FORMATS) if name not in there]
        with mock.patch.dict(sys.modules):
            for name in others:
                sys.modules.pop(name, None)
            sys.modules.update(there)  # type: ignore[arg-type]
            with quick_imports():
                for name in others:
                    with self.assertRaises(ImportError):
                        __import__(name)
            self.assertEqual([name for name in others if name in sys.modules], [])
            self.assertEqual({name: sys.modules[name] for name in there}, there)

    def test_what_the_block_imports_all_the_same_stays(self) -> None:
        name = FORMATS[0]
        with mock.patch.dict(sys.modules):
            sys.modules.pop(name, None)
            with quick_imports():
                sys.modules[name] = sys
            self.assertIs(sys.modules[name], sys)

    def test_cycles_are_collected_again_afterwards(self) -> None:
        self.assertTrue(gc.isenabled())
        with self.assertRaises(ImportError), quick_imports():
            self.assertFalse(gc.isenabled())
            raise ImportError
        self.assertTrue(gc.isenabled())

    def test_a_collector_that_was_off_stays_off(self) -> None:
        gc.disable()
        try:
            with quick_imports():
                pass
            self.assertFalse(gc.isenabled())
        finally:
            gc.enable()
