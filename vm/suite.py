"""Builds the module on the host, and the guest script that loads the module, runs a command, and unloads the module.

May depend on: apt, junit, store, verdict, errors, kbuild (of mshare).
"""

from __future__ import annotations

import fcntl
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from mshare._tools import kbuild

from . import junit, verdict
from .apt import Progress
from .errors import BuildError, HostToolMissing
from .store import Kernel

MODULE = "mshare"
SPY = "mshare_spy"  # see tests/kernel/spy
FILE_SYSTEM = "msharefs"
MOUNT_POINT = "/sys/fs/mshare"
PACKAGES = "make gcc-12 libc6-dev libelf1 pahole"
STAGE_FILE = "/run/mshare-vm/stage"  # the agent sends the file's one word together with the exit status


def build_directory(repository: Path, kernel: Kernel) -> Path:
    """Return `build/vm/RELEASE`, where the built module, the report and the channels of the last test run stay."""
    return repository / "build" / "vm" / kernel.release


def build_module(repository: Path, kernel: Kernel, progress: Progress) -> Path:
    """Compile a copy of `kernel/` against that kernel's headers. Return the module's path under `build/vm/RELEASE`.

    Raises BuildError with the compiler's last lines, HostToolMissing.
    """
    return _build(repository, Path("kernel"), MODULE, kernel, progress)


def build_spy(repository: Path, kernel: Kernel, progress: Progress) -> Path:
    """Compile `tests/kernel/spy`, the module that tests/kernel/test_neighbours.py loads, in the same way."""
    return _build(repository, Path("tests", "kernel", "spy"), SPY, kernel, progress)


def build_with(repository: Path, kernel: Kernel, name: str, arguments: list[str]) -> str:
    """Compile another copy of `kernel/`, under `name`, with further arguments for make. Return the output of make.

    The output names our files relative to `kernel/`. Raises BuildError, HostToolMissing.
    """
    with _copy(repository, Path("kernel"), kernel, name) as work:
        return make(work, f"KDIR={kernel.build}", *arguments).replace(f"{work}/", "")


def _build(repository: Path, source: Path, module: str, kernel: Kernel, progress: Progress) -> Path:
    progress(f"building {module}.ko for {kernel.release}")
    with _copy(repository, source, kernel, source.name) as work:
        make(work, f"KDIR={kernel.build}")
        built = work / f"{module}.ko"
        if not built.is_file():
            raise BuildError(f"make succeeded but left no {built}; check {source}/Kbuild")
        target = build_directory(repository, kernel) / built.name
        shutil.copy2(built, target)
    return target


@contextmanager
def _copy(repository: Path, source: Path, kernel: Kernel, name: str) -> Iterator[Path]:
    """Return a copy of a module's source, for one kernel at a time.

    Running guests see the source itself, and each kernel needs its own objects.
    """
    if not (repository / source / "Makefile").is_file():
        raise BuildError(f"there is no module source in {repository / source}; run from the repository's root")
    target = build_directory(repository, kernel)
    target.mkdir(parents=True, exist_ok=True)
    with (target / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        work = target / name
        shutil.rmtree(work, ignore_errors=True)
        kbuild.copy(repository / source, work)
        yield work


def make(directory: Path, *arguments: str) -> str:
    """Run make in `directory` and return its output. Raises BuildError with its last lines, HostToolMissing."""
    for program in kbuild.missing_tools():
        raise HostToolMissing(program, PACKAGES)
    build = kbuild.make(directory, *arguments)
    if build.status != 0:
        tail = "\n".join(build.output.splitlines()[-40:])
        raise BuildError(
            f"{build.command} failed with status {build.status} ({build.telling or 'no output'}); "
            f"fix the source, or install {PACKAGES}:\n{tail}"
        )
    return build.output


def with_module(module: Path, inner: bytes, *, name: str = "command") -> bytes:
    """Return a guest script that inserts and mounts, runs the shell script `inner`, unmounts and removes.

    The first step that fails gives the status, and writes its name as one word into STAGE_FILE. The script unmounts and
    removes also after a failed `inner`. A module that cannot be removed therefore shows even after a failed test.
    """
    return f"""\
PATH=$PATH:/usr/sbin:/sbin
first=0
step() {{
	stage=$1; shift
	"$@"; status=$?
	if [ $status -ne 0 ] && [ $first -eq 0 ]; then first=$status; echo "$stage" > {STAGE_FILE}; fi
	return $status
}}
inner() {{
	/bin/sh -c {shlex.quote(inner.decode())}
}}
gone() {{
	! [ -e /sys/module/{MODULE} ]
}}
step insmod insmod {shlex.quote(str(module))} || exit $first
if step mount mount -t {FILE_SYSTEM} -o mode=1777,huge=advise {FILE_SYSTEM} {MOUNT_POINT}; then
	step {name} inner
	step umount umount {MOUNT_POINT}
fi
step rmmod rmmod {MODULE}
step gone gone
exit $first
""".encode()


def shell_script(module: Path | None, cwd: Path, environment: dict[str, str]) -> bytes:
    """Return the guest script of an interactive shell, with the module inserted and mounted if there is one."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
    lines.append(f"cd {shlex.quote(str(cwd))}")
    if module is not None:
        insert = f"/sbin/insmod {shlex.quote(str(module))}"
        lines.append(f"{insert} && mount -t {FILE_SYSTEM} -o mode=1777,huge=advise {FILE_SYSTEM} {MOUNT_POINT}")
    # The shell reads no start-up files, because each program that they run takes seconds here.
    lines += ['echo "$(uname -r): exit or C-d ends the machine, C-a x kills it"', "exec /bin/bash --norc -i"]
    return ("\n".join(lines) + "\n").encode()


class SuiteResult(NamedTuple):
    """The verdict on a test run, after its report was read; `report` is None if there is none."""

    verdict: verdict.Verdict
    report: junit.Report | None


def judge(boot: verdict.Verdict, report: bytes | None) -> SuiteResult:
    """Check a boot's verdict against pytest's report: a pass needs a report with tests, no failure and no skip."""
    try:
        parsed = None if report is None else junit.parse(report)
        missing = "pytest left no report"
    except ValueError as error:
        parsed, missing = None, str(error)
    if boot.outcome is not verdict.Outcome.PASSED:
        return SuiteResult(boot, parsed)
    problem = missing if parsed is None else parsed.problem
    if problem is not None:
        boot = boot._replace(outcome=verdict.Outcome.FAILED, reason=problem, status=1)
    return SuiteResult(boot, parsed)
