"""The comparison's pictures, drawn with matplotlib without a display. matplotlib is imported when one is drawn.

Slices are (H, W) with rows from head to feet and columns from posterior to anterior; they are shown with the face to
the right. No picture carries a name of a person.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...rivals.detector import Maps
from .contracts import ExperimentCase
from .figures import Figure

DPI = 130
FONT = 10
# Okabe and Ito's colours, which everybody can tell apart; U²AD is vermilion everywhere.
OURS = "#D55E00"
COLOURS = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#000000", "#B8A800")
MARKERS = "osv^D<>*"
BLUE, GREEN, RED, ORANGE = "#0072B2", "#009E73", "#C0392B", "#E69F00"
MARGIN_PX = 14  # of a slice around the cord
HEAT = "inferno"
BRIGHTEST_PERCENTILE = 99.5  # of a map in the cord: the end of its colours
LONGEST = 96  # rows of a slice that are shown as an example
SLICE_INCHES = 1.5  # width of a slice


# ------------------------------------------------------------------------------------------------------------ charts


def line_panels(path: Path, panels: Sequence[dict], columns: int) -> None:
    """Line charts: dicts with "title", "x", "lines" {label: (xs, ys)}, "log" of the x axis, and "x2", a second scale of
    the x axis above, its square."""
    figure, axes = _grid(len(panels), columns, *((3.3, 2.9) if columns < 4 else (2.7, 2.6)))
    styles = _styles(label for panel in panels for label in panel["lines"])
    for axis, panel in zip(axes, panels, strict=True):
        for label, (xs, ys) in panel["lines"].items():
            order = np.argsort(xs)
            axis.plot(np.array(xs)[order], np.array(ys, float)[order], label=label, **styles[label])
        if panel.get("log"):
            axis.set_xscale("log")
        axis.set_title(panel["title"])
        axis.set_xlabel(panel["x"])
        axis.grid(alpha=0.3)
        if panel.get("x2"):
            other = axis.secondary_xaxis("top", functions=(lambda x: x, lambda x: x))
            ticks = axis.get_xticks()
            shown = [tick for tick in ticks if 0 <= tick <= axis.get_xlim()[1]][::2]
            other.set_xticks(shown, [f"{tick * tick:.2g}" for tick in shown])
            other.set_xlabel(panel["x2"], labelpad=2)
    _legend(figure, axes)
    _save(figure, path)


def bars(path: Path, panels: Sequence[dict]) -> None:
    """Grouped bars with whiskers: dicts with "title", "groups" and "bars" {label: [Figure or None for each group]}."""
    figure, axes = _grid(len(panels), 2, 5.6, 3.1)
    for axis, panel in zip(axes, panels, strict=True):
        count = len(panel["bars"])
        width = 0.8 / max(count, 1)
        for number, (label, values) in enumerate(panel["bars"].items()):
            at = np.arange(len(values)) + (number - (count - 1) / 2) * width
            heights = np.array([_value(one) for one in values])
            whiskers = np.array([_whiskers(one) for one in values]).T
            colour = COLOURS[number % len(COLOURS)]
            axis.bar(at, np.nan_to_num(heights), width * 0.92, label=label, color=colour)
            axis.errorbar(at, np.nan_to_num(heights), whiskers, fmt="none", ecolor="#333333", elinewidth=1, capsize=2)
        axis.set_xticks(range(len(panel["groups"])), panel["groups"], rotation=20, ha="right")
        axis.set_ylim(0, 1.02)
        axis.set_title(panel["title"])
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
    _legend(figure, axes)
    _save(figure, path)


def boxes(path: Path, panels: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Box plots: title → label → values (N,), every value a dot."""
    figure, axes = _grid(len(panels), 2, 4.8, 3.1)
    for axis, (title, groups) in zip(axes, panels.items(), strict=True):
        kept = {label: values for label, values in groups.items() if len(values)}
        axis.set_title(title)
        axis.grid(axis="y", alpha=0.3)
        if not kept:
            axis.text(0.5, 0.5, "not defined", ha="center", transform=axis.transAxes)
            continue
        styles = _styles(kept)
        drawn = axis.boxplot(list(kept.values()), widths=0.5, patch_artist=True, showfliers=False)
        for patch, label in zip(drawn["boxes"], kept, strict=True):
            patch.set(facecolor=styles[label]["color"], alpha=0.35)
        for number, (label, values) in enumerate(kept.items(), 1):
            beside = number + np.linspace(-0.15, 0.15, len(values))
            axis.plot(beside, values, ".", color=styles[label]["color"], markersize=4)
        axis.set_xticks(range(1, len(kept) + 1), list(kept), rotation=12, ha="right")
    _save(figure, path)


def distributions(path: Path, cord, fluid, lesion, rebuilt: Mapping[str, np.ndarray]) -> None:
    """A panel for each method: histograms (BINS,) of 0–1 of cord, fluid and lesion, and of the rebuilt lesion (paper,
    Fig. 6)."""
    figure, axes = _grid(len(rebuilt), 3, 3.6, 2.5)
    middles = (np.arange(len(cord)) + 0.5) / len(cord)
    fixed = {"healthy cord": (cord, BLUE), "fluid": (fluid, GREEN), "planted lesion": (lesion, RED)}
    for axis, (title, counts) in zip(axes, rebuilt.items(), strict=True):
        for label, (values, colour) in {**fixed, "rebuilt lesion": (counts, ORANGE)}.items():
            share = values / max(values.sum(), 1)
            axis.plot(middles, share, color=colour, label=label, linewidth=1.6)
            axis.fill_between(middles, share, color=colour, alpha=0.2)
        axis.set_title(title)
        axis.set_xlabel("intensity")
        axis.set_yticks([])
        axis.set_xlim(0, 1)
        axis.set_ylim(bottom=0)
    _legend(figure, axes)
    _save(figure, path)


def domain_shift(path: Path, sets: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Histograms of each set's cord and of what is around it (paper, Fig. 1)."""
    titles = {"cord": "Spinal cord", "around": "Around the cord"}
    figure, axes = _grid(len(titles), 2, 4.6, 2.9)
    for axis, (part, title) in zip(axes, titles.items(), strict=True):
        for (name, counts), colour in zip(sets.items(), COLOURS, strict=False):
            values = counts[part] / max(counts[part].sum(), 1)
            middles = (np.arange(len(values)) + 0.5) / len(values)
            axis.plot(middles, values, color=colour, label=name, linewidth=1.6)
            axis.fill_between(middles, values, color=colour, alpha=0.15)
        axis.set_title(title)
        axis.set_xlabel("intensity")
        axis.set_ylabel("share of pixels")
        axis.set_xlim(0, 1)
        axis.set_ylim(bottom=0)
    _legend(figure, axes)
    _save(figure, path)


# ------------------------------------------------------------------------------------------------------------ slices


def reconstructions(path: Path, case: ExperimentCase, made: Mapping[str, Maps | None]) -> None:
    """Image and truth, and beside them each method's reconstruction above its map (paper, Fig. 5, A2)."""
    shown = {title: maps for title, maps in made.items() if maps is not None}
    k, window = _window(case)
    figure, axes = _grid(2 * (1 + len(shown)), 1 + len(shown), SLICE_INCHES, _height(case, window))
    above, below = axes[: 1 + len(shown)], axes[1 + len(shown) :]
    _image(above[0], case.images[k][window], "image")
    _image(below[0], case.images[k][window], "truth")
    _outline(below[0], case, k, window)
    for title, maps, top, bottom in zip(shown, shown.values(), above[1:], below[1:], strict=True):
        rebuilt = maps.reconstruction
        if rebuilt is None:
            _image(top, np.zeros_like(case.images[k][window]), title)
            top.text(0.5, 0.5, "rebuilds\nnothing", color="white", ha="center", va="center", transform=top.transAxes)
        else:
            _image(top, rebuilt[k][window], title)
        _heat(bottom, maps.anomaly[k], case.cords[k], window)
        bottom.set_title(f"{1000 * maps.anomaly[k][case.cords[k]].mean():.3g}", fontsize=FONT - 1)
    _save(figure, path)


def followed_maps(path: Path, case: ExperimentCase, steps: Mapping[str, Mapping[float, Maps]], both: bool) -> None:
    """A row for each method (with `both` two: error and variance), a column for each share of the adaptation. Colours
    mean the same along a row (paper, Fig. 5 and 8)."""
    k, window = _window(case)
    kinds = ("anomaly", "uncertainty") if both else ("anomaly",)
    words = {"anomaly": "error", "uncertainty": "variance"} if both else {"anomaly": "map"}
    rows = [
        (title, kind) for title, maps in steps.items() for kind in kinds
        if all(getattr(one, kind) is not None for one in maps.values())
    ]  # fmt: skip
    shares = sorted({share for maps in steps.values() for share in maps})
    height = _height(case, window)
    figure, axes = _grid(len(rows) * (1 + len(shares)), 1 + len(shares), SLICE_INCHES, height)
    for row, (title, kind) in enumerate(rows):
        line = axes[row * (1 + len(shares)) : (row + 1) * (1 + len(shares))]
        _image(line[0], case.images[k][window], "image" if row == 0 else "")
        _outline(line[0], case, k, window)
        line[0].set_ylabel(f"{title}\n{words[kind]}")
        values = {share: getattr(maps, kind)[k] for share, maps in steps[title].items()}
        brightest = max(_brightest(one, case.cords[k]) for one in values.values())
        for axis, share in zip(line[1:], shares, strict=True):
            if share not in values:
                axis.set_axis_off()
                continue
            _heat(axis, values[share], case.cords[k], window, brightest)
            mean = f"{1000 * values[share][case.cords[k]].mean():.3g}"
            axis.set_title(f"{share:.0%}\n{mean}" if row == 0 else mean, fontsize=FONT - 1)
    _save(figure, path)


def making(path: Path, image, cord, planted, lesion) -> None:
    """How a pseudo-anomaly is made (paper, Fig. A1): image, masks, intensities, lesion, its intensities, result."""
    from scipy.ndimage import binary_dilation

    rows, columns = _box(cord, lesion)
    window = np.s_[rows, columns]
    around = binary_dilation(cord, iterations=3) & ~binary_dilation(cord)
    bright = around & (image >= np.percentile(image[around], 50))
    figure, axes = _grid(6, 6, 2.0, 3.4)
    _image(axes[0], image[window], "(a) image")
    masks = np.where(cord, 0.55, 0) + np.where(bright, 1.0, 0)
    _image(axes[1], masks[window], "(b) cord, fluid")
    _image(axes[3], np.where(lesion, 1.0, np.where(cord, 0.3, 0))[window], "(d) mask")
    _image(axes[5], planted[window], "(f) result")
    groups = {
        2: ("(c) intensities", {"cord": (image[cord], BLUE), "fluid": (image[bright], GREEN)}),
        4: ("(e) pseudo-anomaly", {"cord": (image[cord], BLUE), "lesion": (planted[lesion], RED)}),
    }
    for at, (title, parts) in groups.items():
        for label, (values, colour) in parts.items():
            weights = np.full(len(values), 1 / max(len(values), 1))
            axes[at].hist(values, 30, range=(0, 1), weights=weights, alpha=0.55, color=colour, label=label)
        axes[at].set_title(title)
        axes[at].set_yticks([])
        axes[at].set_xlabel("intensity")
        axes[at].legend(fontsize=FONT - 2, frameon=False)
    _save(figure, path)


def case_page(path: Path, case: ExperimentCase, maps: Maps, curve, limits: Mapping[str, tuple[float, float]]) -> None:
    """A case: image, reconstruction, map, truth, and the AnoCurve with its segments.

    :param curve: `curve.VolumeCurve` of the filtered map. :param limits: start and stop in mm of each segment.
    """
    from matplotlib.gridspec import GridSpec

    k, window = _window(case)
    figure = _figure(9.6, 3.9)
    grid = GridSpec(1, 5, figure, width_ratios=(1, 1, 1, 1, 2.6))
    axes = [figure.add_subplot(grid[0, n]) for n in range(5)]
    _image(axes[0], case.images[k][window], "image")
    rebuilt = case.images if maps.reconstruction is None else maps.reconstruction
    _image(axes[1], rebuilt[k][window], "rebuilt" if maps.reconstruction is not None else "rebuilds nothing")
    _heat(axes[2], maps.anomaly[k], case.cords[k], window)
    axes[2].set_title("map", fontsize=FONT - 1)
    _image(axes[3], case.images[k][window], "truth")
    _outline(axes[3], case, k, window)
    axis = axes[4]
    axis.plot(curve.maximum, curve.s_mm, color=OURS, linewidth=1.6)
    axis.invert_yaxis()
    axis.set_ylabel("mm along the cord")
    axis.set_xlabel("AnoCurve")
    axis.grid(alpha=0.3)
    for name, (start, stop) in limits.items():
        positive = case.segments.get(name, False)
        axis.axhspan(start, stop, color=RED if positive else "#999999", alpha=0.18 if positive else 0.06, linewidth=0)
        axis.text(0.99, (start + stop) / 2, name + (" *" if positive else ""), transform=axis.get_yaxis_transform(),
                  ha="right", va="center", fontsize=FONT - 1, color=RED if positive else "#555555")  # fmt: skip
    axis.set_title("red *: with a hyperintensity")
    _save(figure, path)


# ------------------------------------------------------------------------------------------------------------ pieces


def _figure(width, height):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    figure = Canvas((width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _grid(count, columns, width, height):
    """A figure and its `count` axes; places that are left over stay empty."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = _figure(width * columns, height * rows)
    axes = [figure.add_subplot(rows, columns, n + 1) for n in range(count)]
    for axis in axes:
        axis.tick_params(labelsize=FONT - 2)
        axis.xaxis.label.set_fontsize(FONT - 1)
        axis.yaxis.label.set_fontsize(FONT - 1)
    return figure, axes


def _styles(labels) -> dict[str, dict]:
    """Colour and marker of each label, the same in all panels of a picture."""
    styles, others = {}, 0
    for label in dict.fromkeys(labels):
        ours = label.startswith("U²AD")
        colour = (
            OURS if ours and OURS not in [one["color"] for one in styles.values()] else COLOURS[others % len(COLOURS)]
        )
        marker = MARKERS[len(styles) % len(MARKERS)]
        others += colour != OURS
        styles[label] = {"color": colour, "marker": marker, "linewidth": 1.8 if ours else 1.3, "markersize": 4.5}
    return styles


def _legend(figure, axes):
    found = {}
    for axis in axes:
        handles, labels = axis.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        columns = min(len(found), 6)
        figure.legend(found.values(), found.keys(), loc="outside lower center", ncols=columns, fontsize=FONT - 1,
                      frameon=False)  # fmt: skip


def _save(figure, path):
    """Written beside its place and moved there."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    os.replace(temporary, path)


def _value(figure: Figure | None) -> float:
    return np.nan if figure is None else figure.value


def _whiskers(figure: Figure | None) -> tuple[float, float]:
    if figure is None or not np.isfinite([figure.value, figure.low, figure.high]).all():
        return 0.0, 0.0
    return max(figure.value - figure.low, 0), max(figure.high - figure.value, 0)


def _window(case):
    """The slice with the largest lesion, else with most cord, and the part of it around the cord."""
    cords = case.cords
    lesion = np.zeros(cords.shape, bool) if case.lesions is None else case.lesions > 0
    k = int((lesion if lesion.any() else cords).sum((1, 2)).argmax())
    rows, columns = _box(cords[k], lesion[k])
    return k, np.s_[rows, columns]


def _box(cord, lesion):
    rows, columns = (np.flatnonzero(cord.any(axis)) for axis in (1, 0))
    top, bottom = max(int(rows[0]) - 4, 0), min(int(rows[-1]) + 5, cord.shape[0])
    if bottom - top > LONGEST:  # a part of a long cord, around its lesion
        middle = int(np.flatnonzero(lesion.any(1)).mean()) if lesion.any() else (top + bottom) // 2
        top = int(np.clip(middle - LONGEST // 2, top, bottom - LONGEST))
        bottom = top + LONGEST
        columns = np.flatnonzero(cord[top:bottom].any(0))
    left, right = max(int(columns[0]) - MARGIN_PX, 0), min(int(columns[-1]) + MARGIN_PX + 1, cord.shape[1])
    return slice(top, bottom), slice(left, right)


def _image(axis, values, title):
    axis.imshow(values, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axis.set_title(title, fontsize=FONT - 1)
    axis.set_xticks([])
    axis.set_yticks([])


def _height(case, window):
    """Inches of a slice that is `SLICE_INCHES` wide, and its title."""
    rows, columns = case.images[0][window].shape
    return SLICE_INCHES * rows / columns + 0.4


def _brightest(values, cord):
    return max(float(np.percentile(values[cord], BRIGHTEST_PERCENTILE)), 1e-9)


def _heat(axis, values, cord, window, brightest=None):
    shown = np.ma.masked_where(~cord[window], values[window])
    axis.set_facecolor("#202020")
    axis.imshow(shown, cmap=HEAT, vmin=0, vmax=brightest or _brightest(values, cord), interpolation="nearest")
    axis.set_xticks([])
    axis.set_yticks([])


def _outline(axis, case, k, window):
    """Planted lesions in red; of annotated images the segments that have a hyperintensity in yellow."""
    if case.lesions is not None and (case.lesions[k] > 0).any():
        axis.contour(case.lesions[k][window] > 0, [0.5], colors=RED, linewidths=1.2)
        return
    labels = case.region.segment_labels()[case.slices[k]][window]
    for segment in case.region.segments:
        if case.segments.get(segment.name) and (labels == segment.number).any():
            axis.contour(labels == segment.number, [0.5], colors="#F0C000", linewidths=1.0)
