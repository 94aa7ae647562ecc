"""Hypothesis drives the locks of real processes, which it also kills, against a model of owners and holders."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

import mshare
from mshare.testing.processes import LIMIT_S

WORKERS, READERS, PERMITS = 3, 2, 2
LOCK, RWLOCK, SEMAPHORE = 0, 128, 1024
Worker = st.integers(0, WORKERS - 1)


class Servant:
    """The operations of a worker. Each returns a value, or the class of its error and the process that died."""

    def __init__(self, region: mshare.Region) -> None:
        self.lock = mshare.Lock(region, LOCK)
        self.rwlock = mshare.RWLock(region, RWLOCK, readers=READERS)
        self.semaphore = mshare.Semaphore(region, SEMAPHORE, permits=PERMITS)
        self.block: AbstractContextManager[Any] | None = None
        self.rwblock: AbstractContextManager[Any] | None = None

    def acquire(self) -> bool:
        return self.lock.acquire(timeout=0)

    def release(self) -> None:
        self.lock.release()

    def recover(self) -> int:
        block = self.lock.recover(timeout=0)
        died = block.__enter__()
        self.block = block
        return 0 if died is None else died.pid

    def leave(self, repaired: bool) -> None:
        block, self.block = self.block, None
        end(block, repaired)

    def enter(self, how: str) -> int:
        block: AbstractContextManager[Any] = getattr(self.rwlock, how)(timeout=0)
        died = block.__enter__()
        self.rwblock = block
        return 0 if died is None else died.pid

    def exit(self, whole: bool) -> None:
        block, self.rwblock = self.rwblock, None
        end(block, whole)

    def take_permit(self) -> bool:
        return self.semaphore.acquire(timeout=0)

    def give_permit(self) -> None:
        self.semaphore.release()

    def fork(self) -> list[object]:
        """Return what a child can do with what its parent has: nothing."""
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            answers = [ask(self.release), ask(self.give_permit), ask(self.lock._is_mine)]
            os.write(writer, json.dumps(answers).encode())
            os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            answer: list[object] = json.loads(pipe.read())
        os.waitpid(pid, 0)
        return answer


def end(block: AbstractContextManager[Any] | None, whole: bool) -> None:
    assert block is not None
    error = None if whole else KeyError()
    assert not block.__exit__(None if whole else KeyError, error, None), "the error of the block was swallowed"


def ask(operation: Callable[[], object]) -> object:
    try:
        return operation()
    except mshare.OwnerDiedError as error:
        return ["OwnerDiedError", error.pid]
    except mshare.MshareError as error:
        return type(error).__name__


class Process:
    """A worker and the socket to it."""

    def __init__(self, region: mshare.Region) -> None:
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(LIMIT_S)
        self.pid = os.fork()
        if not self.pid:
            try:
                ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
                servant = Servant(region)
                while True:
                    name, *arguments = json.loads(theirs.recv(1 << 12))
                    answer = ask(lambda: getattr(servant, name)(*arguments))  # noqa: B023
                    theirs.send(json.dumps(answer).encode())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)
        theirs.close()

    def do(self, *words: object) -> Any:
        self.socket.send(json.dumps(words).encode())
        return json.loads(self.socket.recv(1 << 12))

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.socket.close()


class Machine(RuleBasedStateMachine):
    """The model: the owner of the lock, deaths that need a repair, readers and writers, and holders of permits."""

    region: mshare.Region

    @initialize()
    def start(self) -> None:
        self.region.buf[:] = bytes(self.region.size)
        self.workers = [Process(self.region) for _ in range(WORKERS)]
        self.owner: int | None = None
        self.recovering = False
        self.damage = 0
        self.inside: dict[int, str] = {}
        self.rwdamage = 0
        self.permits = [0] * WORKERS

    def teardown(self) -> None:
        for worker in getattr(self, "workers", []):
            worker.kill()

    @rule(worker=Worker)
    def acquire(self, worker: int) -> None:
        answer = self.workers[worker].do("acquire")
        if self.owner == worker:
            assert answer == "AlreadyOwnerError"
        elif self.owner is not None:
            assert answer is False
        elif self.damage:
            assert answer == ["OwnerDiedError", self.damage]
        else:
            assert answer is True
            self.owner, self.recovering = worker, False

    @precondition(lambda self: not self.recovering)
    @rule(worker=Worker)
    def release(self, worker: int) -> None:
        answer = self.workers[worker].do("release")
        if self.owner == worker:
            assert answer is None
            self.owner = None
        else:
            assert answer == "NotOwnerError"

    @rule(worker=Worker)
    def recover(self, worker: int) -> None:
        answer = self.workers[worker].do("recover")
        if self.owner is not None:
            assert answer == ("AlreadyOwnerError" if self.owner == worker else "LockTimeoutError")
        else:
            assert answer == self.damage
            self.owner, self.recovering = worker, True

    @precondition(lambda self: self.recovering)
    @rule(repaired=st.booleans())
    def leave(self, repaired: bool) -> None:
        assert self.owner is not None
        assert self.workers[self.owner].do("leave", repaired) is None
        self.owner, self.recovering = None, False
        if repaired:
            self.damage = 0

    @rule(worker=Worker, how=st.sampled_from(["read", "read", "write", "recover"]))
    def enter(self, worker: int, how: str) -> None:
        answer = self.workers[worker].do("enter", how)
        ways = set(self.inside.values())
        if worker in self.inside:
            assert answer == "AlreadyOwnerError"
        elif ways - {"read"} or (how != "read" and ways):
            assert answer == "LockTimeoutError"
        elif self.rwdamage and how != "recover":
            assert answer == ["OwnerDiedError", self.rwdamage]
        elif how == "read" and len(self.inside) == READERS:
            assert answer == "LockTimeoutError"
        else:
            assert answer == self.rwdamage
            self.inside[worker] = how

    @precondition(lambda self: self.inside)
    @rule(data=st.data(), whole=st.booleans())
    def exit(self, data: st.DataObject, whole: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.inside)))
        assert self.workers[worker].do("exit", whole) is None
        if self.inside.pop(worker) == "recover" and whole:
            self.rwdamage = 0

    @rule(worker=Worker)
    def take_permit(self, worker: int) -> None:
        answer = self.workers[worker].do("take_permit")
        if self.permits[worker] == PERMITS:
            assert answer == "AlreadyOwnerError"
        elif sum(self.permits) == PERMITS:
            assert answer is False
        else:
            assert answer is True
            self.permits[worker] += 1

    @rule(worker=Worker)
    def give_permit(self, worker: int) -> None:
        answer = self.workers[worker].do("give_permit")
        if self.permits[worker]:
            assert answer is None
            self.permits[worker] -= 1
        else:
            assert answer == "NotOwnerError"

    @rule(worker=Worker)
    def fork(self, worker: int) -> None:
        assert self.workers[worker].do("fork") == ["NotOwnerError", "NotOwnerError", False]

    @rule(worker=Worker)
    def kill(self, worker: int) -> None:
        self.workers[worker].kill()
        pid = self.workers[worker].pid
        self.workers[worker] = Process(self.region)
        if self.owner == worker:
            self.damage = self.damage or pid
            self.owner, self.recovering = None, False
        if self.inside.pop(worker, "read") != "read":
            self.rwdamage = self.rwdamage or pid
        self.permits[worker] = 0


@pytest.fixture
def region(world: Path) -> Iterator[mshare.Region]:
    with mshare.create("r", 4096, backend="shm") as made:
        yield made
    mshare.unlink("r")


def test_the_locks_follow_the_model(region: mshare.Region) -> None:
    Machine.region = region
    run_state_machine_as_test(Machine, settings=settings(max_examples=12, stateful_step_count=40, deadline=None))
