"""Charts: well formed, named, themed, with marks that can be seen."""

import re
from pathlib import Path
from xml.etree import ElementTree

from runs_for_tests import SVG, Tags, make_run, page

from fedbox.server.charts import Strip, strip_chart


def test_a_run_of_one_round_has_visible_points(tmp_path: Path) -> None:
    text = page([make_run(tmp_path / "r", [0.5])], tmp_path)
    first = ElementTree.fromstring(SVG.findall(text)[0])
    dots = [g for g in first.iter() if g.get("class") == "g0"]
    assert any(use.get("href") for g in dots for use in g.iter("{http://www.w3.org/2000/svg}use"))


def test_clients_that_reach_the_most_are_shown_whole() -> None:
    """Where the quartile box begins at 1, too."""
    strip = Strip("fedavg", 0, {f"client-{i}": 0.25 if i < 2 else 1.0 for i in range(10)})
    root = ElementTree.fromstring(strip_chart("spread", "accuracy of each client", "accuracy", [strip]).svg)
    space = "{http://www.w3.org/2000/svg}"
    (area,) = root.iter(f"{space}rect")  # that the drawing is cut to
    right = float(area.attrib["x"]) + float(area.attrib["width"])
    assert max(float(dot.attrib["x"]) for dot in root.iter(f"{space}use")) < right - 3


def test_every_svg_is_well_formed_named_and_has_ids_of_its_own(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{i}", [0.25, 0.5, 0.75], strategy=s, seed=i % 2)
            for i, s in enumerate(("fedavg", "fedavg", "fedprox", "local"))]  # fmt: skip
    text = page(runs, tmp_path)
    charts = SVG.findall(text)
    assert len(charts) == 10  # 2 of the main metric, loss, 4 of the clients, 2 of the bytes, seconds
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert not re.findall(r"#[0-9a-f]{6}", chart), "a colour that does not follow the theme"
    tags = Tags(text)
    assert not tags.open
    ids = [attrs["id"] for _, attrs in tags.seen if "id" in attrs]
    assert len(ids) == len(set(ids))
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert used <= set(ids)
    assert all(attrs["for"] in ids for _, attrs in tags.seen if "for" in attrs)
    assert sum(tag == "figure" for tag, _ in tags.seen) == text.count("<summary>Data: ") == len(charts)
