"""Fixtures for the tests of stores."""

import os

import pytest


@pytest.fixture(autouse=True)
def patient_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting for the disk: nothing here outlives a power cut, and a store is made per test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
