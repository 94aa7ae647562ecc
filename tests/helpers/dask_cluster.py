"""A real scheduler in this process, and hosts that share nothing but the network: each has a network namespace and a
/dev/shm of its own. Everything ends with the processes of the hosts."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dask
from distributed import Client, LocalCluster

from tests.helpers.waiting import eventually

HOME = "10.213.0.1"
"""The address of the scheduler, on the loopback device of the network that only the tests see."""
_NEW_NET = 0x40000000
_ROOT = Path(__file__).parents[2]


@contextmanager
def own_network() -> Iterator[None]:
    """Give this thread, and the threads and programs that it starts, a network namespace. It ends with the last one."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(_NEW_NET):
            raise OSError(ctypes.get_errno(), "unshare")
        try:
            _ip("link", "set", "lo", "up")
            _ip("address", "add", f"{HOME}/32", "dev", "lo")
            subprocess.run(["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"], check=True)
            yield
        finally:
            libc.setns(before, _NEW_NET)
    finally:
        os.close(before)


def _ip(*arguments: str, inside: int | None = None) -> None:
    enter = [] if inside is None else ["nsenter", "--net", "--target", str(inside)]
    subprocess.run([*enter, "ip", *arguments], check=True)


class Host:
    """A host with workers. `root` instead of a namespace: its regions are in a directory of their own."""

    def __init__(self, number: int, scheduler: str, size: str, directory: Path, root: Path | None = None) -> None:
        self.number = number
        self.address = "127.0.0.1" if root is not None else f"10.213.{number}.2"
        self.workers: list[int] = []
        self._root = root
        program = [sys.executable, "-m", "tests.helpers.dask_host", scheduler, self.address]
        environment = {key: value for key, value in os.environ.items() if key != "MSHARE_ROOT"}
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment |= {"PYTHONPATH": path, "DASK_LOGGING__DISTRIBUTED": "critical"}
        self._environment = environment
        if root is not None:
            environment["MSHARE_ROOT"] = str(root)
        else:
            mount = f"mount -t tmpfs -o size={size},mode=1777 none /dev/shm"
            setup = f'{mount} && ip link set lo up && hostname host{number} && read go && exec "$@"'
            program = [
                "unshare",
                "--net",
                "--mount",
                "--uts",
                "--propagation",
                "private",
                "sh",
                "-c",
                setup,
                "sh",
                *program,
            ]
        self.process = subprocess.Popen(
            program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=directory, env=environment
        )
        if root is None:
            self._connect()

    def _connect(self) -> None:
        """Put one end of a cable into the host's namespace."""
        pid, near, far = self.process.pid, f"10.213.{self.number}.1", self.address
        mine, its = Path("/proc/thread-self/ns/net").readlink(), Path(f"/proc/{pid}/ns/net")
        eventually(lambda: its.readlink() != mine)
        here = f"host{self.number}"
        _ip("link", "add", here, "type", "veth", "peer", "name", "eth0", "netns", str(pid))
        _ip("address", "add", f"{near}/30", "dev", here)
        _ip("link", "set", here, "up")
        _ip("address", "add", f"{far}/30", "dev", "eth0", inside=pid)
        _ip("link", "set", "eth0", "up", inside=pid)
        _ip("route", "add", "default", "via", near, inside=pid)
        self._say("go")

    def _say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def _hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ready(self) -> None:
        """Wait until the host can start workers."""
        assert self._hear() == "ready"

    def start(self, count: int = 1, kind: str = "worker") -> None:
        """Start workers. They join the cluster some time later."""
        for _ in range(count):
            self._say(kind)
            self.workers.append(int(self._hear()))

    @property
    def shm(self) -> Path:
        """The host's /dev/shm, as this process can look at it."""
        return Path(f"/proc/{self.process.pid}/root/dev/shm") if self._root is None else self._root / "shm"

    def run(self, *command: str) -> str:
        """Run a program with the host's /dev/shm, and return its output."""
        enter = ["nsenter", "--mount", "--target", str(self.process.pid)]
        return subprocess.run(
            [*enter, *command], check=True, capture_output=True, text=True, env=self._environment
        ).stdout

    def files(self) -> list[str]:
        """Return the names in the host's /dev/shm."""
        return sorted(path.name for path in self.shm.iterdir())

    def loader(self) -> int | None:
        """Return the worker that has the turn to load, as the kernel's list of locks tells it."""
        for path in self.shm.glob(".mshare-dask-*/*"):
            status = path.stat()
            file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
            for line in Path("/proc/locks").read_text().splitlines():
                fields = line.split()
                if fields[1] == "FLOCK" and fields[5] == file:
                    return int(fields[4])
        return None

    def kill(self, pid: int) -> None:
        """Kill a worker."""
        os.kill(pid, signal.SIGKILL)
        self.workers.remove(pid)

    def close(self) -> None:
        """Kill the host and all of its workers."""
        for pid in [*self.workers]:
            self.kill(pid)
        self.process.kill()
        self.process.communicate()


def is_dead(pid: int) -> bool:
    """Tell whether a process has ended. Its parent may not have waited for it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


class Cluster:
    """A scheduler, its client, and the hosts that were added."""

    def __init__(self, directory: Path, undo: ExitStack, *, home: str) -> None:
        self._directory, self._undo = directory, undo
        scheduler = LocalCluster(n_workers=0, host=home, dashboard_address=":0", silence_logs=logging.CRITICAL)  # type: ignore[no-untyped-call]
        undo.callback(scheduler.close)
        self.address = scheduler.scheduler_address
        self.client: Client = undo.enter_context(Client(scheduler))  # type: ignore[no-untyped-call]
        self.hosts: list[Host] = []
        self._numbers = iter(range(1, 250))

    def add(self, *, size: str = "64m", root: Path | None = None) -> Host:
        """Add a host without workers."""
        host = Host(next(self._numbers), self.address, size, self._directory, root)
        self._undo.callback(host.close)
        self.hosts.append(host)
        return host

    def addresses(self, host: Host | None = None) -> list[str]:
        """Return the addresses of the workers of a host, or of all workers."""
        return [address for address, name in self._workers().items() if host is None or name in host.workers]

    def pid(self, address: str) -> int:
        """Return the process that was started for the worker with this address."""
        return self._workers()[address]

    def _workers(self) -> dict[str, int]:
        """Return the number of the process that was started for each worker, by the worker's address."""
        found = self.client.scheduler_info(n_workers=-1)["workers"]
        return {address: each["name"] for address, each in sorted(found.items())}

    def settle(self) -> None:
        """Wait until the cluster has the workers that were started, and no others."""
        expected = sorted(pid for host in self.hosts for pid in host.workers)
        eventually(lambda: sorted(self._workers().values()) == expected, lambda: (self._workers(), expected))


@contextmanager
def cluster(directory: Path, *, network: bool = True) -> Iterator[Cluster]:
    """Give a cluster in a network of its own, which needs root, or on the loopback device."""
    with ExitStack() as undo:
        if network:
            undo.enter_context(own_network())
        # The scheduler tries for so long to connect to a worker that has just been killed; by default for 30 s.
        undo.enter_context(dask.config.set({"distributed.comm.timeouts.connect": "5s"}))
        yield Cluster(directory, undo, home=HOME if network else "127.0.0.1")


class Server:
    """An HTTP server with one file. Each request for its bytes can be held in the middle."""

    def __init__(self, content: bytes, address: str = HOME) -> None:
        self.content = content
        self.other: dict[str, bytes] = {}
        """Other contents for the clients of these addresses."""
        self.announced: int | None = None
        """The number of bytes that is announced instead of the true one."""
        self.promised: int | None = None
        """The number of bytes that is announced to a client that asks for the size alone."""
        self.gate = threading.Event()
        """Set: requests are answered to their end. Clear: they stop after half of the bytes."""
        self.gate.set()
        self.reads: list[str] = []
        """The address of each client that asked for the bytes."""
        self._server = ThreadingHTTPServer((address, 0), partial(_Handler, self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self.url = f"http://{address}:{self._server.server_port}/data"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, server: Server, *arguments: object) -> None:
        self._shared = server
        super().__init__(*arguments)  # type: ignore[arg-type]

    def _head(self) -> bytes:
        content = self._shared.other.get(self.client_address[0], self._shared.content)
        announced = self._shared.promised if self.command == "HEAD" else self._shared.announced
        self.send_response(200 if content else 404)
        self.send_header("Content-Length", str(len(content) if announced is None else announced))
        self.end_headers()
        return content

    def do_HEAD(self) -> None:
        self._head()

    def do_GET(self) -> None:
        content = self._head()
        self._shared.reads.append(self.client_address[0])
        half = len(content) // 2
        try:
            self.wfile.write(content[:half])
            assert self._shared.gate.wait(60)
            self.wfile.write(content[half:])
        except OSError:  # the client was killed
            pass

    def log_message(self, *_: object) -> None:
        pass
