"""A child process that serves requests, one JSON line each way. May depend on: errors.

The child is a fresh interpreter, like a further process of a real service: a fork would inherit mappings, past faults
and page tables. The child ends when its creator closes it or dies (its input ends), and never gets the terminal's
Ctrl-C.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Self

from .._core.errors import MshareError


class ChildEndedError(MshareError, ChildProcessError):
    """A process that mshare started has ended too early."""

    code = errno.ECHILD


class Child:
    """A child process that runs `code` with `arguments` in `sys.argv`. Use it in a `with` block."""

    def __init__(self, code: str, *arguments: str) -> None:
        # One thread each: N processes are the point, and forking must cost what it costs without a thread pool.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,
        )
        self.pid = self._process.pid

    def ask(self, **request: Any) -> None:
        """Send a request; `answer` gives the answer."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # `answer` reports the child's death
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """Wait for the next answer. Raises `ChildEndedError` if the process has ended instead."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildEndedError(
                f"process {self.pid} ended with status {self._process.wait()}", "see its message on standard error"
            )
        return json.loads(line)

    def kill(self) -> int:
        """Kill the child with SIGKILL, wait for its end, and return its status (-9 if the kill ended it)."""
        self._process.kill()
        return self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self._process.kill()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def ask_all(group: Sequence[Child], **request: Any) -> list[Any]:
    """Send one request to all children at once, and return their answers when the last one is done."""
    for child in group:
        child.ask(**request)
    return [child.answer() for child in group]


def requests() -> Iterator[dict[str, Any]]:
    """In the child: yield the creator's requests, until the creator closes or dies."""
    for line in sys.stdin:
        yield json.loads(line)


def say(answer: Any) -> None:
    """In the child: send an answer, or end in silence if the creator has gone."""
    try:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more at the end
        sys.exit(1)
