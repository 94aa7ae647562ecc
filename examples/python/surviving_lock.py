"""Processes move money between accounts under a lock, and are killed in the middle of a transfer. No money is lost.

Run: python examples/python/surviving_lock.py. docs/locks.md explains the lock and the repair.
"""

import os
import random
import signal
from multiprocessing import Process

import mshare

ACCOUNTS, START, TRANSFERS, KILLED = 16, 1000, 400, 5
LOCK, COUNTER, JOURNAL, BALANCES = 0, 128, 256, 320  # offsets in the region
FROM, TO, FROM_BALANCE, TO_BALANCE, OPEN = range(5)  # words of the journal


class Bank:
    """The accounts as one process sees them."""

    def __init__(self) -> None:
        self.region = mshare.attach("bank")
        self.lock = mshare.Lock(self.region, LOCK)
        self.transfers = mshare.Counter(self.region, COUNTER)
        self.journal = self.region.buf[JOURNAL:BALANCES].cast("q")
        self.balances = self.region.buf[BALANCES : BALANCES + 8 * ACCOUNTS].cast("q")

    def transfer(self, source: int, target: int, amount: int, *, die: bool = False) -> None:
        """Move `amount`. A process that is killed here leaves the journal open."""
        with self.lock.recover() as died:
            if died is not None:
                print(f"process {died.pid} died in a transfer: its successor puts the balances back")
                self.undo()
            journal, balances = self.journal, self.balances
            journal[FROM], journal[FROM_BALANCE] = source, balances[source]
            journal[TO], journal[TO_BALANCE] = target, balances[target]
            journal[OPEN] = 1
            balances[source] -= amount
            if die:
                os.kill(os.getpid(), signal.SIGKILL)
            balances[target] += amount
            journal[OPEN] = 0
        self.transfers.add()

    def undo(self) -> None:
        """Take an open transfer back. Repeating this does no harm, should this process be killed here."""
        if self.journal[OPEN]:
            self.balances[self.journal[FROM]] = self.journal[FROM_BALANCE]
            self.balances[self.journal[TO]] = self.journal[TO_BALANCE]
            self.journal[OPEN] = 0


def work(number: int, die: bool) -> None:
    bank, rng = Bank(), random.Random(number)
    for turn in range(TRANSFERS):
        source, target = rng.sample(range(ACCOUNTS), 2)
        bank.transfer(source, target, rng.randrange(100), die=die and turn == TRANSFERS // 2)


def main() -> None:
    mshare.create("bank", 4096).close()
    try:
        bank = Bank()
        bank.balances[:] = memoryview(b"".join(START.to_bytes(8, "little") for _ in range(ACCOUNTS))).cast("q")
        workers = [Process(target=work, args=(number, number < KILLED)) for number in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        with bank.lock.recover() as died:
            if died is not None:
                bank.undo()
        print(f"{sum(worker.exitcode == -signal.SIGKILL for worker in workers)} of {len(workers)} workers were killed")
        print(f"{bank.transfers.value:,} transfers were completed, and the accounts have {sum(bank.balances):,}")
        assert sum(bank.balances) == ACCOUNTS * START
    finally:
        mshare.unlink("bank")


if __name__ == "__main__":
    main()
