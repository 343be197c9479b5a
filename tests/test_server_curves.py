"""Curves by domain and class, and the marks of phases: how many charts, which lines, whose marks."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_for_tests import SVG, Tags, make_detection_run, make_line, make_run, page

from fedbox.server.curves import curve_charts, family_of, phase_marks
from fedbox.server.groups import Group, group_runs
from fedbox.server.marks import Marks, flags
from fedbox.server.runs import load_run

PHASES = ["server", "server", "selective", "full", "full"]
BEGINS = [(1, "server"), (3, "selective"), (4, "full")]
TEXT = "{http://www.w3.org/2000/svg}text"


def _groups(*runs: Path) -> list[Group]:
    return group_runs([load_run(run) for run in runs])


def _texts(chart: str) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(chart).iter(TEXT)]


def _chart(text: str, title: str) -> str:
    return next(chart for chart in SVG.findall(text) if f"<title>{title}</title>" in chart)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("map50_by_domain.rainy", ("map50", "domain")),
        ("personal_map50_by_class.traffic sign", ("personal_map50", "class")),
        ("a_by_b_by_town.St. Gallen", ("a_by_b", "town")),
        ("map50", None),
        ("map50_by_domain", None),
        ("map50_by_domain.", None),
        ("_by_domain.rainy", None),
        ("loss.rainy", None),
    ],
)
def test_families_by_name(name: str, family: tuple[str, str] | None) -> None:
    assert family_of(name) == family


def test_one_run_has_a_chart_for_each_family_with_a_line_for_each_member(tmp_path: Path) -> None:
    curves = curve_charts(_groups(make_detection_run(tmp_path / "r", PHASES, member=0.01)), "map50")
    assert [family.title for family in curves.families] == [
        "map50 by domain",
        "map50 by class",
        "personal_map50 by domain",
    ]
    assert [chart.title for chart in curves.others] == ["server_train_loss over rounds"]
    (domains,), (classes,), _ = (family.charts for family in curves.families)
    assert domains.legend == [(0, "cloudy"), (1, "rainy")]
    assert domains.headers == ["round", "cloudy", "rainy"]
    assert domains.rows[4] == ["5", "0.5000", "0.5100"]
    assert classes.legend == [(0, "bus"), (1, "car"), (2, "sign")]
    assert {f"var(--s{i})" for i in range(3)} <= set(re.findall(r"var\(--s\d\)", classes.svg))
    assert "car ends at 0.5300" in classes.svg


def test_several_groups_have_a_chart_for_each_member_on_one_scale(tmp_path: Path) -> None:
    runs = [
        make_detection_run(tmp_path / "a", PHASES, member=0.1, strategy="fedsto"),
        make_detection_run(tmp_path / "b", PHASES, strategy="server-only"),
    ]
    curves = curve_charts(_groups(*runs), "map50")
    first = curves.families[0]
    assert [chart.title for chart in first.charts] == ["map50, cloudy", "map50, rainy"]
    assert all(chart.headers == ["round", "fedsto", "server-only"] for chart in first.charts)
    assert first.charts[1].rows[4] == ["5", "0.6000", "0.5000"]
    ticks = [[text for text in _texts(chart.svg) if re.fullmatch(r"0\.\d", text)] for chart in first.charts]
    assert ticks[0] == ticks[1]
    text = page(runs, tmp_path)
    assert not Tags(text).open
    assert text.count("<summary>personal_map50 by domain over rounds: 1 chart<") == 1


def test_of_many_members_the_extremes_are_drawn_and_the_table_has_all(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [None])
    metrics = {f"map50_by_class.c{i}": (7 * i % 30) / 100 for i in range(30)}
    (folder / "rounds.jsonl").write_text(json.dumps(make_line(1, None) | {"metrics": metrics}) + "\n")
    ((chart,),) = (family.charts for family in curve_charts(_groups(folder), "map50").families)
    ends = sorted((7 * i % 30, f"c{i}") for i in range(30))
    extremes = {name for _, name in ends[:5] + ends[-5:]}
    assert {name for _, name in chart.legend} == extremes
    assert len(chart.headers) == 31
    assert chart.note == "Of 30, those that end lowest and highest. The table has all."
    several = curve_charts(_groups(folder, make_run(tmp_path / "s", [0.5], strategy="local")), "map50")
    assert len(several.families[0].charts) == 12


def test_of_many_families_those_of_the_main_measure_are_drawn_and_the_rest_is_counted(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [None])
    kinds = [f"{who}{kind}" for who in ("", "personal_") for kind in ("map", "map50", "map75")]
    metrics = {f"{kind}_by_{key}.{m}": 0.5 for kind in kinds for key in ("class", "domain") for m in ("a", "b", "c")}
    (folder / "rounds.jsonl").write_text(json.dumps(make_line(1, None) | {"metrics": metrics}) + "\n")
    curves = curve_charts(_groups(folder), "map50")
    measures = ["map50", "personal_map50", "map"]
    assert [each.title for each in curves.families] == [
        f"{m} by {key}" for m in measures for key in ("domain", "class")
    ]
    assert curves.left_out == 6 * 3


def test_phases_are_marked_in_every_chart_over_rounds(tmp_path: Path) -> None:
    text = page([make_detection_run(tmp_path / "r", PHASES)], tmp_path)
    told = "server from round 1, selective from round 3, full from round 4"
    assert f"Upright lines mark the phases: {told}." in text
    for chart in SVG.findall(text):
        over_rounds = "over rounds" in chart or "<title>bytes" in chart
        assert ({"server", "selective", "full"} <= set(_texts(chart))) == over_rounds
        assert (f"Phases: {told}." in chart) == over_rounds


def test_a_run_of_one_phase_has_no_marks(tmp_path: Path) -> None:
    text = page([make_detection_run(tmp_path / "r", ["train"] * 4), make_run(tmp_path / "s", [0.5, 0.6])], tmp_path)
    assert "Upright lines" not in text
    assert "Phases:" not in text
    assert not any("train" in _texts(chart) for chart in SVG.findall(text) if "over rounds" in chart)


def test_marks_belong_to_all_groups_where_they_agree_and_else_to_the_first(tmp_path: Path) -> None:
    one = make_detection_run(tmp_path / "a", PHASES, strategy="fedsto")
    longer = make_detection_run(tmp_path / "b", [*PHASES, "last"], strategy="fedavg")
    alone = make_detection_run(tmp_path / "c", ["server"] * 6, strategy="server-only")
    other = make_detection_run(tmp_path / "d", ["server", "full"], strategy="local")
    short = make_detection_run(tmp_path / "e", ["server"], strategy="fedprox")
    assert phase_marks(_groups(one)).begins == BEGINS
    both = phase_marks(_groups(one, longer))
    assert (both.begins, both.index) == ([*BEGINS, (6, "last")], None)
    assert "the phases: " in both.note
    first = phase_marks(_groups(alone, one, other))
    assert (first.begins, first.index) == (BEGINS, 1)
    assert first.note.startswith("Upright lines mark the phases of fedsto: ")
    assert phase_marks(_groups(short, one)).index is None  # it went no further than the first phase
    assert phase_marks(_groups(alone)) == Marks()
    text = page([alone, one], tmp_path)
    assert '<g class="g1"><text' in _chart(text, "map50 over rounds")  # so they are hidden with their group


def test_a_failed_round_is_no_phase_and_too_many_phases_are_only_told(tmp_path: Path) -> None:
    failed = make_detection_run(tmp_path / "a", ["server", "full", "failed"])
    assert phase_marks(_groups(failed)).begins == [(1, "server"), (2, "full")]
    many = phase_marks(_groups(make_detection_run(tmp_path / "b", ["odd", "even"] * 6)))
    assert many.begins == ()
    assert many.note == "The phases change 11 times; they are not marked."


def test_flags_by_hand() -> None:
    placed = flags(Marks([(1, "a"), (6, "b" * 30), (10, "c" * 10), (11, "late"), (40, "never")]), 1, 11, 300)
    assert [(flag.name, flag.x, flag.at, flag.left) for flag in placed] == [
        ("a", None, 0.0, False),
        ("b" * 17 + "…", 5.5, 135.0, False),
        ("c" * 10, 9.5, 255.0, True),
        ("late", 10.5, 285.0, True),
    ]
    assert placed[0].row == placed[1].row == 0
    assert flags(Marks([(1, "a"), (9, "b"), (30, "c")]), 12, 20, 300)[0].name == "b"  # the phase it begins in
    assert flags(Marks(), 1, 9, 300) == []


@given(
    st.lists(st.tuples(st.integers(1, 60), st.text("abcx", min_size=1, max_size=25)), max_size=8),
    st.integers(1, 30),
    st.integers(1, 60),
)
def test_flags_never_touch_and_none_is_lost(begins: list[tuple[int, str]], first: int, more: int) -> None:
    begins = sorted({at: (at, name) for at, name in begins}.values())
    placed = flags(Marks(begins), first, first + more, 200)
    assert len([flag for flag in placed if flag.x is not None]) == sum(
        first < at - 0.5 < first + more for at, _ in begins
    )
    assert len([flag for flag in placed if flag.x is None]) == any(at - 0.5 <= first for at, _ in begins)
    for i, one in enumerate(placed):
        assert one.span[0] >= 0
        for other in placed[i + 1 :]:
            assert one.row != other.row or not one.hits(other)
