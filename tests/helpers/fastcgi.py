"""A FastCGI client for one request per connection: the bytes that PHP-FPM needs, and no more."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_BEGIN, _END, _PARAMS, _STDIN, _STDOUT, _STDERR = 1, 3, 4, 5, 6, 7
_RESPONDER = struct.pack(">HB5x", 1, 0)


def get(listener: Path, script: Path, query: str = "") -> bytes:
    """Return the body of the script's answer. A script's error, or anything on its stderr, is a `ChildProcessError`."""
    variables = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REQUEST_METHOD": "GET",
        "SCRIPT_FILENAME": str(script),
        "QUERY_STRING": query,
    }
    pairs = b"".join(_pair(name.encode(), value.encode()) for name, value in variables.items())
    request = [(_BEGIN, _RESPONDER), (_PARAMS, pairs), (_PARAMS, b""), (_STDIN, b"")]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(listener))
        connection.sendall(b"".join(struct.pack(">BBHHxx", 1, kind, 1, len(data)) + data for kind, data in request))
        answer = {_STDOUT: b"", _STDERR: b"", _END: b""}
        for kind, data in _records(connection):
            answer[kind] += data
    head, _, body = answer[_STDOUT].partition(b"\r\n\r\n")
    if answer[_STDERR] or b"Status:" in head or not answer[_END]:
        raise ChildProcessError(f"{script}: {answer}")
    return body


def _pair(name: bytes, value: bytes) -> bytes:
    return struct.pack(">II", len(name) | 1 << 31, len(value) | 1 << 31) + name + value


def _records(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    with connection.makefile("rb") as stream:
        while head := stream.read(8):
            _, kind, _, length, padding = struct.unpack(">BBHHBx", head)
            yield kind, stream.read(length + padding)[:length]
