"""The real command in its own process: its output, its exit codes, and its remains."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import mshare
from mshare._tools.cli import COMMANDS

Run = subprocess.CompletedProcess[bytes]
MSHARE = (sys.executable, "-m", "mshare")
NASTY = "a\n\x1b[2J[red]b[bold] :smile: \u202e"


def cli(*args: str, stdin: bytes = b"", **environment: str) -> Run:
    return subprocess.run(
        [*MSHARE, *args], input=stdin, capture_output=True, check=False, env={**os.environ, **environment}
    )


def ok(*args: str, stdin: bytes = b"") -> str:
    done = cli(*args, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b""), done
    return done.stdout.decode()


def answer(*args: str, stdin: bytes = b"") -> Any:
    return json.loads(ok(*args, "--json", stdin=stdin))


def fails(code: int, *args: str, stdin: bytes = b"") -> str:
    """Run a command that must fail with `code`, one line on stderr, nothing on stdout; return the line."""
    done = cli(*args, stdin=stdin)
    assert (done.returncode, done.stdout) == (code, b""), done
    assert done.stderr.startswith(b"mshare: ")
    as_json = cli(*args, "--json", stdin=stdin)
    assert as_json.returncode == code
    error = json.loads(as_json.stderr)["error"]
    assert error["exit_code"] == code
    return done.stderr.decode().splitlines()[0]


def names() -> list[str]:
    return [info.name for info in mshare.regions()]


def files(world: Path) -> list[Path]:
    return [path for path in world.rglob("*") if path.is_file()]


# Help and usage


MODULES = {name: import_module(f"mshare._tools.cli.{name}") for name in COMMANDS}
GROUPS = {name: each for name, module in MODULES.items() if (each := getattr(module, "SUBCOMMANDS", {}))}


@pytest.mark.parametrize("name", [*COMMANDS, *(f"{name} {each}" for name in GROUPS for each in GROUPS[name])])
def test_every_help_has_examples_and_fits_80_columns(name: str) -> None:
    for flag in ("--help", "-h"):
        text = ok(*name.split(), flag)
        assert "Examples:" in text
        assert re.search(rf"^    (sudo )?mshare {name}( |$)", text, re.MULTILINE)
        assert "--json" in text or name in GROUPS
        assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", GROUPS)
def test_a_command_with_subcommands_lists_them_and_needs_one(name: str) -> None:
    listed = ok(name, "--help").partition("Commands:")[2].partition("Examples:")[0].splitlines()
    assert [line.split()[0] for line in listed if re.match("  [a-z]", line)] == list(GROUPS[name])
    for args in ((name,), (name, "no-such-subcommand")):
        done = cli(*args)
        assert (done.returncode, done.stdout) == (2, b"")
        assert f"Try 'mshare {name} --help'".encode() in done.stderr


def test_the_help_lists_commands_and_exit_codes() -> None:
    text = ok()
    assert text == ok("--help")
    listed = text.partition("Commands:")[2].partition("Exit codes:")[0].splitlines()
    assert [line.split()[0] for line in listed if re.match("  [a-z]", line)] == list(COMMANDS)
    assert "Exit codes:" in text
    assert "..." not in text.partition("Commands:")[2].partition("Exit codes:")[0]
    for code in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130, 141):
        assert f"{code:>5}  " in text
    assert ok("--version") == f"mshare {mshare.__version__}\n"


def test_without_the_extra_it_says_what_to_install() -> None:
    package_root = Path(mshare.__file__).parent.parent
    program = (
        f"import sys; sys.path.insert(0, {str(package_root)!r}); from mshare.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-S", "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("mshare: the command line needs ")
    assert "pip install '.[cli]'" in done.stderr


@pytest.mark.parametrize("args", ["ls", "scan", "doctor", "exporter --once", "--help"])
def test_who_closed_stdout_wants_nothing_and_no_traceback(args: str) -> None:
    line = f"exec {sys.executable} -m mshare {args} >&-"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


# create, ls, stat, rm, gc


def test_create_ls_stat_rm(backend: str) -> None:
    made = answer("create", "one", "3M", "--backend", backend, "--mode", "0640", "--addr", "0x200040000000")
    assert (made["name"], made["size"], made["mode"], made["backend"]) == ("one", 3 << 20, "0640", backend)
    assert (made["addr"], made["pids"], made["orphan"]) == (0x2000_4000_0000, [], True)
    assert answer("ls") == {"regions": [made], "held": []}
    assert answer("stat", "one") == made
    with mshare.attach("one") as region:
        seen = answer("stat", "one")
        assert (seen["pids"], seen["orphan"], seen["page_table_bytes"]) == (
            [os.getpid()],
            False,
            region.info().page_table_bytes,
        )
        assert str(os.getpid()) in ok("stat", "one")
        busy = cli("rm", "one")
        assert (busy.returncode, busy.stdout) == (5, b"")
        assert b"in use by" in busy.stderr
        assert b"--force" in busy.stderr
        assert answer("rm", "--force", "one") == {"removed": ["one"], "failed": []}
        region.buf[:1] = b"x"
    fails(3, "stat", "one")


def test_human_output(world: Path) -> None:
    text = ok("create", "one", "3M", "--backend", "shm")
    assert "shm" in text
    assert "asked for by name" in text
    assert f"{mshare.regions()[0].addr:#x}" in text
    table = ok("ls").splitlines()
    assert table[0].split() == ["NAME", "SIZE", "MODE", "OWNER", "BACKEND", "LEAF", "ADDRESS", "USERS", "AGE"]
    assert table[1].split()[:3] == ["one", "3", "MiB"]
    assert "orphan" in table[1]
    assert "page tables" in ok("stat", "one")
    assert ok("rm", "one") == "removed one\n"
    assert ok("ls") == ""
    assert answer("ls") == {"regions": [], "held": []}


def test_80_columns_are_enough(world: Path) -> None:
    mshare.create("a-name-that-is-much-longer-than-its-column-could-ever-be", 3_000_000, mode=0o600).close()
    for args in (("ls",), ("stat", mshare.regions()[0].name), ("plan", "300G", "1500")):
        done = cli(*args, COLUMNS="80")
        assert max(map(len, done.stdout.decode().splitlines())) <= 80, done.stdout.decode()
    assert len(ok("ls").splitlines()) == 2, "one line per region where nobody looks at columns"


def test_a_name_cannot_write_to_the_terminal(world: Path) -> None:
    made = answer("create", NASTY, "1K")
    assert made["name"] == NASTY
    for args in (("ls",), ("stat", NASTY), ("gc", "--all", "--dry-run"), ("rm", NASTY), ("rm", NASTY)):
        done = cli(*args)
        text = (done.stdout + done.stderr).decode()
        assert "\x1b" not in text
        assert "\u202e" not in text
        assert "[red]b[bold] :smile:" in text


def test_no_backend_is_8(monkeypatch: pytest.MonkeyPatch, world: Path) -> None:
    monkeypatch.setenv("MSHARE_ROOT", "/proc/self")
    fails(8, "create", "a", "1K")
    done = cli("doctor", "--json")
    assert done.returncode == 8
    document = json.loads(done.stdout)
    assert document["usable"] is False
    assert "problem" in {finding["level"] for finding in document["findings"]}


def test_rm_goes_on_after_a_failure(world: Path) -> None:
    mshare.create("b", 1).close()
    with mshare.create("c", 1):
        done = cli("rm", "a", "b", "c", "--json")
        assert done.returncode == 3
        document = json.loads(done.stdout)
        assert document["removed"] == ["b"]
        assert [(item["name"], item["exit_code"]) for item in document["failed"]] == [("a", 3), ("c", 5)]


def test_gc_takes_what_is_old_and_idle(world: Path) -> None:
    mshare.create("idle", 5000).close()
    with mshare.create("used", 1):
        assert answer("gc", "--older-than", "1d")["regions"] == []
        dry = answer("gc", "--all", "--dry-run")
        assert [item["name"] for item in dry["regions"]] == ["idle"]
        assert names() == ["idle", "used"]
        assert ok("gc", "--all").splitlines()[-1] == "removed 1 region, 4.88 KiB"
        assert names() == ["used"]


def test_sparse_takes_no_memory(world: Path) -> None:
    made = answer("create", "holes", "1T", "--sparse")
    assert (made["size"], made["reserved"]) == (1 << 40, False)
    assert os.stat(made["path"]).st_blocks * 512 <= 8192
    shown = ok("stat", "holes")
    assert "not reserved: more comes on first touch or by populate" in shown
    assert "2 MiB per last-level page-table entry where populate has filled whole blocks" in " ".join(shown.split())


def test_memory_on_nodes(world: Path) -> None:
    made = answer("create", "spread", "4M", "--numa", "interleave")
    assert (made["size"], made["reserved"]) == (4 << 20, True)
    shown = answer("stat", "spread", "--nodes")
    assert sum(shown["nodes"].values()) == shown["memory_bytes"] == (4 << 20) + 4096
    assert "nodes" not in answer("stat", "spread")
    assert "node 0" in ok("stat", "spread", "--nodes")
    assert "node 0" not in ok("stat", "spread")


# cp


def content(size: int) -> bytes:
    return bytes(range(251)) * (size // 251 + 1)


@pytest.mark.parametrize("size", [1, 4095, 4097, (2 << 20) + 1])
def test_a_copy_comes_back_as_it_was(backend: str, tmp_path: Path, size: int) -> None:
    data = content(size)[:size]
    source, back = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    made = answer("cp", str(source), "region:file", "--backend", backend, "--readonly")
    assert (made["size"], made["mode"], made["backend"]) == (size, "0444", backend)
    assert answer("cp", "region:file", str(back)) == {"region": "file", "file": str(back), "size": size}
    assert back.read_bytes() == data
    assert sorted(tmp_path.iterdir()) == [source, back]


@pytest.mark.parametrize("options", [(), ("--size", "300001")])
def test_a_pipe_of_unknown_and_of_stated_length(world: Path, options: tuple[str, ...]) -> None:
    data = content(300_001)[:300_001]
    assert answer("cp", "-", "region:pipe", *options, stdin=data)["size"] == 300_001
    done = cli("cp", "region:pipe", "-")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data


def test_a_file_on_stdin_is_copied_from_where_it_stands(world: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"0123456789")
    with (tmp_path / "in").open("rb", buffering=0) as source:
        source.seek(4)
        subprocess.run([*MSHARE, "cp", "-", "region:rest"], stdin=source, check=True, capture_output=True)
    with mshare.attach("rest", readonly=True) as region:
        assert bytes(region.buf) == b"456789"


def test_a_region_to_a_region_of_another_backend(world: Path) -> None:
    with mshare.create("from", 3_000_000, backend="thp") as region:
        region.buf[-3:] = b"end"
        assert answer("cp", "region:from", "region:to", "--backend", "shm")["backend"] == "shm"
    with mshare.attach("to") as copy:
        assert (copy.size, bytes(copy.buf[-3:])) == (3_000_000, b"end")


@pytest.mark.parametrize("source", ["-", "/dev/null", "{tmp}/empty"])
def test_an_empty_source_is_a_clear_error(world: Path, tmp_path: Path, source: str) -> None:
    (tmp_path / "empty").touch()
    assert "empty" in fails(2, "cp", source.format(tmp=tmp_path), "region:nothing")
    assert files(world) == []


@pytest.mark.parametrize(("size", "word"), [("9", "more"), ("11", "ended after 10 bytes")])
def test_a_stated_size_must_be_true(world: Path, size: str, word: str) -> None:
    assert word in fails(2, "cp", "-", "region:wrong", "--size", size, stdin=b"0123456789")
    assert files(world) == []


def test_what_does_not_fit_leaves_nothing(world: Path, tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as huge:
        huge.truncate(1 << 42)
    fails(6, "cp", str(tmp_path / "huge"), "region:huge")
    assert files(world) == []


def test_a_copy_out_that_fails_leaves_the_old_file(world: Path, tmp_path: Path) -> None:
    mshare.create("big", 8 << 20).close()
    target = tmp_path / "old"
    target.write_bytes(b"old")

    def no_large_files() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = subprocess.run(
        [*MSHARE, "cp", "region:big", str(target)], preexec_fn=no_large_files, capture_output=True, check=False
    )
    assert done.returncode == 6
    assert list(tmp_path.iterdir()) == [target]
    assert target.read_bytes() == b"old"


def test_a_spool_that_is_full_says_so(world: Path) -> None:
    def no_large_files() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))

    done = subprocess.run(
        [*MSHARE, "cp", "-", "region:big"],
        input=b"x" * (5 << 20),
        preexec_fn=no_large_files,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 6
    assert b"TMPDIR" in done.stderr
    assert files(world) == []


def test_a_link_stays_a_link_and_a_device_a_device(world: Path, tmp_path: Path) -> None:
    mshare.create("r", 3).close()
    (tmp_path / "real").write_bytes(b"before")
    (tmp_path / "link").symlink_to("real")
    ok("cp", "region:r", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == bytes(3)
    ok("cp", "region:r", "/dev/null")
    assert Path("/dev/null").is_char_device()


def test_a_file_gets_no_more_rights_than_its_region(world: Path, tmp_path: Path) -> None:
    mshare.create("private", 3, mode=0o600).close()
    ok("cp", "region:private", str(tmp_path / "file"))
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs these tests in the background ignores it
from mshare.__main__ import main
sys.exit(main())
"""


def half_way(*args: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start a copy from a pipe, and return the process when it has read most of the data and waits for more."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "cp", "-", "region:half", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )
    assert process.stdin is not None
    process.stdin.write(b"x" * (1 << 20))  # a pipe holds 64 KiB: when this returns, the rest has been read
    process.stdin.flush()
    return process


@pytest.mark.parametrize("options", [(), ("--size", "2M"), ("--size", "4M", "--backend", "thp")])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGKILL, -9)])
def test_a_copy_that_dies_half_way_leaves_nothing(
    world: Path, tmp_path: Path, options: tuple[str, ...], number: int, code: int
) -> None:
    process = half_way(*options, TMPDIR=str(tmp_path))
    assert files(world) == []
    process.send_signal(number)
    out, err = process.communicate()
    assert (process.returncode, out) == (code, b"")
    assert b"Traceback" not in err
    assert files(world) == []
    assert list(tmp_path.iterdir()) == []


def test_the_name_is_not_there_before_the_last_byte(world: Path) -> None:
    process = half_way("--size", "2M")
    assert process.stdin is not None
    fails(3, "stat", "half")
    process.communicate(b"y" * (1 << 20))
    assert process.returncode == 0
    with mshare.attach("half", readonly=True) as region:
        assert bytes(region.buf[-1:]) == b"y"


# Terminals, pipes, rights


def test_progress_is_for_terminals(world: Path, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"x" * 100_000)
    leader, follower = pty.openpty()
    done = subprocess.run(
        [*MSHARE, "cp", str(tmp_path / "in"), "region:shown", "--json"],
        stderr=follower,
        stdout=subprocess.PIPE,
        check=True,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
    )
    assert json.loads(done.stdout)["size"] == 100_000
    shown = os.read(leader, 1 << 16)
    os.close(leader)
    os.close(follower)
    assert b"filling shown" in shown


def test_a_terminal_that_knows_ascii_only(world: Path) -> None:
    mshare.create("größe", 1).close()
    done = cli("ls", PYTHONIOENCODING="ascii")
    assert done.returncode == 0
    assert b"gr\\xf6\\xdfe" in done.stdout


def test_the_shell_completes_commands() -> None:
    done = cli(_MSHARE_COMPLETE="complete_bash", COMP_WORDS="mshare pl", COMP_CWORD="1")
    assert done.stdout.split() == [b"plan"]


@pytest.mark.parametrize("command", ["stat", "rm", "rm one"])
def test_the_shell_completes_names_that_no_shell_takes_for_more(world: Path, command: str) -> None:
    harmless = ["on-2_a.b", "one", "onto"]
    harmful = ["on$(id)", "on `id`", "on;id", "on:e", "on*", "on\nto", "-on", "on\u202e", "onä"]
    for name in [*harmless, *harmful, "other"]:
        mshare.create(name, 1).close()
    (world / "shm" / "only").write_text("no region")
    words = f"mshare {command} on"
    done = cli(_MSHARE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert (done.stdout.decode().splitlines(), done.stderr) == (harmless, b"")
    done = cli(_MSHARE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=words)
    assert (done.stdout.decode(), done.stderr) == (
        """_arguments '*: :(("on-2_a.b"\n"one"\n"onto"))'\n""",
        b"",
    )


def test_a_real_bash_completes_subcommands_and_names(world: Path, tmp_path: Path) -> None:
    mshare.create("some-region", 1).close()
    program = tmp_path / "mshare"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m mshare "$@"\n')
    program.chmod(0o755)
    typed = f"""\
PATH={tmp_path}:$PATH
. <(mshare --show-completion)
mshare sta\tsome-r\t--json >{tmp_path}/region
mshare mod\tstat\t--json >{tmp_path}/module
mshare cp region:\tcopy
COMP_WORDBREAKS=${{COMP_WORDBREAKS//:}}
mshare cp region:some-\tcopy2
echo text >some-file
mshare cp some-\tregion:other
exit 0
"""
    leader, follower = pty.openpty()
    with open(leader, "wb", buffering=0) as keyboard:  # noqa: PTH123 - a descriptor
        keyboard.write(typed.encode())
        bash = subprocess.run(
            ["bash", "--norc", "--noprofile", "-i"],
            stdin=follower,
            capture_output=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "INPUTRC": "/dev/null", "TERM": "dumb"},
        )
        os.close(follower)
    assert bash.returncode == 0, bash
    assert json.loads((tmp_path / "region").read_text())["name"] == "some-region", bash
    assert "loaded" in json.loads((tmp_path / "module").read_text()), bash
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "copy2").read_bytes() == bytes(1), bash
    assert names() == ["other", "some-region"], bash


@pytest.mark.parametrize(
    "args",
    [
        ("ls",),
        ("ls", "--json"),
        ("cp", "region:r", "-"),
        ("doctor",),
        ("plan", "1G", "2"),
        ("gc", "--all", "--dry-run"),
        ("--help",),
        ("--version",),
    ],
)
def test_nobody_reading_is_quiet(world: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # the value changes when the pipe is found broken
    mshare.create("r", 1 << 20).close()
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*MSHARE, *args], stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    assert names() == ["r"]


@pytest.mark.parametrize("args", [("doctor",), ("ls", "--json"), ("--version",)])
def test_a_full_disk_under_stdout_is_told_once(
    world: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...]
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([*MSHARE, *args], stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 6
    assert json.loads(done.stderr)["error"]["exit_code"] == 6 if "--json" in args else done.stderr.count(b"\n") == 1
    assert b"No space left on device" in done.stderr


UNPRIVILEGED = """
import contextlib, io, os, sys
from mshare.__main__ import main
with contextlib.redirect_stdout(io.StringIO()):  # what is loaded late must be loaded before the rights go
    for args in ([], ["plan", "1G", "2"], ["doctor"], ["ls"], ["ls", "--json"]):
        main(args)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
sys.exit(main(sys.argv[1:]))
"""


def test_without_any_privilege(world: Path) -> None:
    def nobody(*args: str) -> Run:
        return subprocess.run([sys.executable, "-c", UNPRIVILEGED, *args], capture_output=True, check=False)

    if os.geteuid() == 0:
        mshare.create("private", 1024, mode=0o600).close()
        with mshare.create("shown", 1024, mode=0o644):
            assert nobody("stat", "private").returncode == 7
            assert nobody("cp", "region:private", "-").returncode == 7
            assert nobody("rm", "--force", "shown").returncode == 7
            (seen,) = json.loads(nobody("ls", "--json").stdout)["regions"]
            assert (seen["name"], seen["orphan"]) == ("shown", False)
            assert seen["pids"] == [], "maps of other users' processes are not ours to read"
            assert b"others" in nobody("ls").stdout
        assert json.loads(nobody("gc", "--all", "--json").stdout)["regions"] == []
        assert names() == ["private", "shown"]
        mshare.unlink("private")
        mshare.unlink("shown")
    made = json.loads(nobody("create", "mine", "4M", "--mode", "0000", "--json").stdout)
    assert made["backend"] == "thp"
    assert nobody("doctor").returncode == 0
    assert nobody("rm", "mine").returncode == 0
    assert names() == []


# plan and doctor


def test_plan_prints_the_proposals_number(world: Path) -> None:
    text = ok("plan", "300G", "1500")
    assert "878 GiB" in text
    assert "Arithmetic, not a measurement" in text
    assert "sysctl vm.nr_hugepages=153601" in text
    document = answer("plan", "300G", "1500")
    assert document["measured"] is False
    assert {cost["backend"]: cost["leaf_total"] for cost in document["backends"]} == {
        "shm": 943_718_400_000,
        "thp": 1_843_200_000,
        "hugetlb": 1_228_800,
        "msharefs": 629_145_600,
    }


def test_doctor_names_the_backend_that_create_takes(backend: str) -> None:
    document = answer("doctor", "--size", "16M")
    made = answer("create", "chosen", "16M")
    assert (document["chosen"], document["why"]) == (made["backend"], made["reason"])
    facts = {item["name"]: item for item in document["machine"]["backends"]}
    assert facts[backend]["usable"] is True
    assert facts["hugetlb"]["usable"] is (backend == "hugetlb")
    levels = {finding["level"] for finding in document["findings"]}
    assert levels <= {"ok", "advice", "problem"}
    assert "MADV_COLLAPSE" in ok("doctor")


def test_the_pool_that_doctor_asks_for_is_exact(hugetlb_world: Path) -> None:
    document = answer("doctor", "--size", "10T")
    pool = document["machine"]["pool"]
    (finding,) = (finding for finding in document["findings"] if finding["topic"] == "huge pages")
    needed = (10 << 40) // (2 << 20) + 1 + pool["total"] - max(0, pool["free"] - pool["reserved"])
    assert finding["command"] == f"sudo sysctl vm.nr_hugepages={needed}"
