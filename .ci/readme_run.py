"""Run the README's run command in a fresh copy of the tree, ask it, and stop it.

The first answer must come within a minute, all that the command installs included.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from answers import CheckFailed, check, restaurants_from
from readme_command import README, command_after

USUAL_PORT = 8000
FIRST_ANSWER_SECONDS = 60.0
STOP_SECONDS = 20.0


def port_to_use() -> int:
    """Return the relay's usual port, or a free one if something else has that."""
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise CheckFailed("no free port")


def group_is_alive(group: int) -> bool:
    """Tell whether a process of the group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def stop(server: subprocess.Popen[bytes]) -> None:
    """Send SIGTERM to the command and all that it started; all must end in time."""
    os.killpg(server.pid, signal.SIGTERM)
    server.wait(STOP_SECONDS)
    deadline = time.monotonic() + STOP_SECONDS
    while group_is_alive(server.pid):
        check(time.monotonic() < deadline, f"not stopped by SIGTERM within {STOP_SECONDS:.0f} s")
        time.sleep(0.05)


def main() -> None:
    """Do what the module says."""
    command = command_after("run-command", README.read_text(encoding="utf-8"))
    sys.stdout.write(command)
    sys.stdout.flush()
    work = Path(os.environ["WORK"])
    copy = work / "run"
    with tarfile.open(os.environ["TREE"]) as tree:
        tree.extractall(copy)  # our own archive, made by .ci/run
    environment = {**os.environ, "RELAY_CACHE": f"sqlite:///{work}/run.sqlite3"}
    port = port_to_use()
    if port != USUAL_PORT:
        environment["RELAY_PORT"] = str(port)
    started = time.monotonic()
    server = subprocess.Popen(
        ["bash", "-c", command], cwd=copy, env=environment, start_new_session=True
    )
    restaurants_from(port, server, FIRST_ANSWER_SECONDS)
    sys.stdout.write(f"first answer after {time.monotonic() - started:.1f} s\n")
    stop(server)


if __name__ == "__main__":
    try:
        main()
    except (CheckFailed, LookupError, OSError, subprocess.TimeoutExpired) as error:
        sys.exit(f"readme_run.py: {error}")
