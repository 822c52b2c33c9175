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


@pytest.fixture(scope="session")
def phantom():
    """A small clinical phantom with a bright lesion at C4-5."""
    from U2ADLib.simulation.phantom import Lesion, PhantomConfig, simulate_phantom

    lesion = Lesion("C4-5", contrast=0.8, ap_mm=5, length_mm=14, rl_mm=9)
    config = PhantomConfig(spacing_mm=(3.3, 1.0, 1.0), shape=(9, 220, 180), lesions=(lesion,))
    return simulate_phantom(config, seed=11)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """Folder of a model package with one block each: untrained, fast, with made-up thresholds."""
    import torch

    from U2ADLib.config import Architecture
    from U2ADLib.mae import EdgeMAE
    from U2ADLib.package import save_model

    network = EdgeMAE(Architecture(depth=1, decoder_depth=1)).initialise(torch.Generator().manual_seed(0))
    folder = tmp_path_factory.mktemp("models") / "tiny"
    thresholds = [{"segment": 0.5, "patient": 0.6, "slices": rule, "origin": "made up"} for rule in ("all", "middle")]
    save_model(folder, network, {"thresholds": thresholds})
    return folder


def pytest_terminal_summary(terminalreporter):
    """Say loudly that the tests on real images did not run."""
    missing = [r for r in terminalreporter.stats.get("skipped", []) if "REAL IMAGES NOT FOUND" in str(r.longrepr)]
    if missing:
        terminalreporter.section("REAL IMAGES MISSING", sep="!", red=True)
        terminalreporter.line(f"{len(missing)} tests on real images were SKIPPED: no folder {SHARED_DATA}.")
