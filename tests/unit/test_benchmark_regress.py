"""The verdict about PostgreSQL's own regression tests: pg_regress's lines, and the comparison with the reference."""

from __future__ import annotations

from benchmarks.regress_summary import FAILED, IGNORED, OK, compare, outcome, scheduled

SCHEDULE = """\
# test: commented
test: test_setup

test: boolean char random
ignore: random
test: tablespace
"""
OUTPUT = """\
(using postmaster on /tmp/mshare-postgres-x, default port)
============== dropping database "regression"         ==============
NOTICE:  database "regression" does not exist, skipping
============== running regression test queries        ==============
test test_setup                   ... ok          559 ms
parallel group (3 tests):  char boolean random
     boolean                      ... FAILED (test process exited with exit code 2)      211 ms
     char                         ... FAILED       89 ms
     random                       ... failed (ignored)      34 ms
test tablespace                   ... ok          512 ms

======================
 2 of 4 tests failed.
======================
"""
TESTS = ("test_setup", "boolean", "char", "random", "tablespace")
RESULTS = {"test_setup": OK, "boolean": FAILED, "char": FAILED, "random": IGNORED, "tablespace": OK}


def test_the_tests_of_a_schedule_are_found() -> None:
    assert scheduled(SCHEDULE) == TESTS


def test_each_result_is_read() -> None:
    assert dict(filter(None, map(outcome, OUTPUT.splitlines()))) == RESULTS


def test_all_tests_passed() -> None:
    found = compare(TESTS, dict.fromkeys(TESTS, OK))
    assert found.good
    assert str(found) == "5 of 5"


def test_a_failure_of_the_reference_is_listed_and_not_counted() -> None:
    found = compare(TESTS, RESULTS, {**RESULTS, "boolean": OK})
    assert not found.good
    assert str(found) == (
        "2 of 5; failed: boolean; failed as in the reference: char; failed, which PostgreSQL ignores: random"
    )
    assert compare(TESTS, RESULTS, RESULTS).good


def test_a_run_that_ended_early_is_not_good() -> None:
    found = compare(TESTS, {"test_setup": OK})
    assert not found.good
    assert found.missing == TESTS[1:]
    assert not compare((), {}).good
