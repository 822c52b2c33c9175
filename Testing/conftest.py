"""Shared fixtures. Real images are optional: they lie beside the project and are never part of it."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED_DATA = Path(os.environ.get("U2AD_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real MR images; the test is skipped, and named at the end of the run, where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"REAL IMAGES NOT FOUND at {SHARED_DATA} (set U2AD_TEST_DATA): this test did not run")
    return SHARED_DATA


def pytest_terminal_summary(terminalreporter):
    """Say loudly that the tests on real images did not run."""
    missing = [r for r in terminalreporter.stats.get("skipped", []) if "REAL IMAGES NOT FOUND" in str(r.longrepr)]
    if missing:
        terminalreporter.section("REAL IMAGES MISSING", sep="!", red=True)
        terminalreporter.line(f"{len(missing)} tests on real images were SKIPPED: no folder {SHARED_DATA}.")
