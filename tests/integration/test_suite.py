"""The suite itself: the promises of tests/conftest.py about the place where tests run."""

from __future__ import annotations

import os

import pytest


@pytest.mark.machine
def test_a_test_that_counts_the_machine_is_in_the_machines_group(request: pytest.FixtureRequest) -> None:
    in_group(request)


def test_a_test_that_uses_huge_pages_is_in_the_machines_group(request: pytest.FixtureRequest, huge_pages: int) -> None:
    in_group(request)


def in_group(request: pytest.FixtureRequest) -> None:
    """Assert that a worker of pytest-xdist runs this test in the group `machine`. Without workers there is no group."""
    assert request.node.nodeid.endswith("@machine") == ("PYTEST_XDIST_WORKER" in os.environ)
