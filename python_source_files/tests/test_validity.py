"""From when to when a certificate is valid."""

from __future__ import annotations

import base64
import subprocess
import tempfile
import unittest
from pathlib import Path

from api_relaying_server.configuration.validity import Validity, shown, validity_of
from tests.certificates import Authority


def element(tag: int, content: bytes) -> bytes:
    """One of DER, with a length of one byte or of two."""
    size = len(content)
    return bytes((tag, size) if size < 128 else (tag, 0x82, size >> 8, size & 255)) + content


def certificate(*times: tuple[int, bytes], version: bool = True, issuer: int = 10) -> bytes:
    """As much of a certificate as is read, in PEM."""
    parts = [element(0xA0, element(2, b"\2"))] if version else []
    parts += [element(2, b"\1" * 20), element(0x30, b""), element(0x30, b"x" * issuer)]
    parts.append(element(0x30, b"".join(element(*each) for each in times)))
    data = element(0x30, element(0x30, b"".join(parts) + b"the rest"))
    text = base64.encodebytes(data)
    return b"-----BEGIN CERTIFICATE-----\n" + text + b"-----END CERTIFICATE-----\n"


BEGIN, END = (0x17, b"260101000000Z"), (0x18, b"20500102030405Z")


class ReadingTest(unittest.TestCase):
    def test_times_of_each_kind(self) -> None:
        for version in (True, False):
            for issuer in (10, 300):
                found = validity_of(certificate(BEGIN, END, version=version, issuer=issuer))
                self.assertEqual(shown(found.begin), "2026-01-01T00:00:00Z")
                self.assertEqual(shown(found.end), "2050-01-02T03:04:05Z")
        old = validity_of(certificate((0x17, b"500101000000Z"), (0x17, b"491231235959Z")))
        self.assertEqual(shown(old.begin), "1950-01-01T00:00:00Z")
        self.assertEqual(shown(old.end), "2049-12-31T23:59:59Z")
        never = validity_of(certificate(BEGIN, (0x18, b"99991231235959Z")))
        self.assertEqual(shown(never.end), "9999-12-31T23:59:59Z")

    def test_the_first_one_counts(self) -> None:
        other = certificate((0x17, b"270101000000Z"), END)
        found = validity_of(b"key\n" + certificate(BEGIN, END) + other)
        self.assertEqual(shown(found.begin), "2026-01-01T00:00:00Z")

    def test_what_cannot_be_read_is_told(self) -> None:
        whole = certificate(BEGIN, END)
        for pem in (
            b"",
            b"-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n",
            certificate(),
            certificate(BEGIN),
            certificate(BEGIN, (0x17, b"soon")),
            certificate(BEGIN, (0x04, b"260101000000Z")),
            certificate(BEGIN, (0x17, b"\xff" * 13)),
        ):
            with self.subTest(pem), self.assertRaises(ValueError):
                validity_of(pem)
        data = base64.b64decode(b"".join(whole.splitlines()[1:-1]))
        for size in range(80):
            cut = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(data[:size])
            with self.subTest(size), self.assertRaises(ValueError):
                validity_of(cut + b"-----END CERTIFICATE-----\n")

    def test_as_openssl_reads_it(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            pair = Authority(Path(folder)).issue()
            words = ["openssl", "x509", "-in", str(pair.certificate), "-noout", "-enddate"]
            told = subprocess.run(words, check=True, capture_output=True, text=True).stdout
            end = validity_of(pair.certificate.read_bytes()).end
            words = ["date", "-u", "-d", told.strip().partition("=")[2], "+%Y-%m-%dT%H:%M:%SZ"]
            self.assertEqual(
                shown(end), subprocess.run(words, capture_output=True, text=True).stdout.strip()
            )

    def test_what_is_wrong_with_it(self) -> None:
        valid = Validity(1000.0, 2000.0)
        for now in (1000.0, 1500.0, 2000.0):
            self.assertEqual(valid.fault(now), "")
        self.assertEqual(valid.fault(999.0), "is valid only from 1970-01-01T00:16:40Z on")
        self.assertEqual(valid.fault(2001.0), "expired at 1970-01-01T00:33:20Z")


if __name__ == "__main__":
    unittest.main()
