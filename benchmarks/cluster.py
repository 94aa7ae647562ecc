"""A private PostgreSQL server for the time of a `with` block. PostgreSQL is the heaviest user of shared memory.

>>> with Cluster({"shared_buffers": "256MB"}) as server:           # doctest: +SKIP
...     server.psql("show shared_buffers")
'256MB'

Facts: PostgreSQL refuses to run as root. Debian puts its binaries on nobody's $PATH. The server outlives the process
that started it. Decision: root starts the server as user `postgres`, or as `nobody` if there is no such user. A
*guard*, a shell that reads a pipe of ours, notices when our process ends, even by kill -9. The guard then shuts the
server down and removes its files.

May depend on: nothing.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Self

LIMIT_S = 120.0
"""The longest time in which the server may start or stop."""

_FIXED = {"listen_addresses": "", "fsync": "off", "logging_collector": "off"}
"""The server has no port, only a Unix socket. Nobody needs its data after a crash of the machine."""

_GUARD = """
read -r _
if pid=$(head -n 1 "$1/data/postmaster.pid" 2>/dev/null); then
    kill -QUIT "$pid"
    for _ in $(seq 300); do [ -e "/proc/$pid/exe" ] || break; sleep 0.1; done
fi
rm -rf "$1"
"""
"""The guard's script: it ends the server and removes the server's files when the server's owner has ended. A dead
server that its owner has not waited for has no `exe`, but still takes signals."""


def binaries() -> Path:
    """Return the directory of PostgreSQL's programs: the one of `postgres` on $PATH, else Debian's newest.

    Raises `FileNotFoundError` if there is none.
    """
    found = shutil.which("postgres")
    if found:
        return Path(found).resolve().parent
    homes = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not homes:
        raise FileNotFoundError(
            "no program `postgres` on $PATH or under /usr/lib/postgresql: sudo apt-get install postgresql"
        )
    return max(homes, key=lambda home: [int(part) for part in home.parent.name.split(".") if part.isdigit()])


class Cluster:
    """A PostgreSQL server with an empty database `postgres`, reached by a Unix socket. Use it in a `with` block.

    - `settings`: as in postgresql.conf, name to value, e.g. `{"shared_buffers": "1GB", "huge_pages": "on"}`.
    - `environment`: variables that the server has beside this process's own; clients do not have them. The mapping may
      be changed while the server is stopped.

    Making the files (`initdb`) takes seconds and 40 MB under `$TMPDIR`. The files are removed at the end of the block,
    or of the process.
    """

    def __init__(self, settings: Mapping[str, str] | None = None, environment: Mapping[str, str] | None = None) -> None:
        self.settings = dict(settings or {})
        self.environment = dict(environment or {})
        self._bin = binaries()
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id of the running server's parent process (the postmaster), whose children serve the clients."""
        if self._server is None:
            raise ProcessLookupError("this PostgreSQL server is stopped: call start()")
        return self._server.pid

    def start(self, settings: Mapping[str, str] | None = None) -> None:
        """Start a stopped server, with `settings` in addition to the cluster's, and wait until it takes connections.

        Raises `ChildProcessError`, with the end of the server's log, if the server does not start.
        """
        log = self.directory / "log"
        with log.open("ab") as output:
            self._server = subprocess.Popen(
                [self._bin / "postgres", *("-D", self.directory / "data"), *self._options(settings or {})],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                **self._as_user,
            )
        deadline = time.monotonic() + LIMIT_S
        while subprocess.run(self._command("pg_isready", "--quiet"), check=False, **self._as_client).returncode:
            if self._server.poll() is not None or time.monotonic() > deadline:
                self.stop()
                lines = log.read_text(errors="replace").splitlines()[-5:]
                raise ChildProcessError("PostgreSQL does not start: " + "; ".join(lines))
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server (SIGINT: a fast shutdown; SIGQUIT: at once, as in a crash). A stopped server stays so."""
        if self._server is not None:
            self._server.send_signal(how)
            try:
                self._server.wait(LIMIT_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            self._server = None

    def _options(self, settings: Mapping[str, str]) -> list[str]:
        """Return the server's arguments that set its settings, with these on top."""
        options = {**self.settings, **settings, **_FIXED, "unix_socket_directories": str(self.directory)}
        return [part for name, value in options.items() for part in ("-c", f"{name}={value}")]

    def pg_ctl(self, action: str, *arguments: str) -> None:
        """Start, restart or stop the server by PostgreSQL's own `pg_ctl`, which waits for the server. A server that
        `pg_ctl` has started is none of `start` and `stop`; it ends with the cluster at the latest.

        Raises `ChildProcessError` if `pg_ctl` fails.
        """
        command = self._command("pg_ctl", action, "-D", "data", *arguments)
        if action == "start":
            command += ["-o", shlex.join(self._options({}))]
        with (self.directory / "log").open("ab") as output:
            status = subprocess.run(
                command,
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                **self._as_user,
            ).returncode
        if status:
            raise ChildProcessError(f"pg_ctl {action} failed with status {status}: see {self.directory / 'log'}")

    def run_program(self, program: str, *arguments: str) -> str:
        """Run a client program of PostgreSQL (`pgbench`, ...) on this server and return its output.

        Raises `ChildProcessError` with the program's message if the program fails.
        """
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self._command(program, *arguments), check=False, capture_output=True, text=True, **self._as_client
        )
        if done.returncode:
            raise ChildProcessError(f"{program} failed with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def psql(self, sql: str) -> str:
        """Run SQL and return its rows as text: fields separated by `|`, one row a line. Raises as `run` does."""
        return self.run_program("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql).removesuffix("\n")

    def client(self) -> subprocess.Popen[str]:
        """Return a new connection: a psql that executes the SQL on its standard input and answers as `psql` does. The
        connection ends when its standard input is closed."""
        command = self._command("psql", "-XAtq", "-v", "ON_ERROR_STOP=1")
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **self._as_client)

    def popen(self, command: Sequence[str]) -> subprocess.Popen[str]:
        """Start any program as the server's user, without the server's variables. Its output and messages are one
        pipe. The program is the leader of its own process group."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        return subprocess.Popen(command, text=True, errors="replace", **pipes, **self._as_user)

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [str(self._bin / program), *arguments]

    def __enter__(self) -> Self:
        self.directory = Path(mkdtemp(prefix="mshare-postgres-"))
        self._as_user: dict[str, Any] = {"cwd": self.directory, "process_group": 0}
        try:
            if os.geteuid() == 0:
                entry = _somebody()
                self._as_user |= {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
                os.chown(self.directory, entry.pw_uid, entry.pw_gid)
            where = {"PGHOST": str(self.directory), "PGUSER": "postgres", "PGDATABASE": "postgres"}
            self._as_client: dict[str, Any] = {"env": {**os.environ, **where}, "cwd": self.directory}
            guard = ["sh", "-c", _GUARD, "guard", str(self.directory)]
            self._guard = subprocess.Popen(guard, stdin=subprocess.PIPE, **self._as_user)
        except BaseException:
            shutil.rmtree(self.directory)
            raise
        try:
            initdb = self._command("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "--no-locale", "--no-sync")
            made = subprocess.run([*initdb, "-E", "UTF8"], check=False, capture_output=True, text=True, **self._as_user)
            if made.returncode:
                raise ChildProcessError(f"initdb failed: {made.stderr.strip()}")
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGQUIT)
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        self._guard.wait()


def _somebody() -> pwd.struct_passwd:
    """Return the user that runs the server when we are root."""
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")
