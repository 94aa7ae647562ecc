"""A buffer pool that grows and shrinks: one region with a stable address, a maximum, and a part in use.

    python examples/python/buffer_pool.py

A pool manager gives frames to three clients on demand, and gives memory back to the system when the clients are idle.
Every client has the whole pool attached, and never attaches again when the pool grows.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection

import mshare

NAME = "example-pool"
FRAME = 2 << 20
"""Bytes of a frame: 2 MiB, the unit in which hugetlb and thp gain and lose memory."""
MOST = 1 << 30
"""The largest size of the pool. It costs addresses, and no memory."""
MIB = 1 << 20


def grow(pool: mshare.Region, frames: int, more: int) -> int:
    """Return the number of frames after growth, which is the old one if the machine has no memory."""
    try:
        pool.populate(frames * FRAME, more * FRAME)
    except mshare.NoSpaceError as error:
        print(f"the pool stays at {frames} frames: {error.problem}")
        return frames
    return frames + more


def shrink(pool: mshare.Region, frames: int, less: int) -> int:
    """Return the number of frames after the memory of the last ones has gone back to the system."""
    pool.discard((frames - less) * FRAME, less * FRAME)
    return frames - less


def work(requests: Connection) -> None:
    """Fill each frame whose number comes, and answer with the first byte that was there before and the address."""
    pool = mshare.attach(NAME)
    while (frame := requests.recv()) is not None:
        before = pool.buf[frame * FRAME]
        pool.buf[frame * FRAME : (frame + 1) * FRAME] = bytes([frame + 1]) * FRAME
        requests.send((before, pool.addr))
    pool.close()


def main() -> None:
    """Run the example, and remove what it made."""
    pool = mshare.create(NAME, MOST, reserve=False)
    start = pool.resident()
    print(f"a pool of up to {MOST // MIB} MiB at {pool.addr:#x} on {pool.backend}: {start // 1024} KiB of memory")
    clients = []
    for _ in range(3):
        ours, theirs = multiprocessing.Pipe()
        process = multiprocessing.Process(target=work, args=(theirs,))
        process.start()
        clients.append((process, ours))
    frames = 0
    for step in (4, 12, 8):
        frames = grow(pool, frames, step)
        for frame in range(frames - step, frames):
            _, requests = clients[frame % 3]
            requests.send(frame)
            assert requests.recv() == (0, pool.addr), "a new frame is all zeros, at the same address everywhere"
        print(f"grown to {frames} frames: {(pool.resident() - start) // MIB} MiB of memory")
    assert [pool.buf[frame * FRAME] for frame in range(frames)] == list(range(1, frames + 1))
    frames = shrink(pool, frames, 16)
    print(f"shrunk to {frames} frames: {(pool.resident() - start) // MIB} MiB of memory")
    frames = grow(pool, frames, 2)
    assert pool.buf[(frames - 1) * FRAME] == 0, "frames that come back are all zeros again"
    for process, requests in clients:
        requests.send(None)
        process.join()
    pool.close()
    mshare.unlink(NAME)


if __name__ == "__main__":
    main()
