"""Skips the tests that need the bench, loudly, where its packages are not installed or cannot run."""

import pytest

WITHOUT_BENCH = ("test_package_lists.py",)
MARK = "SLICER BENCH MISSING"


def _why_missing() -> str | None:
    try:
        from . import (
            pythonqt,  # noqa: F401 (PySide6, which needs libraries of the system)
            scene,  # noqa: F401 (slicer-core)
        )
    except ImportError as problem:
        return str(problem)
    return None


MISSING = _why_missing()


class _Skipped(pytest.Module):
    def collect(self):
        pytest.skip(f"{MARK}: {MISSING}")


def pytest_pycollect_makemodule(module_path, parent):
    if MISSING and module_path.name not in WITHOUT_BENCH:
        return _Skipped.from_parent(parent, path=module_path)
    return None


def pytest_terminal_summary(terminalreporter):
    skipped = [r for r in terminalreporter.stats.get("skipped", []) if MARK in str(r.longrepr)]
    if skipped and not getattr(terminalreporter, "said_that_bench_is_missing", False):
        terminalreporter.said_that_bench_is_missing = True  # two folders use this hook
        terminalreporter.section(MARK, sep="!", red=True)
        terminalreporter.line(f"{len(skipped)} files of tests of the Slicer module were SKIPPED: {MISSING}")
