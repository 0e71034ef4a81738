"""TLS towards the upstream: whom it trusts, with which certificate it shows itself, and what its
failures are called.
"""

from __future__ import annotations

import os
import re
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from api_relaying_server.errors import UpstreamCertificateError, UpstreamTlsAlert, UpstreamTlsError

_CERTIFICATE = re.compile(b"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)

# Python names it from 3.10 on.
_PARTIAL_CHAIN = ssl.VerifyFlags(0x80000)

_ALERT = re.compile("ALERT|^(SSLV3|TLSV1|TLSV13)_")
"""In the reasons that OpenSSL gives for an error: those of alerts from the other side."""


def client_context(
    authorities: bytes | None = None, certificate: bytes | None = None, key: bytes | None = None
) -> ssl.SSLContext:
    """A client's TLS from 1.2 on that checks certificate and name of the other side. All are in
    PEM. `authorities` take the place of the system's, and those in between count, too, as with
    curl's `--cacert`; a `certificate` may have its key in the same text.

    Raises ValueError with what is wrong with them, and OSError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 9525, 6.3: names stand in subjectAltName
    context.post_handshake_auth = True  # some want a client certificate for certain paths only
    if authorities is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=certificates_in(authorities))
        context.verify_flags |= _PARTIAL_CHAIN
    if certificate is not None:
        show_certificate(context, certificate, key)
    return context


def show_certificate(context: ssl.SSLContext, certificate: bytes, key: bytes | None) -> None:
    """Has this side show a certificate, whose key may stand in the same text. ValueError says
    what is wrong with the key.
    """
    mend = "give the key of that certificate"
    with _as_file(certificate) as certificate_file, _as_file(key or certificate) as key_file:
        try:
            context.load_cert_chain(certificate_file, key_file, password=_no_passphrase)
        except ssl.SSLError as wrong:
            if wrong.reason == "KEY_VALUES_MISMATCH":
                raise ValueError(f"does not match the certificate; {mend}") from None
            raise ValueError(f"cannot be used ({_reason(wrong)}); {mend}") from None


def certificates_in(pem: bytes) -> str:
    """The certificates in a text, without what stands between them. ValueError says why one cannot
    be read.
    """
    found = b"\n".join(_CERTIFICATE.findall(pem)).decode("ascii", "replace")
    if not found:
        raise ValueError("there is none in it")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=found)
    except ssl.SSLError as wrong:
        raise ValueError(_reason(wrong)) from None
    return found


def _no_passphrase() -> str:
    raise ValueError("is encrypted; write it without: openssl pkey -in FILE -out NEW")


def _reason(error: ssl.SSLError) -> str:
    return str(error.reason or error.args[-1]).replace("_", " ").lower()


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """The name of a file in memory: the library takes a certificate's key from files only."""
    if hasattr(os, "memfd_create"):
        file = open(os.memfd_create("pem"), "w+b")
    else:
        file = tempfile.TemporaryFile()
    with file:
        file.write(content)
        file.flush()
        file.seek(0)
        yield f"/dev/fd/{file.fileno()}"


# What a failure is called (RFC 9209, 2.3).


def is_alert(error: BaseException) -> bool:
    """True where the other side has ended TLS with an alert."""
    reason = getattr(error, "reason", None)
    return isinstance(error, ssl.SSLError) and _ALERT.search(str(reason)) is not None


def tls_error_of(error: BaseException) -> UpstreamTlsError:
    """The error for clients: details of certificates are not for them."""
    if error.args and isinstance(error.args[0], ssl.SSLError):
        error = error.args[0]  # within one of urllib3
    if isinstance(error, ssl.SSLCertVerificationError):
        return UpstreamCertificateError("the upstream's certificate is not valid here")
    if is_alert(error):
        return UpstreamTlsAlert("the upstream ended the TLS handshake with an alert")
    return UpstreamTlsError("the TLS handshake with the upstream failed")
