"""Tests of the panel and of the package; all but the package lists need `slicer-core` and PySide6."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from slicer_bench.availability import MISSING, pytest_pycollect_makemodule, pytest_terminal_summary  # noqa: F401

if not MISSING:
    from slicer_bench.fixtures import app, host, load_module, panel  # noqa: F401
