"""Real processes on a string: they execute operations on command, fork, and die by SIGKILL.

Facts: a process with threads should not fork, and a child inherits its parent's mappings. Starting an interpreter
takes a tenth of a second.
Decision: one fresh `Nursery` process has nothing attached and one thread. Every worker is a fork of the nursery or of
another worker. Commands and answers are JSON over one socket for each worker. A death is seen as the end of file there,
waited for on a pidfd and verified by the exit status, which the parent collects.

May depend on: mshare.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import mshare

LIMIT_S = 60.0
"""The time after which a test counts as stuck. Nothing is ever asserted about time."""

_MESSAGE_BYTES = 1 << 17
_PR_SET_CHILD_SUBREAPER = 36
"""prctl(2): orphaned descendants become our children, so that their exit status is never lost."""


class WorkerDied(Exception):
    """The worker ended instead of answering; `status` is its exit status, -N for signal N."""

    def __init__(self, status: int) -> None:
        super().__init__(f"worker died with status {status}")
        self.status = status


class Reply(NamedTuple):
    """The result of an operation: its value, or the class name and text of its error."""

    value: Any
    error: str | None = None
    message: str = ""
    errno: int | None = None


class Worker:
    """One process under control. `Nursery.start` and `Worker.fork` make it."""

    def __init__(
        self, pid: int, channel: socket.socket, reaper: Callable[[int], int], family: list[Worker] | None = None
    ) -> None:
        self.pid = pid
        self._channel = channel
        self._reap = reaper
        self._family = [] if family is None else family
        self._family.append(self)
        self._pidfd = os.pidfd_open(pid)
        self.alive = True

    def do(self, operation: str, **arguments: Any) -> Reply:
        """Have the worker execute `operation` (a method of `_Servant`) and return the outcome.

        Raises `WorkerDied` if the worker ends instead.
        """
        self.send(operation, **arguments)
        return self.answer()

    def send(self, operation: str, **arguments: Any) -> None:
        """Start `operation` without waiting for it; `answer` has the outcome."""
        self._channel.send(json.dumps([operation, arguments]).encode())

    def answer(self) -> Reply:
        """Wait for the outcome of the operation that `send` started. Raises `WorkerDied`."""
        try:
            raw = self._channel.recv(_MESSAGE_BYTES)
        except ConnectionResetError:
            raw = b""
        if not raw:
            raise WorkerDied(self._collect())
        return Reply(*json.loads(raw))

    def give(self, to: Worker, *, number: int, new_number: int, readonly: bool | None) -> Reply:
        """Send a region's descriptor from this worker to another one, which attaches by the descriptor."""
        self.send("give", number=number)
        raw, fds, _, _ = socket.recv_fds(self._channel, _MESSAGE_BYTES, 1)
        if not raw:
            raise WorkerDied(self._collect())
        if not fds:
            return Reply(*json.loads(raw))
        request = json.dumps(["take", {"number": new_number, "readonly": readonly}]).encode()
        socket.send_fds(to._channel, [request], fds)
        os.close(fds[0])
        return to.answer()

    def fork(self) -> Worker:
        """Return a forked child with this worker's attachments, by the same numbers."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            socket.send_fds(self._channel, [json.dumps(["fork", {}]).encode()], [theirs.fileno()])
        ours.settimeout(LIMIT_S)
        pid = int(self.answer().value)
        return Worker(pid, ours, self._reap_child, self._family)

    def kill(self) -> int:
        """Kill the worker by SIGKILL, wait for its end, and return its exit status (-9)."""
        signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        return self._collect()

    def exit(self) -> int:
        """Let the worker end by `os._exit(0)`, with everything attached, and return its exit status."""
        self.send("exit")
        return self._collect()

    def _reap_child(self, pid: int) -> int:
        reaper = self if self.alive else self._family[0]  # orphans go to the nursery, a subreaper
        return int(reaper.do("reap", pid=pid).value)

    def _collect(self) -> int:
        wait_readable(self._pidfd)
        self.alive = False
        self._channel.close()
        os.close(self._pidfd)
        return self._reap(self.pid)


class Nursery:
    """The parent of workers: a separate process with one thread and nothing attached. Use as a context manager."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(LIMIT_S)
        with theirs:
            number = theirs.fileno()
            self._process = subprocess.Popen([sys.executable, "-m", __name__, str(number)], pass_fds=[number])
        self._root = Worker(self._process.pid, ours, lambda _: self._process.wait(LIMIT_S))

    def start(self) -> Worker:
        """Return a new worker that has nothing attached."""
        return self._root.fork()

    def setenv(self, name: str, value: str) -> None:
        """Set an environment variable for workers started from now on."""
        self._root.do("setenv", name=name, value=value)

    def clear(self) -> None:
        """Kill all workers."""
        root, *workers = self._root._family
        for worker in workers:
            if worker.alive:
                worker.kill()
        self._root._family[:] = [root]

    def close(self) -> None:
        """Kill all workers and the nursery."""
        self.clear()
        self._root.kill()

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def wait_readable(fd: int) -> None:
    """Wait until `fd` (a pipe, a pidfd) is readable. Raises TimeoutError after `LIMIT_S`."""
    if not select.select([fd], [], [], LIMIT_S)[0]:
        raise TimeoutError(f"nothing happened within {LIMIT_S} s")


class _Servant:
    """The worker's side: every public method is an operation. The controller sends the arguments."""

    def __init__(self) -> None:
        self.regions: dict[int, mshare.Region] = {}

    def create(self, *, number: int, name: str, size: int, frozen: bool = False, **options: Any) -> int:
        if frozen:
            region = mshare.mshare(name, None, size, os.O_CREAT | os.O_EXCL | os.O_RDONLY)
        else:
            region = mshare.create(name, size, **options)
        self.regions[number] = region
        return region.addr

    def attach(self, *, number: int, name: str, **options: Any) -> int:
        region = mshare.attach(name, **options)
        self.regions[number] = region
        return region.addr

    def superseded(self, *, numbers: list[int]) -> list[bool]:
        return [self.regions[number].superseded for number in numbers]

    def reattach(self, *, number: int) -> int:
        self.regions[number] = mshare.reattach(self.regions[number])
        return self.regions[number].addr

    def create_anonymous(self, *, number: int, size: int, **options: Any) -> int:
        region = mshare.create_anonymous(size, **options)
        self.regions[number] = region
        return region.addr

    def take(self, *, number: int, readonly: bool | None, fd: int) -> int:
        with mshare.Handle.from_fd(fd) as taken:
            region = mshare.attach(taken, readonly=readonly)
        self.regions[number] = region
        return region.addr

    def seal(self, *, number: int) -> None:
        self.regions[number].seal()

    def link(self, *, number: int, name: str) -> None:
        self.regions[number].link(name)

    def store(self, *, number: int, offset: int, value: int) -> None:
        self.regions[number].buf[offset] = value

    def populate(self, *, number: int, offset: int, length: int | None) -> None:
        self.regions[number].populate(offset, length)

    def discard(self, *, number: int, offset: int, length: int | None) -> None:
        self.regions[number].discard(offset, length)

    def load(self, *, number: int, offset: int) -> int:
        return self.regions[number].buf[offset]

    def probe(self, *, offsets: dict[str, list[int]]) -> dict[str, list[int]]:
        """Return the bytes at some offsets of some attachments."""
        return {number: [self.regions[int(number)].buf[o] for o in some] for number, some in offsets.items()}

    def close(self, *, number: int) -> None:
        self.regions[number].close()

    def unlink(self, *, name: str) -> None:
        mshare.unlink(name)

    def mshare_unlink(self, *, name: str) -> bool:
        return mshare.mshare_unlink(name)

    def gc(self) -> list[str]:
        return [info.name for info in mshare.gc()]

    def info(self, *, number: int) -> dict[str, Any]:
        return self.regions[number].info()._asdict()

    def setenv(self, *, name: str, value: str) -> None:
        os.environ[name] = value

    def reap(self, *, pid: int) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def exit(self) -> NoReturn:
        os._exit(0)


def failed(error: Exception) -> Reply:
    return Reply(None, type(error).__name__, str(error), getattr(error, "errno", None))


def _serve(channel: socket.socket) -> NoReturn:
    servant = _Servant()
    while True:
        raw, fds, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES, 1)
        if not raw:
            os._exit(0)
        operation, arguments = json.loads(raw)
        if operation == "fork":
            pid = os.fork()
            if pid == 0:
                channel.close()
                channel = socket.socket(fileno=fds[0])
                continue
            os.close(fds[0])
            reply = Reply(pid)
        elif operation == "give":
            try:
                with servant.regions[arguments["number"]].handle() as given:
                    socket.send_fds(channel, [json.dumps(Reply(None)).encode()], [given.fileno()])
            except Exception as error:
                channel.send(json.dumps(failed(error)).encode())
            continue
        else:
            if operation == "take":
                arguments["fd"] = fds[0]
            try:
                reply = Reply(getattr(servant, operation)(**arguments))
            except Exception as error:
                reply = failed(error)
        channel.send(json.dumps(reply).encode())


class Ended(NamedTuple):
    """The end of a child: its exit status (-N for signal N) and the value of its function."""

    status: int
    value: Any


def in_child(function: Callable[[], Any], *, uid: int | None = None) -> Ended:
    """Fork, call `function` in the child (as `uid`), and return the child's end. The function's value must be JSON.

    Raises AssertionError with the child's traceback if the function raised.
    """
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(function, uid, write_fd)
    os.close(write_fd)
    try:
        with os.fdopen(read_fd, "rb") as pipe:
            raw = b""
            while True:
                wait_readable(pipe.fileno())
                part = os.read(pipe.fileno(), _MESSAGE_BYTES)
                if not part:
                    break
                raw += part
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    value, problem = json.loads(raw) if raw else (None, None)
    if problem is not None:
        raise AssertionError(f"in the child:\n{problem}")
    return Ended(status, value)


def _child(function: Callable[[], Any], uid: int | None, write_fd: int) -> NoReturn:
    status = 1
    faulthandler.disable()  # a death by SIGSEGV is an answer here
    try:
        if uid is not None:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        answer: tuple[Any, str | None] = (function(), None)
        status = 0
    except BaseException:
        answer = (None, traceback.format_exc())
    finally:
        os.write(write_fd, json.dumps(answer).encode())
        os._exit(status)


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    _serve(socket.socket(fileno=int(sys.argv[1])))
