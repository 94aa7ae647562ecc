"""The server of the proposal, and smaller ones that are like it. Pure. May depend on: geometry, units."""

from __future__ import annotations

from typing import NamedTuple

from ..._core.geometry import PMD, page_tables, round_up
from ..._core.units import GIB


class Server(NamedTuple):
    """A machine, and what its database does with it."""

    memory_bytes: int
    region_bytes: int
    """Shared by all clients, and touched by each."""
    clients: int

    @property
    def private_tables_bytes(self) -> int:
        """Page tables if every client maps the region with 4 KiB pages of its own: arithmetic."""
        return self.clients * page_tables(self.region_bytes, leaf_size=4096).bytes


PROPOSAL = Server(512 * GIB, 300 * GIB, 1500)
"""Khalid Aziz, linux-kernel, January 2022: it ran out of memory."""

MOST_FULL = 128
"""The largest factor at which 1,500 of our client processes fit beside the region."""
MOST = 512
"""The largest factor: beyond, clients are killed for the memory they have of their own."""


def server(factor: int) -> Server:
    """Return the proposal's server with every size divided by `factor`, the region in whole 2 MiB (rounded up).

    A client's own memory (half a MiB here) does not shrink with the server. There are 1,500 of them up to `MOST_FULL`,
    and 132,000 / `factor` beyond, 257 at `MOST`. Raises ValueError for a factor that is not 1 to `MOST`.
    """
    if not 1 <= factor <= MOST:
        raise ValueError(f"invalid factor {factor}: use 1 to {MOST}")
    return Server(
        PROPOSAL.memory_bytes // factor,
        round_up(PROPOSAL.region_bytes // factor, PMD),
        PROPOSAL.clients if factor <= MOST_FULL else PROPOSAL.clients * 88 // factor,
    )
