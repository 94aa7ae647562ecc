"""Picks a stock kernel from apt's output. Pure: bytes in, records out. May depend on: errors."""

from __future__ import annotations

import re
from typing import NamedTuple

from .errors import KernelNotFound

_IMAGE = re.compile(
    rb"^linux-image-(?P<release>(?P<base>[0-9]+(?:\.[0-9]+)+)(?:-(?P<abi>[0-9]+))?(?:\+[a-z0-9.]+)?-amd64)(?:\s|$)"
)


class Candidate(NamedTuple):
    """One kernel image package: its release as `uname -r` prints it, and the numbers by which releases are ordered."""

    release: str
    order: tuple[int, ...]

    @property
    def common(self) -> str:
        """The release without its flavour, as in `linux-headers-RELEASE-common`."""
        return self.release.removesuffix("-amd64")


def candidates(search_output: bytes) -> list[Candidate]:
    """Return all plain-flavour kernels in the output of `apt-cache search --names-only`, oldest first.

    The list leaves out the `cloud` and `rt` flavours and unsigned and debug images. It also leaves out meta-packages
    such as `linux-image-6.12-amd64`, which name a series and not a release.
    """
    found: set[Candidate] = set()
    for line in search_output.splitlines():
        match = _IMAGE.match(line)
        if match is None:
            continue
        base = tuple(int(part) for part in match["base"].split(b"."))
        if len(base) < 3:
            continue
        abi = int(match["abi"]) if match["abi"] else 0
        found.add(Candidate(match["release"].decode("ascii"), (*base, abi)))
    return sorted(found, key=lambda candidate: candidate.order)


def in_series(candidate: Candidate, wanted: str) -> bool:
    """Whether `wanted` names this kernel: a series (`6.12`), or the full release."""
    if wanted == candidate.release:
        return True
    if not re.fullmatch(r"[0-9]+\.[0-9]+(\.[0-9]+)?", wanted):
        return False
    numbers = tuple(int(part) for part in wanted.split("."))
    return candidate.order[: len(numbers)] == numbers


def newest(search_output: bytes, wanted: str) -> Candidate:
    """Return the newest kernel of a series (`6.12`), or the one release named in full.

    Raises KernelNotFound.
    """
    fitting = [candidate for candidate in candidates(search_output) if in_series(candidate, wanted)]
    if not fitting:
        raise KernelNotFound(
            f"apt offers no stock linux-image-{wanted}*-amd64; run apt-get update, or enable the security suite"
        )
    return fitting[-1]


def image_parts(depends_output: bytes, release: str) -> list[str]:
    """Return the further packages of a split image, from the output of `apt-cache depends`: none before 7.0."""
    pattern = rb"^\s*Depends: (linux-[a-z]+-" + re.escape(release.encode()) + rb")$"
    return [name.decode("ascii") for name in re.findall(pattern, depends_output, re.MULTILINE)]


def kbuild_package(depends_output: bytes) -> str:
    """Return the `linux-kbuild-*` package that a headers package needs, from the output of `apt-cache depends`.

    Raises KernelNotFound.
    """
    match = re.search(rb"Depends: (linux-kbuild-[^\s<>]+)", depends_output)
    if match is None:
        raise KernelNotFound("the headers package names no linux-kbuild package; run apt-get update")
    return match[1].decode("ascii")
