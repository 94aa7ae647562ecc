"""vm.verdict: no pass without the last record, and the right name for everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import dmesg, verdict
from vm.verdict import Outcome

INIT = b'{"event": "init"}\n{"event": "start"}\n'
PASS = INIT + b'{"event": "exit", "status": 0, "expired": false, "stage": ""}\n{"event": "end", "tainted": 12288}\n'
LOG = f"<5>[    0.000000] Linux version 6.12\n<4>[    3.2] {dmesg.FIRST_PROCESS}\n"


def test_pass() -> None:
    found = verdict.judge(PASS, LOG, LOG)
    assert (found.outcome, found.status, found.exit_code, found.early_death) == (Outcome.PASSED, 0, 0, False)


@pytest.mark.parametrize("status", [1, 7, 137])
def test_a_failing_command_gives_its_own_status(status: int) -> None:
    found = verdict.judge(PASS.replace(b'"status": 0', b'"status": %d' % status), LOG, LOG)
    assert (found.outcome, found.exit_code) == (Outcome.FAILED, status)


def test_the_step_that_failed_is_named() -> None:
    found = verdict.judge(PASS.replace(b'"status": 0', b'"status": 1').replace(b'""', b'"rmmod"'), LOG, LOG)
    assert (found.outcome, found.stage) == (Outcome.FAILED, "rmmod")
    assert "at step rmmod" in found.reason


def test_a_complaint_outweighs_success() -> None:
    found = verdict.judge(PASS, LOG + "<4>[ 4.0] WARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2\n", LOG)
    assert (found.outcome, found.exit_code, found.status) == (Outcome.COMPLAINED, verdict.EXIT_COMPLAINED, 0)
    assert found.complaints[0].kind == "warning"
    assert "WARNING: CPU: 0" in "\n".join(found.excerpt)


def test_a_bad_taint_outweighs_a_clean_log() -> None:
    found = verdict.judge(PASS.replace(b"12288", b"512"), LOG, LOG)
    assert (found.outcome, found.reason) == (Outcome.COMPLAINED, "the kernel is tainted: warning")


def test_a_log_without_its_beginning_proves_nothing() -> None:
    assert verdict.judge(PASS, "", LOG).outcome is Outcome.LOST
    assert verdict.judge(PASS, "later lines\n", LOG).outcome is Outcome.LOST


def test_time_limit_of_the_command() -> None:
    port = PASS.replace(b'"status": 0, "expired": false', b'"status": 137, "expired": true')
    found = verdict.judge(port, LOG + f"<4>[ 9.0] {dmesg.TIME_LIMIT}\nCall Trace:\n", LOG)
    assert (found.outcome, found.exit_code) == (Outcome.TIMEOUT, verdict.EXIT_TIMEOUT)


def test_a_panic_is_read_from_the_console() -> None:
    found = verdict.judge(INIT, "", LOG + "[ 4.0] Kernel panic - not syncing: x\n")
    assert (found.outcome, found.early_death) == (Outcome.COMPLAINED, False)


def test_silence_is_a_lost_machine() -> None:
    found = verdict.judge(INIT, "", LOG)
    assert (found.outcome, found.early_death) == (Outcome.LOST, False)
    assert "without a verdict" in found.reason
    killed = verdict.judge(INIT, "", LOG, killed="no sign of life")
    assert "no sign of life" in killed.reason
    assert "before the command" in verdict.judge(b'{"event": "init"}\n', "", LOG).reason


@pytest.mark.parametrize(
    "console", ["", "[ 0.5] int3: 0000 [#1] PREEMPT SMP NOPTI\n[ 0.5] Kernel panic - not syncing: Fatal exception\n"]
)
def test_death_before_the_first_process_is_the_emulators(console: str) -> None:
    found = verdict.judge(b"", "", console)
    assert (found.outcome, found.early_death, found.exit_code) == (Outcome.LOST, True, verdict.EXIT_LOST)


@given(st.integers(0, len(PASS) - 2))
def test_a_torn_verdict_never_passes(length: int) -> None:
    assert verdict.judge(PASS[:length], LOG, LOG).outcome is not Outcome.PASSED


@given(st.binary(), st.text(), st.text())
def test_noise_never_passes(port: bytes, log: str, console: str) -> None:
    assert verdict.judge(port, log, console).outcome is not Outcome.PASSED


@given(st.lists(st.binary(max_size=40).filter(lambda junk: b"\n" not in junk)))
def test_foreign_lines_between_records_change_nothing(junk: list[bytes]) -> None:
    lines = PASS.splitlines()
    mixed = b"\n".join([*junk, *(part for line in lines for part in (line, *junk))])
    assert verdict.parse(mixed) == verdict.parse(PASS)


@pytest.mark.parametrize(
    "line",
    [
        b'{"event": "end", "tainted": true}',
        b'{"event": "end"}',
        b'["event", "end"]',
        b"null",
        b'{"event": "end", "tainted": "0"}',
    ],
)
def test_records_of_the_wrong_shape_are_ignored(line: bytes) -> None:
    assert verdict.parse(line) == verdict.Records()
