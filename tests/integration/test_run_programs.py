"""`mshare run` and real programs: each does real work, has 2 MiB leaves, answers as without, and leaves nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from mshare._tools.preload.status import Mapping, status
from tests.helpers import browser, fastcgi
from tests.helpers.worlds import needs_root, own_ipc, small_tmpfs

pytestmark = needs_root

MIB = 1 << 20
PLAIN = ""
"""In the place of `--fill`: the program starts without `mshare run`."""


@pytest.fixture(autouse=True)
def leaves_nothing() -> Iterator[None]:
    """An empty /dev/shm and no SysV objects, which a test leaves as they were."""
    with own_ipc(), small_tmpfs(Path("/dev/shm"), "2g"):
        yield
        assert os.listdir("/dev/shm") == []
        for kind in ("shm", "sem", "msg"):
            assert len(Path("/proc/sysvipc", kind).read_text().splitlines()) == 1


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory whose files all users can reach."""
    with TemporaryDirectory(prefix="mshare-run-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def needs(program: str, package: str) -> str:
    path = shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip(f"needs the package {package}")
    return path


def with_library(fill: str, log: Path, *options: str) -> list[str]:
    if fill == PLAIN:
        return []
    mshare = [sys.executable, "-m", "mshare", "run", "--backend", "thp", "--fill", fill]
    return [*mshare, "--log", str(log), *options, "--"]


def said(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def anonymous(pid: int) -> list[Mapping]:
    """Return the large shared anonymous mappings of a process. A process that has ended maps nothing."""
    with suppress(ProcessLookupError):
        return [each for each in status(pid).mappings if each.object.kind == "anonymous"]
    return []


def leaf_bytes(pid: int) -> int:
    return sum(each.leaf_bytes for each in anonymous(pid))


@contextmanager
def server(place: Path, command: Sequence[str], ready: str) -> Iterator[int]:
    """Start a server, wait until it has said `ready` on stderr, and give the pid in its file. End the server, and wait
    for its last process."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        try:
            for line in started.stderr:
                if ready in line:
                    break
            yield int((place / "pid").read_text())
        finally:
            os.kill(int((place / "pid").read_text()), signal.SIGTERM)
            started.stderr.read()
    assert started.returncode == 0


# PHP-FPM

WORK = r"""<?php
function fib($n) { return $n < 2 ? $n : fib($n - 1) + fib($n - 2); }
class Row { public function __construct(public int $number, public string $hash) {} }
$n = (int) $_GET['n'];
$rows = [];
for ($i = 0; $i < 3000; $i++) $rows[] = new Row($i, md5("$i $n"));
usort($rows, fn($one, $other) => strcmp($one->hash, $other->hash));
$text = preg_replace_callback('/\d+/', fn($found) => $found[0] + 1, serialize(array_slice($rows, 0, 100)));
echo fib(15 + $n % 5), ' ', $rows[$n]->number, ' ', hash('sha256', $text), "\n";
"""
STATUS = "<?php echo json_encode(opcache_get_status(false));"
FPM = """
[global]
pid = {place}/pid
error_log = /proc/self/fd/2
[www]
user = nobody
group = nogroup
listen = {place}/listener
pm = static
pm.max_children = 3
"""
CACHE_MIB, JIT_MIB = 65, 32
"""PHP asks for hugetlb's pages if the sum is a multiple of 2 MiB, and gets them if any are free."""
JIT = ("opcache.jit=tracing", f"opcache.jit_buffer_size={JIT_MIB}M")
PHP = {
    "interpreter": ("opcache.jit=disable",),
    "jit": JIT,
    "protected": (*JIT, "opcache.protect_memory=1"),
}


@contextmanager
def php(place: Path, fill: str, settings: Sequence[str]) -> Iterator[int]:
    """Start PHP-FPM and give the pid of its master."""
    program = needs("php-fpm8.2", "php8.2-fpm")
    (place / "work.php").write_text(WORK)
    (place / "status.php").write_text(STATUS)
    (place / "fpm.conf").write_text(FPM.format(place=place))
    ini = ("opcache.enable=1", f"opcache.memory_consumption={CACHE_MIB}", "opcache.file_update_protection=0", *settings)
    (place / "php.ini").write_text("\n".join(["zend_extension=opcache", *ini]))
    command = [*with_library(fill, place / "log"), program, "--nodaemonize", "-n"]
    command += ["-c", str(place / "php.ini"), "-y", str(place / "fpm.conf")]
    with server(place, command, "ready to handle connections") as master:
        yield master


def pages(place: Path) -> list[bytes]:
    return [fastcgi.get(place / "listener", place / "work.php", f"n={n}") for n in range(23)]


def opcache(place: Path) -> tuple[bool, int, bool]:
    """Return what PHP says: enabled, number of scripts in shared memory, compiled code in the JIT buffer."""
    found = json.loads(fastcgi.get(place / "listener", place / "status.php"))
    assert found["opcache_statistics"]["hits"] > 0
    jit = found["jit"]
    return (
        found["opcache_enabled"],
        found["opcache_statistics"]["num_cached_scripts"],
        jit["buffer_free"] < jit["buffer_size"],
    )


@pytest.mark.parametrize("settings", PHP)
def test_php_fpm(place: Path, settings: str) -> None:
    with php(place, PLAIN, PHP[settings]) as master:
        expected = pages(place)
        facts = opcache(place)
        assert facts == (True, 2, settings != "interpreter")
        assert leaf_bytes(master) == 0
    for fill in ("ahead", "later"):
        (place / "log").unlink(missing_ok=True)
        with php(place, fill, PHP[settings]) as master:
            assert pages(place) == expected
            assert opcache(place) == facts
            while not any(map(leaf_bytes, children(master))):
                assert pages(place) == expected
            if fill == "ahead":
                size = CACHE_MIB + (0 if settings == "interpreter" else JIT_MIB)
                assert f"{size // 2} of {size // 2} blocks" in said(place / "log")
                assert sum(each.length for each in anonymous(master)) == size * MIB
                for pid in (master, *children(master)):  # the last block, and the one that the JIT buffer begins in
                    assert sum(each.page_bytes for each in anonymous(pid)) <= 3 * 2 * MIB
            worker = children(master)[0]
            cache = anonymous(worker)[0].start
            (rights,) = re.findall(rf"^{cache:x}-\S+ (\S+)", Path(f"/proc/{worker}/maps").read_text(), re.M)
            assert rights == ("r--s" if settings == "protected" else "rw-s")


# nginx

NGINX = """
daemon {daemon};
pid {place}/pid;
error_log stderr notice;
worker_processes 3;
user nobody nogroup;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {place}/body;
    fastcgi_temp_path {place}/fastcgi;
    proxy_temp_path {place}/proxy;
    scgi_temp_path {place}/scgi;
    uwsgi_temp_path {place}/uwsgi;
    proxy_cache_path {place}/cache keys_zone=pages:64m;
    limit_req_zone $request_uri zone=clients:64m rate=100000r/s;
    server {{
        listen unix:{place}/front;
        location / {{
            limit_req zone=clients burst=100 nodelay;
            proxy_cache pages;
            proxy_cache_valid 200 1h;
            proxy_pass http://unix:{place}/back:;
        }}
        location /generation {{ return 200 "{generation}\n"; }}
    }}
    server {{
        listen unix:{place}/back;
        location / {{ return 200 "$uri of {generation}\n"; }}
    }}
}}
"""


def fetch(place: Path, path: str) -> bytes:
    """Return the body of nginx's answer, whose status is 200."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(place / "front"))
        connection.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        with connection.makefile("rb") as stream:
            head, _, body = stream.read().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), head
    return body


@contextmanager
def nginx(place: Path, fill: str, daemon: str) -> Iterator[int]:
    """Start nginx and give the pid of its master."""
    program = needs("nginx", "nginx")
    configure(place, daemon, "first")
    command = [*with_library(fill, place / "log"), program, "-c", str(place / "nginx.conf")]
    with server(place, command, "start worker process ") as master:
        yield master


def configure(place: Path, daemon: str, generation: str) -> None:
    (place / "nginx.conf").write_text(NGINX.format(place=place, daemon=daemon, generation=generation))


@pytest.mark.parametrize(("fill", "daemon"), [(PLAIN, "off"), ("ahead", "off"), ("later", "off"), ("later", "on")])
def test_nginx_with_reload(place: Path, fill: str, daemon: str) -> None:
    with nginx(place, fill, daemon) as master:
        paths = [f"/{number}" for number in range(500)]
        for path in paths:
            assert fetch(place, path) == f"{path} of first\n".encode()
        before = set(children(master))
        configure(place, daemon, "second")
        os.kill(master, signal.SIGHUP)
        while before & set(children(master)):  # processes of both configurations answer
            assert fetch(place, "/generation") in (b"first\n", b"second\n")
        for path in paths:  # the cache's keys are in shared memory, which the new workers have inherited
            assert fetch(place, path) == f"{path} of first\n".encode()
        assert fetch(place, "/new") == b"/new of second\n"
        zones = anonymous(master)
        assert [each.length for each in zones] == [64 * MIB] * 2
        if fill == PLAIN:
            assert leaf_bytes(master) == 0
            return
        number, made = 500, "32 of 32 blocks" if fill == "ahead" else "2 MiB leaves for "
        while made not in said(place / "log"):
            number += 1
            assert fetch(place, f"/{number}") == f"/{number} of second\n".encode()
        while not any(map(leaf_bytes, children(master))):
            assert fetch(place, "/0") == b"/0 of first\n"
        if fill == "ahead":
            assert said(place / "log").count("32 of 32 blocks") == 2
            assert not any(each.page_bytes for pid in (master, *children(master)) for each in anonymous(pid))


# Python

SHARED_MEMORY = """
import multiprocessing, resource, sys
from multiprocessing.shared_memory import SharedMemory

def costs():
    vmpte = next(line for line in open("/proc/self/status") if line.startswith("VmPTE"))
    return int(vmpte.split()[1]), resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def read(name, pipe):
    memory = SharedMemory(name)
    before = costs()
    total = sum(memory.buf[::4096])
    after = costs()
    memory.close()
    pipe.send((total, after[0] - before[0], after[1] - before[1]))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    memory = SharedMemory(create=True, size=256 << 20)
    for at in range(0, memory.size, 4096):
        memory.buf[at] = 7
    print("filled", flush=True)
    sys.stdin.readline()
    readers = []
    for _ in range(3):
        ours, theirs = context.Pipe()
        readers.append((ours, context.Process(target=read, args=(memory.name, theirs))))
        readers[-1][1].start()
    for ours, process in readers:
        print(*ours.recv(), flush=True)
        process.join()
    memory.close()
    memory.unlink()
"""


@pytest.mark.parametrize("fill", [PLAIN, "ahead", "later"])
def test_python_shared_memory_with_spawned_readers(place: Path, fill: str) -> None:
    program = place / "readers.py"
    program.write_text(SHARED_MEMORY)
    command = [*with_library(fill, place / "log"), sys.executable, str(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as creator:
        assert creator.stdin is not None
        assert creator.stdout is not None
        assert creator.stdout.readline() == "filled\n"
        (memory,) = (each for each in status(creator.pid).mappings if each.object.kind == "tmpfs")
        while fill == "later" and "2 MiB leaves for 128 of 128 blocks" not in said(place / "log"):
            assert creator.poll() is None
        (memory,) = (each for each in status(creator.pid).mappings if each.object.kind == "tmpfs")
        assert memory.length == 256 * MIB
        assert memory.leaf_bytes == (0 if fill == PLAIN else memory.length)
        creator.stdin.write("\n")
        creator.stdin.flush()
        found = [list(map(int, line.split())) for line in creator.stdout]
        assert creator.wait() == 0
    assert [total for total, _, _ in found] == [7 * 65536] * 3
    for _, vmpte_kib, faults in found:
        if fill == PLAIN:
            assert vmpte_kib >= 512
            assert faults >= 4096  # the kernel maps at most 16 pages in one fault
        else:
            assert vmpte_kib <= 8
            assert faults < 256  # 128 leaves


# Chromium

PAGE = b"""<!DOCTYPE html><body style="margin:0"><canvas width=1500 height=1000></canvas><script>
const picture = document.querySelector("canvas").getContext("2d");
for (let at = 0; at < 200; at++) {
  picture.fillStyle = `hsl(${at * 7}, 80%, 50%)`;
  picture.fillRect(at * 7, (at * 37) % 1000, 60, 40);
}
</script>"""


@pytest.mark.parametrize("fill", ["ahead", "later"])
def test_chromium(place: Path, fill: str) -> None:
    """The browser's processes exchange pictures of a few MiB through memfds."""
    plain, picture, log = place / "plain.png", place / "picture.png", place / "log"
    assert browser.paint(PAGE, 1600, 1200, plain) == []
    assert browser.paint(PAGE, 1600, 1200, picture, with_library(fill, log, "--min", "2M")) == []
    assert picture.read_bytes() == plain.read_bytes()
    lines = re.findall(
        r"chromium\[(\d+)\]: a memfd of .*: (2 MiB leaves, filled ahead \((\d+) of \3|aligned)", said(log)
    )
    assert len({pid for pid, _, _ in lines}) >= 2


# stress-ng

STRESSORS = {
    "shm": ("4", "--shm-bytes", "16777216"),
    "shm-sysv": ("10", "--shm-sysv-bytes", "16777216"),
    "mmap": ("4", "--mmap-bytes", "16777216", "--mmap-file", "--mmap-mprotect"),
    "memfd": ("4", "--memfd-bytes", "67108864", "--memfd-fds", "8"),
    "mremap": ("10", "--mremap-bytes", "16777216"),
    "madvise": ("10",),
    "munmap": ("10",),
}
TAKEN = {"shm-sysv": "SysV shared memory", "mmap": "a tmpfs file", "memfd": "a memfd"}
"""The memory of a stressor that the library takes over. The others map private memory, `shm` of version 0.15 also: only
the shared anonymous memory for their results is taken over."""


@pytest.mark.parametrize("fill", ["ahead", "later"])
@pytest.mark.parametrize("stressor", STRESSORS)
def test_stress_ng_verifies_its_memory(place: Path, stressor: str, fill: str) -> None:
    program = needs("stress-ng", "stress-ng")
    operations, *options = STRESSORS[stressor]
    files = Path("/dev/shm/files")
    files.mkdir()
    command = [*with_library(fill, place / "log", "--min", "2M"), program, "--verify", "--timeout", "0"]
    command += ["--temp-path", str(files), f"--{stressor}", "1", f"--{stressor}-ops", operations, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    files.rmdir()
    assert done.returncode == 0, done
    assert "successful run completed" in done.stdout + done.stderr
    assert "fail" not in done.stdout + done.stderr
    taken = TAKEN.get(stressor, "shared anonymous memory")
    assert re.search(
        rf"{taken} of .*: {'2 MiB leaves, filled ahead' if fill == 'ahead' else 'aligned'}", said(place / "log")
    )
