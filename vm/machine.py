"""One boot of one kernel: QEMU's command line, the channels out of the guest, and the time limits around it.

May depend on: apt, initramfs, store, verdict, errors.
"""

from __future__ import annotations

import compileall
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from . import initramfs, verdict
from .apt import Progress
from .errors import HostToolMissing
from .store import Kernel

# Always present: a warning or an oops ends the machine at once, and -no-reboot turns that into QEMU's exit.
# log_buf_len keeps the whole log for the scan; loglevel=5 lets warnings reach the console, the witness of a panic.
BOOT_ARGUMENTS = (
    "console=ttyS0 earlyprintk=serial,ttyS0,115200 panic=-1 oops=panic panic_on_warn=1 "
    # A guest stands still when its host is busy. A soft lockup and a stall of RCU are therefore reported after 120 s.
    # RCU's default is 21 s, which one report reached while the kernel cleared a page for Python.
    "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 "
    "log_buf_len=4M loglevel=5 printk.time=1 rdinit=/init"
)
BOOT_LIMIT_SECONDS = 180.0  # from QEMU's start to the command's start: usually 15 to 25 s, longer on a busy host
END_LIMIT_SECONDS = 60.0  # from the command's time limit to power-off


# Most machines have four page-table levels; la57 makes the emulated kernel use five. With erms on a busy host, some
# kernels cleared 40 bytes per second in clear_page_erms(), and reported soft lockups there.
CPU = "max,la57=off,erms=off"
ACCEL = "tcg,thread=multi"
# The guest's clocks count instructions, one per nanosecond, so that a figure does not depend on how busy the host is.
# QEMU counts only when one thread emulates all virtual CPUs.
ICOUNT_ACCEL = "tcg,thread=single"
ICOUNT = ("-icount", "shift=0")

Output = Callable[[int, bytes], None]


class VirtualMachine(NamedTuple):
    """A machine to boot. `command_limit_seconds` counts in the guest, from the command's start.

    `nodes`: NUMA nodes that share memory and CPUs evenly; 1 is a machine without NUMA.
    """

    kernel: Kernel
    memory: str = "2G"
    cpus: int = 2
    command_limit_seconds: int = 600
    append: str = ""
    writable: tuple[Path, ...] = ()
    cpu: str = CPU
    accel: str = ACCEL
    nodes: int = 1
    icount: bool = False


class Boot(NamedTuple):
    """One boot's verdict, and the durations of its parts on the host, in seconds."""

    verdict: verdict.Verdict
    boot_seconds: float | None
    total_seconds: float
    directory: Path
    attempts: int = 1


def command_script(command: Sequence[str], cwd: Path, environment: dict[str, str]) -> bytes:
    """Return the shell script that the guest runs: environment, working directory, then the command.

    A single word is a shell command line. Several words are a program and its arguments, exactly as given.
    """
    lines = ["unset OLDPWD"]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    lines.append(f"cd {shlex.quote(str(cwd))} || exit 126")
    lines.append(f"exec /bin/sh -c {shlex.quote(command[0])}" if len(command) == 1 else f"exec {shlex.join(command)}")
    return ("\n".join(lines) + "\n").encode()


def guest_environment(extra: dict[str, str]) -> dict[str, str]:
    """Return the command's environment: the host's locale, and a PATH that finds this program's Python first."""
    search = [str(Path(sys.executable).parent), *os.environ.get("PATH", "").split(":")]
    search += ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TERM", "VIRTUAL_ENV") if name in os.environ}
    path = ":".join(dict.fromkeys(entry for entry in search if entry))
    return {"HOME": "/root", "USER": "root", "SHELL": "/bin/sh", **kept, "PATH": path, **extra}


def qemu_command(machine: VirtualMachine, initrd: Path, channels: dict[str, str], *, interactive: bool) -> list[str]:
    """Return QEMU's arguments; `channels` maps a virtio port's name (and `console`) to the host file behind it."""
    program = shutil.which("qemu-system-x86_64")
    if program is None:
        raise HostToolMissing("qemu-system-x86_64", "qemu-system-x86")
    # Not even a SIGKILL of this program may leave a machine behind.
    setpriv = shutil.which("setpriv")
    accel = ICOUNT_ACCEL if machine.icount else machine.accel
    command = [
        *((setpriv, "--pdeathsig", "TERM", "--") if setpriv else ()),
        *(program, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35"),
        *("-accel", accel, *(ICOUNT if machine.icount else ()), "-cpu", machine.cpu),
        *processor_arguments(machine.nodes, machine.memory, machine.cpus),
        *("-kernel", str(machine.kernel.image), "-initrd", str(initrd)),
        *("-append", f"{BOOT_ARGUMENTS} {machine.append}".strip()),
        *("-device", "virtio-rng-pci", "-device", "virtio-serial-pci"),
        *("-fsdev", "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"),
        *("-device", "virtio-9p-pci,fsdev=root,mount_tag=root"),
    ]
    for number, path in enumerate(machine.writable):
        escaped = str(path).replace(",", ",,")
        command += ["-fsdev", f"local,id=rw{number},path={escaped},security_model=none,multidevs=remap"]
        command += ["-device", f"virtio-9p-pci,fsdev=rw{number},mount_tag=rw{number}"]
    if interactive:
        command += ["-serial", "mon:stdio"]
    for name, target in channels.items():
        escaped = target.replace(",", ",,")
        command += ["-chardev", f"file,id={name},path={escaped}"]
        port = ["-device", f"virtserialport,chardev={name},name=vm.{name}"]
        command += ["-serial", f"chardev:{name}"] if name == "console" else port
    return command


def mebibytes(memory: str) -> int:
    """Return QEMU's `-m` in MiB: a number in MiB, or in the unit K, M, G or T. Raises ValueError."""
    match = re.fullmatch(r"([0-9]+)([KMGT]?)B?", memory.upper())
    if match is None:
        raise ValueError(f"invalid size '{memory}': use a number with an optional unit, such as 512M or 2G")
    shift = {"K": -10, "": 0, "M": 0, "G": 10, "T": 20}[match[2]]
    return int(match[1]) << shift if shift >= 0 else int(match[1]) >> -shift


def processor_arguments(nodes: int, memory: str, cpus: int) -> list[str]:
    """Return QEMU's arguments for CPUs and memory, on so many NUMA nodes. The last node has the remaining memory.

    Each node is its own socket, because kernels warn of a socket on two nodes. All sockets have equally many places for
    CPUs, and surplus places stay empty. With fewer CPUs than nodes, some nodes have only memory. Raises ValueError.
    """
    if nodes == 1:
        return ["-smp", str(cpus), "-m", memory]
    size = mebibytes(memory)
    cores = -(-cpus // nodes)
    arguments = ["-smp", f"{cpus},sockets={nodes},cores={cores},threads=1,maxcpus={nodes * cores}", "-m", f"{size}M"]
    for node in range(nodes):
        share = size // nodes if node < nodes - 1 else size - size // nodes * (nodes - 1)
        arguments += ["-object", f"memory-backend-ram,id=node{node},size={share}M"]
        places = "".join(f",cpus={place}" for place in range(node * cores, (node + 1) * cores))
        arguments += ["-numa", f"node,nodeid={node},memdev=node{node}{places}"]
    return arguments


SOURCES = ("src", "tests", "benchmarks")
"""Python in the current directory (`VirtualMachine.writable[0]`) that guests run and do not change."""


def cached_directories(writable: Sequence[Path], prefix: Path) -> list[Path]:
    """Directories that guests only read: the virtual environment in a writable one, and Python sources in the first.

    A writable mount asks the host again for every file. With a busy host, `import mshare` took 12 s from such a mount
    in a guest, and 5 s from the guest's memory.
    """
    inside = [prefix] if any(prefix != path and prefix.is_relative_to(path) for path in writable) else []
    return inside + [path / name for path in writable[:1] for name in SOURCES if (path / name).is_dir()]


def _job(machine: VirtualMachine, script: bytes, mode: str) -> dict[str, bytes]:
    prefix = Path(sys.prefix)
    cached = cached_directories(machine.writable, prefix)
    for directory in cached:
        if directory != prefix:
            compileall.compile_dir(directory, quiet=2)  # the guest could not keep its compiled files
    settings = {
        "command_limit": str(machine.command_limit_seconds),
        "mode": mode,
        "release": machine.kernel.release,
        "modules": str(machine.kernel.modules),
        "hostname": "mshare-vm",
    }
    return {
        "command": script,
        "settings": "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items()).encode(),
        "rw": "".join(f"rw{number} {path}\n" for number, path in enumerate(machine.writable)).encode(),
        "cached": "".join(f"{path}\n" for path in cached).encode(),
    }


def boot(machine: VirtualMachine, script: bytes, on_output: Output, results: Path, progress: Progress) -> Boot:
    """Boot, run the script and wait for the end. After a death before the first user process, say so and retry once.

    A boot never takes longer than twice BOOT_LIMIT_SECONDS plus the command's limit plus END_LIMIT_SECONDS. A thread
    calls `on_output(1 or 2, bytes)` with the command's output. Console, kernel log and verdict port stay in `results`.
    After an early death these files move to the directory `lost` in `results`. Raises HostToolMissing, FetchError.
    """
    progress(f"booting {machine.kernel.release}")
    first = _boot(machine, script, on_output, results)
    if not first.verdict.early_death:
        return first
    progress(f"lost VM: {first.verdict.reason}; trying once more")
    lost = results / "lost"
    lost.mkdir(exist_ok=True)
    for path in [path for path in results.iterdir() if path.is_file()]:
        path.replace(lost / path.name)
    return _boot(machine, script, on_output, results)._replace(attempts=2)


def _boot(machine: VirtualMachine, script: bytes, on_output: Output, directory: Path) -> Boot:
    directory.mkdir(parents=True, exist_ok=True)
    initrd = directory / "initramfs"
    initrd.write_bytes(initramfs.build(machine.kernel, _job(machine, script, "run")))
    channels = {name: str(directory / name) for name in ("console", "verdict", "log")}
    for path in channels.values():
        Path(path).write_bytes(b"")
    began = time.monotonic()
    readers: list[threading.Thread] = []
    pipes: list[int] = []
    for stream, name in ((1, "stdout"), (2, "stderr")):
        reading, writing = os.pipe()
        channels[name] = f"/dev/fd/{writing}"
        pipes.append(writing)
        readers.append(
            threading.Thread(target=_pump, args=(os.fdopen(reading, "rb", 0), stream, on_output), daemon=True)
        )
    command = qemu_command(machine, initrd, channels, interactive=False)
    with (directory / "qemu").open("wb") as noise:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=noise, stderr=noise, pass_fds=pipes)
    for writing in pipes:
        os.close(writing)
    for reader in readers:
        reader.start()
    try:
        boot_seconds, killed = _supervise(process, Path(channels["verdict"]), machine.command_limit_seconds, began)
    finally:
        _end(process)
        initrd.unlink()
    for reader in readers:
        reader.join(timeout=10)
    if process.returncode != 0 and killed is None:
        detail = (directory / "qemu").read_text(errors="replace").strip()
        killed = f"QEMU exited with status {process.returncode} ({detail})"
    result = verdict.judge(
        (directory / "verdict").read_bytes(),
        (directory / "log").read_text(errors="replace"),
        (directory / "console").read_text(errors="replace"),
        killed=killed,
    )
    return Boot(result, boot_seconds, time.monotonic() - began, directory)


def shell(machine: VirtualMachine, script: bytes) -> int:
    """Boot with this terminal as the guest's console until the shell ends. C-a x ends QEMU. Return QEMU's status."""
    with tempfile.TemporaryDirectory(prefix="mshare-vm-") as name:
        initrd = Path(name) / "initramfs"
        initrd.write_bytes(initramfs.build(machine.kernel, _job(machine, script, "shell")))
        return subprocess.run(qemu_command(machine, initrd, {}, interactive=True), check=False).returncode


def _supervise(
    process: subprocess.Popen[bytes], port: Path, limit: int, began: float
) -> tuple[float | None, str | None]:
    """Wait for the end. Return the seconds until the command started, and why the host must end the machine, if so."""
    started: float | None = None
    deadline = began + BOOT_LIMIT_SECONDS
    while True:
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
            if started is None and verdict.parse(port.read_bytes()).start:
                started = time.monotonic()
            return (None if started is None else started - began), None
        now = time.monotonic()
        if started is None and verdict.parse(port.read_bytes()).start:
            started = now
            deadline = now + limit + END_LIMIT_SECONDS
        if now > deadline:
            reason = (
                f"no sign of the command after {BOOT_LIMIT_SECONDS:.0f} s"
                if started is None
                else (f"the machine did not end within {limit + END_LIMIT_SECONDS:.0f} s of the command's start")
            )
            return (None if started is None else started - began), reason


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
        if process.poll() is None:
            process.kill()
            process.wait()


def _pump(source: BinaryIO, stream: int, on_output: Output) -> None:
    with source:
        while chunk := source.read(65536):
            on_output(stream, chunk)
