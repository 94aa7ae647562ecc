"""Bad command lines and failures, in this process: one line, the right code, nothing left behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import mshare
from mshare.__main__ import main


def fails_here(capsys: pytest.CaptureFixture[str], code: int, *args: str) -> None:
    assert main(args) == code
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.startswith("mshare: ")
    if args[0] == "rm":
        return  # several names, several errors: the result has all of them
    assert main([*args, "--json"]) == code
    as_json = capsys.readouterr()
    assert as_json.out == ""
    error = json.loads(as_json.err)["error"]
    assert error["exit_code"] == code
    if code != 6:  # how much is free changes from one moment to the next
        assert seen.err.splitlines()[0] == f"mshare: {error['message']}"


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("create",),
        ("create", "a"),
        ("create", "a", "1K", "--mode", "9"),
        ("create", "a", "1K", "--mode", "07777"),
        ("create", "a", "1K", "--addr", "here"),
        ("create", "a", "1K", "--addr", "0x123"),
        ("create", "a", "1K", "--addr", "0x800000000000"),
        ("create", "a", "1K", "--backend", "tape"),
        ("create", "a", "0"),
        ("create", "a", "ten"),
        ("create", "a", "100000T"),
        ("create", "a/b", "1K"),
        ("create", "", "1K"),
        ("create", ".a", "1K"),
        ("create", "x" * 256, "1K"),
        ("create", "a\udc80", "1K"),
        ("ls", "extra"),
        ("stat", ".."),
        ("rm",),
        ("rm", ".."),
        ("gc",),
        ("gc", "--all", "--older-than", "1d"),
        ("gc", "--older-than", "soon"),
        ("gc", "--older-than", "30"),
        ("gc", "--older-than", "1M"),
        ("report", "--for", "1M"),
        ("cp", "a"),
        ("cp", "a", "b"),
        ("cp", "-", "-"),
        ("cp", "/dev/null", "region:a/b"),
        ("cp", "/dev/null", "region:"),
        ("cp", "region:a", "/dev/null", "--mode", "0600"),
        ("cp", "-", "region:a", "--mode", "0600", "--readonly"),
        ("plan", "1G"),
        ("plan", "1G", "0"),
        ("plan", "1G", "many"),
        ("plan", "0", "1"),
        ("doctor", "--size", "0"),
    ],
)
def test_what_makes_no_sense_is_2_and_changes_nothing(
    world: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    fails_here(capsys, 2, *args)
    assert [path for path in world.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("code", "args"),
    [
        (3, ("stat", "none")),
        (4, ("create", "here", "1K")),
        (4, ("cp", "/proc/version", "region:here")),
        (6, ("create", "big", "10T", "--backend", "shm")),
        (9, ("stat", "link")),
        (9, ("stat", "foreign")),
        (3, ("cp", "region:none", "/dev/null")),
        (3, ("cp", "/nonexistent/file", "region:new")),
        (3, ("cp", "region:here", "/nonexistent/file")),
        (1, ("cp", "region:here", "/")),
        (1, ("cp", "/", "region:new")),
    ],
)
def test_each_cause_has_its_code(
    world: Path, capsys: pytest.CaptureFixture[str], code: int, args: tuple[str, ...]
) -> None:
    mshare.create("here", 1024).close()
    (world / "shm" / "link").symlink_to("here")
    (world / "shm" / "foreign").write_bytes(b"hello")
    fails_here(capsys, code, *args)
    assert [info.name for info in mshare.regions()] == ["here"]


@pytest.mark.parametrize(
    ("message", "args"),
    [
        ("--older-than AGE or --all, not both", ("gc", "--older-than", "1h", "--all")),
        ("invalid mode 0o7777", ("create", "a", "1K", "--mode", "07777")),
    ],
)
def test_the_message_says_what_is_wrong(
    world: Path, capsys: pytest.CaptureFixture[str], message: str, args: tuple[str, ...]
) -> None:
    assert main(args) == 2
    assert message in capsys.readouterr().err
