"""Fixtures that several test folders share."""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def iconlab() -> Path:
    """Folder with the authors' published data (DEQMPI_ICONLAB or beside the repository); skips without."""
    folder = Path(os.environ.get("DEQMPI_ICONLAB", REPOSITORY.parent / "shared" / "iconlab"))
    if not folder.is_dir():
        pytest.skip(f"the authors' published data are not at {folder}; set DEQMPI_ICONLAB to run this test")
    return folder
