"""A Dask cluster: one copy of a file per host, used by all workers.

    python examples/python/cluster.py

The program starts a scheduler and three workers on this machine, which is one host.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path

from distributed import Client, LocalCluster

import mshare.dask

NAME = "example-weights"
SIZE = 1 << 20


def checksum(number: int) -> tuple[int, str]:
    """Return the process, and the checksum of the bytes that a task sees."""
    del number
    with mshare.dask.attach(NAME) as region:
        return os.getpid(), hashlib.sha256(region.buf).hexdigest()


def main() -> None:
    """Run the example, and remove what it made."""
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=3, threads_per_worker=1, dashboard_address=":0", local_directory=folder) as cluster,
        Client(cluster) as client,
    ):
        weights = Path(folder, "weights")
        weights.write_bytes(os.urandom(SIZE))
        mshare.dask.replicate(client, NAME, weights)
        try:
            (copy,) = mshare.dask.status(client)
            print(f"{len(copy.workers)} workers share one copy of {copy.size} bytes: processes {copy.attached}")
            answers = dict(client.gather(client.map(checksum, range(12))))
            assert set(answers.values()) == {copy.checksum}
            print("all tasks see the same bytes")

            weights.write_bytes(os.urandom(SIZE))
            (newer,) = mshare.dask.replicate(client, NAME, weights, replace=True)
            assert newer.checksum != copy.checksum
            print("the next tasks see the new version")
        finally:
            mshare.dask.drop(client, NAME)


if __name__ == "__main__":
    main()
