"""The facts in a program's file about preloading: whether the loader will load a library into the program.
May depend on: errors, elftools.

Facts: the loader (ld.so) ignores LD_PRELOAD without a word where the kernel sets AT_SECURE (set-user-id,
set-group-id, file capabilities). A static program has no loader. A 32-bit program, and one of musl, cannot load a
library of 64-bit glibc. A program in Go loads it, but makes its own system calls. Source: ld.so(8).
"""

from __future__ import annotations

import errno
import os
import platform
import shlex
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.segments import InterpSegment

from ..._core.errors import MshareError

_MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
_DEEPEST = 4
"""Scripts whose interpreter is a script: the kernel follows five."""


class UnsuitableProgramError(MshareError):
    """The loader would not load the preload library into the program."""

    code = errno.EOPNOTSUPP


@dataclass(frozen=True, slots=True)
class Program:
    """A program that can be started."""

    path: str
    """The file that the kernel executes."""
    interpreter: str
    """For a script, the program that reads the script; else empty."""
    obstacle: str
    """Why the preload library would not be loaded; empty if it would be."""
    warning: str
    """The calls that the library will not see in this program; empty if nothing is known."""


def find(name: str) -> str:
    """Return the path of the program that a shell would start. Raises `FileNotFoundError`, `PermissionError`."""
    found = shutil.which(name)
    if found is not None:
        return found
    if "/" not in name:
        raise FileNotFoundError(errno.ENOENT, "there is no such program in PATH", name)
    os.stat(name)
    raise PermissionError(errno.EACCES, "this file is not a program that you may execute", name)


def inspect(name: str) -> Program:
    """Look at the program `name`, a path or a name in PATH. Reads a few KiB of its file.

    Raises `FileNotFoundError`, `PermissionError`.
    """
    path = find(name)
    interpreter = ""
    file = path
    for _ in range(_DEEPEST):
        line = _first_line(file)
        if line is None:
            break
        following, obstacle = _interpreter(line)
        if not following:
            return Program(path, interpreter, obstacle, "")
        file = interpreter = following
    obstacle, warning = _judge(file)
    return Program(path, interpreter, obstacle, warning)


def require(program: Program) -> None:
    """Raise `UnsuitableProgramError` if the library would not be loaded into the program."""
    if program.obstacle:
        raise UnsuitableProgramError(f"mshare cannot help {program.path}: {program.obstacle}", _REMEDY)


_REMEDY = "start it without `mshare run`, or use `mshare collapse` on the running program"


def _first_line(file: str) -> bytes | None:
    """Return the first line of a script, without its end; None for a binary that can be read, or for what cannot."""
    try:
        with Path(file).open("rb") as script:
            head = script.read(256)
    except OSError:  # executable, but not readable
        return None
    return None if head.startswith(b"\x7fELF") else head.partition(b"\n")[0]


def _interpreter(line: bytes) -> tuple[str, str]:
    """Return the program that reads a script with this first line, and why there is none."""
    if not line.startswith(b"#!"):
        return "", "its file is neither an ELF program nor a script that names its interpreter (#!)"
    words = shlex.split(os.fsdecode(line[2:]), posix=False)
    if words and Path(words[0]).name == "env":
        names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        found = shutil.which(names[0]) if names else None
        return (found, "") if found else ("", f"the interpreter {' '.join(names[:1])!r} is not in PATH")
    if not words or not Path(words[0]).is_file():
        return "", f"the interpreter {' '.join(words[:1])!r} does not exist"
    return words[0], ""


def _judge(file: str) -> tuple[str, str]:
    """Return obstacle and warning of an ELF file."""
    status = os.stat(file)
    if status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid():
        return "it is set-user-id, and the loader then ignores LD_PRELOAD", ""
    if status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP and status.st_gid != os.getegid():
        return "it is set-group-id, and the loader then ignores LD_PRELOAD", ""
    if os.geteuid() != 0 and _has_capabilities(file):
        return "it has file capabilities, and the loader then ignores LD_PRELOAD", ""
    try:
        with Path(file).open("rb") as stream:
            return _judge_elf(ELFFile(stream))
    except ELFError as error:
        return f"its file cannot be understood ({error})", ""
    except PermissionError:
        return "", "its file cannot be read, so mshare cannot tell whether the library will be loaded"


def _judge_elf(elf: ELFFile) -> tuple[str, str]:
    if elf.elfclass != 64:
        return "it is a 32-bit program", ""
    ours = _MACHINES.get(platform.machine())
    if elf["e_machine"] != ours:
        return f"it is for another processor ({elf['e_machine']})", ""
    loaders = [each.get_interp_name() for each in elf.iter_segments() if isinstance(each, InterpSegment)]
    if not loaders:
        return "it is linked statically, and nothing can be preloaded", ""
    if Path(loaders[0]).name.startswith("ld-musl"):
        return "it uses the C library musl, and the preload library needs glibc", ""
    if elf.get_section_by_name(".go.buildinfo") is not None:
        return "", "it is a Go program: Go makes its own system calls, which the library does not see"
    return "", ""


def _has_capabilities(file: str) -> bool:
    try:
        return bool(os.getxattr(file, "security.capability"))
    except OSError:
        return False
