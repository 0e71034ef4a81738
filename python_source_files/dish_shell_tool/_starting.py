"""Starts a relay in the background, as a process of its own that outlives the call."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from importlib.util import find_spec

from dish_shell_tool._outcome import Exit, Failure
from dish_shell_tool._relay_http import RelayAddress

_PACKAGE = "api_relaying_server"
LONGEST_START_S = 20.0
_LONGEST_REASON = 300


def can_start(address: RelayAddress) -> bool:
    """Return whether a relay started here could be reached at `address`."""
    return address.scheme == "http" and address.on_this_machine and not address.base_path


def start_relay(address: RelayAddress, log_path: str) -> int:
    """Start a relay at `address`, wait until it answers, return its process id; Failure.

    What it writes goes to `log_path`. It takes its settings from the environment and its defaults.
    """
    spec = find_spec(_PACKAGE)  # looks for the package, does not run it
    if spec is None or not spec.submodule_search_locations:
        raise Failure(Exit.FAILED, f"cannot start a relay: {_PACKAGE} is not installed here")
    folder = os.path.dirname(os.path.abspath(spec.submodule_search_locations[0]))
    command = [sys.executable, "-m", _PACKAGE]
    command += ["--host", address.host, "--port", str(address.port)]
    try:
        os.makedirs(os.path.dirname(log_path), exist_ok=True)
        with open(log_path, "wb") as log:
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # an interrupt of this call is none of the relay's
            )
    except OSError as error:
        raise Failure(Exit.FAILED, f"cannot start a relay: {error.strerror}") from None
    _wait_for(process, address, log_path)
    process.returncode = 0  # it runs on: this process is not to complain that it was not awaited
    return process.pid


def _wait_for(process: subprocess.Popen[bytes], address: RelayAddress, log_path: str) -> None:
    deadline = time.monotonic() + LONGEST_START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failure(Exit.FAILED, f"the relay did not start: {_last_line(log_path)}")
        try:
            socket.create_connection((address.host, address.port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    process.terminate()
    process.wait()
    raise Failure(
        Exit.FAILED, f"the relay did not answer within {LONGEST_START_S:g} s; see {log_path}"
    )


def _last_line(log_path: str) -> str:
    with open(log_path, "rb") as log:
        lines = log.read(1_000_000).decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:_LONGEST_REASON] if lines else "it said nothing"
