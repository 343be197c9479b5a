"""Sections of the report: fairness, heat maps, planes and distances, what stands in them and that it can be read."""

import itertools
import json
import math
import re
from importlib import resources
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_for_tests import SVG, Tags, add_traces, make_line, make_run, page
from sklearn.decomposition import PCA  # type: ignore[import-untyped]

from fedbox.server.heat import HIGH, LEVELS, Heat, heat_chart, level
from fedbox.server.landmarks import Landmarks, distances, gap, landmark_charts, plane_of
from fedbox.server.stats import gini


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=30))
def test_gini_is_the_mean_difference_of_all_pairs_over_twice_the_mean(values: list[float]) -> None:
    if sum(values) <= 1e-6:
        return
    apart = math.fsum(abs(a - b) for a, b in itertools.product(values, values)) / len(values) ** 2
    assert gini(values) == pytest.approx(apart / (2 * math.fsum(values) / len(values)), abs=1e-9)


def test_gini_of_what_has_none() -> None:
    assert gini([3.0, 3.0, math.nan]) == 0
    assert gini([0.0, 0.0, 0.0, 1.0]) == 0.75  # one of four has all: 1 - 1/4
    assert all(math.isnan(gini(values)) for values in ([], [0.0, 0.0], [-1.0, 2.0]))


def test_the_plane_is_that_of_a_principal_component_analysis() -> None:
    points = np.random.default_rng(0).normal(size=(12, 7)) * np.arange(1, 8)
    wanted = PCA(2).fit(points)
    plane = plane_of(np.vstack([points, np.full((1, 7), np.nan)]))
    np.testing.assert_allclose(np.abs(plane.place(points)), np.abs(wanted.transform(points)), atol=1e-9)
    assert plane.share == pytest.approx(wanted.explained_variance_ratio_.sum())


def test_distances_by_hand() -> None:
    points = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0], [np.nan, np.nan]])
    assert distances(points, points)[0, :3].tolist() == [0, 5, 1]
    # Nearest others: 1 for the first and the third, sqrt(9 + 9) for the second; the fourth is not known.
    assert gap(points) == pytest.approx((1 + math.sqrt(18) + 1) / 3)
    assert math.isnan(gap(points[:1]))


def test_the_lines_of_a_panel_begin_where_the_dots_of_the_panel_before_stood() -> None:
    points = np.random.default_rng(0).normal(size=(30, 2, 5))
    told = Landmarks(tuple(range(1, 31)), tuple({"prototypes": each} for each in points))
    panels = landmark_charts("k", told, []).panels
    rounds = [int(panel.title.removeprefix("round ")) for panel in panels]
    assert rounds == [1, 7, 13, 18, 24, 30]
    for before, at, panel in zip(rounds, rounds[1:], panels[1:], strict=False):
        paths = ElementTree.fromstring(panel.svg).iter("{http://www.w3.org/2000/svg}path")
        pieces = [path.get("d", "").count("L") for path in paths]
        assert pieces.count(at - before) == 2, at  # a line for each class, a piece for each round


def test_levels_grow_with_the_value_and_nothing_has_none() -> None:
    assert [level(v, 64, root=True) for v in (0, math.nan, 1, 16, 64)] == [0, 0, 1, 4, LEVELS]
    assert [level(v, 64, root=False) for v in (1, 8, 9, 64)] == [1, 1, 2, LEVELS]


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_numbers_on_every_level_of_colour_have_the_contrast_that_wcag_wants(theme: int) -> None:
    text = resources.files("fedbox.server").joinpath("styles.html").read_text("utf-8")
    block = text.split(":root {")[theme + 1].split("}")[0]
    colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block))
    for number in range(1, LEVELS + 1):
        on = _luminance(colours["surface" if number >= HIGH else "text"])
        low, high = sorted((on, _luminance(colours[f"h{number}"])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"h{number}"


def test_a_heat_map_draws_a_square_for_each_value_and_keeps_its_names(tmp_path: Path) -> None:
    heat = Heat(["<a>", "b"], ["x", "y", "z"], [[1.0, 0.0, math.nan], [4.0, 2.0, 1.0]], "row", "column")
    chart = heat_chart("k", "a & b", heat)
    root = ElementTree.fromstring(chart.svg)
    squares = [p.get("d", "") for p in root.iter("{http://www.w3.org/2000/svg}path") if p.get("class") != "frame"]
    assert sum(d.count("M") for d in squares) == 4  # neither for 0 nor for what is not known
    assert "<a>" in {t.text for t in root.iter("{http://www.w3.org/2000/svg}text")}
    assert chart.rows[1] == ["b", "4.0000", "2.0000", "1.0000"]


def test_a_page_with_every_section_is_well_formed_and_says_what_it_shows(tmp_path: Path) -> None:
    run = add_traces(make_run(tmp_path / "r", [0.25, 0.5, 0.75]))
    line = make_line(4, 0.75, failures=[{"client": "client-10", "kind": "raised", "reason": "no"}])
    line["metrics"] |= {"pseudo_accuracy": 0.5}
    with (run / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    text = page([run], tmp_path)
    tags = Tags(text)
    assert not tags.open
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert {"holdings", "timeline", "landmarks", "pseudo", "clients"} <= set(ids)
    for chart in SVG.findall(text):
        ElementTree.fromstring(chart)
        assert not re.findall(r"#[0-9a-f]{6}", chart), "a colour that does not follow the theme"
    for told in ("Round 4, the last and slowest", "failed: raised", "distances between prototypes, round 2",
                 "of 1,000 clients", "pseudo_accuracy over rounds", "Gini coefficient over the clients"):  # fmt: skip
        assert told in text, told
    assert text.count("<summary>Data: ") == text.count("<figure>")


def test_runs_dealt_alike_share_one_picture_of_who_holds_what(tmp_path: Path) -> None:
    runs = [add_traces(make_run(tmp_path / f"r{i}", [0.5], seed=i % 2, strategy=f"s{i // 2}"), i % 2) for i in range(4)]
    text = page(runs, tmp_path)
    assert text.count("training samples by class and client, seed 0</h3>") == 1
    assert text.count("training samples by class and client, seed 1</h3>") == 1
