"""Files that appear whole or not at all, also where the file system has no `O_TMPFILE`."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mshare._core.errors import InvalidSizeError
from mshare._tools.cli import _files


@pytest.fixture(params=["O_TMPFILE", "a temporary name"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one refuses files without a name, as NFS does."""
    real_open = os.open

    def refusing_open(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not supported")
        return real_open(path, flags, mode)

    if request.param != "O_TMPFILE":
        monkeypatch.setattr(os, "open", refusing_open)


def test_a_file_appears_with_its_content(file_system: None, tmp_path: Path) -> None:
    target = tmp_path / "file"
    for content in (b"one", b"two"):
        with _files.target(str(target), 0o640) as fd:
            os.write(fd, content)
            assert not target.exists() or target.read_bytes() == b"one"
        assert target.read_bytes() == content
        assert list(tmp_path.iterdir()) == [target]
    assert target.stat().st_mode & 0o137 == 0


def _write_half(target: Path, error: BaseException) -> None:
    with _files.target(str(target), 0o600) as fd:
        os.write(fd, b"half")
        raise error


def test_a_failure_leaves_what_was_there(file_system: None, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    for error in (OSError(errno.EIO, "broken"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            _write_half(target, error)
        assert list(tmp_path.iterdir()) == [target]
        assert target.read_bytes() == b"old"


def test_reading_in_odd_pieces() -> None:
    source = bytes(range(100))

    def seven(into: memoryview, start: int) -> int:
        piece = source[start : start + min(7, len(into))]
        into[: len(piece)] = piece
        return len(piece)

    steps: list[tuple[int, int]] = []
    into = bytearray(100)
    _files.fill_exactly(memoryview(into), seven, "x", lambda done, total: steps.append((done, total)))
    assert into == source
    assert steps[-1] == (100, 100)
    for size in (99, 101):
        with pytest.raises(InvalidSizeError):
            _files.fill_exactly(memoryview(bytearray(size)), seven, "x", lambda *_: None)
