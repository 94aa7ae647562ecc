"""Handing a handle to another process over a Unix socket. May depend on: limits, handle, linux.descriptors, errors."""

from __future__ import annotations

import struct

from . import limits
from .errors import DescriptorLimitError, NotAHandleError
from .handle import Handle
from .linux.descriptors import Descriptor

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

_BYTE = b"M"
_NUMBER = struct.Struct("@i")


@limits.named
def send_handle(sock: socket.socket, handle: Handle) -> None:
    """Send `handle` over a connected Unix socket. The handle stays open here, and lives in the socket until received.

    Raises `OSError` (EPIPE, ECONNRESET) if nobody can receive it, `RegionClosedError`, TypeError for anything but a
    handle.
    """
    import socket  # the import takes 5 ms, and a caller with a socket has done it

    if not isinstance(handle, Handle):
        raise TypeError(
            f"send_handle sends a Handle, not a {type(handle).__name__}: send region.handle(), which gives control of "
            "the region, or region.map_only()"
        )
    number = _NUMBER.pack(handle.fileno())
    sock.sendmsg([_BYTE], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, number)])


@limits.named
def recv_handle(sock: socket.socket) -> Handle:
    """Receive the next handle that `send_handle` sends.

    Raises `NotAHandleError` if the other side hung up or sent anything else than one descriptor, `NotARegionError` if
    the descriptor is not a region's, `DescriptorLimitError`. All received descriptors are closed then.

    Hazard: the sender may still be able to write to the memory. If another library made the memory, the sender may
    also cut the memory short (SIGBUS). Attach with `require_sealed=True` if you do not trust the sender.
    """
    import socket

    got: list[Descriptor] = []
    room = socket.CMSG_SPACE(8 * _NUMBER.size)
    message, ancillary, flags, _ = sock.recvmsg(len(_BYTE), room, socket.MSG_CMSG_CLOEXEC)
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers = _NUMBER.iter_unpack(data[: len(data) - len(data) % _NUMBER.size])
            got.extend(Descriptor.made_by(int, number) for (number,) in numbers)
    try:
        if not message and not got:
            raise NotAHandleError("the other side closed the socket", "ask it again")
        if not got and flags & socket.MSG_CTRUNC:
            raise DescriptorLimitError(
                "this process may have no more descriptors", "close some, or raise `ulimit -n`; then have it sent again"
            )
        if len(got) != 1 or flags & socket.MSG_CTRUNC or message != _BYTE:
            raise NotAHandleError(
                f"a message with {len(got)} descriptors is not a handle", "send a handle with mshare.send_handle"
            )
        return Handle(got.pop())
    finally:
        for file in got:
            file.close()
