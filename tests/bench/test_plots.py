from __future__ import annotations

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import LIMIT, SMALL, cut_short, empty_report, full_report, hostile_report, not_run, row, small_report

from mmapstore.bench import drawing, plots
from mmapstore.bench.contract import KILLED, Fit, Look
from mmapstore.plain.errors import MissingPackageError, WriteError

matplotlib = pytest.importorskip("matplotlib")


def figure_of(report, name: str, width: int = drawing.WIDE):
    plot = next(each for each in plots.plots(report) if each.name.startswith(name))
    with drawing.drawn(plot, width) as figure:
        return figure


def marked(axes, marker: str):
    return [line for line in axes.get_lines() if line.get_marker() == marker]


# --- which ----------------------------------------------------------------------------------------------------------------


def test_a_report_has_the_plots_of_what_it_has():
    names = [plot.name for plot in plots.plots(full_report())]
    assert names == [
        *("memory", "over-time", "limit-next-8GB-1GB", "sweep-next-600MB"),
        *("scaling-data", "scaling-batch", "scaling-look-ahead"),
    ]
    assert [plot.name for plot in plots.plots(small_report())] == ["memory", "over-time"]
    assert plots.plots(empty_report()) == []


def test_each_task_has_plots_of_its_own():
    report = small_report()
    report.rows.append(row("fit(memmap)", kind="labelled"))
    assert [plot.name for plot in plots.plots(report)] == [
        *("memory-next-600MB", "over-time-next-600MB", "memory-labelled-600MB", "over-time-labelled-600MB"),
    ]


def test_lines_of_several_kinds_of_task_are_not_mixed():
    report = full_report()
    report.swept += [replace(each, kind="labelled") for each in full_report().swept]
    report.fits += [replace(fit, kind="labelled") for fit in full_report().fits]
    found = {plot.name: plot.title for plot in plots.plots(report) if plot.name.startswith(("sweep", "scaling-data"))}
    assert found == {
        "sweep-next-600MB": "Throughput against the limit, next, 600 MB",
        "sweep-labelled-600MB": "Throughput against the limit, labelled, 600 MB",
        "scaling-data-next": "Private memory against the size of the data, next",
        "scaling-data-labelled": "Private memory against the size of the data, labelled",
    }
    (axes,) = figure_of(report, "scaling-data-labelled").axes
    assert sum(len(line.get_xdata()) for line in marked(axes, "o")) == 7 * 6


def test_plots_without_anything_to_draw_in_a_row():
    report = small_report(
        rows=[not_run("a", "not installed", predicted=None)], fits=[Fit("a", "npy", "next", "data", 1.0, 1.0, 1.0, 0.0)]
    )
    assert plots.plots(report) == []


def test_asking_which_plots_there_are_loads_no_matplotlib(tmp_path):
    full_report().save(tmp_path / "a.json")
    program = (
        "import sys; from pathlib import Path; from mmapstore.bench import plots, table; "
        f"found = plots.plots(table.read(Path({str(tmp_path / 'a.json')!r}))); print(len(found), 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "7 False\n"


def test_nothing_of_matplotlib_is_changed_and_pyplot_is_not_loaded(tmp_path):
    small_report().save(tmp_path / "a.json")
    program = f"""
import sys, matplotlib
from pathlib import Path
from mmapstore.bench import plots, table
matplotlib.rcParams["font.size"] = 21.0
def settings():  # to ask for the backend would load pyplot
    return {{name: matplotlib.rcParams[name] for name in matplotlib.rcParams if name != "backend"}}
before = settings()
plots.save_pngs(table.read(Path({str(tmp_path / "a.json")!r})), {str(tmp_path)!r})
print(settings() == before, "matplotlib.pyplot" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'mmapstore\[bench\]'"):
        plots.plots(small_report())[0].svg()


# --- what is in them --------------------------------------------------------------------------------------------------------


def test_memory_has_a_dot_a_stroke_and_a_name_for_each_row():
    report = full_report()
    (axes,) = figure_of(report, "memory").axes
    assert len(marked(axes, "|")) == len(report.rows)
    assert len(marked(axes, "o")) == len(report.rows) - 2  # one was not run, one failed
    assert len(marked(axes, "X")) == 1
    words = [text.get_text() for text in axes.texts]
    assert "all data, 600 MB" in words
    assert {"mmapstore to_tf on h5-gzip", "fit(memmap)", "+1.23 GB", "not run", "failed", "wrong data"} <= set(words)
    dot = next(line for line in marked(axes, "o") if line.get_ydata()[0] == 0)
    assert dot.get_xdata()[0] == 5_000_000


def test_under_a_limit_each_panel_has_the_line_and_a_cross_where_it_was_killed():
    report = full_report()
    figure = figure_of(report, "limit")
    assert len(figure.axes) == len(report.limited)
    for axes in figure.axes:
        assert any(list(line.get_ydata()) == [LIMIT, LIMIT] for line in axes.get_lines())
        assert axes.get_ylim() == (0, 1.25 * LIMIT)
    crosses = [line for axes in figure.axes for line in marked(axes, "X")]
    killed = [each.looks[-1] for each in report.limited if each.outcome == KILLED]
    assert {(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses} == {(look.seconds, look.private) for look in killed}
    heads = "\n".join(text.get_text() for text in figure.texts)
    assert "mmapstore to_tf\n+11.0 MB, 35.3 s an epoch" in heads
    assert "fit(memmap)\nkilled after 3.3 s" in heads


def test_what_was_seen_of_a_process_that_was_being_ended_is_not_drawn():
    report = full_report()
    killed = next(each for each in report.limited if each.outcome == KILLED)
    last = killed.looks[-1]
    killed.looks += [Look(last.seconds + 0.1, 60_000_000, 0, 0), Look(last.seconds + 0.2, 0, 0, 0)]
    crosses = [line for axes in figure_of(report, "limit").axes for line in marked(axes, "X")]
    assert (last.seconds, last.private) in {(line.get_xdata()[0], line.get_ydata()[0]) for line in crosses}
    assert min(line.get_ydata()[0] for line in crosses) >= killed.baseline


def test_the_peak_is_in_the_line_over_time():
    report = small_report()
    report.rows[0].looks[150] = Look(report.rows[0].looks[150].seconds, 9_000_000_000, 0, 9_000_000_000)
    highest = [
        max(max(line.get_ydata()) for line in axes.get_lines() if line.get_linestyle() == "-")
        for axes in figure_of(report, "over-time").axes
    ]
    assert max(highest) == 9_000_000_000


def test_the_sweep_has_crosses_where_nothing_finished():
    report = full_report()
    (axes,) = figure_of(report, "sweep").axes
    assert sum(len(line.get_xdata()) for line in marked(axes, "X")) == 7 + 8
    assert sum(len(line.get_xdata()) for line in marked(axes, "o")) == 4 * 8 + 1
    shares = sorted({round(float(x), 3) for line in marked(axes, "o") for x in line.get_xdata()})
    assert shares == [0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.5, 2.0]


def test_scaling_has_every_point_and_names_the_slope():
    figure = figure_of(full_report(), "scaling-data")
    (axes,) = figure.axes
    assert sum(len(line.get_xdata()) for line in marked(axes, "o")) == 7 * 6
    words = {text.get_text().replace("\n", " ") for text in figure.texts}
    assert {"fit(memmap): 2.00", "mmapstore shuffled on npy: 0.0000", "mmapstore shuffled on zarr-zstd: 0.0000"} <= words


def test_nothing_measured_below_the_floor_is_lost():
    report = small_report(rows=[row("a", private=0), row("b", private=-5e6), row("c", private=2e9)])
    (axes,) = figure_of(report, "memory").axes
    assert sorted(float(line.get_xdata()[0]) for line in marked(axes, "o")) == [1e6, 1e6, 2e9]


@pytest.mark.parametrize("width", [drawing.WIDE, drawing.NARROW])
@pytest.mark.parametrize("name", ["memory", "over-time", "limit", "sweep", "scaling-data", "scaling-batch"])
def test_all_words_lie_inside_the_picture_and_can_be_read(name, width):
    figure = figure_of(full_report(), name, width)
    figure.draw_without_rendering()
    frame = figure.bbox
    texts = [*figure.texts, *(text for axes in figure.axes for text in (*axes.texts, axes.xaxis.label))]
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)  # panels inside a row have no labels
            texts += [label for place, label in ticks if low <= place <= high]
    for text in texts:
        if not text.get_text() or not text.get_visible():
            continue
        box = text.get_window_extent()
        assert box.x0 >= frame.x0 - 2 and box.x1 <= frame.x1 + 2, (text.get_text(), box)
        assert box.y0 >= frame.y0 - 2 and box.y1 <= frame.y1 + 2, (text.get_text(), box)
        assert text.get_fontsize() >= 8


@pytest.mark.parametrize("name", ["sweep", "scaling-data"])
@pytest.mark.parametrize("width", [drawing.WIDE, drawing.NARROW])
def test_no_label_lies_on_another(name, width):
    boxes = [text.get_window_extent() for text in figure_of(full_report(), name, width).texts]
    assert len(boxes) >= 6
    for at, box in enumerate(boxes):
        for other in boxes[at + 1 :]:
            assert min(box.y1, other.y1) - max(box.y0, other.y0) <= 1 or min(box.x1, other.x1) <= max(box.x0, other.x0)


def test_colours_are_told_apart_in_grey_too():
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    def contrast(one: str, other: str) -> float:
        high, low = sorted((luminance(one), luminance(other)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    for light, dark in (drawing.COLOURS[name] for name in ("ink", "pale", "ours", "other")):
        assert contrast(light, "#ffffff") >= 4.5
        assert contrast(dark, "#17171a") >= 4.5


# --- as files ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("report", [full_report(), hostile_report()])
def test_svgs_are_well_formed_refer_to_themselves_and_have_ids_of_their_own(report):
    ids: set[str] = set()
    for plot in plots.plots(report):
        for width in (drawing.WIDE, drawing.NARROW):
            svg = plot.svg(width)
            root = ElementTree.fromstring(svg)
            assert root.attrib["viewBox"].split()[:3] == ["0", "0", str(width * 72 // 96)]
            own = [each.attrib["id"] for each in root.iter() if "id" in each.attrib]
            assert len(own) == len(set(own))
            assert not ids & set(own)
            ids |= set(own)
            assert set(re.findall(r"url\(#([^)]+)\)", svg)) | set(re.findall(r'href="#([^"]+)"', svg)) <= set(own)
            assert "http" not in svg
            assert not any(light in svg for light, _ in drawing.COLOURS.values())
            assert "var(--ours)" in svg or "var(--other)" in svg


def test_an_svg_is_the_same_each_time():
    assert [plot.svg() for plot in plots.plots(small_report())] == [plot.svg() for plot in plots.plots(small_report())]


def test_names_are_text_in_the_svg():
    svg = plots.plots(full_report())[0].svg()
    assert ">mmapstore to_tf on h5-gzip</text>" in svg


def test_pngs(tmp_path):
    written = plots.save_pngs(small_report(), tmp_path / "a" / "b")
    assert written == [tmp_path / "a" / "b" / "memory.png", tmp_path / "a" / "b" / "over-time.png"]
    for path in written:
        head = path.read_bytes()[:24]
        assert head.startswith(b"\x89PNG")
        assert int.from_bytes(head[16:20], "big") >= 1.5 * drawing.WIDE
    assert plots.save_pngs(empty_report(), tmp_path) == []


def test_pngs_that_cannot_be_written(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(WriteError, match=r"directory .*taken for the plots cannot be made"):
        plots.save_pngs(small_report(), tmp_path / "taken")
    (tmp_path / "memory.png").mkdir()
    with pytest.raises(WriteError, match=r"picture .*memory\.png cannot be written"):
        plots.save_pngs(small_report(), tmp_path)


# --- arithmetic -------------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 500), st.integers(5, 40)), max_size=9))
def test_labels_never_touch_and_stay_inside(labels):
    wanted, heights = [place for place, _ in labels], [height for _, height in labels]
    middles = drawing.spread_out(wanted, heights, 0, 500)
    spans = sorted((middle - height / 2, middle + height / 2) for middle, height in zip(middles, heights, strict=True))
    assert all(top >= -1e-6 and bottom <= 500 + 1e-6 for top, bottom in spans)
    assert all(first[1] <= second[0] + 1e-6 for first, second in itertools.pairwise(spans))
    order = sorted(range(len(wanted)), key=lambda each: wanted[each])
    assert [middles[each] for each in order] == sorted(middles)


def test_labels_that_have_room_stay_where_they_are_wanted():
    assert drawing.spread_out([10.0, 50.0, 90.0], [10, 10, 10], 0, 100) == [10, 50, 90]


def test_a_row_cut_short_at_once_is_drawn():
    ended = cut_short("a", KILLED, private=1e6, seconds=0.0, nbytes=SMALL)
    ended.looks = [Look(0.0, 10**8, 0, 10**8)]
    for plot in plots.plots(small_report(rows=[ended])):
        assert plot.svg(drawing.NARROW)
