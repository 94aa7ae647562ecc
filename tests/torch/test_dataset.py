"""Rows of a region for a DataLoader, with workers of every start method."""

from __future__ import annotations

import pickle
import signal
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

import mshare
from mshare.torch import Dataset, save

ROWS = 23


class Halves(Dataset):
    """A dataset that changes its items in place."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, ...]:
        x, y = super().__getitem__(index)
        return x.div_(2), y


def rows() -> dict[str, torch.Tensor]:
    return {"x": torch.arange(ROWS * 3.0).reshape(ROWS, 3), "y": torch.arange(ROWS), "other": torch.tensor(1)}


@pytest.fixture
def fork_server(world: Path) -> Iterator[None]:
    """A fork server of this test, if it starts one: a fork server keeps the environment, and so the world, of its
    start."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    yield
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


def batches(dataset: Dataset, method: str, workers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all rows as workers of the start method load them."""
    handler = signal.getsignal(signal.SIGCHLD)
    try:
        loader = DataLoader(dataset, batch_size=5, num_workers=workers, multiprocessing_context=method, timeout=100)
        xs, ys = zip(*loader, strict=True)
    finally:
        signal.signal(signal.SIGCHLD, handler)  # torch has one of its own for the workers
    return torch.cat(xs), torch.cat(ys)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_workers_of_every_start_method_load_all_rows(fork_server: None, method: str) -> None:
    with save("t", rows(), mode=0o400) as region, region.handle() as handle:
        for source, workers in (("t", 2), (handle, 1)):
            xs, ys = batches(Halves(source, "x", "y"), method, workers)
            assert torch.equal(xs, rows()["x"] / 2)
            assert torch.equal(ys, rows()["y"])


def test_rows_are_copies_and_a_pickle_is_small(world: Path) -> None:
    save("t", rows()).close()
    dataset = Dataset("t", "x", "y")
    assert len(dataset) == ROWS
    x, y = dataset[-1]
    assert (x.tolist(), int(y)) == ([66, 67, 68], 22)
    assert x.untyped_storage().nbytes() == 12
    with pytest.raises(IndexError):
        dataset[ROWS]
    assert len(pickle.dumps(dataset)) < 300
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[3][0], dataset[3][0])


def test_a_dataset_means_one_region(world: Path) -> None:
    """Also in a worker that starts after the region was replaced."""
    save("t", rows()).close()
    older = Dataset("t", "x")
    save("t", {"x": torch.zeros(1, 3)}, replace=True).close()
    assert len(older) == ROWS
    assert len(pickle.loads(pickle.dumps(Dataset("t", "x")))) == 1
    with pytest.raises(mshare.RegionNotFoundError, match="was replaced"):
        len(pickle.loads(pickle.dumps(older)))


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        (["z"], "no tensor 'z'"),
        (["x", "short"], "x, short have 23, 2 rows"),
        (["other", "x"], "other, x have no, 23 rows"),
    ],
)
def test_tensors_without_common_rows_are_refused(world: Path, names: list[str], problem: str) -> None:
    save("t", {**rows(), "short": torch.zeros(2)}).close()
    with pytest.raises(mshare.InvalidArgumentError, match=problem):
        Dataset("t", *names)


def test_a_dataset_needs_names(world: Path) -> None:
    with pytest.raises(mshare.InvalidArgumentError, match="names"):
        Dataset("t")
    with pytest.raises(mshare.RegionNotFoundError):
        Dataset("t", "x")
