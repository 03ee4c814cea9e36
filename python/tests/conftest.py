"""What all tests of the package share."""

from __future__ import annotations

from pathlib import Path

import pytest

import ckpt_store as ckpt


@pytest.fixture
def store(tmp_path: Path) -> ckpt.Store:
    """An empty store."""
    return ckpt.Store(tmp_path / "store")


@pytest.fixture(scope="session")
def curve() -> list[float]:
    """The losses of the small Lightning training that nothing interrupts."""
    from lightning_training import uninterrupted

    return uninterrupted()
