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
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Callable

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


def get(port: int, path: str) -> tuple[int, str]:
    """The status and the field `Cache-Status` of an answer; 0 where there is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("Cache-Status", "")
    except OSError:
        return 0, ""
    finally:
        connection.close()


def answers(port: int, path: str) -> bool:
    """True where the answer is 200."""
    return get(port, path)[0] == 200


@contextmanager
def running(*command: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process while the block runs; then `SIGTERM` ends it, and its exit code has to be 0."""
    process = subprocess.Popen(command, env={**os.environ, **environ})
    try:
        yield process
        process.terminate()
        code = process.wait(PATIENCE)
        check(code == 0, f"{shlex.join(command)} ended with {code}")
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
    with running(PROGRAM, *container["args"], **environ):
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
    """A file of the Compose specification, whose services run as plain processes."""
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    compose_spec.PyCompose.from_yaml(text)
    services = yaml.safe_load(text)["services"]
    for name, service in services.items():
        for other in service.get("depends_on", ()):
            check(other in services, f"{name} depends on {other}, which is none of the services")
    with ExitStack() as stack:
        stack.enter_context(running(*services["redis"]["command"]))
        stack.enter_context(
            running(sys.executable, *services["api"]["entrypoint"][1:], *services["api"]["command"])
        )
        wait_for(lambda: get(8010, "/api/restaurant")[0] == 200, "the API")
        for number in (1, 2, 3):
            # On loopback each has a port of its own in place of a name.
            words = [here(word) for word in services[f"relay{number}"]["command"]]
            environ = {"RELAY_PORT": str(8100 + number), "RELAY_ADMIN": "off"}
            stack.enter_context(running(PROGRAM, *words, **environ))
            wait_for(partial(answers, 8100 + number, "/restaurant"), "a relay")
        for number in (1, 2, 3):
            status = get(8100 + number, "/restaurant")[1]
            check("; hit" in status, f"relay{number} does not share its cache: {status}")


def here(word: str) -> str:
    """A word of a command with loopback for the names of services."""
    return re.sub(r"//(redis|api):", "//127.0.0.1:", word)


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
    settings = dict(re.findall(r"^(\w+)=(.*)$", service.read_text(), re.MULTILINE))
    run_as_service(settings)


def run_as_service(settings: dict[str, str]) -> None:
    """Started by a connection to its socket, it says that it is ready, reloads, and stops."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(f"{folder}/notify")
        manager.settimeout(PATIENCE)
        activate = ["systemd-socket-activate", "--listen=127.0.0.1:8000"]
        environ = {"RELAY_CACHE": "memory://", "RELAY_OFFLINE": "on", "RELAY_LOG_LEVEL": "info"}
        # It hands on what is named, and nothing else.
        names = ["PATH", "NOTIFY_SOCKET", *environ]
        activate += [f"--setenv={name}" for name in names]
        environ["NOTIFY_SOCKET"] = f"{folder}/notify"
        with running(*activate, *settings["ExecStart"].split(), **environ) as relay:
            wait_for(lambda: get(8000, "/restaurant")[0] == 504, "an answer (nothing is stored)")
            check(manager.recv(100) == b"READY=1", "it did not say that it is ready")
            check(settings["ExecReload"] == "/bin/kill -HUP $MAINPID", "another reload")
            relay.send_signal(signal.SIGHUP)
            wait_for(lambda: get(8000, "/restaurant")[0] == 504, "an answer after the reload")


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
