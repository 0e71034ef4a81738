"""Authorities and certificates that a test makes for itself, by the command `openssl`."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import unittest
from pathlib import Path
from typing import NamedTuple

if shutil.which("openssl") is None:
    raise unittest.SkipTest("needs the command openssl")

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


class Pair(NamedTuple):
    """The files of a certificate and of its key, in PEM."""

    certificate: Path
    key: Path

    @property
    def flags(self) -> tuple[str, ...]:
        """Has a relay show it to its upstream."""
        return "--upstream-cert", str(self.certificate), "--upstream-key", str(self.key)


class Authority:
    """A CA whose files lie in `folder`; one in between where it is itself `by` another one."""

    def __init__(self, folder: Path, name: str = "authority", by: Authority | None = None) -> None:
        self._folder = folder
        usage = "basicConstraints=critical,CA:true", "keyUsage=critical,keyCertSign"
        self._pair = _make(folder, name, usage, by)
        self.file = self._pair.certificate

    def issue(self, name: str = "localhost", alternative: str = "") -> Pair:
        """A certificate for a host, or for a client, of this name."""
        usage = "basicConstraints=critical,CA:false", "keyUsage=critical,digitalSignature"
        names = f"subjectAltName={alternative or f'DNS:{name}'}"
        return _make(self._folder, name, (names, *usage), self)

    def server(
        self, name: str = "localhost", chain: Path | None = None, alternative: str = ""
    ) -> ssl.SSLContext:
        """TLS for a server of this name, which shows the certificates in `chain`, too."""
        pair = self.issue(name, alternative)
        if chain is not None:
            pair.certificate.write_bytes(pair.certificate.read_bytes() + chain.read_bytes())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        return context

    def wants_clients_of(self, context: ssl.SSLContext) -> ssl.SSLContext:
        """The same, for clients with a certificate of this authority only."""
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.file)
        return context


def _make(folder: Path, name: str, extensions: tuple[str, ...], by: Authority | None) -> Pair:
    pair = Pair(folder / f"{name}.pem", folder / f"{name}.key")
    words = ["openssl", "req", "-x509", *_KEY, "-days", "3650", "-subj", f"/CN={name}"]
    words += ["-out", str(pair.certificate), "-keyout", str(pair.key)]
    for extension in extensions:
        words += ["-addext", extension]
    if by is not None:
        words += ["-CA", str(by._pair.certificate), "-CAkey", str(by._pair.key)]
    subprocess.run(words, check=True, capture_output=True)
    return pair


def make_expired(pair: Pair) -> None:
    """Makes the certificate one that ended yesterday, signed by its own key."""
    words = ["openssl", "x509", "-in", str(pair.certificate), "-signkey", str(pair.key)]
    words += ["-days", "-1", "-out", str(pair.certificate)]
    subprocess.run(words, check=True, capture_output=True)
