"""The servers that are compared, and the origin behind them: how each is configured and started.

A server is known by its label: ``relay``, ``relay@PLACE`` (the relay of another checkout or of a
commit), ``relay+PYTHON`` (by another interpreter), ``nginx``, ``haproxy``, ``varnish``, ``squid``,
``seed``, ``floor-c``, ``floor-python``, ``floor-stored``.
This file holds all that is particular to one of them; the tuning itself is in ``peers/``.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import resource
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .processes import BenchmarkError, Child, accepts, free_port

HERE = Path(__file__).resolve().parent.parent
CHECKOUT = HERE.parent
START_SECONDS = 20.0

# Debian's package and the program in it, for what is not part of this checkout.
PROGRAMS = {
    "nginx": ("nginx", "nginx"),
    "haproxy": ("haproxy", "haproxy"),
    "varnish": ("varnish", "varnishd"),
    "squid": ("squid", "squid"),
    "wrk": ("wrk", "wrk"),
    "floor-c": ("gcc", "gcc"),
}
# In the order of the tables.
LABELS = (
    "relay",
    "nginx",
    "haproxy",
    "varnish",
    "squid",
    "seed",
    "floor-c",
    "floor-python",
    "floor-stored",
)


@dataclass(frozen=True)
class Options:
    """What a scenario asks of every server."""

    log: bool = False
    tls: bool = False
    relay_flags: tuple[str, ...] = ()


@dataclass
class Bench:
    """What all servers of one run share."""

    directory: Path
    server_core: int
    load_core: int
    python: str
    relay_tree: Path
    relay_flags: tuple[str, ...] = ()
    known_flags: dict[Path, frozenset[str]] = field(default_factory=dict)


def kind_of(label: str) -> str:
    """What a server is, without which one of its kind."""
    return re.split("[@+]", label, maxsplit=1)[0]


def python_of(label: str, bench: Bench) -> str:
    """The interpreter that runs the relay of this label."""
    return label.partition("+")[2] or bench.python


def program(name: str) -> str | None:
    """Where the program for ``name`` (a key of PROGRAMS) is, also outside a user's PATH."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"
    return shutil.which(PROGRAMS[name][1], path=path)


def most_files() -> int:
    """How many files a process may have open on this machine."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 1_000_000)


def fill_template(template: Path, target: Path, values: dict[str, object]) -> Path:
    """Write ``template`` to ``target`` with every @NAME@ replaced by ``values[NAME]``."""
    text = re.sub(r"@([A-Z_]+)@", lambda found: str(values[found.group(1)]), template.read_text())
    target.write_text(text)
    return target


def _limits() -> dict[str, object]:
    files = most_files()
    # Sockets towards clients take most of the files; cached files that are kept open get a fifth.
    return {"FILES": files, "CONNECTIONS": min(files * 7 // 10, 100_000), "OPEN_FILES": files // 5}


class Origin:
    """nginx with small files, and a slow origin behind ``/slow/``; both on the load's core."""

    def __init__(self, bench: Bench) -> None:
        self.port, self.slow_port, self.status_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        directory = bench.directory / "origin"
        self.files = directory / "files"
        self.files.mkdir(parents=True)
        self._write_files()
        config = fill_template(
            HERE / "peers" / "origin.conf",
            directory / "origin.conf",
            {
                **_limits(),
                "DIR": directory,
                "PORT": self.port,
                "SLOW": self.slow_port,
                "STATUS": self.status_port,
            },
        )
        nginx = program("nginx")
        if nginx is None:
            raise BenchmarkError("nginx is missing, and the origin is one: use --install")
        self.children = [
            Child([nginx, "-c", str(config)], bench.load_core, directory / "log"),
            Child(
                [bench.python, str(HERE / "slow_origin.py"), str(self.slow_port), "200"],
                bench.load_core,
                directory / "slow-log",
            ),
        ]

    def _write_files(self) -> None:
        small = json.dumps({"small": "x" * 323}).encode()
        items = [
            {"name": f"dish {number}", "price": number % 40 + 95, "text": f"{number * 7919:x}" * 3}
            for number in range(1000)
        ]
        page = json.dumps(items).encode()[:19_998] + b'"]'
        (self.files / "small.json").write_bytes(small)
        (self.files / "medium.json").write_bytes(page[:2046] + b'"]')
        (self.files / "page.json").write_bytes(page)
        (self.files / "page.json.gz").write_bytes(gzip.compress(page, 9, mtime=0))
        (self.files / "large.bin").write_bytes(os.urandom(1 << 20))

    def wait(self) -> None:
        """Return when both accept connections."""
        for child, port in zip(self.children, (self.port, self.slow_port)):
            child.wait_until(lambda port=port: accepts(port), START_SECONDS)  # type: ignore[misc]

    def requests(self) -> int:
        """How many requests the origin has taken; each call of this method is one of them."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.status_port}/", timeout=10) as answer:
            numbers = re.findall(r"\d+", answer.read().decode())
        # "Active connections: N", then accepted, handled, requests
        return int(numbers[3])

    def raw_answer(self, path: str) -> bytes:
        """The bytes with which the origin answers a GET for ``path``."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(f"GET {path} HTTP/1.0\r\nHost: origin\r\n\r\n".encode())
            data = b""
            while True:
                part = connection.recv(65536)
                if not part:
                    return data.replace(b"Connection: close", b"Connection: keep-alive", 1)
                data += part


class Server:
    """One running server; ``port`` is where it listens on loopback."""

    def __init__(self, label: str, bench: Bench, origin: Origin, options: Options) -> None:
        self.label = label
        # answers that load generators have counted
        self.answered = 0
        self.port = free_port()
        self.scheme = "https" if options.tls else "http"
        self.directory = bench.directory / re.sub(r"\W+", "_", f"{label}_{self.port}")
        self.directory.mkdir()
        # Servers that give up root's rights write here under another user.
        self.directory.chmod(0o777)
        self.access_log = self.directory / "access.log"
        builder = BUILDERS[kind_of(label)]
        command = builder(self, bench, origin, options)
        self.child = Child(
            command.words,
            bench.server_core,
            self.directory / "output.log",
            command.cwd,
            command.environment,
        )

    def wait(self) -> None:
        """Return when connections are accepted; BenchmarkError if the server fails to start."""
        self.child.wait_until(lambda: accepts(self.port), START_SECONDS)

    def stop(self) -> None:
        """End it and drop its files, except what it wrote as access log."""
        self.child.stop()


@dataclass(frozen=True)
class Command:
    """What starts a server."""

    words: list[str]
    cwd: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)


Builder = Callable[[Server, Bench, Origin, Options], Command]


def certificate(bench: Bench) -> tuple[Path, Path]:
    """A certificate of this machine and its key, made once a run."""
    files = bench.directory / "certificate.pem", bench.directory / "key.pem"
    if not files[0].exists():
        words = ["openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        words += ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
        words += ["-out", str(files[0]), "-keyout", str(files[1])]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise BenchmarkError(f"openssl makes no certificate: {done.stderr.strip()[:300]}")
    return files


def _values(server: Server, origin: Origin, log: str) -> dict[str, object]:
    return {
        **_limits(),
        "DIR": server.directory,
        "PORT": server.port,
        "ORIGIN": origin.port,
        "ACCESS_LOG": log,
        # HAProxy takes it all at its start; 100,000 small answers need two thirds of it
        "MEGABYTES": 256,
        # of nginx, which speaks TLS only where that is measured
        "SSL": "",
        "CERTIFICATE": "",
    }


def _program(name: str) -> str:
    found = program(name)
    if found is None:
        raise BenchmarkError(f"not installed (Debian package {PROGRAMS[name][0]})")
    return found


def _nginx(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    log = f"{server.access_log} combined buffer=64k flush=1s" if options.log else "off"
    template = HERE / "peers" / "nginx.conf"
    values = _values(server, origin, log)
    if options.tls:
        shown, key = certificate(bench)
        lines = f"ssl_certificate {shown}; ssl_certificate_key {key};"
        values.update(SSL=" ssl", CERTIFICATE=f"{lines} ssl_protocols TLSv1.2 TLSv1.3;")
    config = fill_template(template, server.directory / template.name, values)
    return Command([_program("nginx"), "-c", str(config)])


def _haproxy(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    if options.log:
        raise BenchmarkError("writes no log file")
    template = HERE / "peers" / "haproxy.cfg"
    config = fill_template(template, server.directory / template.name, _values(server, origin, ""))
    return Command([_program("haproxy"), "-f", str(config)])


def _varnish(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    if options.log:
        raise BenchmarkError("writes its log through another process")
    template = HERE / "peers" / "varnish.vcl"
    config = fill_template(template, server.directory / template.name, _values(server, origin, ""))
    words = [_program("varnish"), "-F", "-j", "none", "-n", str(server.directory / "run")]
    words += ["-a", f"127.0.0.1:{server.port},HTTP", "-f", str(config), "-s", "malloc,1G"]
    for parameter in (
        "thread_pools=1",
        "thread_pool_min=100",
        "timeout_idle=3600",
        "listen_depth=1024",
    ):
        words += ["-p", parameter]
    return Command(words)


def _squid(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    log = f"stdio:{server.access_log} combined" if options.log else "none"
    template = HERE / "peers" / "squid.conf"
    config = fill_template(template, server.directory / template.name, _values(server, origin, log))
    # the name keeps its shared memory apart from that of another Squid on this machine
    return Command([_program("squid"), "-N", "-n", f"bench{server.port}", "-f", str(config)])


def relay_tree(label: str, bench: Bench) -> Path:
    """The checkout whose relay ``label`` means; a commit is unpacked into the run's directory."""
    place = label.partition("+")[0].partition("@")[2]
    tree = bench.relay_tree
    if place:
        tree = Path(place).resolve() if Path(place).is_dir() else _unpacked(place, bench)
    if not (tree / "python_source_files" / "api_relaying_server" / "__main__.py").is_file():
        raise BenchmarkError(f"{tree} holds no relay that can be started")
    return tree


def _unpacked(commit: str, bench: Bench) -> Path:
    if shutil.which("git") is None:
        raise BenchmarkError(f"{commit} is no directory, and without git it cannot be a commit")
    git = ["git", "-C", str(bench.relay_tree)]
    words = [*git, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
    found = subprocess.run(words, capture_output=True, text=True)
    if found.returncode:
        raise BenchmarkError(f"{commit} is neither a directory nor a commit of {bench.relay_tree}")
    target = bench.directory / found.stdout.strip()
    if not target.exists():
        archive = subprocess.run([*git, "archive", target.name], capture_output=True, check=True)
        target.mkdir()
        subprocess.run(["tar", "-x", "-C", str(target)], input=archive.stdout, check=True)
    return target


def _known_flags(tree: Path, bench: Bench) -> frozenset[str]:
    """The flags that this checkout's relay has: an older one lacks some."""
    if tree not in bench.known_flags:
        done = subprocess.run(
            [bench.python, "-m", "api_relaying_server", "-h"],
            cwd=tree / "python_source_files",
            env={**os.environ, "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
        bench.known_flags[tree] = frozenset(re.findall(r"--[a-z][a-z-]+", done.stdout))
    return bench.known_flags[tree]


def _relay(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    tree = relay_tree(server.label, bench)
    known = _known_flags(tree, bench)
    words = [python_of(server.label, bench), "-m", "api_relaying_server"]
    words += ["--upstream", origin.url]
    words += ["--host", "127.0.0.1", "--port", str(server.port)]
    words += ["--cache", f"sqlite:///{server.directory}/store.sqlite"]
    if options.log:
        words += ["--access-log", str(server.access_log)]
    if options.tls:
        shown, key = certificate(bench)
        words += ["--tls-cert", str(shown), "--tls-key", str(key)]
    for flag in ("--admin=off", "--timeout-idle=3600", *options.relay_flags):
        if flag.partition("=")[0] in known:
            words += [flag]
    return Command([*words, *bench.relay_flags], tree / "python_source_files")


def _seed(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    if options.log:
        raise BenchmarkError("writes no log file")
    words = [bench.python, str(HERE / "seed_server.py"), str(server.port), origin.url]
    return Command([*words, str(server.directory / "seed")])


def _answer_file(server: Server, origin: Origin) -> str:
    path = server.directory / "answer"
    path.write_bytes(origin.raw_answer("/small.json"))
    return str(path)


def _floor_c(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    binary = compiled("floor.c", bench)
    return Command([str(binary), str(server.port), _answer_file(server, origin)])


def _floor_python(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    words = [bench.python, str(HERE / "floor.py"), str(server.port)]
    return Command([*words, _answer_file(server, origin)])


def _floor_stored(server: Server, bench: Bench, origin: Origin, options: Options) -> Command:
    words = [bench.python, str(HERE / "floor_stored.py"), str(server.port), str(origin.port)]
    return Command([*words, str(server.directory / "store.sqlite")])


BUILDERS: dict[str, Builder] = {
    "relay": _relay,
    "nginx": _nginx,
    "haproxy": _haproxy,
    "varnish": _varnish,
    "squid": _squid,
    "seed": _seed,
    "floor-c": _floor_c,
    "floor-python": _floor_python,
    "floor-stored": _floor_stored,
}


def compiled(source: str, bench: Bench) -> Path:
    """The program made from a C file of this directory, made once a run."""
    binary = bench.directory / source.replace(".", "_")
    if not binary.exists():
        words = [_program("floor-c"), "-O2", "-o", str(binary), str(HERE / source)]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode:
            raise BenchmarkError(f"{source} does not compile: {done.stderr.strip()[:300]}")
    return binary
