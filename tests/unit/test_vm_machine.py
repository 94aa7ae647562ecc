"""vm.machine and vm.suite: the guest's scripts, run here by the same shell, and QEMU's command line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vm import apt, cli, machine, store, suite, verdict
from vm.errors import BuildError

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@settings(deadline=None)  # each example starts two processes
@given(st.lists(WORDS, min_size=1, max_size=5), WORDS)
def test_arguments_and_environment_arrive_as_given(words: list[str], value: str) -> None:
    show = 'printf "%s\\001" "$KEY" "$@"'
    script = machine.command_script(["sh", "-c", show, "sh", *words], Path("/"), {"KEY": value})
    done = subprocess.run(["sh"], input=script, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode(errors="surrogateescape") == "".join(f"{word}\x01" for word in [value, *words])


def test_one_word_is_a_shell_line() -> None:
    done = subprocess.run(
        ["sh"],
        input=machine.command_script(["echo a | tr a b; exit 3"], Path("/"), {}),
        stdout=subprocess.PIPE,
        check=False,
    )
    assert (done.stdout, done.returncode) == (b"b\n", 3)


@pytest.fixture
def kernel(tmp_path: Path) -> store.Kernel:
    return store.Kernel("6.12.117+deb12-amd64", tmp_path)


def test_every_boot_stops_at_the_first_complaint(kernel: store.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    guest = machine.VirtualMachine(kernel, append="nokaslr", writable=(Path("/a,b"),))
    command = machine.qemu_command(guest, Path("/initrd"), {"console": "/c,d"}, interactive=False)
    boot = command[command.index("-append") + 1].split()
    assert {"panic=-1", "oops=panic", "panic_on_warn=1", "nokaslr"} <= set(boot)
    assert "-no-reboot" in command
    assert [word for word in command if "path=/," in word and "readonly=on" in word]
    assert [word for word in command if "path=/a,,b," in word]
    assert "file,id=console,path=/c,,d" in command


def test_without_nodes_qemu_is_told_as_little_as_possible(
    kernel: store.Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    command = machine.qemu_command(machine.VirtualMachine(kernel, cpus=3), Path("/initrd"), {}, interactive=False)
    assert "-smp 3 -m 2G" in " ".join(command)
    assert "-numa" not in command


def test_nodes_are_sockets_that_share_memory_and_cpus(kernel: store.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    guest = machine.VirtualMachine(kernel, nodes=2, memory="3G", cpus=4)
    assert (
        "-smp 4,sockets=2,cores=2,threads=1,maxcpus=4 -m 3072M "
        "-object memory-backend-ram,id=node0,size=1536M -numa node,nodeid=0,memdev=node0,cpus=0,cpus=1 "
        "-object memory-backend-ram,id=node1,size=1536M -numa node,nodeid=1,memdev=node1,cpus=2,cpus=3"
    ) in " ".join(machine.qemu_command(guest, Path("/initrd"), {}, interactive=False))


@given(st.integers(2, 8), st.integers(1, 2**20), st.integers(1, 64))
def test_every_cpu_and_mebibyte_is_on_one_node(nodes: int, memory: int, cpus: int) -> None:
    arguments = machine.processor_arguments(nodes, f"{memory}M", cpus)
    assert sum(int(word.rpartition("=")[2][:-1]) for word in arguments if word.startswith("memory-")) == memory
    places = [int(part[5:]) for word in arguments[4:] for part in word.split(",") if part.startswith("cpus=")]
    assert places == [*range(len(places))]
    assert cpus <= len(places) < cpus + nodes
    assert arguments[1].endswith(f"maxcpus={len(places)}")


@pytest.mark.parametrize(("text", "size"), [("512", 512), ("2G", 2048), ("1t", 1 << 20), ("2048K", 2)])
def test_sizes_as_qemu_writes_them(text: str, size: int) -> None:
    assert machine.mebibytes(text) == size


def test_a_size_qemu_would_refuse_is_refused_before(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        cli.main(["run", "--memory", "much", "--", "true"])
    assert "invalid size 'much'" in capsys.readouterr().err


def test_instructions_are_counted_by_one_thread(kernel: store.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    for icount, accel in ((True, "tcg,thread=single"), (False, "tcg,thread=multi")):
        guest = machine.VirtualMachine(kernel, icount=icount)
        command = machine.qemu_command(guest, Path("/initrd"), {"console": "/c"}, interactive=False)
        assert command[command.index("-accel") + 1] == accel
        assert ("-icount" in command) == icount


def test_what_is_only_read_in_the_repository_is_read_through_the_cache(tmp_path: Path) -> None:
    assert machine.cached_directories([tmp_path], tmp_path / ".venv") == [tmp_path / ".venv"]
    assert machine.cached_directories([tmp_path], Path("/usr")) == []
    assert machine.cached_directories([tmp_path], tmp_path) == []
    (tmp_path / "tests").mkdir()
    assert machine.cached_directories([tmp_path], Path("/usr")) == [tmp_path / "tests"]
    assert machine.cached_directories([Path("/elsewhere"), tmp_path], Path("/usr")) == []  # --rw DIR is writable


MODULE_SHELL = """
insmod() { echo "insmod $1"; return %(insmod)d; }
mount() { echo mount; return %(mount)d; }
umount() { echo umount; return %(umount)d; }
rmmod() { echo rmmod; return %(rmmod)d; }
"""


@pytest.mark.parametrize(
    ("failing", "inner", "status", "steps"),
    [
        ({}, "exit 0", 0, "insmod mount umount rmmod"),
        ({}, "exit 5", 5, "insmod mount umount rmmod"),
        ({"insmod": 1}, "exit 0", 1, "insmod"),
        ({"mount": 32}, "exit 0", 32, "insmod mount rmmod"),
        ({"umount": 32}, "exit 0", 32, "insmod mount umount rmmod"),
        ({"rmmod": 1}, "exit 5", 5, "insmod mount umount rmmod"),
        ({"rmmod": 1}, "exit 0", 1, "insmod mount umount rmmod"),
    ],
)
def test_module_is_taken_out_again(
    failing: dict[str, int], inner: str, status: int, steps: str, tmp_path: Path
) -> None:
    functions = MODULE_SHELL % ({"insmod": 0, "mount": 0, "umount": 0, "rmmod": 0} | failing)
    script = (
        suite.with_module(Path("/x/mshare.ko"), inner.encode())
        .decode()
        .replace(suite.STAGE_FILE, str(tmp_path / "stage"))
    )
    done = subprocess.run(["sh", "-c", functions + script], stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == status
    assert [line.split()[0] for line in done.stdout.splitlines()] == steps.split()
    first = next(iter(failing), None) if inner == "exit 0" else "command"
    assert (tmp_path / "stage").exists() == (status != 0)
    assert status == 0 or (tmp_path / "stage").read_text().strip() == first


def test_cached_kernels_are_found_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "output_of", lambda *_: pytest.fail("a cached kernel must not need apt"))
    for release, complete in (
        ("6.12.9+deb12-amd64", True),
        ("6.12.100+deb12-amd64", True),
        ("6.12.117+deb12-amd64", False),
    ):
        (tmp_path / release).mkdir()
        if complete:
            (tmp_path / release / "complete").touch()
    assert store.ensure(tmp_path, "6.12", lambda text: None).release == "6.12.100+deb12-amd64"
    assert store.find_cached(tmp_path, "6.1") is None


def test_errors_of_the_host_have_a_status_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["test", "--kernel", "6.12"]) == verdict.EXIT_HOST
    assert "tests/kernel" in capsys.readouterr().err
    with pytest.raises(SystemExit) as wrong:
        cli.main(["run", "--timeout", "0", "--", "true"])
    assert wrong.value.code == 2


MAKEFILE = "mshare.ko: source.c\n\techo $(KDIR) > $@\n\tcat source.c *.o >> $@ 2> /dev/null || true\n"


def test_the_module_is_built_from_a_copy(tmp_path: Path, kernel: store.Kernel) -> None:
    """Built files in kernel/ are neither used nor changed, and files that are gone there are gone from the copy."""
    source = tmp_path / "kernel"
    source.mkdir()
    (source / "Makefile").write_text(MAKEFILE)
    (source / "source.c").write_text("one\n")
    (source / "old.o").write_text("built for another kernel\n")
    (source / "mshare.ko").write_text("built for another kernel\n")
    before = sorted(source.iterdir())
    for text in ("one\n", "two\n"):
        (source / "source.c").write_text(text)
        built = suite.build_module(tmp_path, kernel, lambda _: None)
        assert built == tmp_path / "build" / "vm" / kernel.release / "mshare.ko"
        assert built.read_text() == f"{kernel.build}\n{text}"
    assert sorted(source.iterdir()) == before
    assert (source / "mshare.ko").read_text() == "built for another kernel\n"


def test_a_module_that_does_not_compile_is_told_with_the_compilers_words(tmp_path: Path, kernel: store.Kernel) -> None:
    (tmp_path / "kernel").mkdir()
    (tmp_path / "kernel" / "Makefile").write_text("all:\n\t@echo missing semicolon; false\n")
    with pytest.raises(BuildError, match="missing semicolon"):
        suite.build_module(tmp_path, kernel, lambda _: None)
