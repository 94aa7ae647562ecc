"""Helpers for tests of several directories."""
