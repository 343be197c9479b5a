"""The report: loading damaged folders, figures against hand-worked values, a page that is safe and complete."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedbox.server.charts import (
    byte_unit,
    duration,
    human_bytes,
    mean_std,
    natural,
    number,
    quantile,
    worst_decile,
)
from fedbox.server.report import (
    ReportError,
    differences,
    figures,
    flatten,
    group_runs,
    load_run,
    main_metric,
    phases,
    series,
    write_report,
)

SVG = re.compile(r"<svg xmlns.*?</svg>", re.DOTALL)


def make_line(at: int, accuracy: float | None, **more: Any) -> dict[str, Any]:
    clients = {
        "client-2": {"examples": 30, "train_loss": 0.5, "accuracy": accuracy},
        "client-10": {"examples": 10, "train_loss": 0.7, "accuracy": 0.25},
    }
    line = {"round": at, "phase": "train", "metrics": {"accuracy": accuracy, "loss": 1 / at}, "clients": clients}
    line |= {"bytes_up": 1000, "bytes_down": 3000, "failures": []}
    line["seconds"] = {"train": 0.5, "aggregate": 0.125, "evaluate": 0.25, "checkpoint": 0.0, "total": 1.0}
    return line | more


def make_run(
    folder: Path,
    accuracies: list[float | None],
    *,
    name: str = "digits",
    seed: int = 0,
    strategy: str = "fedavg",
    tail: str = "",
    status: str | None = "completed",
    **config: Any,
) -> Path:
    folder.mkdir(parents=True)
    told = {"name": name, "seed": seed, "strategy": strategy, "data": {"dataset": "digits"}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(told))
    lines = [json.dumps(make_line(i, value)) for i, value in enumerate(accuracies, start=1)]
    (folder / "rounds.jsonl").write_text("\n".join(lines) + "\n" + tail)
    if status:
        summary = {"name": name, "strategy": strategy, "engine": "inprocess", "workers": 1, "seed": seed}
        summary |= {"rounds": len(lines), "clients": 2, "status": status, "metrics": {"accuracy": accuracies[-1]}}
        summary |= {"bytes_up": 1000 * len(lines), "bytes_down": 3000 * len(lines), "seconds": 1.0 * len(lines)}
        summary |= {"peak_rss_mb": 300.5, "model_sha256": "ab" * 32, "versions": {"torch": "2.13"}}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def page(runs: list[Path], tmp_path: Path) -> str:
    return write_report(runs, tmp_path / "out" / "report.html").read_text(encoding="utf-8")


class Tags(HTMLParser):
    """Gather tags with their attributes, and check that every tag that must close does, in order."""

    void = frozenset({"meta", "link", "input", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()


# Statistics


def test_mean_and_sample_deviation_by_hand() -> None:
    assert mean_std([2.0, 4.0, 9.0]) == (5.0, pytest.approx(math.sqrt((9 + 1 + 16) / 2)))
    mean, std = mean_std([3.0, math.nan, math.inf])
    assert mean == 3.0
    assert math.isnan(std)
    assert all(math.isnan(v) for v in mean_std([]))


def test_worst_decile_is_the_mean_of_the_worst_tenth_rounded_up() -> None:
    twenty_one = [i / 100 for i in range(21)]  # ceil(2.1) = 3 clients
    assert worst_decile(twenty_one) == pytest.approx((0.00 + 0.01 + 0.02) / 3)
    assert worst_decile(twenty_one, low_is_bad=False) == pytest.approx((0.20 + 0.19 + 0.18) / 3)
    assert worst_decile([0.5, 0.25]) == 0.25
    assert worst_decile([0.1 * i for i in range(1, 11)] + [math.nan]) == pytest.approx(0.1)
    assert math.isnan(worst_decile([math.nan]))


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_order_statistics_hold_their_bounds(values: list[float]) -> None:
    low, middle, high = (quantile(values, share) for share in (0, 0.5, 1))
    assert (low, high) == (min(values), max(values))
    assert low <= middle <= high
    assert low - 1e-9 <= worst_decile(values) <= mean_std(values)[0] + 1e-6


def test_quantile_is_linear_between_neighbours() -> None:
    assert quantile([4.0, 1.0, 2.0, 3.0], 0.25) == 1.75


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (12345, "12.3 kB"), (1e6, "1 MB"), (123_456_789, "123 MB"), (5e15, "5000 TB")],
)
def test_bytes_are_written_in_decimal_units(count: float, text: str) -> None:
    assert human_bytes(count) == text
    assert byte_unit(count)[1] == text.split()[1]


def test_numbers_and_durations() -> None:
    assert [number(v) for v in (0.87214, 12, 12.345, 1234.5, 2e-5, -0.5)] == [
        "0.8721", "12", "12.35", "1,234", "2.00e-05", "-0.5000",
    ]  # fmt: skip
    assert not number(math.nan).isalnum()
    assert [duration(v) for v in (4.2, 59.97, 192, 3725)] == ["4.20 s", "1 min 00 s", "3 min 12 s", "1 h 02 min"]


def test_natural_order() -> None:
    assert sorted(["client-10", "client-2", "a", "7"], key=natural) == ["7", "a", "client-2", "client-10"]


# Loading


def test_a_folder_without_a_run_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such folder"):
        load_run(tmp_path / "absent")
    with pytest.raises(ReportError, match=r"neither a round in rounds\.jsonl nor a summary\.json"):
        load_run(tmp_path)
    make_run(tmp_path / "inner", [0.5])
    with pytest.raises(ReportError, match="give the runs in it: inner"):
        load_run(tmp_path)
    with pytest.raises(ReportError, match="no run folder was given"):
        write_report([], tmp_path / "x.html")
    assert ReportError.exit_code == 3


def test_a_killed_run_is_read_up_to_its_broken_last_line(tmp_path: Path) -> None:
    run = load_run(make_run(tmp_path / "r", [0.1, 0.2], tail='{"round": 3, "metr', status=None))
    assert [r.round for r in run.rounds] == [1, 2]
    assert run.status == "unfinished"
    assert any("line 3 (the last" in note for note in run.notes)
    assert "line 3 (the last" in page([run.path], tmp_path)


def test_a_broken_line_in_the_middle_is_skipped_and_a_repeated_round_replaced(tmp_path: Path) -> None:
    tail = "[1]\n" + json.dumps(make_line(2, 0.75)) + "\n"
    run = load_run(make_run(tmp_path / "r", [0.1, 0.2], tail=tail))
    assert [r.metrics["accuracy"] for r in run.rounds] == [0.1, 0.75]
    assert [note for note in run.notes if "line 3 is unreadable" in note]


@pytest.mark.parametrize("junk", ["null", "[]", "{", "[" * 100_000, '{"metrics": 3, "best": [], "versions": 1}'])
def test_a_damaged_summary_or_configuration_does_not_stop_the_report(tmp_path: Path, junk: str) -> None:
    folder = make_run(tmp_path / "r", [0.1, 0.2])
    (folder / "summary.json").write_text(junk)
    (folder / "config.yaml").write_text("a: [1")
    assert "config.yaml is unreadable" in page([folder], tmp_path)
    assert figures(load_run(folder), "accuracy")["final"] == 0.2


def test_a_summary_alone_makes_a_report(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.5])
    (folder / "rounds.jsonl").unlink()
    text = page([folder], tmp_path)
    assert "rounds.jsonl is absent" in text
    assert "0.5000" in text


# Figures


def test_figures_of_a_run_by_hand(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.25, 0.75, 0.5], status=None)
    told = figures(load_run(folder), "accuracy")
    assert (told["final"], told["best"], told["best_round"], told["rounds"]) == (0.5, 0.75, 2, 3)
    assert (told["bytes_up"], told["bytes_down"], told["seconds"]) == (3000, 9000, 3.0)
    assert (told["client_mean"], told["client_worst"]) == ((0.5 + 0.25) / 2, 0.25)
    lower = figures(load_run(folder), "loss")
    assert (lower["best"], lower["best_round"]) == (pytest.approx(1 / 3), 3)


def test_seconds_beyond_the_phases_are_other(tmp_path: Path) -> None:
    (record,) = load_run(make_run(tmp_path / "r", [0.5])).rounds
    assert phases(record) == {"train": 0.5, "aggregate": 0.125, "evaluate": 0.25, "checkpoint": 0.0, "other": 0.125}


def test_runs_equal_but_for_the_seed_form_a_group_with_mean_and_deviation(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"a{i}", [0.25, value], seed=i) for i, value in enumerate((0.5, 0.75, 1.0))]
    runs.append(make_run(tmp_path / "b", [0.5, 0.5], strategy="fedprox"))
    groups = group_runs([load_run(run) for run in runs])
    assert [(g.label, len(g.runs)) for g in groups] == [("fedavg", 3), ("fedprox", 1)]
    curve = series(groups[0], lambda run: {r.round: r.metrics["accuracy"] for r in run.rounds})
    assert curve is not None
    assert (list(curve.y), list(curve.spread)) == ([0.25, 0.75], [0.0, 0.25])
    text = page(runs, tmp_path)
    assert "fedavg ended with accuracy 0.7500 ± 0.2500, ahead of fedprox with 0.5000." in text
    assert "mean of 3<" in text


def test_the_same_seed_twice_is_not_a_second_seed(tmp_path: Path) -> None:
    runs = [load_run(make_run(tmp_path / f"r{i}", [0.5], seed=seed)) for i, seed in enumerate((0, 1, 0))]
    groups = group_runs(runs)
    assert [[r.seed for r in g.runs] for g in groups] == [["0", "1"], ["0"]]
    assert len({g.label for g in groups}) == 2


def test_labels_name_what_tells_the_groups_apart(tmp_path: Path) -> None:
    options = [("fedavg", 0.1), ("fedprox", 0.1), ("fedavg", 0.5), ("fedprox", 0.5)]
    runs = [
        load_run(make_run(tmp_path / f"r{i}", [0.5], strategy=s, train={"lr": lr}, settings={s: {"x": 1}}))
        for i, (s, lr) in enumerate(options)
    ]
    assert [g.label for g in group_runs(runs)] == [f"{s}, lr={lr}" for s, lr in options]
    seeded = [load_run(make_run(tmp_path / f"s{i}", [0.5], name=f"digits-seed{i}", seed=i)) for i in (11, 12)]
    assert [g.label for g in group_runs(seeded)] == ["digits"]


def test_an_unfinished_seed_is_left_out_of_the_mean(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", [0.5, 0.5]), make_run(tmp_path / "b", [0.1], seed=1, status=None)]
    (group,) = group_runs([load_run(run) for run in runs])
    curve = series(group, lambda run: {r.round: r.metrics["accuracy"] for r in run.rounds})
    assert curve is not None
    assert list(curve.y) == [0.5, 0.5]
    assert "unfinished, so it is left out of the mean" in page(runs, tmp_path)


def test_a_round_that_one_seed_lost_is_a_gap_of_the_group(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", [0.5, 0.5, 0.5]), make_run(tmp_path / "b", [0.25, None, 1.0], seed=1)]
    (group,) = group_runs([load_run(run) for run in runs])
    curve = series(group, lambda run: {r.round: r.metrics["accuracy"] for r in run.rounds})
    assert curve is not None
    assert [number(y) for y in curve.y] == ["0.3750", number(math.nan), "0.7500"]


def test_a_null_metric_is_a_gap_and_an_absent_one_is_not(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.5, None, 0.75])
    with (folder / "rounds.jsonl").open("a") as file:
        file.write(json.dumps(make_line(4, 0.5, metrics={"train_loss": 1.0})) + "\n")
        file.write(json.dumps(make_line(5, 0.875)) + "\n")
    (group,) = group_runs([load_run(folder)])
    curve = series(group, lambda run: {r.round: r.metrics["accuracy"] for r in run.rounds if "accuracy" in r.metrics})
    assert curve is not None
    assert list(curve.rounds) == [1, 2, 3, 5]
    assert math.isnan(curve.y[1])
    assert ElementTree.fromstring(SVG.findall(page([folder], tmp_path))[0]) is not None


def test_differences_are_told_by_dotted_key() -> None:
    first, second = {"a": {"b": 1, "c": "x"}, "d": [1]}, {"a": {"b": 2, "c": "x"}, "d": [1], "e": None}
    assert flatten(first) == {"a.b": "1", "a.c": '"x"', "d": "[1]"}
    told = differences([first, second])
    assert told["a.b"] == ["1", "2"]
    assert told["e"][1] == "null"
    assert set(told) == {"a.b", "e"}


def test_the_page_opens_on_accuracy_or_on_what_there_is(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.5])
    assert main_metric([load_run(folder)]) == "accuracy"
    (folder / "rounds.jsonl").write_text(json.dumps(make_line(1, 0.5, metrics={"loss": 1.0, "map50": 0.5})))
    (folder / "summary.json").write_text(json.dumps({"best": {"map50": {"value": 0.5, "round": 1}}}))
    assert main_metric([load_run(folder)]) == "map50"
    assert "ended with map50 0.5000" in page([folder], tmp_path)


def test_best_is_marked_among_completed_runs_only(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", [0.5, 0.5], name="slow"),
        make_run(tmp_path / "b", [0.25, 0.25], name="low", strategy="local"),
        make_run(tmp_path / "c", [0.875], name="killed", strategy="fedprox", status=None),
    ]
    text = page(runs, tmp_path)
    rows = {name: row for name in ("slow", "low", "killed") for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL)
            if re.search(rf'<th scope="row">.*{name}</th>', row, re.DOTALL) and 'class="head"' in row}  # fmt: skip
    assert rows["slow"].count("(best)") == 3  # final, best and clients' mean; the worst tenth and the bytes are equal
    assert "(best)" not in rows["low"] + rows["killed"]
    assert "slow ended with accuracy 0.5000, ahead of low" in text


# The page


def test_a_run_of_one_round_has_visible_points(tmp_path: Path) -> None:
    text = page([make_run(tmp_path / "r", [0.5])], tmp_path)
    first = ElementTree.fromstring(SVG.findall(text)[0])
    dots = [g for g in first.iter() if g.get("class") == "g0"]
    assert any(use.get("href") for g in dots for use in g.iter("{http://www.w3.org/2000/svg}use"))


def test_every_svg_is_well_formed_named_and_has_ids_of_its_own(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{i}", [0.25, 0.5, 0.75], strategy=s, seed=i % 2)
            for i, s in enumerate(("fedavg", "fedavg", "fedprox", "local"))]  # fmt: skip
    text = page(runs, tmp_path)
    charts = SVG.findall(text)
    assert len(charts) == 8  # 2 of the main metric, loss, 2 of the clients, 2 of the bytes, seconds
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


def test_nothing_is_asked_of_another_server(tmp_path: Path) -> None:
    text = page([make_run(tmp_path / "r", [0.25, 0.5], name="https://example.org/x.png")], tmp_path)
    for tag, attrs in Tags(text).seen:
        assert tag not in {"script", "iframe", "img", "object", "embed"}
        for key in ("src", "href", "xlink:href", "srcset", "action", "style"):
            assert "//" not in (attrs.get(key) or "")
    assert not re.search(r"@import|url\((?!#)|<!DOCTYPE svg|<metadata", text)
    assert "default-src 'none'" in text
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "a$x$&amp;]]>", "\x1b\x00"]
)
def test_names_are_escaped(tmp_path: Path, name: str) -> None:
    runs = [make_run(tmp_path / "r", [0.25, 0.5], name=name), make_run(tmp_path / "s", [0.5], name="b")]
    hostile = json.dumps(
        make_line(3, 0.5, failures=[{"client": name, "kind": name, "reason": name}], clients={name: {"accuracy": 1}},
                  metrics={name: 1.0})
    )  # fmt: skip
    with (runs[0] / "rounds.jsonl").open("a") as file:
        file.write(hostile + "\n")
    text = page(runs, tmp_path)
    tags = Tags(text)
    assert not tags.open
    assert not {"script", "img"} & {tag for tag, _ in tags.seen}
    assert not [key for _, attrs in tags.seen for key in attrs if key.startswith("on")]
    roots = [ElementTree.fromstring(chart) for chart in SVG.findall(text)]
    if name.isprintable():  # drawn as it is, `$` included
        drawn = ["".join(text.itertext()) for root in roots for text in root.iter("{http://www.w3.org/2000/svg}text")]
        assert name in drawn


def test_many_failures_are_gathered(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "r", [0.5])
    failures = [{"client": f"client-{i}", "kind": "timeout", "reason": "late"} for i in range(40)]
    (folder / "rounds.jsonl").write_text(
        "".join(json.dumps(make_line(i, 0.5, failures=failures)) + "\n" for i in (1, 2))
    )
    text = page([folder], tmp_path)
    assert "80 in all, gathered" in text
    assert "client-0, client-1, client-2, client-3 and 36 more" in text
    assert "1 to 2" in text


def test_many_runs_rounds_and_clients_stay_small(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "big", [0.5])
    clients = {f"client-{i}": {"examples": i, "accuracy": i / 1000} for i in range(1000)}
    lines = (json.dumps(make_line(i, 0.5, clients=clients if i == 300 else {})) + "\n" for i in range(1, 301))
    (folder / "rounds.jsonl").write_text("".join(lines))
    runs = [folder, *(make_run(tmp_path / f"r{i}", [0.5] * 100, train={"lr": i}) for i in range(11))]
    text = page(runs, tmp_path)
    assert len(text.encode()) < 1_000_000
    assert "share of clients below" in text


def test_the_same_runs_give_the_same_bytes_and_a_folder_is_given_a_name(tmp_path: Path) -> None:
    run = make_run(tmp_path / "r", [0.25, 0.5])
    first = write_report([run, run], tmp_path)
    assert first == tmp_path / "report.html"
    assert first.read_bytes() == write_report([run], tmp_path / "b.html").read_bytes()
