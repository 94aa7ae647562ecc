"""Every cause has its exit code, and an error is one line."""

from __future__ import annotations

import errno
import json

import pytest

from mshare._core import errors
from mshare._tools.cli import _exits, dispatch

CODES = {
    "InvalidNameError": 2,
    "InvalidSizeError": 2,
    "InvalidAddressError": 2,
    "InvalidArgumentError": 2,
    "RegionExistsError": 4,
    "RegionNotFoundError": 3,
    "AmbiguousNameError": 9,
    "NotARegionError": 9,
    "AccessDeniedError": 7,
    "ReadOnlyMappingError": 7,
    "AddressTakenError": 1,
    "NoSpaceError": 6,
    "RegionBusyError": 5,
    "BackendUnavailableError": 8,
    "ModuleBuildError": 1,
    "ViewsAliveError": 5,
    "RegionClosedError": 1,
    "NotAHandleError": 1,
    "DescriptorLimitError": 1,
    "NotSealedError": 7,
    "NotASnapshotError": 9,
    "MissingExtraError": 1,
    "OwnerDiedError": 1,
    "NotOwnerError": 1,
    "AlreadyOwnerError": 1,
    "LockTimeoutError": 1,
    "NotALockError": 1,
}


def every_error() -> list[type[errors.MshareError]]:
    return [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.MshareError)]


@pytest.mark.parametrize("kind", [kind for kind in every_error() if kind is not errors.MshareError])
def test_every_error_has_its_code(kind: type[errors.MshareError]) -> None:
    assert _exits.code_of(kind("problem", "hint")) == CODES[kind.__name__]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, 3),
        (errno.EEXIST, 4),
        (errno.ENOSPC, 6),
        (errno.EDQUOT, 6),
        (errno.EACCES, 7),
        (errno.EPERM, 7),
        (errno.EIO, 1),
    ],
)
def test_errors_of_the_system_have_the_same_codes(number: int, code: int) -> None:
    assert _exits.code_of(OSError(number, "text", "file")) == code


def test_every_code_is_explained() -> None:
    text = _exits.epilog()
    assert set(CODES.values()) <= set(_exits.MEANINGS)
    assert all(f"{code}  {meaning}" in text for code, meaning in _exits.MEANINGS.items())


def test_a_message_is_one_line_whatever_the_file_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.ENOENT, "No such file", "a\n\x1b[31mb\udc80")
    assert _exits.fail(error, as_json=False) == 3
    assert capsys.readouterr().err == "mshare: No such file: a\\n\\x1b[31mb\\udc80\n"
    assert _exits.fail(error, as_json=True) == 3
    document = json.loads(capsys.readouterr().err)["error"]
    assert document["errno"] == "ENOENT"
    assert document["exit_code"] == 3


@pytest.mark.parametrize(
    "words", [("top", "--interval", "nan", "--count", "1"), ("exporter", "--max-age", "NaN", "--once")]
)
def test_a_time_is_a_number(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "NaN is not a number of seconds" in err
