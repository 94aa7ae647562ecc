"""Reload without downtime: a writer replaces a table, and workers move over between two requests.

    python examples/python/reload.py

The program starts three workers, replaces the table four times while they answer, and checks every answer.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import mshare

NAME = "example-table"
ROWS = 100_000


def publish(version: int) -> None:
    """Give the table's name to a new version. Readers find the older or the complete newer version, at all times."""

    def fill(view: memoryview) -> None:
        view.cast("q")[:] = memoryview((version).to_bytes(8, "little") * ROWS).cast("q")

    with mshare.create(NAME, ROWS * 8, fill=fill, replace=True) as region:
        print(f"version {version} is at {region.addr:#x}")


def work(requests: Connection) -> None:
    """Answer each request with the first and the last row, and the version that they belong to is the same."""
    table = mshare.attach(NAME, readonly=True)
    while requests.recv() is not None:
        if table.superseded:  # one system call
            table = mshare.reattach(table)
        rows = table.buf.cast("q")
        requests.send((rows[0], rows[ROWS - 1]))
        rows.release()
    table.close()


def main() -> None:
    """Run the example, and remove what it made."""
    publish(1)
    workers = []
    for _ in range(3):
        ours, theirs = multiprocessing.Pipe()
        worker = multiprocessing.Process(target=work, args=(theirs,))
        worker.start()
        workers.append((worker, ours))
    for version in range(1, 6):
        if version > 1:
            publish(version)
        for _, requests in workers:
            requests.send("look")
        answers = [requests.recv() for _, requests in workers]
        assert answers == [(version, version)] * 3, answers
        print(f"all workers answer from version {version}")
    for worker, requests in workers:
        requests.send(None)
        worker.join()
    mshare.unlink(NAME)


if __name__ == "__main__":
    main()
