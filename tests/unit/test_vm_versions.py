"""vm.versions: kernels picked from apt's output."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import versions
from vm.errors import KernelNotFound

# apt-cache search --names-only '^linux-image-[0-9].*-amd64$' on Debian 12, shortened, order as printed.
SEARCH = b"""\
linux-image-6.1.0-47-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-47-cloud-amd64 - Linux 6.1 for x86-64 cloud (signed)
linux-image-6.1.0-47-rt-amd64 - Linux 6.1 for 64-bit PCs, PREEMPT_RT (signed)
linux-image-6.12-amd64 - Linux for 64-bit PCs (meta-package)
linux-image-6.12-cloud-amd64 - Linux for x86-64 cloud (meta-package)
linux-image-6.12.117+deb12-amd64 - Linux 6.12 for 64-bit PCs (signed)
linux-image-6.12.117+deb12-cloud-amd64 - Linux 6.12 for x86-64 cloud (signed)
linux-image-6.12.100+deb12-amd64 - Linux 6.12 for 64-bit PCs (signed)
linux-image-6.12.9+bpo-amd64 - Linux 6.12 for 64-bit PCs (signed)
linux-image-6.12.107+deb12-rt-amd64 - Linux 6.12 for 64-bit PCs (signed), PREEMPT_RT
linux-image-6.1.0-56-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-9-amd64 - Linux 6.1 for 64-bit PCs (signed)
linux-image-6.1.0-56-amd64-dbg - Debug symbols for linux-image-6.1.0-56-amd64
linux-image-6.1.0-56-amd64-unsigned - Linux 6.1 for 64-bit PCs
linux-headers-6.12.117+deb12-amd64 - Header files for Linux 6.12.117+deb12-amd64
"""

# apt-cache depends linux-headers-6.1.0-56-amd64, and the 6.12 one.
DEPENDS_61 = b"""\
linux-headers-6.1.0-56-amd64
  Depends: linux-headers-6.1.0-56-common
  Depends: linux-kbuild-6.1
  Depends: linux-compiler-gcc-12-x86
"""
DEPENDS_612 = b"""\
linux-headers-6.12.117+deb12-amd64
  Depends: linux-base
 |Depends: linux-image-6.12.117+deb12-amd64
  Depends: linux-image-6.12.117+deb12-amd64-unsigned
  Depends: linux-kbuild-6.12.117+deb12
  Depends: gcc-12
"""

# apt-cache depends linux-image-7.3.4+deb13-amd64, shortened.
DEPENDS_IMAGE = b"""\
linux-image-7.3.4+deb13-amd64
  PreDepends: linux-base
 |Depends: dracut
  Depends: <linux-initramfs-tool>
    dracut
  Depends: linux-base-7.3.4+deb13-amd64
  Depends: linux-binary-7.3.4+deb13-amd64
  Depends: linux-modules-7.3.4+deb13-amd64
  Breaks: linux-other-7.3.4+deb13-amd64
"""


def test_parts_of_a_split_image() -> None:
    release = "7.3.4+deb13-amd64"
    parts = [f"linux-{part}-{release}" for part in ("base", "binary", "modules")]
    assert versions.image_parts(DEPENDS_IMAGE, release) == parts
    assert versions.image_parts(b"linux-image-x\n  Depends: kmod\n  Depends: linux-base\n", "x") == []


def test_only_plain_releases_oldest_first() -> None:
    assert [item.release for item in versions.candidates(SEARCH)] == [
        "6.1.0-9-amd64",
        "6.1.0-47-amd64",
        "6.1.0-56-amd64",
        "6.12.9+bpo-amd64",
        "6.12.100+deb12-amd64",
        "6.12.117+deb12-amd64",
    ]


@pytest.mark.parametrize(
    ("wanted", "release"),
    [
        ("6.12", "6.12.117+deb12-amd64"),
        ("6.1", "6.1.0-56-amd64"),
        ("6.12.100", "6.12.100+deb12-amd64"),
        ("6.1.0-47-amd64", "6.1.0-47-amd64"),
    ],
)
def test_newest_of_a_series(wanted: str, release: str) -> None:
    assert versions.newest(SEARCH, wanted).release == release


@pytest.mark.parametrize("wanted", ["6.6", "6.120", "", "6", "6.12.117+deb12-cloud-amd64", "../x", "6.1.0-5"])
def test_what_apt_does_not_offer_is_an_error_that_says_what_to_do(wanted: str) -> None:
    with pytest.raises(KernelNotFound, match="apt-get update"):
        versions.newest(SEARCH, wanted)


def test_packages_that_go_with_a_release() -> None:
    assert versions.newest(SEARCH, "6.12").common == "6.12.117+deb12"
    assert versions.kbuild_package(DEPENDS_61) == "linux-kbuild-6.1"
    assert versions.kbuild_package(DEPENDS_612) == "linux-kbuild-6.12.117+deb12"
    with pytest.raises(KernelNotFound):
        versions.kbuild_package(b"linux-headers-x\n  Depends: gcc-12\n")


@given(st.lists(st.integers(0, 300), min_size=1, unique=True))
def test_order_is_numeric_whatever_order_apt_prints(patches: list[int]) -> None:
    output = "".join(f"linux-image-6.12.{patch}+deb12-amd64 - Linux\n" for patch in patches).encode()
    assert versions.newest(output, "6.12").release == f"6.12.{max(patches)}+deb12-amd64"


@given(st.binary())
def test_any_output_can_be_read(output: bytes) -> None:
    for item in versions.candidates(output):
        assert item.release.endswith("-amd64")
        assert "/" not in item.release
