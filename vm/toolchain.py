"""Makes the unpacked compiler and host tools of another Debian suite run here, without a chroot and without root.

Kbuild's host tools (modpost, objtool, ...), the kernel's compiler, binutils and pahole of a newer suite need a newer C
library than this machine has. All of these programs are unpacked below the kernel's root, with their dependencies. Each
program is moved to NAME.elf. A small script in the program's place calls NAME.elf through that suite's loader, with
that suite's libraries.

May depend on: errors.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

from .errors import FetchError

LOADER = "usr/lib64/ld-linux-x86-64.so.2"
LIBRARIES = "usr/lib/x86_64-linux-gnu"
PREFIX = "usr/bin/x86_64-linux-gnu-"
_PLACES = ("usr/bin", "usr/libexec/gcc", "usr/lib/linux-kbuild-*")
_NEEDLESS = (
    "usr/share",
    "usr/libexec/gcc/*/*/lto*",
    "usr/bin/*-lto-dump-*",
    "usr/lib/gcc/*/*/lib*san*",
    "usr/lib/*/lib*san.*",
)


def install(unpacked: Path, root: Path) -> None:
    """Replace every program below `unpacked` by a script that works when the directory is renamed to `root`."""
    if not (unpacked / LOADER).exists():
        raise FetchError(f"the C library's package holds no {LOADER}; the package's layout has changed")
    for pattern in _NEEDLESS:
        for path in unpacked.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for place in _PLACES:
        for directory in unpacked.glob(place):
            for path in [path for path in directory.rglob("*") if _is_program(path)]:
                moved = path.with_name(path.name + ".elf")
                path.rename(moved)
                path.write_text(script(root / moved.relative_to(unpacked), root))
                path.chmod(0o755)


def _is_program(path: Path) -> bool:
    if path.is_symlink() or not path.is_file() or not path.stat().st_mode & 0o100:
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def script(program: Path, root: Path) -> str:
    """Return the script for a program's place. Programs find their parts, and modpost its variant, by their name."""
    words = [str(root / LOADER), "--library-path", str(root / LIBRARIES), "--argv0"]
    command = f'exec {shlex.join(words)} "$0" {shlex.quote(str(program))}'
    if re.search(r"-gcc-[0-9]+\.elf$", program.name):
        # Debian's compiler calls this machine's /usr/bin/x86_64-linux-gnu-as, which is too old for the compiler.
        command += f" -B{shlex.quote(str(root / PREFIX))}"
    return f'#!/bin/sh\n{command} "$@"\n'


def kernel_variables(text: str, root: Path) -> str:
    """Return the headers' `.kernelvariables`, with compiler, binutils and pahole from below `root`."""
    text, count = re.subn(
        r"^(override CROSS_COMPILE *= *)x86_64-linux-gnu-$", rf"\g<1>{root / PREFIX}", text, flags=re.MULTILINE
    )
    if count != 1:
        raise FetchError(
            "the headers' .kernelvariables does not set CROSS_COMPILE as it did; vm/toolchain.py knows no other"
        )
    return f"{text.rstrip()}\nPAHOLE = {root}/usr/bin/pahole\n"
