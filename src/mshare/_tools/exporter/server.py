"""The HTTP side: listen, answer, end at a signal. May depend on: errors, prometheus_client."""

from __future__ import annotations

import errno
import signal
import socket
import sys
from contextlib import suppress
from socketserver import ThreadingMixIn
from threading import Thread
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from ..._core.errors import InvalidArgumentError, MshareError


class CannotListenError(MshareError):
    """The address is taken, belongs to another machine, or is not allowed for this user."""

    code = errno.EADDRINUSE


class Address(NamedTuple):
    """The address to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return what `HOST:PORT` or `[IPV6]:PORT` means. Raises `InvalidArgumentError`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not (host and colon and port.isascii() and port.isdigit() and int(port) < 1 << 16):
        raise InvalidArgumentError(
            f"invalid address {text!r}", "use an address and a port, such as 127.0.0.1:9779 or [::1]:9779"
        )
    return Address(host, int(port))


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per connection; they end with the process."""

    daemon_threads = True


class _Handler(WSGIRequestHandler):
    """A handler with a time limit. The library's own handler lets a silent client keep a thread forever."""

    timeout = 30

    def handle(self) -> None:
        with suppress(TimeoutError):
            super().handle()

    def log_message(self, *_: Any) -> None:
        """Log nothing about a scrape."""


def listen(registry: CollectorRegistry, address: Address) -> WSGIServer:
    """Return a server that has the address and does not answer yet. Raises OSError or UnicodeError."""
    family = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
    server = type("Server", (_Server,), {"address_family": family})
    return make_server(address.host, address.port, make_wsgi_app(registry), server, _Handler)


def serve(registry: CollectorRegistry, address: Address) -> None:
    """Answer scrapes until SIGTERM or SIGINT. Says on stderr where it listens. Raises `CannotListenError`.

    There is no signal handler: a blocked signal is also blocked in threads that start later, and waits for `sigwait`.
    """
    ends = {signal.SIGTERM, signal.SIGINT}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    try:
        try:
            server = listen(registry, address)
        except (OSError, UnicodeError) as error:  # UnicodeError: an impossible host name
            why = getattr(error, "strerror", None) or error
            raise CannotListenError(
                f"cannot listen on {address}: {why}", "choose another address with --listen HOST:PORT"
            ) from error
        print(
            f"mshare exporter: http://{Address(address.host, server.server_port)}/metrics", file=sys.stderr, flush=True
        )
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        signal.sigwait(ends)
        server.shutdown()
        server.server_close()
        thread.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
