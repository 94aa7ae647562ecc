"""Tests of `mshare.torch`, which `make test-torch` runs in an environment with torch."""
