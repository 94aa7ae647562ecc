"""vm.toolchain and vm.apt: programs of another suite, and directories of apt's own."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vm import apt, store, toolchain
from vm.errors import FetchError

VARIABLES = """\
override ARCH = x86
CC = $(if $(DEBIAN_KERNEL_USE_CCACHE),$(CCACHE)) $(CROSS_COMPILE)gcc-14
override CROSS_COMPILE = x86_64-linux-gnu-
"""


def _tree(path: Path) -> Path:
    """Unpacked packages, with this machine's own loader, C library and `echo`."""
    loader = path / toolchain.LOADER
    loader.parent.mkdir(parents=True)
    shutil.copy2("/lib64/ld-linux-x86-64.so.2", loader)
    for place in ("usr/bin", "usr/share/doc", toolchain.LIBRARIES):
        (path / place).mkdir(parents=True, exist_ok=True)
    shutil.copy2("/lib/x86_64-linux-gnu/libc.so.6", path / toolchain.LIBRARIES)
    shutil.copy2("/bin/echo", path / "usr/bin/tool")
    (path / "usr/bin/alias").symlink_to("tool")
    (path / "usr/bin/script").write_text("#!/bin/sh\n")
    (path / "usr/bin/script").chmod(0o755)
    return path


def test_programs_run_with_the_loader_and_libraries_beside_them(tmp_path: Path) -> None:
    root = tmp_path / "its place"
    unpacked = _tree(tmp_path / "unpacked")
    toolchain.install(unpacked, root)
    unpacked.rename(root)
    for name in ("tool", "alias"):
        done = subprocess.run([root / "usr/bin" / name, "a b", "$c"], capture_output=True, check=True)
        assert done.stdout == b"a b $c\n"
    assert str(root / toolchain.LOADER) in (root / "usr/bin/tool").read_text()
    assert (root / "usr/bin/script").read_text() == "#!/bin/sh\n"
    assert not (root / "usr/share").exists()


def test_packages_without_a_loader_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="layout"):
        toolchain.install(tmp_path, tmp_path)


def test_only_the_compiler_is_told_where_its_assembler_is() -> None:
    root = Path("/cache/7.3")
    assert " -B/cache/7.3/usr/bin/x86_64-linux-gnu- " in toolchain.script(root / "x86_64-linux-gnu-gcc-14.elf", root)
    for name in ("cc1.elf", "x86_64-linux-gnu-gcc-ar-14.elf", "modpost.elf"):
        assert " -B" not in toolchain.script(root / name, root)


def test_the_headers_name_that_compiler() -> None:
    text = toolchain.kernel_variables(VARIABLES, Path("/cache/7.3"))
    assert "override CROSS_COMPILE = /cache/7.3/usr/bin/x86_64-linux-gnu-\n" in text
    assert text.endswith("PAHOLE = /cache/7.3/usr/bin/pahole\n")
    with pytest.raises(FetchError):
        toolchain.kernel_variables("CC = gcc\n", Path("/cache/7.3"))


@pytest.mark.parametrize("made", [apt.other_suites, apt.with_sources])
def test_private_apt_has_every_directory_to_itself(made: Callable[[Path, Path], apt.Apt], tmp_path: Path) -> None:
    etc = tmp_path / "etc"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "sources.list").write_text("deb http://mirror.example/debian stable main\n")
    (etc / "sources.list.d" / "off.list.disabled").write_text("deb http://off.example/debian stable main\n")
    options = made(tmp_path, etc).options
    text = (tmp_path / "sources" / "debian.sources").read_text()
    assert "URIs: http://mirror.example/debian\n" in text
    assert f"Suites: {' '.join(apt.SUITES if made is apt.other_suites else ['stable'])}\n" in text
    settings = dict(word.split("=", 1) for word in options[1::2])
    assert set(options[::2]) == {"-o"}
    for name in ("Dir::State", "Dir::State::status", "Dir::Cache", "Dir::Etc::sourceparts"):
        assert Path(settings[name]).is_relative_to(tmp_path)
        assert Path(settings[name]).exists()


@pytest.mark.parametrize("merged", [True, False])
def test_a_kernel_below_usr_is_found_where_older_packages_have_it(tmp_path: Path, merged: bool) -> None:
    kernel = store.Kernel("7.3.4+deb13-amd64", tmp_path)
    modules = tmp_path / ("usr/lib/modules" if merged else "lib/modules") / kernel.release
    modules.mkdir(parents=True)
    busybox = tmp_path / ("usr/bin" if merged else "bin") / "busybox"
    busybox.parent.mkdir(parents=True)
    busybox.touch()
    image = modules / "vmlinuz" if merged else tmp_path / "boot" / kernel.image.name
    image.parent.mkdir(exist_ok=True)
    image.touch()
    store._settle(tmp_path, kernel)
    assert kernel.image.samefile(image)
    assert kernel.modules.samefile(modules)
    assert kernel.busybox.samefile(busybox)
