"""The self-test that users run inside Slicer, here on the bench."""

import sys

import slicer


def test_it_passes(load_module, app):
    module = load_module()
    module.U2ADTest.program = sys.executable
    module.bench_module.runTest()
    assert slicer.mrmlScene.GetFirstNodeByName(module.SAMPLE)


def test_it_can_fail(load_module, app, monkeypatch):
    module = load_module()
    monkeypatch.setattr(module.U2ADTest, "program", sys.executable)
    from U2ADScene import runs

    flag = runs.Analyses.of
    monkeypatch.setattr(runs.Analyses, "of", lambda self, nodes: wrong(flag(self, nodes)))
    test = module.U2ADTest()
    test.setUp()
    try:
        test.test_lesions_of_the_sample_are_flagged()
    except AssertionError:
        return
    raise AssertionError("the self-test passed with nothing flagged")


def wrong(analysis):
    from U2ADLib.analysis import with_thresholds

    return with_thresholds(analysis, 1.0, 1.0)


def test_sample_data_is_registered(load_module, app):
    load_module()
    app.startupCompleted.emit()
    import SampleData

    (source,) = SampleData.SampleDataLogic.sampleDataSourcesByCategory("U2AD")
    assert source.sampleName == "U2ADNeckPhantom"
