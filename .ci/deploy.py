"""Check the files of `deploy/` and compose.yaml, and run what they say as plain processes.

Kubernetes' schemas and the Compose specification come from packages (the extra `deploy`), systemd's
rules from its own tools. Meant for a mount and a network name space of its own: it mounts the
virtual environment of the Python that runs it at /opt/relay, where the unit expects it, and uses
the ports that the files name.
"""

from __future__ import annotations

import http.client
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any, Callable

import compose_spec
import kubernetes_validate
import yaml

from answers import CheckFailed, check

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
PROGRAM = "/opt/relay/bin/api-relaying-server"
UNITS = DEPLOY / "systemd"
KUBERNETES = ("1.25", "1.31", kubernetes_validate.latest_version())
PATIENCE = 20.0  # seconds for what takes one
MOST_EXPOSED = 2.0  # of 10, as systemd-analyze counts

Json = Any


def run(*command: str, **environ: str) -> str:
    """What a command prints; CheckFailed with all of it where it fails."""
    done = subprocess.run(
        command,
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    check(done.returncode == 0, f"{shlex.join(command)}:\n{done.stdout}")
    return done.stdout


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Until the condition holds; CheckFailed where that takes too long."""
    until = time.monotonic() + PATIENCE
    while not condition():
        check(time.monotonic() < until, f"waited in vain for {what}")
        time.sleep(0.02)


def get(port: int, path: str, address: str = "127.0.0.1") -> tuple[int, str]:
    """The status and the field `Cache-Status` of an answer; 0 where there is none."""
    connection = http.client.HTTPConnection(address, port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Cache-Status", "")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def answers(port: int, path: str) -> bool:
    """True where the answer is 200."""
    return get(port, path)[0] == 200


@contextmanager
def running(
    *command: str,
    environ: Mapping[str, str] = MappingProxyType({}),
    codes: Sequence[int] = (0,),
    stderr: IO[bytes] | None = None,
    umask: int = -1,
) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block runs; then `SIGTERM` ends it, with one of these exit codes."""
    process = subprocess.Popen(command, env={**os.environ, **environ}, stderr=stderr, umask=umask)
    try:
        yield process
        process.terminate()
        code = process.wait(PATIENCE)
        check(code in codes, f"{shlex.join(command)} ended with {code}")
    finally:
        process.kill()
        process.wait()


# Kubernetes


def check_kubernetes() -> None:
    """Each object is one of its version's schema, and they fit each other and the image."""
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    objects = list(yaml.safe_load_all(text))
    for version in KUBERNETES:
        for each in objects:
            kubernetes_validate.validate(each, version, strict=True)
    by_kind = {each["kind"]: each for each in objects}
    deployment = by_kind["Deployment"]["spec"]
    pod = deployment["template"]
    (container,) = pod["spec"]["containers"]
    labels = pod["metadata"]["labels"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for selector in (
        deployment["selector"]["matchLabels"],
        by_kind["Service"]["spec"]["selector"],
        by_kind["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
    ):
        check(selector == labels, f"{selector} selects no pod with {labels}")
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        asked = container[probe]["httpGet"]
        check(asked["path"] == path and asked["port"] in ports, f"{probe}: {asked}")
    for port in by_kind["Service"]["spec"]["ports"]:
        check(port["targetPort"] in ports, f"{port} is no port of the pod")
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    context = pod["spec"]["securityContext"]
    found = str(context["runAsUser"]), str(context["runAsGroup"])
    check(user is not None and user.groups() == found, "not the image's user")
    with tempfile.TemporaryDirectory() as folder:
        secret = by_kind["Secret"]["stringData"]
        environ = {"RELAY_HOST": "0.0.0.0", "RELAY_CACHE": f"sqlite:///{folder}/c", **secret}
        # Its name is not known here, where there is no network.
        run(PROGRAM, "--check", *container["args"], "--offline", **environ)
        run_as_pod(container, environ)
    monitor = yaml.safe_load(uncommented(text, "# ---\n"))
    check(monitor["spec"]["selector"]["matchLabels"] == labels, "ServiceMonitor: no such labels")
    (endpoint,) = monitor["spec"]["endpoints"]
    check(endpoint["port"] in ports, "ServiceMonitor: no such port")
    token = endpoint["authorization"]["credentials"]
    check(token["key"] in secret, "ServiceMonitor: no such key in the secret")


def run_as_pod(container: Json, environ: dict[str, str]) -> None:
    """Its arguments as a process: both probes pass, and it stops when it is told to."""
    with running(PROGRAM, *container["args"], environ=environ):
        for probe in ("livenessProbe", "readinessProbe"):
            path = container[probe]["httpGet"]["path"]
            wait_for(partial(answers, 8001, path), path)
        check(get(8001, "/metrics")[0] == 401, "/metrics needs no token")


def uncommented(text: str, after: str) -> str:
    """The lines behind a mark, without the sign of a comment."""
    lines = text.partition(after)[2].splitlines()
    return "\n".join(line.removeprefix("# ") for line in lines)


# Compose


def check_compose() -> None:
    """A file of the Compose specification, whose services run as plain processes, each with an
    address of its own in place of a container.
    """
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    compose_spec.PyCompose.from_yaml(text)
    services = yaml.safe_load(text)["services"]
    for name, service in services.items():
        for other in service.get("depends_on", ()):
            check(other in services, f"{name} depends on {other}, which is none of the services")
    addresses = {name: f"127.0.1.{number}" for number, name in enumerate(services, 1)}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(named(addresses, folder))
        stack.enter_context(running(*services["redis"]["command"]))
        stack.enter_context(
            running(sys.executable, *services["api"]["entrypoint"][1:], *services["api"]["command"])
        )
        wait_for(lambda: get(8010, "/api/restaurant")[0] == 200, "the API")
        nodes = [
            Node(name, addresses[name], services[name]["command"], folder / f"{name}.log")
            for name in sorted(services)
            if name.startswith("relay")
        ]
        processes = [stack.enter_context(node.running()) for node in nodes]
        for node in nodes:
            status = get(8000, "/restaurant", node.address)[1]
            check("; hit" in status, f"{node.name} does not share its cache: {status}")
        run_front(services["front"], nodes, processes, folder)


@dataclass
class Node:
    """A relay of compose.yaml: where it is, its flags, and its access log."""

    name: str
    address: str
    words: list[str]
    log: Path

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """The relay, as its image starts it; it answers."""
        environ = {"RELAY_HOST": self.address, "RELAY_ADMIN": "off"}
        environ["RELAY_ACCESS_LOG"] = str(self.log)
        codes = (0, -signal.SIGKILL)
        with running(PROGRAM, *self.words, codes=codes, environ=environ) as process:
            wait_for(lambda: get(8000, "/restaurant", self.address)[0] == 200, self.name)
            yield process

    def count(self) -> int:
        """How often it was asked for the list, by its log."""
        return self.log.read_text().count("GET /restaurant ")


def run_front(
    service: Json, nodes: list[Node], processes: list[subprocess.Popen[bytes]], folder: Path
) -> None:
    """HAProxy with its file spreads what comes, asks another relay for what one has left, and takes
    a relay out and in again by its health checks: one that was killed, and one that hangs.
    """
    (mount,) = service["volumes"]
    text = (ROOT / mount.partition(":")[0]).read_text(encoding="utf-8")
    config, told = folder / "haproxy.cfg", folder / "haproxy.log"
    # All of its addresses are others'.
    config.write_text(text.replace("bind :8000", "bind 127.0.0.1:8000"))
    with ExitStack() as stack:
        log = stack.enter_context(told.open("wb"))
        codes = (0, -signal.SIGTERM)
        stack.enter_context(running("haproxy", "-db", "-f", str(config), codes=codes, stderr=log))
        wait_for(partial(answers, 8000, "/restaurant"), "HAProxy")
        ask_front(nodes)
        first, second = nodes[0], nodes[1]
        processes[0].kill()
        ask_front(nodes[1:])
        wait_for(lambda: f"{first.name} is DOWN" in told.read_text(), f"{first.name} to be out")
        stack.enter_context(first.running())
        wait_for(lambda: f"{first.name} is UP" in told.read_text(), f"{first.name} to be back")
        ask_front(nodes)
        processes[1].send_signal(signal.SIGSTOP)
        wait_for(lambda: f"{second.name} is DOWN" in told.read_text(), f"{second.name} to be out")
        ask_front([node for node in nodes if node is not second])
        processes[1].send_signal(signal.SIGCONT)
        wait_for(lambda: f"{second.name} is UP" in told.read_text(), f"{second.name} to be back")
        ask_front(nodes)
        check(' "GET / HTTP/1.1" 504 ' in first.log.read_text(), "a check went to the API")


def ask_front(nodes: list[Node]) -> None:
    """Each of these relays answers its part of many requests, and none fails."""
    before = [node.count() for node in nodes]
    for _ in range(20 * len(nodes)):
        status = get(8000, "/restaurant")[0]
        check(status == 200, f"an answer by HAProxy was {status}")
    for node, had in zip(nodes, before):
        wait_for(lambda: node.count() >= had + 10, f"{node.name} to answer its part")  # noqa: B023


@contextmanager
def named(addresses: dict[str, str], folder: Path) -> Iterator[None]:
    """These names mean these addresses to whoever asks a name server, while the block runs."""
    resolv = folder / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\n")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 53))

        def serve() -> None:
            while True:
                query, client = sock.recvfrom(512)
                if not query:
                    return
                sock.sendto(name_answer(query, addresses), client)

        server = threading.Thread(target=serve, daemon=True)
        server.start()
        subprocess.run(["mount", "--bind", str(resolv), "/etc/resolv.conf"], check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "/etc/resolv.conf"], check=True)
            sock.sendto(b"", ("127.0.0.1", 53))
            server.join()


def name_answer(query: bytes, addresses: dict[str, str]) -> bytes:
    """The answer to a question for an IPv4 address (RFC 1035, 4.1)."""
    labels, at = [], 12
    while length := query[at]:
        labels.append(query[at + 1 : at + 1 + length].decode())
        at += 1 + length
    kind, end = struct.unpack_from(">H", query, at + 1)[0], at + 5
    address = addresses.get(".".join(labels).lower())
    found = b""
    if address is not None and kind == 1:
        found = struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton(address)
    code = 3 if address is None else 0  # no such name
    head = struct.pack(">HHHHH", 0x8180 | code, 1, 1 if found else 0, 0, 0)
    return query[:2] + head + query[12:end] + found


# systemd


def check_systemd() -> None:
    """The units are right and closed enough; the service runs on a socket that is handed over."""
    units = [str(path) for path in sorted(UNITS.iterdir())]
    told = run("systemd-analyze", "verify", "--man=no", *units)
    check(not told, f"systemd-analyze verify: {told}")
    service = UNITS / "api_relaying_server.service"
    told = run("systemd-analyze", "security", "--offline=yes", "--no-pager", str(service))
    verdict = told.strip().splitlines()[-1]
    found = re.search(r"exposure level for \S+: ([0-9.]+)", verdict)
    check(found is not None and float(found[1]) <= MOST_EXPOSED, verdict)
    sys.stdout.write(verdict + "\n")
    run_as_service(unit(service), unit(UNITS / "api_relaying_server.socket"))


def unit(path: Path) -> dict[str, list[str]]:
    """The values of a unit's settings by their names."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def run_as_service(service: dict[str, list[str]], listening: dict[str, list[str]]) -> None:
    """Its command with its variables, mask and folder, started by a connection to its socket: it
    says that it is ready, stores, reloads as the unit says, and stops.
    """
    cache = Path("/var/cache", service["CacheDirectory"][0])
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700", "tmpfs", str(cache)], check=True)
    environ = dict(line.split("=", 1) for line in service["Environment"])
    environ.update({"RELAY_DEMO": "on", "RELAY_ADMIN": "off"})
    umask = int(service["UMask"][0], 8)
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/notify")
        manager.settimeout(PATIENCE)
        environ["NOTIFY_SOCKET"] = f"{folder}/notify"
        (address,) = listening["ListenStream"]
        port = int(address.rpartition(":")[2])
        # It hands on what is named, and nothing else.
        activate = ["systemd-socket-activate", f"--listen={address}", "--setenv=PATH"]
        activate += [f"--setenv={name}" for name in environ]
        command = [*activate, *service["ExecStart"][0].split()]
        with running(*command, umask=umask, environ=environ) as relay:
            wait_for(partial(answers, port, "/restaurant"), "an answer")
            check(manager.recv(100) == b"READY=1", "it did not say that it is ready")
            (stored,) = cache.glob("*.sqlite3")
            mode = stored.stat().st_mode & 0o777
            check(not mode & umask, f"{stored} has the mode {mode:o}")
            run("sh", "-c", service["ExecReload"][0], MAINPID=str(relay.pid))
            check(manager.recv(100).startswith(b"RELOADING=1"), "it did not say that it reloads")
            check(manager.recv(100) == b"READY=1", "it did not say that it has reloaded")
            status = get(port, "/restaurant")[1]
            check("; hit" in status, f"an answer after the reload: {status}")
        check(manager.recv(100) == b"STOPPING=1", "it did not say that it stops")


# logrotate


def check_logrotate() -> None:
    """The logs are rotated under a relay that goes on writing, into the new file."""
    text = (DEPLOY / "logrotate.conf").read_text(encoding="utf-8")
    command = re.search(r"^ *systemctl kill .*--signal=USR1 .*$", text, re.MULTILINE)
    check(command is not None, "no signal is sent")
    assert command is not None
    with tempfile.TemporaryDirectory() as folder:
        log, config = Path(folder, "access.log"), Path(folder, "logrotate.conf")
        flags = ("--offline", "--cache", "memory://", "--access-log", str(log))
        with running(PROGRAM, *flags) as relay:
            wait_for(lambda: get(8000, "/one")[0] == 504, "the relay")
            wait_for(lambda: "/one" in log.read_text(), "the first line")
            # There is no systemd here: the signal goes to the process itself.
            there = text.replace(command[0], f"kill -USR1 {relay.pid}")
            config.write_text(there.replace("/var/log/api_relaying_server", folder))
            config.chmod(0o644)
            run("logrotate", "--force", f"--state={folder}/state", str(config))
            rotated = Path(f"{log}.1")
            check("/one" in rotated.read_text(), "the first line is lost")
            wait_for(log.exists, "the new file")
            get(8000, "/two")
            wait_for(lambda: "/two" in log.read_text(), "the second line")
            check("/two" not in rotated.read_text(), "it still writes to the old file")


def main() -> None:
    """Do what the module says."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    Path("/opt/relay").mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "--bind", sys.prefix, "/opt/relay"], check=True)
    for each in (check_kubernetes, check_compose, check_systemd, check_logrotate):
        began = time.monotonic()
        each()
        sys.stdout.write(f"{each.__name__[6:]}: well, {time.monotonic() - began:.1f} s\n")


if __name__ == "__main__":
    try:
        main()
    except (CheckFailed, OSError, subprocess.SubprocessError, yaml.YAMLError) as error:
        sys.exit(f"deploy.py: {error}")
