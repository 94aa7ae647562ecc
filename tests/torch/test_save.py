"""Saving tensors: what the library refuses is refused before anything is created, and little memory is needed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import torch as oracle

import mshare
from mshare.torch import NotTensorsError, load_file, save

BASE = torch.arange(12.0)


class Own(torch.Tensor):
    """A subclass."""


REFUSED: dict[str, Callable[[], Any]] = {
    "sparse": lambda: {"a": torch.eye(2).to_sparse()},
    "compressed": lambda: {"a": torch.eye(2).to_sparse_csr()},
    "not contiguous": lambda: {"a": BASE.reshape(3, 4).T},
    "expanded": lambda: {"a": torch.ones(1).expand(3)},
    "the same": lambda: {"a": BASE, "b": BASE},
    "a part": lambda: {"a": BASE, "b": BASE[3:5]},
    "an overlap": lambda: {"a": BASE[:5], "b": BASE[4:]},
    "an overlap of other names": lambda: {"z": BASE[:5], "m": torch.ones(3), "a": BASE[4:]},
    "a number": lambda: {"a": 3},
    "a module": lambda: torch.nn.Linear(1, 1),
    "a list": lambda: [BASE],
    "complex128": lambda: {"a": torch.ones(1, dtype=torch.complex128)},
    "quantized": lambda: {"a": torch.quantize_per_tensor(BASE, 0.1, 0, torch.quint8)},
    "a name of bytes": lambda: {b"a": BASE},
    "a surrogate": lambda: {"\ud800": BASE},
}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")  # of sparse and quantized tensors
@pytest.mark.parametrize("which", REFUSED)
def test_what_the_library_refuses_is_refused(world: Path, which: str) -> None:
    source = REFUSED[which]()
    with pytest.raises(mshare.InvalidArgumentError):
        save("t", source)
    with pytest.raises((ValueError, TypeError, RuntimeError, KeyError, AttributeError)):
        oracle.save(source)
    assert mshare.regions() == []


@pytest.mark.parametrize(
    "source",
    [
        {"__metadata__": BASE},
        {"a": torch.empty(3, device="meta")},
        {"a": Own([1.0])},
        {"a": torch.nn.parameter.UninitializedParameter()},
    ],
    ids=["metadata", "meta", "subclass", "uninitialized"],
)
def test_what_would_not_be_loaded_again_is_refused(world: Path, source: dict[str, torch.Tensor]) -> None:
    with pytest.raises(mshare.InvalidArgumentError):
        save("t", source)
    assert mshare.regions() == []


def test_other_arguments_are_refused(world: Path, tmp_path: Path) -> None:
    for metadata in ({"a": 1}, {1: "a"}, {"a": "\ud800"}):
        with pytest.raises(mshare.InvalidArgumentError):
            save("t", {}, metadata=metadata)  # type: ignore[arg-type]
    with pytest.raises(mshare.InvalidArgumentError, match="without a name"):
        save(None, {}, replace=True)
    oracle.save_file({"a": BASE}, tmp_path / "file")
    with pytest.raises(mshare.InvalidArgumentError, match="its own metadata"):
        save("t", tmp_path / "file", metadata={})
    save("t", {}).close()
    with pytest.raises(mshare.RegionExistsError):
        save("t", {})


def test_neighbours_parameters_and_lazy_tensors_are_saved(world: Path) -> None:
    numbers = torch.tensor([1 + 2j, 3 - 4j], dtype=torch.complex64)
    source = {
        "left": BASE[:6],
        "right": BASE[6:],
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "conjugate": numbers.conj(),
        "negative": numbers.conj().imag.contiguous(),
        "scalar": torch.tensor(7),
    }
    save("t", source, mode=0o640).close()
    found = load_file("t")
    assert found.keys() == source.keys()
    for name, tensor in source.items():
        assert torch.equal(found[name], tensor), name
        assert not found[name].requires_grad
    assert mshare.regions()[0].mode == 0o640


def test_a_file_is_taken_as_it_is(world: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    oracle.save_file({"big": torch.arange(5 << 20, dtype=torch.int32), "b": BASE}, path, {"format": "pt"})
    for source in (path, str(path)):
        with save("t", source, replace=True) as region:
            assert bytes(region.buf) == path.read_bytes()
    with save(None, path) as region:
        found = load_file(region)
        assert torch.equal(found["b"], BASE)
        del found


def test_another_file_leaves_nothing(world: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    (tmp_path / "empty").touch()
    torch.save({"a": BASE}, tmp_path / "pickle")
    oracle.save_file({"a": BASE}, tmp_path / "cut")
    os.truncate(tmp_path / "cut", 100)
    for name in ("text", "empty", "pickle", "cut"):
        with pytest.raises(NotTensorsError, match=name):
            save("t", tmp_path / name)
    with pytest.raises(FileNotFoundError):
        save("t", tmp_path / "missing")
    with pytest.raises(IsADirectoryError):
        save("t", tmp_path)
    assert mshare.regions() == []


LIMITED = """
import resource, sys, torch, mshare, mshare.torch
kind, path = sys.argv[1:]
torch.set_num_threads(1)
mshare.torch.save("warm", {"a": torch.arange(9)}, backend="shm").close()
source = path if kind == "file" else torch.load(path, mmap=True)
fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
used = int(fields["VmData"].split()[0]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + (32 << 20),) * 2)
mshare.torch.save("large", source, backend="shm").close()
tensors = mshare.torch.load_file("large")
print(int(tensors["a"].sum()))
try:
    tensors["a"].clone()
except RuntimeError:
    print("no memory for a copy")
"""


@pytest.mark.parametrize("kind", ["file", "pickle"])
def test_saving_and_loading_make_no_copy(world: Path, tmp_path: Path, kind: str) -> None:
    """RLIMIT_DATA bounds the private writable memory of a process, and not its mappings of shared files. `torch.load`
    with `mmap=True` makes a private mapping, which is counted before the limit is set."""
    tensor = torch.arange(12 << 20)
    path = tmp_path / kind
    (oracle.save_file if kind == "file" else torch.save)({"a": tensor}, path)
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, kind, str(path)], capture_output=True, text=True, check=False, timeout=100
    )
    assert (done.returncode, done.stdout) == (0, f"{int(tensor.sum())}\nno memory for a copy\n"), done.stderr
