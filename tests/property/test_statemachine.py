"""Real processes against the reference model, on every backend."""

from __future__ import annotations

import pytest
from hypothesis import settings

from mshare.testing.statemachine import check


@pytest.mark.timeout(600)
def test_every_backend_does_what_the_model_does(backend: str) -> None:
    check(backend, settings(max_examples=31, stateful_step_count=29))
