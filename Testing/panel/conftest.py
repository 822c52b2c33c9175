"""Tests of the panel and of the package; all but the package lists need `slicer-core` and PySide6."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(1, str(Path(__file__).resolve().parents[1] / "scene"))  # for `made_scene`

from slicer_bench.availability import MISSING, pytest_pycollect_makemodule, pytest_terminal_summary  # noqa: F401

if not MISSING:
    import pytest

    from slicer_bench.fixtures import app, click, host, load_module, opened, panel, settle  # noqa: F401

    @pytest.fixture
    def analysed(opened):  # noqa: F811
        """The sample, loaded and analysed by clicks in the panel that the test module opens."""
        click(opened.ui.sampleButton)
        click(opened.ui.applyButton)
        settle(opened)
        return opened
