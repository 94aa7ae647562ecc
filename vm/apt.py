"""Runs apt in two ways: as the machine is set up, and with private directories for other suites of the same mirror or
for source packages.

The second way leaves the machine alone: apt neither reads nor changes the machine's /etc/apt, package lists and
packages. The second way also works without root.

May depend on: sources, errors.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from . import sources
from .errors import FetchError, HostToolMissing

Progress = Callable[[str], None]
# Newer kernels come from these suites. Backports needs packages of trixie, because sid drops old compilers.
SUITES = ("trixie", "trixie-backports", "sid")
_PACKAGE_OF = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "dpkg-deb": "dpkg",
    "dpkg-query": "dpkg",
    "dpkg-source": "dpkg-dev",
    "depmod": "kmod",
    "tar": "tar",
}


def output_of(command: list[str], cwd: Path | None = None) -> bytes:
    """Return the output of a package tool. Raises HostToolMissing, or FetchError with the tool's last lines."""
    program = shutil.which(command[0], path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if program is None:
        raise HostToolMissing(command[0], _PACKAGE_OF[command[0]])
    done = subprocess.run([program, *command[1:]], cwd=cwd, capture_output=True, check=False)
    if done.returncode != 0:
        detail = done.stderr.decode(errors="replace").strip().splitlines()[-3:]
        said = " ".join(word for word in command if not word.startswith("-o"))[:200]
        raise FetchError(
            f"{said} failed with status {done.returncode}: {' / '.join(detail)};"
            " apt needs a reachable mirror, and root for apt-get update"
        )
    return done.stdout


class Apt(NamedTuple):
    """apt with these options. `private`: apt's lists and cache are ours, so apt updates them without root."""

    options: tuple[str, ...] = ()
    private: bool = False

    def update(self, progress: Progress) -> None:
        """Bring the package lists up to date, because the lists of a fresh machine are missing or too old."""
        if self.private or os.geteuid() == 0:
            output_of(["apt-get", *self.options, "update", "-qq"])
        else:
            progress("not root: package lists stay as old as they are")

    def kernels(self) -> bytes:
        """Return the names of all kernel image packages, one a line, each followed by its description."""
        return output_of(["apt-cache", *self.options, "search", "--names-only", "^linux-image-[0-9].*-amd64$"])

    def depends(self, package: str) -> bytes:
        return output_of(["apt-cache", *self.options, "depends", package])

    def download(self, packages: Iterable[str], directory: Path) -> None:
        """Download these packages into `directory`, without the packages they depend on."""
        output_of(["apt-get", *self.options, "download", "-qq", *packages], cwd=directory)

    def download_source(self, package: str, version: str, directory: Path) -> None:
        """Download the files of a source package into `directory`. apt compares them with the signed lists."""
        command = ["apt-get", *self.options, "source", "-qq", "--only-source", "--download-only"]
        output_of([*command, f"{package}={version}"], cwd=directory)

    def download_all(self, package: str, directory: Path) -> None:
        """Download a package and all its dependencies, down to the C library, into `directory`; install nothing."""
        (directory / "partial").mkdir()
        command = ["apt-get", *self.options, "-o", f"Dir::Cache::archives={directory}", "-qq", "--yes"]
        output_of([*command, "--no-install-recommends", "--download-only", "install", package])


def other_suites(directory: Path, etc: Path = Path("/etc/apt")) -> Apt:
    """Return apt for SUITES, with its files under `directory`. Raises FetchError if apt's sources name no mirror."""
    return _private(directory, sources.stanza(sources.mirror(_archives(etc), _codename()), SUITES))


def with_sources(directory: Path, etc: Path = Path("/etc/apt")) -> Apt:
    """Return apt for this machine's own suites and their source packages, with its files under `directory`.

    Raises FetchError if apt's sources name no archive of this release.
    """
    found = sources.of_release(_archives(etc), _codename())
    return _private(directory, "\n".join(sources.stanza(each, each.suites, "deb deb-src") for each in found))


def _archives(etc: Path) -> list[sources.Source]:
    found: list[sources.Source] = []
    for path in [etc / "sources.list", *sorted((etc / "sources.list.d").glob("*"))]:
        if path.suffix in (".list", ".sources") and path.is_file():
            found += sources.parse(path.name, path.read_text(errors="replace"))
    return found


def _private(directory: Path, stanzas: str) -> Apt:
    for name in ("sources", "state/lists/partial", "cache/archives/partial"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    (directory / "sources" / "debian.sources").write_text(stanzas)
    # apt sees a machine without packages, and therefore downloads every dependency, also those installed here.
    (directory / "state" / "status").write_text("")
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": directory / "sources",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": directory / "state",
        "Dir::State::status": directory / "state" / "status",
        "Dir::Cache": directory / "cache",
        "Acquire::Languages": "none",
        "APT::Sandbox::User": "root",  # apt's own user cannot write below a home directory
    }
    return Apt(tuple(word for name, value in settings.items() for word in ("-o", f"{name}={value}")), private=True)


def _codename() -> str:
    for line in Path("/etc/os-release").read_text().splitlines():
        name, _, value = line.partition("=")
        if name == "VERSION_CODENAME":
            return value.strip('"')
    return "stable"
