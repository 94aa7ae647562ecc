"""Each backend that ships keeps the promises of all."""

from __future__ import annotations

from mshare.testing.conformance import BackendConformance


class TestShippedBackends(BackendConformance):
    """`backend`, in tests/conftest.py, goes through all of them."""
