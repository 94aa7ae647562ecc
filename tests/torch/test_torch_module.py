"""The module `mshare.torch` as a whole: its names, documents, errors, example and benchmarks."""

from __future__ import annotations

import doctest
import errno
import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy

import mshare
import mshare.torch
from benchmarks.first_use import MECHANISMS, Place
from benchmarks.gpu import LOADERS, Trial, markdown
from benchmarks.machine import facts
from mshare._core import errors
from tests.helpers.public import assert_typed_with_docstrings, rows

ROOT = Path(__file__).parents[2]
NO_GPU = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


def test_the_names_are_documented_typed_and_have_docstrings() -> None:
    assert sorted(rows("mshare.torch")) == sorted(mshare.torch.__all__)
    assert_typed_with_docstrings(mshare.torch)


def test_the_table_of_errors_has_those_of_the_module() -> None:
    kinds = [getattr(mshare.torch, name) for name in mshare.torch.__all__ if name.endswith("Error")]
    assert len(kinds) == 2
    for kind in kinds:
        row = rf"^{kind.__name__} +{errno.errorcode[kind.code]} +- +`torch` "
        assert re.search(row, errors.__doc__ or "", re.MULTILINE)
        assert (kind.__module__, kind.__bases__) == ("mshare.torch", (mshare.MshareError,))


def test_the_example_in_the_docstring_runs(world: Path) -> None:
    assert doctest.testmod(mshare.torch, raise_on_error=False) == (0, 6)
    assert mshare.regions() == []


def test_the_example_does_what_it_says_and_leaves_nothing(world: Path) -> None:
    program = ROOT / "examples" / "python" / "weights.py"
    run = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, check=False, timeout=100)
    assert run.returncode == 0, run.stderr
    assert "4 workers gave 20 right answers" in run.stdout
    assert [path.name for root in world.iterdir() for path in root.iterdir()] == []


def test_the_import_does_not_load_torch_and_says_what_to_install() -> None:
    program = "import sys, mshare; assert not {'torch', 'mshare.torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
    hidden = "import sys; sys.modules['torch'] = None; import mshare.torch"
    failed = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: mshare.torch needs torch: pip install 'mshare[torch]'" in failed.stderr


def test_the_benchmark_of_the_gpu_refuses_a_machine_without_one() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--size", "1M"]
    done = subprocess.run(command, cwd=ROOT, env=NO_GPU, capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout) == (2, "")
    assert "torch finds no CUDA device" in done.stderr


def test_the_page_of_the_gpu_has_medians_and_ratios() -> None:
    trials = [
        Trial(name, processes, (place + 1) * seconds * processes)
        for place, name in enumerate(LOADERS)
        for processes in (1, 4)
        for seconds in (0.1, 0.2, 0.9)
        for _ in range(processes)
    ]
    found = facts(("torch", "safetensors")) | {"gpu": "a GPU", "backend": "thp"}
    page = markdown(trials, found, 1 << 30)
    assert "| safetensors file | 1 | 200.0 ms | 1.000 | 5.4 | 3 |" in page
    assert "| mshare, pinned | 4 | 2,400.0 ms | 3.000 | 0.4 | 3 |" in page
    assert "GPU a GPU" in page


def test_torch_multiprocessing_gives_the_table_of_the_benchmark(tmp_path: Path) -> None:
    table = numpy.arange(1000, dtype="f8")
    numpy.save(tmp_path / "table.npy", table)
    mechanism = MECHANISMS["torch.multiprocessing"]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as memory, ExitStack() as undo:
        place = Place(tmp_path / "table.npy", Path(memory), "unused")
        mechanism.connect(mechanism.start(place, undo))
        token = mechanism.provide(place, undo)
        assert token.is_shared()
        assert numpy.array_equal(mechanism.use(token, []), table)
        del token
