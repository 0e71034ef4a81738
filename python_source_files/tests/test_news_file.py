"""The file in which relays on one store tell each other something."""

from __future__ import annotations

import multiprocessing
import os
import stat
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from api_relaying_server.stores import news_file
from api_relaying_server.stores.news_file import NO_NEWS, NewsFile

WRITERS, LINES = 4, 200


def write_lines(path: str, writer: int) -> None:
    """What a process of a relay writes."""
    file = NewsFile(path)
    for number in range(LINES):
        file.write(b"%d %d" % (writer, number))


class NewsFileTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "store-news"
        self.file = NewsFile(str(self.path))

    def reader(self) -> NewsFile:
        """Another process's."""
        return NewsFile(str(self.path))

    def test_each_line_is_read_once(self) -> None:
        reader = self.reader()
        self.assertEqual(reader.read(), NO_NEWS)
        self.assertFalse(self.path.exists())  # a relay that only reads leaves nothing behind
        self.file.write(b"one")
        self.file.write(b"two")
        self.assertEqual(reader.read(), ([b"one", b"two"], False))
        self.assertEqual(reader.read(), NO_NEWS)
        self.file.write(b"three")
        self.assertEqual(reader.read(), ([b"three"], False))

    def test_the_first_time_all_that_is_there_is_read(self) -> None:
        self.file.write(b"one")
        self.assertEqual(self.reader().read(), ([b"one"], False))

    def test_nobody_else_may_read_it(self) -> None:
        self.file.write(b"/secret")
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)

    def test_a_file_that_has_just_been_made_has_no_news(self) -> None:
        self.path.touch()
        reader = self.reader()
        self.assertEqual(reader.read(), NO_NEWS)
        self.file.write(b"one")
        self.assertEqual(reader.read(), ([b"one"], False))

    def test_what_is_no_file_of_news_is_an_error(self) -> None:
        self.path.write_bytes(b"something else\n")
        with self.assertRaises(OSError):
            self.reader().read()

    def test_a_reader_that_keeps_up_misses_nothing_when_the_file_is_shortened(self) -> None:
        reader = self.reader()
        read: list[bytes] = []
        with mock.patch.object(news_file, "MOST", 400):
            for number in range(100):
                self.file.write(b"line %d" % number)
                self.assertLess(self.path.stat().st_size, 500)
                if number % 10 == 0:
                    lines, missed = reader.read()
                    self.assertFalse(missed)
                    read += lines
        lines, missed = reader.read()
        self.assertEqual(([*read, *lines], missed), ([b"line %d" % n for n in range(100)], False))

    def test_a_reader_that_does_not_keep_up_knows_it(self) -> None:
        reader = self.reader()
        self.file.write(b"first")
        reader.read()
        with mock.patch.object(news_file, "MOST", 400):
            for number in range(100):
                self.file.write(b"line %d" % number)
        lines, missed = reader.read()
        self.assertTrue(missed)
        self.assertEqual(lines[-1], b"line 99")
        self.file.write(b"last")
        self.assertEqual(reader.read(), ([b"last"], False))

    def test_a_reader_knows_of_a_file_that_was_deleted(self) -> None:
        reader = self.reader()
        self.file.write(b"one")
        reader.read()
        self.path.unlink()
        self.assertEqual(reader.read(), NO_NEWS)
        self.file.write(b"two")
        self.file.write(b"three")
        self.assertEqual(reader.read(), ([b"two", b"three"], True))

    def test_a_full_disk_leaves_no_half_of_a_line(self) -> None:
        self.file.write(b"one")
        write = os.write

        def cut(handle: int, data: bytes) -> int:
            return write(handle, data[:2])

        with mock.patch.object(os, "write", cut), self.assertRaises(OSError):
            self.file.write(b"two")
        self.file.write(b"three")
        self.assertEqual(self.reader().read(), ([b"one", b"three"], False))

    def test_a_writer_waits_for_another_one_so_long(self) -> None:
        with mock.patch.object(news_file, "LOCKED_WITHIN", 0.0), self.file._locked():
            with self.assertRaises(OSError):
                self.reader().write(b"two")

    def test_a_writer_whose_file_is_replaced_meanwhile_writes_into_the_new_one(self) -> None:
        self.file.write(b"one")
        lock, reader = news_file._lock, self.reader()
        reader.read()

        def late(handle: int, until: float) -> None:
            with (
                mock.patch.object(news_file, "_lock", lock),
                mock.patch.object(news_file, "MOST", 0),
            ):
                self.reader().write(b"two")  # and replaces the file
            patched.stop()
            lock(handle, until)

        patched = mock.patch.object(news_file, "_lock", late)
        patched.start()
        self.file.write(b"three")
        self.assertEqual(reader.read(), ([b"two", b"three"], False))

    def test_processes_lose_none_of_each_others_lines(self) -> None:
        reader = self.reader()
        read: list[bytes] = []
        context = multiprocessing.get_context("spawn")
        writers = [
            context.Process(target=write_lines, args=(str(self.path), number))
            for number in range(WRITERS)
        ]
        for writer in writers:
            writer.start()
        for writer in writers:
            while writer.is_alive():
                lines, missed = reader.read()
                self.assertFalse(missed)
                read += lines
                writer.join(0.001)
        read += reader.read().lines
        for number in range(WRITERS):
            mine = [line for line in read if line.startswith(b"%d " % number)]
            self.assertEqual(mine, [b"%d %d" % (number, line) for line in range(LINES)])


if __name__ == "__main__":
    unittest.main()
