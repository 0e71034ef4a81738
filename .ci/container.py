"""Run the image as `docker run IMAGE --demo` would, and check that it does what it promises.

Meant for a network of its own, without a way out: then the port is free, and `--demo` shows that
it needs nothing from outside.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from answers import CheckFailed, check, restaurants_from

IMAGE = "api_relaying_server"
PORT = 9000  # by a flag behind the image's name: the image itself has another one
CACHE_FILE = "var/cache/api_relaying_server/cache.sqlite3"
FIRST_ANSWER_SECONDS = 30.0
# Less than `--drain`: nothing is in flight when it is told to stop.
STOP_SECONDS = 12.0


def image_tool(*arguments: str) -> list[str]:
    """Return the buildah command line that works on the images of this run."""
    work = os.environ["WORK"]
    storage = ["--root", f"{work}/images", "--runroot", f"{work}/images-run"]
    return ["buildah", "--storage-driver", "vfs", *storage, *arguments]


def output_of(command: list[str]) -> str:
    """Return what the command prints; raise CalledProcessError if it fails."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def inside(container: str, command: list[str]) -> list[str]:
    """Return the command line that runs a command in the container, with the image's settings."""
    return image_tool(
        "run", "--isolation", "chroot", "--network", "host", container, "--", *command
    )


def processes_below(pid: int) -> Iterator[int]:
    """Yield the ids of all descendants, parents before children."""
    # Each thread has its own children.
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield int(child)
            yield from processes_below(int(child))


def relay_process(container_run: subprocess.Popen[bytes]) -> int:
    """Return the id of the first process in the container: below those of buildah itself."""
    for pid in processes_below(container_run.pid):
        name = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0]
        if b"buildah" not in name:
            return pid
    raise CheckFailed("no process runs in the container")


def check_answers(container_run: subprocess.Popen[bytes]) -> None:
    """The first request is answered in time; the second comes from the cache."""
    restaurants_from(PORT, container_run, FIRST_ANSWER_SECONDS)
    fields = restaurants_from(PORT, container_run, FIRST_ANSWER_SECONDS)
    status = fields.get("Cache-Status", "")
    check("; hit" in status, f"the second answer is no hit: Cache-Status: {status}")


def check_user(pid: int) -> None:
    """The relay is not root, and the cache in the volume is its own."""
    status = Path(f"/proc/{pid}/status").read_text()
    user = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Uid:"))
    check(user != 0, "the relay runs as root")
    cache = Path(f"/proc/{pid}/root") / CACHE_FILE
    check(cache.exists(), f"no cache at /{CACHE_FILE}")
    check(cache.stat().st_uid == user, f"/{CACHE_FILE} belongs to {cache.stat().st_uid}")


@contextmanager
def mounted(*words: str) -> Iterator[None]:
    """A mount while the block runs; the last word is the place."""
    subprocess.run(["mount", *words], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", words[-1]], check=True)


def check_read_only(container: str, config: dict[str, Any]) -> None:
    """With a root that is read-only it works as long as its volume is not, or with no store; else
    it says in one line what it cannot write.
    """
    root = output_of(image_tool("mount", container))
    environ = dict(text.split("=", 1) for text in config["Env"])
    user = config["User"]
    command = ["chroot", f"--userspec={user}", root, *config["Entrypoint"], "--demo"]
    command += ["--port", str(PORT)]
    volume = f"{root}/{CACHE_FILE.rpartition('/')[0]}"
    with ExitStack() as stack:
        stack.enter_context(mounted("--bind", root, root))
        for name in ("proc", "dev"):
            stack.enter_context(mounted("--bind", f"/{name}", f"{root}/{name}"))
        subprocess.run(["mount", "-o", "remount,bind,ro", root], check=True)
        options = "uid={},gid={},mode=700".format(*user.split(":"))
        with mounted("-t", "tmpfs", "-o", options, "tmpfs", volume):
            answer_and_stop(command, environ)
            check(Path(volume, CACHE_FILE.rpartition("/")[2]).exists(), "nothing was stored")
        answer_and_stop([*command, "--cache", "memory://"], environ)
        done = subprocess.run(command, env=environ, stderr=subprocess.PIPE, text=True)
        check(done.returncode == 1, f"it ended with {done.returncode}")
        last = done.stderr.splitlines()[-1]
        check("Read-only file system" in last, f"it does not say what is wrong: {done.stderr}")
        sys.stdout.write(last + "\n")


def answer_and_stop(command: list[str], environ: dict[str, str]) -> None:
    """The relay answers, and `SIGTERM` stops it."""
    relay = subprocess.Popen(command, env=environ)
    try:
        restaurants_from(PORT, relay, FIRST_ANSWER_SECONDS)
        relay.terminate()
        code = relay.wait(STOP_SECONDS)
        check(code == 0, f"SIGTERM: the relay ended with {code}")
    finally:
        relay.kill()
        relay.wait()


def check_commands(container: str) -> None:
    """The other commands work with what is left of the libraries; --compress has its codings."""
    url = f"http://127.0.0.1:{PORT}"
    for command, told in (
        (["list-dishes", "--relay", url], "Kopparlyktan"),
        (["api-relaying-server", "status", "--admin", f"http://127.0.0.1:{PORT + 1}"], "requests"),
        (["api-relaying-server", "warm", "--relay", url], "0 failed"),
        (
            ["api-relaying-server", "--check", "--demo", "--compress"],
            "compresses with br, zstd, gzip",
        ),
    ):
        said = output_of(inside(container, command))
        check(told in said, f"{' '.join(command)} says: {said}")


def check_labels(config: dict[str, Any]) -> None:
    """The image says what it is, and of which version and commit."""
    labels = config["Labels"]
    known = {name.rpartition(".")[2]: text for name, text in labels.items()}
    check(known.get("title") == IMAGE, f"labels: {labels}")
    told = subprocess.run(
        [f"{os.environ['WORK']}/tools-{os.environ['NEWEST']}/bin/api-relaying-server", "--version"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    check(f" {known['version']} " in told, f"the label says {known['version']}, the relay {told}")
    check(known["revision"] not in ("", "unknown"), "no commit in the labels")


def main() -> None:
    """Do what the module says."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    inspect = image_tool("inspect", "--type", "image", IMAGE)
    config: dict[str, Any] = json.loads(output_of(inspect))["Docker"]["config"]
    check(config["User"] not in ("", "0", "root"), "the image's user is root")
    check_labels(config)
    check(list(config["Volumes"]) == [f"/{CACHE_FILE.rpartition('/')[0]}"], "no volume for it")
    container = output_of(image_tool("from", "--pull-never", IMAGE))
    health = inside(container, config["Healthcheck"]["Test"][1:])
    # The admin address is not where the image has it, so the health check has to find it.
    flags = ["--demo", "--port", str(PORT), "--admin", f"127.0.0.1:{PORT + 1}"]
    container_run = subprocess.Popen(inside(container, [*config["Entrypoint"], *flags]))
    check_answers(container_run)
    relay = relay_process(container_run)
    check_user(relay)
    check(subprocess.run(health).returncode == 0, "HEALTHCHECK fails while the relay is well")
    check_commands(container)
    started = time.monotonic()
    os.kill(relay, signal.SIGTERM)
    code = container_run.wait(STOP_SECONDS)
    sys.stdout.write(f"stopped after {time.monotonic() - started:.1f} s\n")
    check(code == 0, f"SIGTERM: the relay ended with {code}")
    gone = subprocess.run(health, stderr=subprocess.DEVNULL).returncode
    check(gone != 0, "HEALTHCHECK passes without a relay")
    check_read_only(container, config)


if __name__ == "__main__":
    try:
        main()
    except (CheckFailed, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"container.py: {error}")
