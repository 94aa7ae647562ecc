"""The start of a program by `mshare run`: what the program inherits, and which programs are refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from mshare._tools.preload.program import inspect
from mshare.testing.processes import in_child
from tests.helpers.preload import MSHARE, SIZE, preloaded, run
from tests.helpers.worlds import STRANGER, needs_root


def test_the_program_replaces_the_command(built: Path) -> None:
    script = (
        "import os, signal, json; print(json.dumps([os.getpid(), str(signal.getsignal(signal.SIGPIPE)), "
        "open('/proc/self/status').read().partition('SigIgn:')[2].split()[0], sorted(os.listdir('/proc/self/fd'))]))"
        "; os._exit(42)"
    )
    plain = subprocess.run([sys.executable, "-Sc", script], capture_output=True, text=True, check=False)
    process = subprocess.Popen(
        [*MSHARE, "run", "--", sys.executable, "-Sc", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    output, errors = process.communicate()
    assert process.returncode == 42
    assert errors == ""
    assert json.loads(output)[0] == process.pid
    assert json.loads(output)[1:] == json.loads(plain.stdout)[1:]


def test_the_program_inherits_no_locale_of_pythons(built: Path) -> None:
    """Python sets LC_CTYPE in the locale C, as under systemd."""
    without = {name: value for name, value in os.environ.items() if name != "LANG" and not name.startswith("LC_")}
    command = [*MSHARE, "run", "--", "env"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=without).stdout
    assert "LC_CTYPE" not in printed
    asked = {**without, "LC_CTYPE": "C"}
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=asked).stdout
    assert "LC_CTYPE=C\n" in printed


def test_signals_reach_the_program(built: Path, programs: Path) -> None:
    process = subprocess.Popen(
        [*MSHARE, "run", "--quiet", "--", programs / "holder", "anonymous", str(SIZE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == -signal.SIGTERM
    process.communicate()


def test_options_after_the_program_are_its_own(built: Path) -> None:
    for words in (["--", "echo", "--json", "--help"], ["echo", "--json", "--help"]):
        done = run(*words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "--json --help\n", "")


def test_other_preloaded_libraries_stay(built: Path, programs: Path) -> None:
    done = run("--", "env", LD_PRELOAD=str(programs / "libinterposer.so"))
    assert f"LD_PRELOAD={built}:{programs / 'libinterposer.so'}\n" in done.stdout


@pytest.mark.parametrize("first", [True, False])
def test_another_library_with_its_own_mmap(built: Path, programs: Path, first: bool) -> None:
    other = programs / "libinterposer.so"
    environment = preloaded(built, "backend=thp,fill=ahead")
    environment["LD_PRELOAD"] = ":".join(map(str, (other, built) if first else (built, other)))
    program = "import mmap; m = mmap.mmap(-1, 64 << 20); m[0] = 1; n = mmap.mmap(-1, 2 << 20); n[0] = 1"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "32 of 32 blocks" in done.stderr
    # What mshare takes over is not seen by a library behind it; the small mapping is.
    assert done.stdout == ("2 calls\n" if first else "1 calls\n")


def test_memory_of_libraries_that_bind_deeply_is_taken_over(built: Path, programs: Path) -> None:
    environment = preloaded(built, "backend=thp")
    done = subprocess.run([programs / "deepbind"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "aligned\n"
    assert "40 MiB" in done.stderr


@pytest.mark.parametrize("first", [True, False])
def test_memory_that_is_mapped_before_any_constructor(built: Path, programs: Path, first: bool) -> None:
    environment = preloaded(built, "backend=thp,fill=ahead")
    early = programs / "libearly.so"
    environment["LD_PRELOAD"] = ":".join(map(str, (early, built) if first else (built, early)))
    done = subprocess.run(["true"], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "aligned\n"
    assert "20 of 20 blocks" in done.stderr


def elf(into: Path, change: Mapping[int, bytes]) -> Path:
    """Write a copy of a program of this machine with some bytes changed."""
    raw = bytearray(Path("/bin/true").read_bytes())
    for at, value in change.items():
        raw[at : at + len(value)] = value
    into.write_bytes(raw)
    into.chmod(0o755)
    return into


def loader_at() -> int:
    """Return where the name of the loader lies in the file of /bin/true."""
    with Path("/bin/true").open("rb") as stream:
        (segment,) = (each for each in ELFFile(stream).iter_segments("PT_INTERP"))
        return int(segment["p_offset"])


def refused(program: Path | str, *reasons: str, **environment: str) -> None:
    """Assert that the program is not started, and why."""
    done = run("--", program, **environment)
    assert done.returncode == 8, done
    assert done.stdout == ""
    for reason in reasons:
        assert reason in done.stderr
    checked = run("--check", "--json", "--", program, **environment)
    assert checked.returncode == 8
    assert json.loads(checked.stdout)["usable"] is False
    assert reasons[0] in json.loads(checked.stdout)["obstacle"]


def test_programs_that_cannot_preload_are_refused(built: Path, programs: Path, tmp_path: Path) -> None:
    refused(programs / "static", "linked statically")
    refused(elf(tmp_path / "narrow", {4: b"\x01"}), "")
    refused(elf(tmp_path / "other", {18: struct.pack("<H", 8)}), "another processor")
    refused(elf(tmp_path / "musl", {loader_at(): b"/lib/ld-musl-x86_64.so.1\0\0\0"}), "musl")
    script = tmp_path / "script"
    script.write_text("echo started\n")
    script.chmod(0o755)
    refused(script, "neither an ELF program nor a script that names its interpreter")
    script.write_text(f"#!{programs / 'static'}\n")
    refused(script, "linked statically")
    script.write_text("#!/no/such/interpreter\n")
    refused(script, "'/no/such/interpreter' does not exist")
    script.write_text("#!/usr/bin/env no-such-interpreter\n")
    refused(script, "'no-such-interpreter' is not in PATH")
    script.write_text("#!/usr/bin/env python3\nprint('started')\n")
    assert run("--", script).stdout == "started\n"
    script.write_text("#!/bin/sh\necho started\n")
    assert run("--", script).stdout == "started\n"


def test_a_32_bit_program_is_refused(tmp_path: Path) -> None:
    """A header is enough: the file is never executed."""
    head = b"\x7fELF\x01\x01\x01" + bytes(9) + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 0, 40, 0, 0)
    program = tmp_path / "narrow"
    program.write_bytes(head)
    program.chmod(0o755)
    refused(program, "32-bit")


@needs_root
def test_programs_with_privileges_are_refused(built: Path, programs: Path) -> None:
    program = elf(programs / "elevated", {})
    os.chown(program, STRANGER, STRANGER)
    program.chmod(0o4755)
    refused(program, "set-user-id")
    program.chmod(0o2755)
    refused(program, "set-group-id")
    os.chown(program, 0, 0)
    program.chmod(0o4755)  # root's, and root starts it: nothing is gained
    assert run("--", program).returncode == 0
    program.chmod(0o755)
    # struct vfs_cap_data, revision 2, CAP_NET_RAW permitted and effective
    os.setxattr(program, "security.capability", struct.pack("<IIIII", 0x02000001, 1 << 13, 0, 0, 0))

    def as_stranger() -> str:
        os.setresuid(STRANGER, STRANGER, STRANGER)
        return inspect(str(program)).obstacle

    assert "file capabilities" in in_child(as_stranger).value
    assert run("--", program).returncode == 0  # root gains nothing by them


def test_a_go_program_gets_a_warning(tmp_path: Path) -> None:
    objcopy = shutil.which("objcopy")
    assert objcopy is not None, "binutils come with gcc"
    notes = tmp_path / "notes"
    notes.write_bytes(b"\xff Go buildinf:")
    program = tmp_path / "go"
    subprocess.run([objcopy, "--add-section", f".go.buildinfo={notes}", "/bin/true", program], check=True)
    done = run("--", program)
    assert done.returncode == 0
    assert "it is a Go program" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--", "no-such-program"], 3, "no such program in PATH: no-such-program"),
        (["--", "/no/such/program"], 3, "/no/such/program"),
        (["--", "/etc/passwd"], 7, "not a program that you may execute"),
        (["--", "/tmp"], 7, "not a program that you may execute"),
        ([], 2, "the program to start is missing"),
        (["--min", "1M", "--", "true"], 2, "cannot have 2 MiB leaves"),
        (["--min", "x", "--", "true"], 2, "invalid size 'x'"),
        (["--only", "a b", "--", "true"], 2, "invalid --only 'a b'"),
        (["--only", "a,fill=never", "--", "true"], 2, "invalid --only"),
        (["--log", "/tmp/it's", "--", "true"], 2, "invalid --log"),
        (["--backend", "msharefs", "--", "true"], 8, "msharefs cannot be used"),
        (["--check", "--environment", "--", "true"], 2, "use only one of"),
        (["--status", "4194305"], 3, "4194305"),
    ],
)
def test_mistakes_are_explained(built: Path, arguments: list[str], code: int, message: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
