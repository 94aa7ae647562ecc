"""Weights to a GPU, by several processes at the same time: `python -m benchmarks.gpu [--size 8G]`, or `make bench-gpu`.

Tensors lie in a safetensors file, which is in the page cache, and in a region. New processes, whose CUDA contexts
exist, get the word at the same moment and load all tensors to the GPU: by `safetensors.torch.load_file` from the file,
and by `mshare.torch.load_file` from the region, pinned and not. A time ends when all copies are there. The mechanisms
take turns, first with one process, then with four; figures are medians over the rounds and processes. The benchmark
begins no round after `--seconds`. It refuses to run without a CUDA device, or without the memory that it needs.
May depend on: machine, output, procfs, units, mshare, mshare.torch, torch, safetensors.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import torch
from safetensors import torch as safetensors_torch

import mshare
import mshare.torch
from mshare._core.procfs import parse_fields_kb
from mshare._core.units import format_size, format_time, parse_size

from . import machine, output

CROWDS = (1, 4)
FILE, PINNED, PAGEABLE = "safetensors file", "mshare, pinned", "mshare, not pinned"
REGISTER = "mshare, register and unregister alone"
_TENSOR = 64 << 20
_PATIENCE_S = 60


@dataclass(frozen=True)
class Place:
    """The file and the region with the tensors."""

    file: str
    region: str


def _register(place: Place) -> dict[str, torch.Tensor]:
    with mshare.attach(place.region, readonly=True) as region, mshare.torch.pinned(region):
        return {}


LOADERS: dict[str, Callable[[Place], dict[str, torch.Tensor]]] = {
    FILE: lambda place: safetensors_torch.load_file(place.file, device="cuda"),
    PAGEABLE: lambda place: mshare.torch.load_file(place.region, device="cuda", pin=False),
    PINNED: lambda place: mshare.torch.load_file(place.region, device="cuda"),
    REGISTER: _register,
}


@dataclass(frozen=True)
class Trial:
    """The time of one process."""

    mechanism: str
    processes: int
    seconds: float


def sums(tensors: Mapping[str, torch.Tensor]) -> int:
    """Return a number that depends on all items."""
    return sum(int(tensor.sum(dtype=torch.int64)) * (place + 1) for place, tensor in enumerate(tensors.values()))


def _work(pipe: Connection, place: Place) -> None:
    """Load by each mechanism that is asked for, and answer with the time and the sums, until there is None."""
    torch.zeros(1, device="cuda")  # makes the context, which takes longer than all that is measured
    torch.cuda.synchronize()
    pipe.send("ready")
    while (mechanism := pipe.recv()) is not None:
        started = time.monotonic()
        tensors = LOADERS[mechanism](place)
        torch.cuda.synchronize()
        seconds = time.monotonic() - started
        pipe.send((seconds, sums({name: tensors[name] for name in sorted(tensors)})))
        del tensors
        torch.cuda.empty_cache()
        pipe.send("free")


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(_PATIENCE_S):
        raise TimeoutError(f"a process has not answered for {_PATIENCE_S} s")
    return pipe.recv()


def measure(place: Place, processes: int, expected: int, end: float, rounds: int) -> list[Trial]:
    """Return the times of so many processes, in rounds in which the mechanisms take turns, until `end`."""
    context = multiprocessing.get_context("spawn")
    trials = []
    with ExitStack() as undo:
        pipes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, place), daemon=True)
            process.start()
            undo.callback(process.kill)
            pipes.append(ours)
        assert [_answer(pipe) for pipe in pipes] == ["ready"] * processes
        for number in range(rounds):
            if number and time.monotonic() > end:
                break
            for mechanism in LOADERS:
                for pipe in pipes:
                    pipe.send(mechanism)
                for pipe in pipes:
                    seconds, found = _answer(pipe)
                    assert found == (0 if mechanism == REGISTER else expected), "the GPU has other items"
                    trials.append(Trial(mechanism, processes, seconds))
                assert [_answer(pipe) for pipe in pipes] == ["free"] * processes
                print(f"{processes} processes, round {number + 1}: {trials[-1]}", file=sys.stderr)
        for pipe in pipes:
            pipe.send(None)
    return trials


def markdown(trials: Sequence[Trial], found: Mapping[str, Any], size: int) -> str:
    """Return the report. Pure."""
    crowds = sorted({each.processes for each in trials})
    lines = [
        f"# {format_size(size)} of weights to a GPU",
        "",
        "`make bench-gpu`: medians over rounds and processes, in which all mechanisms take turns. The processes have",
        "their CUDA contexts and start at the same moment; a time ends when all copies are on the GPU. The file is in",
        "the page cache. The rate is that of one process.",
        "",
        machine.line(found),
        f"torch {found['torch']}, safetensors {found['safetensors']}, GPU {found['gpu']}, load average "
        f"{found['load_1min']:.1f}. The region is on backend {found['backend']}.",
        *[f"Remark: {remark}." for remark in machine.remarks(found)],
        "",
        "| mechanism | processes | time | of the file's | GB/s | rounds |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    times = {
        (name, crowd): [t.seconds for t in trials if (t.mechanism, t.processes) == (name, crowd)]
        for name in LOADERS
        for crowd in crowds
    }
    for (name, crowd), values in times.items():
        seconds = median(values)
        rate = "" if name == REGISTER else f"{size / seconds / 1e9:.1f}"
        lines.append(
            f"| {name} | {crowd} | {format_time(seconds * 1e9)} | {seconds / median(times[FILE, crowd]):.3f} | {rate} "
            f"| {len(values) // crowd} |"
        )
    return "\n".join(lines) + "\n"


def obstacle(size: int, processes: int) -> str | None:
    """Return why the benchmark cannot run here, or None."""
    if not torch.cuda.is_available():
        return "torch finds no CUDA device, which this benchmark is about"
    free, _ = torch.cuda.mem_get_info()
    if free < size * processes * 21 // 20:
        return f"{processes} copies of {format_size(size)} do not fit into {format_size(free)} of the GPU's memory"
    available = parse_fields_kb(Path("/proc/meminfo").read_bytes())["MemAvailable"]
    if available < size * 5 // 2:
        return f"the region and the file in the page cache do not fit into {format_size(available)} of memory"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--size", type=parse_size, default=parse_size("8G"), help="bytes of the tensors")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument("--seconds", type=float, default=150, help="begin no round after this time")
    parser.add_argument("--backend", help="the region's backend")
    parser.add_argument("--directory", type=Path, metavar="DIR", help="where the file is made, on a disk")
    output.add_options(parser)
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    reason = obstacle(options.size, max(CROWDS))
    if reason is not None:
        parser.error(reason)
    found = machine.facts(("mshare", "torch", "safetensors")) | {"gpu": torch.cuda.get_device_name()}
    trials = []
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="mshare-bench-", dir=options.directory)))
        place = Place(str(folder / "weights.safetensors"), f"bench-gpu-{time.monotonic_ns()}")
        count = options.size // _TENSOR
        made = {
            f"{number:04}": torch.randint(256, (_TENSOR,), dtype=torch.uint8, device="cuda") for number in range(count)
        }
        expected = sums(made)
        with mshare.torch.save(place.region, made, backend=options.backend) as region:
            undo.callback(mshare.unlink, place.region)
            found["backend"] = region.backend
            with region.buf as view:
                Path(place.file).write_bytes(view)
        del made
        torch.cuda.empty_cache()
        for processes in CROWDS:
            trials += measure(place, processes, expected, end, options.rounds)
    document = {"machine": found, "size_bytes": options.size, "trials": [asdict(each) for each in trials]}
    output.write(options, document, markdown(trials, found, count * _TENSOR))


if __name__ == "__main__":
    main()
