import re
import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from compress.report.plots import BOTTOM, WIDTH, Axis, Point, Span, bars, forest, lines, scatter, ticks


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_are_few_and_inside(low: float, span: float) -> None:
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 8
    assert all(low - 1e-6 * span - 1e-9 <= t <= low + span * (1 + 1e-6) + 1e-9 for t in found)


def test_axis_maps_ends_and_clamps() -> None:
    axis = Axis(0, 10, 100, 200)
    assert (axis.at(0), axis.at(5), axis.at(10), axis.at(99)) == (100, 150, 200, 200)
    assert Axis(0.01, 100, 0, 400, log=True).at(1) == 200


def test_better_accuracy_stands_higher() -> None:
    svg = ET.fromstring(scatter([Point("a", 1, 0.5), Point("b", 2, 0.9)], title="t", x_label="x", y_label="y"))
    a, b = sorted(svg.iter("circle"), key=lambda c: float(c.get("cx") or 0))
    assert float(a.get("cy") or 0) > float(b.get("cy") or 0)


def test_forest_puts_a_loss_left_of_zero_and_margin() -> None:
    spans = [Span("worse", -0.2, -0.25, -0.15, 0.05, "FAIL"), Span("same", 0.0, -0.01, 0.01, 0.05, "PASS")]
    svg = ET.fromstring(forest(spans, title="t", x_label="x"))
    worse, same = (float(c.get("cx") or 0) for c in svg.iter("circle"))
    margin = float(next(line.get("x1") or 0 for line in svg.iter("line") if line.get("class") == "margin"))
    assert worse < margin < same


def test_bars_grow_with_the_value_and_stay_inside() -> None:
    svg = ET.fromstring(bars([("a", 0.001), ("b", 0.1)], title="t", unit="nats"))
    first, second = (float(r.get("width") or 0) for r in svg.iter("rect"))
    assert 0 < first < second < WIDTH


def test_labels_are_escaped() -> None:
    svg = bars([("<x>&", 1.0)], title="<t>", unit="&")
    assert not re.search(r"<x>|<t>", svg)
    ET.fromstring(svg)


def test_nothing_to_draw_draws_nothing() -> None:
    assert scatter([], title="t", x_label="x", y_label="y") == forest([], title="t", x_label="x") == ""
    assert bars([("a", 0.0)], title="t", unit="u") == ""


def test_lines_join_points_and_name_marks() -> None:
    series = [("training", [(1, 3.0), (2, 1.0)]), ("held <out>", [(2, 2.0)])]
    svg = lines(series, title="Loss", x_label="step", y_label="nats", marks=[(1.5, "block 3")])
    assert svg.count("<polyline") == 2
    assert "block 3" in svg
    assert "held &lt;out&gt;" in svg
    first, second = re.findall(r'class="series s0" points="(\S+) (\S+)"', svg)[0]
    assert float(first.split(",")[1]) < float(second.split(",")[1])  # a smaller loss stands lower


def test_lines_show_single_points_losses_below_zero_and_labels_apart() -> None:
    marks = [(0.95, "block 9"), (0.96, "block 8"), (9.0, "after the end")]
    svg = lines([("a", [(1, -0.5)]), ("b", [(1, -0.501)])], title="t", x_label="x", y_label="y", marks=marks)
    dots = [(float(x), float(y)) for x, y in re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(dots) == 2
    assert dots[0][1] < dots[1][1] < 300 - BOTTOM + 0.1
    labels = [float(y) for y in re.findall(r'class="label" x="[\d.]+" y="([\d.]+)"', svg)]
    assert labels[1] - labels[0] >= 13
    assert "block 9" in svg
    assert "block 8" not in svg
    assert "after the end" not in svg
