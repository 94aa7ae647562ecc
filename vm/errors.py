"""Errors of the host side: one class per cause, each message ending with what the user can do. Pure."""

from __future__ import annotations


class VmError(Exception):
    """The host could not do its part (no kernel, no QEMU, no built module), so there is no verdict about the guest."""


class HostToolMissing(VmError):
    """A program that this package calls is not installed."""

    def __init__(self, program: str, package: str) -> None:
        self.program = program
        self.package = package
        super().__init__(f"{program} is not installed; as root: apt-get install --no-install-recommends {package}")


class KernelNotFound(VmError):
    """apt offers no stock kernel of the requested series."""


class FetchError(VmError):
    """apt or dpkg-deb failed while a kernel was fetched."""


class BuildError(VmError):
    """The module's source is missing or does not compile."""
