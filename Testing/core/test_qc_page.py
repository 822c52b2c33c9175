import base64
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from made_analysis import CORD_COLUMNS, CORD_ROWS, LESION_ROWS, LESION_SLICE, made_analysis
from PIL import Image
from scipy import ndimage

from U2ADLib.analysis import with_thresholds
from U2ADLib.errors import U2ADError
from U2ADLib.pictures import analysis as of_analysis
from U2ADLib.pictures.canvas import RESEARCH_USE_ONLY, SKY
from U2ADLib.qc_page import qc_page, write_qc_page
from U2ADLib.report import QC_PAGE

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Elements (tag, attributes, text inside) of well-formed HTML; fails where tags do not match."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "attributes": dict(attributes), "text": ""}
        self.elements.append(element)
        if tag not in VOID:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop()["tag"] == tag

    def handle_data(self, data):
        for element in self._open:
            element["text"] += data

    def all(self, tag):
        return [element for element in self.elements if element["tag"] == tag]

    def by_id(self, name):
        (element,) = [element for element in self.elements if element["attributes"].get("id") == name]
        return element

    def picture(self, name):
        """The PNG of an image, by its id or that of the section it stands in, as (H, W, 3)."""
        image = self.by_id(name)
        if image["tag"] != "img":
            image = self.elements[self.elements.index(image) + 1]
        kind, data = image["attributes"]["src"].split(",")
        assert kind == "data:image/png;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))).convert("RGB"))


@pytest.fixture(scope="module")
def analysis():
    with pytest.MonkeyPatch.context() as monkeypatch:
        return made_analysis(monkeypatch)


@pytest.fixture(scope="module")
def text(analysis):
    return qc_page(analysis)


@pytest.fixture
def page(text):
    return Page(text)


# --- pictures


def test_the_pictures_differ_only_in_the_cord(analysis, page):
    without, with_map = page.picture("without"), page.picture("with")
    assert without.shape == with_map.shape
    size = [int(page.by_id("with")["attributes"][name]) for name in ("height", "width")]
    assert size == list(with_map.shape[:2])
    changed = (without != with_map).any(axis=-1)
    # One area for each of the 5 slices: 180 × 8 pixels of 3 × 3, with an outline of one pixel around them.
    areas = ndimage.find_objects(ndimage.label(changed, np.ones((3, 3)))[0])
    areas.sort(key=lambda box: (box[0].start, box[1].start))  # as they are read
    assert [(r.stop - r.start, c.stop - c.start) for r, c in areas] == [(180 * 3 + 2, 8 * 3 + 2)] * 5
    for box in areas:
        assert (with_map[box][0, 1:-1] == SKY).all()
    # Only the lesion's slice shows heat, in its rows.
    strong = np.abs(without.astype(int) - with_map).sum(axis=-1) > 150
    strong &= ~(with_map == SKY).all(axis=-1)
    box = areas[analysis.slices.index(LESION_SLICE)]
    assert strong[box].sum() == strong.sum()
    rows = (np.flatnonzero(strong[box].any(axis=1)) - 1) / 3 + CORD_ROWS.start
    assert abs(rows.min() - LESION_ROWS.start) <= 3  # the map is smoothed
    assert abs(rows.max() + 1 - LESION_ROWS.stop) <= 3


def test_a_middle_slice_alone(monkeypatch):
    without, with_map = of_analysis.draw_blink_pair(made_analysis(monkeypatch, slices="middle", thresholds=None))
    changed = np.argwhere((without != with_map).any(axis=-1))
    assert (np.ptp(changed, axis=0) + 1).tolist() == [180 * 4 + 2, (CORD_COLUMNS.stop - CORD_COLUMNS.start) * 4 + 2]


def test_the_curve_is_the_reports(analysis, page):
    assert np.array_equal(page.picture("curve"), of_analysis.draw_anocurve(analysis))


# --- text


def test_result_and_provenance_are_told(analysis):
    written = qc_page(replace(analysis, notes=("The cord mask is in 2 pieces.",)))
    page = Page(written)
    text = page.all("body")[0]["text"]
    assert page.all("title")[0]["text"] == "U2AD: case7"
    assert RESEARCH_USE_ONLY == "Research use only. Not for diagnosis or treatment."
    assert RESEARCH_USE_ONLY in text
    assert of_analysis.verdict(analysis) in text
    assert "The cord mask is in 2 pieces." in page.by_id("notes")["text"]
    rows = [row["text"] for row in page.all("tr")]
    flagged = next(s for s in analysis.segments if s.flagged)
    assert (flagged.name, analysis.flagged) == ("C4-5", ("C4-5",))
    assert f"C4-5{flagged.score:.3f}0.200flagged{flagged.peak_mm:.0f} mm4" in rows
    assert f"patient{analysis.patient_score:.3f}0.250flagged{flagged.peak_mm:.0f} mm4" in rows
    quiet = analysis.segments[0]
    assert f"C2-3{quiet.score:.3f}0.200{quiet.peak_mm:.0f} mm{quiet.peak_slice}" in rows
    provenance = dict(re.findall(r"<tr><th scope=\"row\">(.*?)</th><td>(.*?)</td></tr>", written))
    source = analysis.provenance
    assert provenance["model name"] == "made-up"
    assert provenance["input sha256"] == source["input"]["sha256"]
    assert provenance["seed"] == "0"
    assert provenance["versions numpy"] == np.__version__
    assert provenance["configuration monte_carlo scheme"] == source["configuration"]["monte_carlo"]["scheme"]
    keys = page.by_id("keys")["text"]
    assert all(f"\n{key}" in keys for key in ("o space", "p", "f", "a", "s"))


def test_without_thresholds_and_discs(monkeypatch):
    page = Page(qc_page(made_analysis(monkeypatch, discs=(), thresholds=None)))
    rows = page.by_id("segments")["text"].split("\n")
    assert len(rows := [row for row in rows if row]) == 2
    assert re.fullmatch(r"patient0\.\d{3}––\d+ mm4", rows[1])
    assert "Nothing is flagged" in page.all("body")[0]["text"]


NASTY = "<script>alert(\"x\")</script> & 'co' @NAME@"


def test_text_from_outside_is_escaped(analysis):
    source = analysis.provenance
    strange = source | {"input": source["input"] | {"name": NASTY}, "model": {"name": "</script><b>", "sha256": None}}
    text = qc_page(replace(analysis, provenance=strange, notes=("<img src=http://x>",)))
    page = Page(text)
    assert len(page.all("script")) == 2
    assert [e["attributes"].get("src", "")[:5] for e in page.all("img")] == ["data:"] * 3
    assert page.all("b") == []
    assert page.all("h1")[0]["text"] == NASTY
    rated = json.loads(page.by_id("rated")["text"])
    assert rated["input"]["name"] == NASTY
    assert rated["model"] == {"name": "</script><b>", "sha256": None}


def test_the_page_needs_no_network(text):
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[^\"]*", "", text))
    page = Page(text)
    assert {e["tag"] for e in page.elements}.isdisjoint({"link", "iframe", "object", "form"})
    assert all("src" not in e["attributes"] for e in page.all("script"))
    (policy,) = [e for e in page.all("meta") if e["attributes"].get("http-equiv") == "Content-Security-Policy"]
    assert policy["attributes"]["content"].startswith("default-src 'none'; img-src data:;")


def test_same_analysis_same_page_other_thresholds_other_rating(analysis, text):
    assert qc_page(analysis) == text
    result = json.loads(Page(text).by_id("rated")["text"])["result"]

    def result_of(other):
        return json.loads(Page(qc_page(other)).by_id("rated")["text"])["result"]

    assert result_of(with_thresholds(analysis, 0.3, 0.4)) != result
    assert result_of(replace(analysis, provenance=analysis.provenance | {"seconds": 99, "device": "other"})) == result


# --- the file


def test_the_file_appears_whole_or_not_at_all(analysis, text, tmp_path, monkeypatch):
    write_qc_page(tmp_path / QC_PAGE, analysis)
    assert (tmp_path / QC_PAGE).read_text(encoding="utf-8") == text
    with pytest.raises(U2ADError, match=r"qc\.html could not be written: No such file"):
        write_qc_page(tmp_path / "nowhere" / QC_PAGE, analysis)
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(U2ADError, match="Permission denied"):
        write_qc_page(tmp_path / "other.html", analysis)
    assert [p.name for p in tmp_path.iterdir()] == [QC_PAGE]


# --- the script, in Qt's JavaScript engine with the few parts of a browser that it uses

BROWSER = """
var storage = {}, saved = [], elements = {};
function element(id, tag) {
  return { id: id, tagName: tag, hidden: false, value: "", textContent: "", attributes: {}, handlers: {},
    setAttribute: function (k, v) { this.attributes[k] = v; },
    getAttribute: function (k) { return this.attributes[k]; },
    addEventListener: function (k, f) { this.handlers[k] = f; },
    focus: function () { focused = this; }, blur: function () { focused = document; },
    click: function () { if (this.download) saved.push([this.download, this.href]); else this.handlers.click({}); } };
}
for (const id of ["without", "with", "pictures", "toggle", "comment", "save", "state", "rated"]) {
  elements[id] = element(id, id === "comment" ? "TEXTAREA" : "BUTTON");
}
elements.without.hidden = true;
elements.rated.textContent = RATED;
var buttons = ["pass", "fail", "artifact"].map(function (name) {
  var made = element(name, "BUTTON");
  made.attributes["data-rating"] = name;
  return made;
});
var document = element("document", "HTML"), focused = document;
document.getElementById = function (id) { return elements[id]; };
document.querySelectorAll = function () { return buttons; };
document.createElement = function () { return element("", "A"); };
var localStorage = { getItem: function (k) { return storage[k] === undefined ? null : storage[k]; },
  setItem: function (k, v) { storage[k] = v; } };
function Blob(parts) { this.text = parts.join(""); }
var URL = { createObjectURL: function (blob) { return blob.text; }, revokeObjectURL: function () {} };
function setTimeout() {}
function press(key, more) {
  document.handlers.keydown(Object.assign({ key: key, target: focused, preventDefault: function () {} }, more));
}
function look() {
  return { map: !elements["with"].hidden, plain: !elements.without.hidden, state: elements.state.textContent,
    pressed: buttons.filter(b => b.attributes["aria-pressed"] === "true").map(b => b.id).join(),
    toggle: elements.toggle.attributes["aria-pressed"], comment: elements.comment.value };
}
"""
STEPS = """
var seen = [look()];
press("o"); seen.push(look());
press(" "); seen.push(look());
elements.pictures.click(); elements.toggle.click(); press("O"); press("o", {ctrlKey: true}); seen.push(look());
press("p"); press("f"); seen.push(look());
press("c"); press("a"); press("o"); elements.comment.value = 'arms "up"'; elements.comment.handlers.input();
press("Escape"); seen.push(look());
buttons[2].click(); seen.push(look());
focused = buttons[0]; press(" "); seen.push(look());
press("s");
"""
RUN = """
import sys, json
from PySide6.QtCore import QCoreApplication
from PySide6.QtQml import QJSEngine
application = QCoreApplication([])
engine = QJSEngine()
for code in json.load(sys.stdin):
    value = engine.evaluate(code)
    if value.isError():
        sys.exit(f"line {value.property('lineNumber').toInt()}: {value.toString()}")
print(value.toString())
"""


def in_browser(*codes):
    """What the last code gives, from JSON."""
    pytest.importorskip("PySide6.QtQml", reason="PySide6 is not installed: the page's script was not run")
    run = [sys.executable, "-c", RUN]
    result = subprocess.run(run, input=json.dumps(codes), capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_keys_and_buttons(analysis, page):
    rated, script = page.by_id("rated")["text"], page.all("script")[1]["text"]
    browser = BROWSER.replace("RATED", json.dumps(rated))
    ratings = [e["attributes"]["data-rating"] for e in page.all("button") if "data-rating" in e["attributes"]]
    assert ratings == ["pass", "fail", "artifact"]
    start, off, on, odd, failed, typed, clicked, spaced, files, stored = in_browser(
        browser, script, STEPS, "JSON.stringify(seen.concat([saved, storage]))"
    )
    assert (start["map"], start["plain"], start["state"], start["pressed"]) == (True, False, "Not rated", "")
    assert (off["map"], off["plain"], off["toggle"]) == (False, True, "false")
    assert (on["map"], on["plain"], on["toggle"]) == (True, False, "true")
    assert (odd["map"], odd["plain"]) == (False, True)  # three times; with ctrl it is the browser's
    assert (failed["pressed"], failed["state"]) == ("fail", "Rated: fail")
    assert (typed["pressed"], typed["map"]) == ("fail", False)  # letters of a comment are no keys
    assert clicked["pressed"] == spaced["pressed"] == "artifact"
    assert spaced["map"] == clicked["map"]  # space presses the button that has the focus
    ((name, content),) = files
    record = json.loads(content)
    assert name == "qc.json"
    assert {k: record[k] for k in ("format", "rating", "comment")} == {
        "format": 1,
        "rating": "artifact",
        "comment": 'arms "up"',
    }
    assert record["input"] == analysis.provenance["input"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["rated"])
    # Opened again, the page remembers.
    kept = f"storage = {json.dumps(stored)};"
    again = in_browser(browser, kept, script, "JSON.stringify(look())")
    assert (again["pressed"], again["comment"], again["state"]) == ("artifact", 'arms "up"', "Rated: artifact")


def test_a_browser_that_keeps_nothing_says_so(page):
    browser = BROWSER.replace("RATED", json.dumps(page.by_id("rated")["text"]))
    forbid = "localStorage = { get getItem() { throw new Error('no'); }, get setItem() { throw new Error('no'); } };"
    look = in_browser(browser, forbid, page.all("script")[1]["text"], "press('p'); JSON.stringify(look())")
    assert (look["pressed"], look["state"]) == ("pass", "Rated: pass. This browser keeps nothing: save qc.json.")
