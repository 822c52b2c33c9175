"""Draws the README's pictures of the module: the real panel, the real views, the bundled phantom. `make screenshots`.

Slicer itself is not needed and not shown: the widgets are the bench's, the slice views and the chart are Slicer's own.
`python Testing/screenshots.py adapt` draws only the picture of an adaptation, which lasts the longest.
"""

import os
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
PANEL, VIEW = (460, 890), (570, 445)  # px
SLICE_VIEWS = ("Red", "Green", "Yellow")
ADAPT_PANEL, ADAPT_CHART, ADAPT_EPOCHS = (460, 640), (660, 640), 60
NECKS = 8  # simulated ones to adapt to


def main(names=("panel", "adapt")):
    if "panel" in names:
        draw_analysis()
    if "adapt" in names:
        draw_adaptation()
    for path in sorted(OUT.glob("panel-*.png")):
        if "panel" in names or path.stem == "panel-adapt":
            Image.open(path).save(path, optimize=True)
            print(path)


def draw_analysis():
    """The panel when opened, while it runs, cancelled, with an error, and with results."""
    with tempfile.TemporaryDirectory() as folder:
        host = Host(Path(folder))
        install(host, Path(folder))
        for name in SLICE_VIEWS:
            host.views[name].window().SetSize(*VIEW)
            host.views[name].logic.ResizeSliceNode(*VIEW)
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


def draw_adaptation():
    """The section Adapt while a model is adapted to simulated necks by the real worker, and its curves."""
    from U2ADLib.simulation.labelled import labelled_phantom, write_labelled
    from U2ADLib.simulation.phantom import phantom_config, simulate_phantom

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        os.environ["U2AD_MODELS"] = str(folder / "models")
        for seed in range(NECKS):
            made = labelled_phantom(simulate_phantom(phantom_config("clinical", seed, [], []), seed))
            write_labelled(made, folder / "T2w_neck", f"sub-{seed}", overwrite=False)
        host = Host(folder)
        install(host, folder)
        panel = _open(fixtures._load_scripted_module(host, fixtures.MODULE_FOLDER / "U2AD.py"))
        ui = panel.ui
        for section in (ui.inputSection, ui.resultsSection):
            section.collapsed = True
        ui.adaptSection.collapsed = False
        ui.adaptFolder.directory = str(folder / "T2w_neck")
        ui.adaptEpochs.value = ADAPT_EPOCHS
        ui.adaptButton.click()
        while panel.adapt.adaptation and ui.adaptProgress.value < 850:
            slicer.app.processEvents()
        paths = {name: folder / f"{name}.png" for name in ("panel", "chart")}
        ui.adaptFolder.directory = "/data/T2w_neck"  # not the temporary one
        fixtures.screenshot(panel, paths["panel"], ADAPT_PANEL)
        plots.save_chart(panel.adapt.curves.node, paths["chart"], ADAPT_CHART)
        screen = Image.new("RGB", (ADAPT_PANEL[0] + ADAPT_CHART[0], ADAPT_PANEL[1]))
        screen.paste(Image.open(paths["panel"]).convert("RGB"), (0, 0))
        screen.paste(Image.open(paths["chart"]).convert("RGB"), (ADAPT_PANEL[0], 0))
        screen.save(OUT / "panel-adapt.png", optimize=True)
        panel.adapt.stop()
        while panel.adapt.adaptation:
            slicer.app.processEvents()
        panel.cleanup()
        host.close()


def _open(loaded):
    parent = fixtures.ModuleWidget()
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
    """Panel, axial view, chart, coronal and sagittal view, as Slicer's window lays them out."""
    from U2ADScene import display

    analysis = panel.logic.analyses.of(panel.results.nodes)
    display.present(panel.results.nodes, analysis)
    paths = {name: folder / f"{name}.png" for name in ("panel", *SLICE_VIEWS, "chart")}
    fixtures.screenshot(panel, paths["panel"], PANEL)
    for name in SLICE_VIEWS:
        host.views[name].save_picture(paths[name])
    plots.save_chart(panel.results.nodes.chart, paths["chart"], VIEW)
    screen = Image.new("RGB", (PANEL[0] + 2 * VIEW[0], PANEL[1]))
    left, middle, below = PANEL[0], PANEL[0] + VIEW[0], VIEW[1]
    for name, corner in (
        ("panel", (0, 0)),
        ("Red", (left, 0)),
        ("chart", (middle, 0)),
        ("Green", (left, below)),
        ("Yellow", (middle, below)),
    ):
        screen.paste(Image.open(paths[name]).convert("RGB"), corner)
    return screen


if __name__ == "__main__":
    main(*([sys.argv[1:]] if sys.argv[1:] else []))
