"""Real processes against the reference model, on every backend."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from mshare.testing.processes import Nursery
from mshare.testing.statemachine import RegionMachine


@pytest.mark.timeout(600)
def test_every_backend_does_what_the_model_does(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MSHARE_BACKEND", backend)
    with Nursery() as nursery:

        class Machine(RegionMachine):
            pass

        Machine.backend, Machine.nursery = backend, nursery
        run_state_machine_as_test(
            Machine,
            settings=settings(
                max_examples=31, stateful_step_count=29, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
