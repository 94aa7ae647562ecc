"""Loaded tensors: they keep the region, share its memory, and a write through a read-only one is as the page says."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import mshare
from mshare.torch import NotTensorsError, WriteGuard, load_file, load_metadata, save

DEADLINE_S = 100


def test_tensors_keep_the_region_and_a_newer_one_replaces_it(world: Path) -> None:
    region = save("t", {"a": torch.arange(4), "b": torch.ones(2)})
    tail = load_file(region)["a"][2:]
    save("t", {"a": torch.zeros(1)}, replace=True).close()
    assert region.superseded
    with pytest.raises(mshare.ViewsAliveError):
        region.close()
    mshare.unlink("t")
    assert tail.tolist() == [2, 3]
    del tail
    region.close()
    with pytest.raises(mshare.RegionClosedError):
        load_file(region)
    with pytest.raises(mshare.RegionNotFoundError):
        load_file("t")


def test_a_handle_is_enough(world: Path) -> None:
    with save(None, {"a": torch.arange(3)}, metadata={"k": "v"}) as region, region.map_only() as handle:
        assert load_file(handle)["a"].tolist() == [0, 1, 2]
        assert load_metadata(handle) == load_metadata(region) == {"k": "v"}


def test_every_backend_holds_tensors(backend: str) -> None:
    expected = {"a": torch.arange(3 << 20, dtype=torch.int32), "b": torch.ones(3, dtype=torch.bfloat16)}
    with save("t", expected, backend=backend) as region:
        found = load_file("t")
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
        assert all(region.addr < each.data_ptr() < region.addr + region.size for each in found.values())
        del found


def test_tensors_that_can_be_written_to_are_shared(world: Path) -> None:
    save("t", {"a": torch.zeros(3)}, mode=0o600).close()
    load_file("t", readonly=False)["a"].add_(torch.arange(3.0))
    assert load_file("t")["a"].tolist() == [0, 1, 2]
    with mshare.attach("t", readonly=True) as region, pytest.raises(mshare.ReadOnlyMappingError):
        load_file(region, readonly=False)


def test_other_bytes_are_not_tensors(world: Path) -> None:
    with mshare.create("t", 4096) as region:
        for call in (load_file, load_metadata):
            with pytest.raises(NotTensorsError, match="region 't' is not a safetensors file"):
                call(region)


WRITE = """
import faulthandler, sys, torch, mshare.torch
faulthandler.enable()
tensor = mshare.torch.load_file("t")["a"]
print(int(tensor.sum()), flush=True)
tensor[0] = 1
"""


def test_a_write_to_a_read_only_tensor_ends_the_process_and_changes_nothing(world: Path) -> None:
    save("t", {"a": torch.arange(3)}).close()
    command = [sys.executable, "-c", WRITE]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert (done.returncode, done.stdout) == (-signal.SIGSEGV, "3\n")
    assert 'File "<string>", line 6' in done.stderr
    assert load_file("t")["a"].tolist() == [0, 1, 2]


def train(tensors: dict[str, torch.Tensor]) -> None:
    parameter = torch.nn.Parameter(tensors["a"])
    parameter.sum().backward()
    torch.optim.SGD([parameter], lr=0.1).step()


WRITES: dict[str, Callable[[dict[str, torch.Tensor]], Any]] = {
    "in place": lambda t: t["a"].add_(1),
    "an item": lambda t: t["a"].__setitem__(0, 1),
    "a view": lambda t: t["a"].reshape(3, 2).T[1].zero_(),
    "out": lambda t: torch.add(t["b"], 1, out=t["a"]),
    "several": lambda t: torch._foreach_mul_([t["b"].clone(), t["a"]], 2),
    "an optimizer": train,
    "a copy": lambda t: t["a"].copy_(t["b"]),
    "statistics": lambda t: torch.nn.functional.batch_norm(torch.ones(5, 6), t["a"], t["b"], training=True),
}


@pytest.mark.parametrize("which", WRITES)
def test_a_guard_finds_writes(world: Path, which: str) -> None:
    """The tensors are those of a read-write attachment here, so that an unseen write fails the test alone."""
    save("t", {"a": torch.arange(6.0), "b": torch.ones(6)}).close()
    tensors = load_file("t", readonly=False)
    with WriteGuard(tensors), pytest.raises(mshare.ReadOnlyMappingError, match="tensor 'a'"):
        WRITES[which](tensors)
    assert tensors["a"].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_guard_lets_all_else_pass(world: Path) -> None:
    save("t", {"weight": torch.ones(2, 3), "bias": torch.zeros(2), "empty": torch.empty(0)}).close()
    tensors = load_file("t")
    with torch.device("meta"):
        model = torch.nn.Linear(3, 2)
    with WriteGuard(tensors):
        model.load_state_dict({name: tensors[name] for name in ("weight", "bias")}, assign=True)
        result = model(torch.ones(1, 3))
        result.sum().backward()
        assert result.tolist() == [[3, 3]]
        tensors["bias"].clone().add_(1)
        torch.nn.functional.batch_norm(torch.ones(5, 2), tensors["bias"], tensors["bias"] + 1)
        tensors["empty"].zero_()
    assert model.weight.data_ptr() == tensors["weight"].data_ptr()
    assert model.weight.grad is not None


DEVICES = """
import sys, mshare, mshare.torch, torch
for device in ("cuda", "cuda:7", 0, "meta", "xpu", "nonsense", torch.device("cuda")):
    try:
        mshare.torch.load_file("t", device)
    except mshare.torch.DeviceError as error:
        print(error.problem)
with mshare.attach("t") as region:
    try:
        with mshare.torch.pinned(region):
            print("pinned")
    except mshare.torch.DeviceError as error:
        print(error.problem)
"""


def test_a_machine_without_the_device_is_an_error_that_says_so(world: Path) -> None:
    save("t", {"a": torch.arange(3)}).close()
    command = ["env", "CUDA_VISIBLE_DEVICES=", "HIP_VISIBLE_DEVICES=", sys.executable, "-c", DEVICES]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=DEADLINE_S)
    lines = done.stdout.splitlines()
    starts = ["cuda cannot", "cuda:7 cannot", "", "tensors cannot be loaded to meta", "tensors cannot be loaded to xpu"]
    starts += ["torch knows no device 'nonsense'", "cuda cannot", "cuda cannot"]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts
    reason = "this torch is built without CUDA" if torch.version.cuda is None else "the driver shows no such device"
    assert lines[0] == f"cuda cannot be used: {reason}"
