"""Pytest fixtures of the bench; the `conftest.py` of `Testing/scene/` and `Testing/panel/` hand them to their tests."""

# ruff: noqa: E402 (`qt` and `ctk` exist only after the shim is installed)

import importlib.util
import json
import shutil
import sys
import types
from pathlib import Path

import pytest

from . import pythonqt

pythonqt.install()  # `import qt` and `import ctk` work from here on, also at the top of a test file

import qt
import slicer

from . import application, python_modules, widgets
from .facts import CLASSES
from .scene import Host, Module

widgets.install()
slicer.app = None
slicer.selfTests = {}
python_modules.install()

MODULE_FOLDER = Path(__file__).resolve().parents[2] / "U2AD"
for folder in (MODULE_FOLDER.parent, MODULE_FOLDER):  # U2ADLib, and U2ADScene as Slicer finds it beside U2AD.py
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


@pytest.fixture
def host(tmp_path) -> Host:
    """A fresh scene as `slicer.mrmlScene`, with `slicer.modules` and a fresh `slicer.app`."""
    made = Host(tmp_path)
    application.install(made, tmp_path)
    python_modules.asked_to_install.clear()
    yield made
    for widget in qt.QApplication.topLevelWidgets():
        widget.deleteLater()
    qt.QApplication.processEvents()
    made.close()


@pytest.fixture
def app(host) -> application.Application:
    """The stand-in of `slicer.app` over the scene of `host`."""
    return slicer.app


@pytest.fixture
def load_module(host):
    """Function: path of a scripted module, loaded as Slicer does → the Python module, also as `slicer.modules.<name>`.

    Its module object (`U2AD(parent)`) is the attribute `bench_module`; `bench_module.runTest()` runs the self-test.
    """
    return lambda path=MODULE_FOLDER / "U2AD.py": _load_scripted_module(host, path)


class _ModuleParent:
    """What describes a module to Slicer (`parent.title = …`); other attributes cannot be set."""

    __slots__ = (*CLASSES["qSlicerScriptedLoadableModule"]["properties"], "path")

    def __init__(self, path: str):
        self.path = path


def _load_scripted_module(host: Host, path: Path) -> types.ModuleType:
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[name] = loaded
    spec.loader.exec_module(loaded)
    host.add_module(Module(name, path=str(path)))
    loaded.bench_module = getattr(loaded, name)(_ModuleParent(str(path)))
    return loaded


class ModuleWidget(slicer.qMRMLWidget):
    """What a panel lies in: of qSlicerAbstractModuleWidget's properties, the one that scripted modules ask for."""

    isEntered = False


@pytest.fixture
def panel(load_module):
    """Function: the panel of `U2AD.py`, set up and entered, as in Slicer when the user opens the module."""

    def opened(path: Path = MODULE_FOLDER / "U2AD.py"):
        loaded = load_module(path)
        parent = ModuleWidget()
        parent.setLayout(qt.QVBoxLayout())
        parent.setMRMLScene(slicer.mrmlScene)
        widget = getattr(loaded, path.stem + "Widget")(parent)
        widget.setup()
        if hasattr(widget, "enter"):
            widget.enter()
        parent.isEntered = True
        made.append(widget)
        return widget

    made: list = []
    yield opened
    for widget in made:
        widget.cleanup()


@pytest.fixture
def opened(panel, app):
    """The panel in a window, with this Python as the worker's."""
    widget = panel()
    widget.use_program(sys.executable)
    widget.parent.resize(460, 1100)
    widget.parent.show()
    qt.QApplication.processEvents()
    return widget


def without_default_score(source: Path, folder: Path) -> Path:
    """A copy of a model that has the paper's score alone, which is adapted in a moment."""
    shutil.copytree(source, folder)
    card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    del card["scores"]["default"], card["discriminators"]
    card |= {"name": folder.name, "thresholds": [one for one in card["thresholds"] if one["score"] == "paper"]}
    (folder / "discriminators.safetensors").unlink()
    (folder / "model.json").write_text(json.dumps(card), encoding="utf-8")
    return folder


def click(button) -> None:
    """A real click on a button that can be seen."""
    assert button.visible
    qt.QTest.mouseClick(button, qt.Qt.LeftButton)


def settle(panel) -> None:
    """Let Slicer work until no analysis and no batch of the panel runs."""
    while panel.running or panel.batch.job:
        slicer.app.processEvents()


def screenshot(widget, path, size: tuple[int, int] = (420, 900)) -> None:
    """Write a Qt widget (or a panel with `.parent`) as a PNG file of `size` (width, height) in pixels."""
    shown = widget if isinstance(widget, qt.QWidget) else widget.parent
    shown.resize(*size)
    shown.show()
    qt.QApplication.processEvents()
    qt.QApplication.processEvents()  # the first pass may have changed sizes
    shown.grab().save(str(path))
