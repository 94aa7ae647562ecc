"""The programs of tests/preload, and processes that run them under `mshare run` or with its variables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MSHARE = (sys.executable, "-m", "mshare")
PROGRAMS = Path(__file__).parents[1] / "preload"
MIB = 1 << 20
SIZE = 66 * MIB
KINDS = ("anonymous", "sysv", "posix", "memfd")


def compile_all(place: Path) -> None:
    """Compile the programs of tests/preload into the directory."""
    shared = ("-shared", "-fPIC")
    plans = {
        "api": ("api.c", "-pthread"),
        "holder": ("holder.c",),
        "thread-local": ("holder.c", "-DTHREAD_LOCAL=1048576"),
        "map": ("map.c",),
        "forks": ("forks.c", "-pthread"),
        "neighbour": ("neighbour.c", "-pthread"),
        "libplugin.so": ("plugin.c", *shared),
        "libearly.so": ("plugin.c", "-DEARLY", *shared),
        "libinterposer.so": ("interposer.c", *shared),
        "deepbind": ("deepbind.c", "-Wl,-rpath,$ORIGIN", "-Wl,--enable-new-dtags"),
        "static": ("holder.c", "-static"),
    }
    for name, (source, *flags) in plans.items():
        command: list[str | Path] = [
            "gcc",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-o",
            place / name,
            PROGRAMS / source,
            *flags,
        ]
        subprocess.run(command, check=True)


def preloaded(built: Path, asked: str = "", *before: Path) -> dict[str, str]:
    """Return an environment as `mshare run` makes it."""
    preload = ":".join(str(path) for path in (*before, built))
    return {**os.environ, "LD_PRELOAD": preload, "MSHARE_RUN": asked}


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*MSHARE, "run", *arguments], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


@contextmanager
def holding(
    command: Sequence[str | Path], environment: Mapping[str, str] | None = None, **options: Any
) -> Iterator[subprocess.Popen[str]]:
    """Start a holder and wait until its memory is touched."""
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        **options,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.stdin.close()
        assert process.wait(60) == 0


def status(pid: int) -> Any:
    done = run("--status", str(pid), "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def large(found: Any) -> Any:
    """Return the one mapping of the holder's size."""
    (mapping,) = (each for each in found["mappings"] if each["length_bytes"] == SIZE)
    return mapping
