"""One page to look through a result and rate it: `qc.html`, complete in itself.

It needs a browser and nothing else: pictures are part of the file, no network is used, and the rating stays in the
browser until it is saved as `qc.json`:

- `format`: 1. `rating`: "pass", "fail", "artifact" or null; `comment`; `rated`: when (UTC).
- `result`: which result it is (changes with the image, the model, the settings and the thresholds); `input` {`name`,
  `sha256`}; `model` {`name`, `sha256`}.

Of the patient it shows the slices and the input's name.
"""

import base64
import hashlib
import io
import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from html import escape
from pathlib import Path

import numpy as np

from .analysis import Analysis
from .curve import patient_peak
from .errors import U2ADError
from .pictures.analysis import draw_anocurve, draw_blink_pair, verdict
from .pictures.canvas import RESEARCH_USE_ONLY

QC_FORMAT = 1
RATINGS = {
    "pass": "outline, levels and map can be trusted",
    "fail": "outline or levels are wrong",
    "artifact": "the image is disturbed",
}


def write_qc_page(path: Path | str, analysis: Analysis) -> None:
    """Write the page beside its place and move it there. :raises U2ADError: writing failed."""
    path = Path(path)
    text = qc_page(analysis)
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="\n")
        os.replace(temporary, path)
    except OSError as error:
        raise U2ADError(f"{path.name} could not be written: {error.strerror or type(error).__name__}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def qc_page(analysis: Analysis) -> str:
    """The page as HTML. The same analysis always gives the same text."""
    without, with_map = draw_blink_pair(analysis)
    source = analysis.provenance
    rated = {
        "format": QC_FORMAT,
        "result": _result_id(analysis),
        "input": source["input"],
        "model": {name: source["model"][name] for name in ("name", "sha256")},
    }
    parts = {
        "NAME": escape(source["input"]["name"]),
        "STATEMENT": escape(RESEARCH_USE_ONLY),
        "VERDICT": escape(verdict(analysis)),
        "FLAGGED": "flagged" if analysis.flagged or analysis.patient_flagged else "",
        "WITHOUT": _data_address(without),
        "WITH": _data_address(with_map),
        "CURVE": _data_address(draw_anocurve(analysis)),
        "SIZE": f'width="{without.shape[1]}" height="{without.shape[0]}"',
        "BUTTONS": "".join(
            f'<button type="button" data-rating="{name}" aria-pressed="false">{name} <kbd>{name[0]}</kbd>'
            f"<small>{escape(meaning)}</small></button>"
            for name, meaning in RATINGS.items()
        ),
        "SEGMENTS": _segment_table(analysis),
        "NOTES": _list(_notes(analysis)),
        "PROVENANCE": _provenance_table(analysis),
        # Inside a script only "<" could end it.
        "RATED": json.dumps(rated, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"),
        "SCRIPT": _SCRIPT,
        "STYLE": _STYLE,
    }
    return "".join(part if k % 2 == 0 else parts[part] for k, part in enumerate(_PAGE.split("@")))


def _result_id(analysis):
    """The same for the same result, whenever and on whatever computer it was made."""
    said = {
        "source": {name: analysis.provenance[name] for name in ("input", "model", "configuration", "seed")},
        "thresholds": analysis.thresholds and asdict(analysis.thresholds),
        "segments": [(s.name, s.start_mm, s.stop_mm, round(s.score, 4)) for s in analysis.segments],
        "patient": round(analysis.patient_score, 4),
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


def _data_address(picture: np.ndarray) -> str:
    """RGB (H, W, 3) uint8 as the address of a PNG that holds it."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG", compress_level=6)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _segment_table(analysis):
    thresholds, at = analysis.thresholds, patient_peak(analysis.curve)
    where = (float(analysis.curve.s_mm[at]), int(analysis.curve.slice_of_maximum[at]))
    rows = [(s.name, s.score, "segment", s.flagged, (s.peak_mm, s.peak_slice)) for s in analysis.segments]
    rows.append(("patient", analysis.patient_score, "patient", analysis.patient_flagged, where))
    lines = []
    for name, score, kind, flagged, (mm, number) in rows:
        limit = f"{getattr(thresholds, kind):.3f}" if thresholds else "–"
        mark = {True: "flagged", False: "", None: "–"}[flagged]
        cells = "".join(f"<td>{text}</td>" for text in (f"{score:.3f}", limit, mark, f"{mm:.0f} mm", number))
        lines.append(f'<tr class="{mark if flagged else ""}"><th scope="row">{escape(name)}</th>{cells}</tr>')
    return "\n".join(lines)


def _notes(analysis):
    missing = [f"Not analysed: {', '.join(analysis.missing)}."] if analysis.segments and analysis.missing else []
    return [*missing, *analysis.notes] or ["None."]


def _provenance_table(analysis):
    """What was computed with what; nested values as path and value."""
    source = analysis.provenance
    shown = {name: source[name] for name in ("input", "model", "seed", "configuration", "device", "versions")}
    shown["region model"] = source["region"]["model"]
    if analysis.thresholds:
        shown["thresholds"] = asdict(analysis.thresholds)
    return "\n".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(str(value))}</td></tr>' for name, value in _flat(shown)
    )


def _flat(values: dict, prefix: str = "") -> Iterable[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name} ")
        else:
            yield prefix + name, "–" if value is None else value


def _list(lines):
    return "\n".join(f"<li>{escape(line)}</li>" for line in lines)


# --------------------------------------------------------------------------------------------------------------
# The page. "@" encloses what is put in.

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>U2AD: @NAME@</title>
<style>
@STYLE@</style>
</head>
<body>
<header>
<h1>@NAME@</h1>
<p class="verdict @FLAGGED@">@VERDICT@</p>
<p class="statement">@STATEMENT@</p>
</header>
<main>
<div>
<section id="look" aria-label="Slices">
<div id="pictures">
<img id="without" src="@WITHOUT@" @SIZE@ alt="The analysed slices as they are" hidden>
<img id="with" src="@WITH@" @SIZE@ alt="The analysed slices with the anomaly map and the outline of the cord">
</div>
<p><button type="button" id="toggle" aria-pressed="true">Anomaly map <kbd>o</kbd></button>
<span class="quiet">or <kbd>space</kbd>, or a click on the picture</span></p>
</section>
<section id="curve" aria-label="AnoCurve">
<img src="@CURVE@" alt="AnoCurve: the anomaly along the cord, with the segments and their thresholds">
</section>
</div>
<section id="rate" aria-label="Rating">
<h2>Rating</h2>
<div id="ratings">@BUTTONS@</div>
<label for="comment">Comment</label>
<textarea id="comment" rows="3"></textarea>
<p><button type="button" id="save">Save qc.json <kbd>s</kbd></button>
<span id="state" class="quiet" role="status"></span></p>
<h2>Segments</h2>
<table id="segments">
<thead><tr><th>segment</th><th>score</th><th>threshold</th><th></th><th>peak</th><th>slice</th></tr></thead>
<tbody>
@SEGMENTS@
</tbody>
</table>
<h2>Notes</h2>
<ul id="notes">
@NOTES@
</ul>
<h2>Keys</h2>
<dl id="keys">
<dt><kbd>o</kbd> <kbd>space</kbd></dt><dd>anomaly map on or off</dd>
<dt><kbd>p</kbd></dt><dd>pass</dd>
<dt><kbd>f</kbd></dt><dd>fail</dd>
<dt><kbd>a</kbd></dt><dd>artifact</dd>
<dt><kbd>c</kbd></dt><dd>write a comment, <kbd>esc</kbd> to leave it</dd>
<dt><kbd>s</kbd></dt><dd>save qc.json</dd>
</dl>
</section>
<section id="provenance">
<h2>How it was made</h2>
<table>
@PROVENANCE@
</table>
</section>
</main>
<script type="application/json" id="rated">@RATED@</script>
<script>
@SCRIPT@</script>
</body>
</html>
"""

_STYLE = """
:root { color-scheme: dark; --back: #181818; --text: #ebebeb; --quiet: #a5a5a5; --line: #444; --warm: #e69f00; }
body { margin: 0 1.5rem 2rem; background: var(--back); color: var(--text); font: 16px/1.45 system-ui, sans-serif; }
h1 { margin: 1rem 0 0; font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { margin: 1.4rem 0 .4rem; font-size: 1.05rem; }
.verdict { margin: .2rem 0; font-size: 1.15rem; }
.flagged { color: var(--warm); }
.statement, .quiet { color: var(--quiet); }
.statement { margin: 0 0 1rem; }
main { display: grid; grid-template-columns: minmax(0, 1fr) 25rem; gap: 1rem 2rem; align-items: start; }
img { display: block; max-width: 100%; height: auto; }
img[hidden] { display: none; }
#pictures { cursor: pointer; }
#curve img { background: #fff; }
#provenance { grid-column: 1 / -1; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .2rem .5rem .2rem 0; border-bottom: 1px solid var(--line); text-align: left; }
#segments { width: 100%; font-variant-numeric: tabular-nums; }
#provenance td { overflow-wrap: anywhere; }
th { font-weight: 600; white-space: nowrap; }
button { padding: .45rem .7rem; border: 1px solid var(--line); border-radius: 4px; background: #2a2a2a;
 color: inherit; font: inherit; cursor: pointer; }
button:hover { background: #363636; }
button[aria-pressed="true"] { border-color: #56b4e9; background: #12455f; }
button:focus-visible, textarea:focus-visible { outline: 2px solid #56b4e9; outline-offset: 2px; }
#ratings { display: grid; gap: .4rem; margin-bottom: .8rem; }
#ratings button { text-align: left; }
small { display: block; color: var(--quiet); }
kbd { padding: 0 .35em; border: 1px solid #777; border-radius: 3px; font-size: .85em; }
textarea { box-sizing: border-box; width: 100%; background: #222; color: inherit; border: 1px solid var(--line);
 font: inherit; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .8rem; margin: 0; font-size: .9rem; }
dd { margin: 0; }
ul { margin: 0; padding-left: 1.2rem; font-size: .9rem; }
@media (max-width: 60rem) { main { grid-template-columns: minmax(0, 1fr); } }
@media print { #toggle, #save, #keys, textarea { display: none; } }
"""

_SCRIPT = """"use strict";
(function () {
  const find = (id) => document.getElementById(id);
  const rated = JSON.parse(find("rated").textContent);
  const buttons = Array.from(document.querySelectorAll("[data-rating]"));
  const comment = find("comment");
  const place = "u2ad-qc-" + rated.result;
  let kept = { rating: null, comment: "", rated: null };

  function load() {
    try { kept = Object.assign(kept, JSON.parse(localStorage.getItem(place))); } catch (error) { return; }
  }
  function keep() {
    kept.comment = comment.value;
    kept.rated = new Date().toISOString();
    try { localStorage.setItem(place, JSON.stringify(kept)); } catch (error) { kept.lost = true; }
    show();
  }
  function show() {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.getAttribute("data-rating") === kept.rating));
    }
    const rating = kept.rating ? "Rated: " + kept.rating : "Not rated";
    find("state").textContent = rating + (kept.lost ? ". This browser keeps nothing: save qc.json." : "");
  }
  function rate(rating) {
    kept.rating = kept.rating === rating ? null : rating;
    keep();
  }
  function toggle() {
    const on = find("with").hidden;
    find("with").hidden = !on;
    find("without").hidden = on;
    find("toggle").setAttribute("aria-pressed", String(on));
  }
  function save() {
    const record = Object.assign({}, rated, { rating: kept.rating, comment: comment.value, rated: kept.rated });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(record, null, 1) + "\\n"], { type: "application/json" }));
    link.download = "qc.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const keys = { o: toggle, " ": toggle, s: save, c: () => comment.focus() };
  for (const button of buttons) {
    const rating = button.getAttribute("data-rating");
    keys[rating[0]] = () => rate(rating);
    button.addEventListener("click", () => rate(rating));
  }

  document.addEventListener("keydown", (event) => {
    if (event.target === comment) {
      if (event.key === "Escape") comment.blur();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    if (event.key === " " && event.target.tagName === "BUTTON") return; // presses that button
    const action = keys[event.key.toLowerCase()];
    if (action) {
      event.preventDefault();
      action();
    }
  });
  find("pictures").addEventListener("click", toggle);
  find("toggle").addEventListener("click", toggle);
  find("save").addEventListener("click", save);
  comment.addEventListener("input", keep);

  load();
  comment.value = kept.comment;
  show();
})();
"""
