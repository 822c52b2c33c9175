"""Draws the README's pictures of the module: the real panel, the real views, the bundled phantom. `make screenshots`.

Slicer itself is not needed and not shown: the widgets are the bench's, the slice views and the chart are Slicer's own.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from slicer_bench import fixtures, plots
from slicer_bench.application import install
from slicer_bench.scene import Host

import qt  # isort: skip
import slicer  # isort: skip

OUT = Path(__file__).resolve().parents[1] / "Resources" / "Screenshots"
PANEL, SAGITTAL, AXIAL, CHART = (460, 850), (480, 850), (660, 350), (660, 500)  # px


def main():
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        install(host, Path(folder))
        for name, size in (("Yellow", SAGITTAL), ("Red", AXIAL)):
            host.views[name].window().SetSize(*size)
            host.views[name].logic.ResizeSliceNode(*size)
        loaded = fixtures._load_scripted_module(host, fixtures.MODULE_FOLDER / "U2AD.py")
        panel = _open(loaded)
        fixtures.screenshot(panel, OUT / "panel-fresh.png", PANEL)
        panel.ui.sampleButton.click()
        panel.ui.applyButton.click()
        while panel.running and panel.ui.progressBar.value < 300:
            slicer.app.processEvents()
        fixtures.screenshot(panel, OUT / "panel-running.png", PANEL)
        panel.ui.applyButton.click()
        _finish(panel)
        fixtures.screenshot(panel, OUT / "panel-cancelled.png", PANEL)
        _show_an_error(panel, Path(folder))
        panel.ui.applyButton.click()
        _finish(panel)
        _screen(panel, host, Path(folder)).save(OUT / "panel-result.png", optimize=True)
        panel.cleanup()
        host.close()
    for path in sorted(OUT.glob("panel-*.png")):
        Image.open(path).save(path, optimize=True)
        print(path)


def _open(loaded):
    parent = slicer.qMRMLWidget()
    parent.setLayout(qt.QVBoxLayout())
    parent.setMRMLScene(slicer.mrmlScene)
    panel = loaded.U2ADWidget(parent)
    panel.setup()
    panel.enter()
    panel.use_program(sys.executable)
    return panel


def _finish(panel):
    while panel.running:
        slicer.app.processEvents()


def _show_an_error(panel, folder):
    """A worker that runs out of memory."""
    program = folder / "python"
    program.write_text(f"#!{sys.executable}\nimport sys\nprint('MemoryError', file=sys.stderr)\nsys.exit(1)\n")
    program.chmod(0o755)
    panel.use_program(str(program))
    panel.ui.applyButton.click()
    _finish(panel)
    fixtures.screenshot(panel, OUT / "panel-error.png", PANEL)
    panel.use_program(sys.executable)


def _screen(panel, host, folder):
    """Panel, sagittal view, axial view and chart side by side, as Slicer's window lays them out."""
    from U2ADScene import display

    analysis = panel.logic.analyses.of(panel.results.nodes)
    display.present(panel.results.nodes, analysis)
    paths = {name: folder / f"{name}.png" for name in ("panel", "Yellow", "Red", "chart")}
    fixtures.screenshot(panel, paths["panel"], PANEL)
    for name in ("Yellow", "Red"):
        host.views[name].save_picture(paths[name])
    plots.save_chart(panel.results.nodes.chart, paths["chart"], CHART)
    width = PANEL[0] + SAGITTAL[0] + AXIAL[0]
    screen = Image.new("RGB", (width, PANEL[1]))
    left = PANEL[0]
    for name, corner in (
        ("panel", (0, 0)),
        ("Yellow", (left, 0)),
        ("Red", (left + SAGITTAL[0], 0)),
        ("chart", (left + SAGITTAL[0], AXIAL[1])),
    ):
        screen.paste(Image.open(paths[name]).convert("RGB"), corner)
    return screen


if __name__ == "__main__":
    main()
