"""`fedbox compare`: its statistics against scipy, its grid, its files, and that it does only what is missing."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from runs_for_tests import Tags, make_run
from scipy import stats  # type: ignore[import-untyped]

from fedbox.configs import ConfigError
from fedbox.server.compare import CompareRow, Target, compare_rows
from fedbox.server.compare_files import cells as written
from fedbox.server.compare_files import drawn, explain, headings, latex, picture, write_comparison
from fedbox.server.folder import FolderError
from fedbox.server.groups import Group
from fedbox.server.paired import holm, paired_t, sign_flip, t_interval, t_quantile, t_two_sided
from fedbox.server.runs import load_run
from fedbox.simulations.compare import _axis, grid, read_seeds, read_target, run_grid, summarize, wanted_metrics
from fedbox.simulations.compare_command import _print_columns

TOY = ["rounds=2", "data.options.limit=300", "data.partition.min_size=1", "model=mlp", "engine.workers=1"]
VALUES = st.lists(st.floats(-100, 100).map(lambda v: round(v, 3)), min_size=2, max_size=9)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 7, 10, 29])
def test_students_distribution_is_scipys(df: int) -> None:
    for t in (0.0, 0.3, 1.0, 2.5, -8.0):
        assert t_two_sided(t, df) == pytest.approx(2 * stats.t.sf(abs(t), df), abs=1e-12)
    for confidence in (0.5, 0.95, 0.99):
        assert t_quantile(confidence, df) == pytest.approx(stats.t.ppf((1 + confidence) / 2, df), rel=1e-9)


@given(VALUES)
@settings(deadline=None, max_examples=60)
def test_interval_and_tests_are_scipys(values: list[float]) -> None:
    if np.std(values) < 1e-6:
        return
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert t_interval(values) == pytest.approx((low, high), rel=1e-6, abs=1e-9)
    assert paired_t(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6, abs=1e-11)


def test_sign_flips_are_scipys_exact_permutation_test() -> None:
    for seed in range(5):
        values = np.random.default_rng(seed).normal(0.3, 1, 7).round(3)
        wanted = stats.permutation_test(
            (values, np.zeros(7)), lambda a, b: np.mean(a - b), permutation_type="samples", n_resamples=np.inf
        )
        assert sign_flip(list(values)) == pytest.approx(wanted.pvalue)
    assert sign_flip([0.1, 0.2, 0.3, 0.1, 0.4]) == 0.0625
    assert math.isnan(sign_flip([]))
    assert math.isnan(sign_flip([0.5])), "one seed has no test"


def test_holm_by_hand() -> None:
    assert holm([0.01, math.nan, 0.04, 0.03])[::2] == pytest.approx([0.03, 0.06])
    assert holm([0.01, math.nan, 0.04, 0.03])[3] == pytest.approx(0.06)
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def _group(folder: Path, index: int, label: str, finals: list[float]) -> Group:
    runs = [make_run(folder / f"{label}-{i}", [0.5, value], seed=i, name=label) for i, value in enumerate(finals)]
    return Group(index, label, tuple(load_run(run) for run in runs))


def test_rows_pair_by_seed_and_count_the_cost(tmp_path: Path) -> None:
    groups = [_group(tmp_path, 0, "a_%", [0.6, 0.7, 0.8]), _group(tmp_path, 1, "b", [0.7, 0.9, 0.85])]
    first, second = compare_rows(groups, "accuracy", Target("accuracy", 0.8))
    assert (first.mean, second.mean) == pytest.approx((0.7, 0.8166667))
    assert second.difference == pytest.approx(0.1166667)
    assert second.p_t == pytest.approx(stats.ttest_rel([0.7, 0.9, 0.85], [0.6, 0.7, 0.8]).pvalue)
    assert math.isnan(first.p_t)
    assert first.cost is not None
    assert (first.cost.reached, first.cost.runs, first.cost.rounds) == (1, 3, 2)
    assert (first.cost.bytes, first.cost.seconds) == (8000, 2)
    files = {p.suffix: p for p in write_comparison(tmp_path, groups, [first, second], "accuracy", None)}
    assert float(list(csv.DictReader(files[".csv"].open()))[1]["p_t"]) == pytest.approx(second.p_t)
    assert r"a\_\%" in files[".tex"].read_text()
    clear = replace(second, p_t_holm=1e-4, label="a<b, c>=d")
    assert [text in latex([clear], "accuracy", None) for text in (r"a$<$b, c$\geq$d", "$<$ 0.001")] == [True, True]
    assert files[".png"].read_bytes().startswith(b"\x89PNG")
    assert len(files[".md"].read_text().splitlines()[0].split("|")) == 10
    assert {tag for tag, _ in Tags(files[".html"].read_text()).seen} >= {"table", "svg", "h1"}


def test_more_seeds_than_the_sign_flip_test_takes_are_told() -> None:
    row = CompareRow("a", ("0",) * 17, 0.5, 0.1, 0.4, 0.6, pairs=17)
    assert "Above 16 seeds the sign-flip test is left out." in explain([row, row], "accuracy", None)
    few = replace(row, seeds=("0",) * 16, pairs=16)
    assert "sign-flip test is left out" not in "".join(explain([few, few], "accuracy", None))


def test_runs_that_failed_or_diverged_are_missed_in_so_many_words(tmp_path: Path) -> None:
    good = _group(tmp_path, 0, "good", [0.6, 0.7, 0.8])
    failed = make_run(tmp_path / "wild-2", [0.95], seed=2, name="wild", status="failed")
    wild = Group(1, "wild", (*_group(tmp_path, 1, "wild", [0.9, 0.92]).runs, load_run(failed)))
    nan = make_run(tmp_path / "nan", [0.9, None], seed=0, name="nan")
    summary = json.loads((nan / "summary.json").read_text())
    (nan / "summary.json").write_text(json.dumps({**summary, "metrics": {"accuracy": 0.9}}))  # the last finite one
    diverged = Group(2, "nan", (load_run(nan),))
    rows = compare_rows([good, wild, diverged], "accuracy", Target("accuracy", 0.85), {"good": 3, "wild": 4, "nan": 1})
    assert [(row.missing, row.pairs, len(row.seeds)) for row in rows] == [(0, 0, 3), (2, 2, 2), (1, 0, 0)]
    assert [(row.cost.reached, row.cost.runs) for row in rows if row.cost] == [(0, 3), (2, 4), (1, 1)]
    assert math.isnan(rows[2].mean)
    told = "\n".join(explain(rows, "accuracy", None))
    assert "2 of 4 runs of wild failed, broke off, or ended on a value of accuracy that is not finite" in told
    assert "wild and good have 2 seeds in common" in told


def test_seeds_with_equal_results_have_no_interval_and_are_told(tmp_path: Path) -> None:
    other = _group(tmp_path, 0, "other", [0.5, 0.75])
    same = _group(tmp_path, 1, "same", [0.75, 0.75])
    coarse = _group(tmp_path, 2, "coarse", [0.5, 0.5])
    summary = {**coarse.runs[1].summary, "model_sha256": "cd" * 32}
    coarse = replace(coarse, runs=(coarse.runs[0], replace(coarse.runs[1], summary=summary)))
    rows = compare_rows([same, coarse, other], "accuracy")
    assert [row.alike for row in rows] == ["model", "value", ""]
    assert [math.isfinite(row.low) for row in rows] == [False, False, True]
    assert all(map(math.isnan, (rows[1].difference_low, rows[1].p_t)))  # -0.25 for both seeds proves nothing
    told = "\n".join(explain(rows, "accuracy", None))
    assert "All 2 seeds of same gave the same model to the last bit: did the seed reach anything?" in told
    assert "All 2 seeds of coarse ended on the same accuracy, though their models differ" in told
    assert "seeds of other" not in told
    assert written(rows)[0][3] == "\u2013"


def test_differences_that_are_equal_but_for_rounding_prove_nothing() -> None:
    apart = [0.8 - 0.7, 0.9 - 0.8, 0.7 - 0.6]
    assert len(set(apart)) > 1
    assert math.isnan(t_interval(apart)[0])
    assert math.isnan(paired_t(apart))
    assert paired_t([0.0, 0.0]) == 1.0


def test_a_dollar_in_a_label_is_drawn(tmp_path: Path) -> None:
    group = _group(tmp_path, 0, "a$x_$ $\\q$", [0.5, 0.6])
    assert picture([group], "accuracy").startswith(b"\x89PNG")


@pytest.mark.parametrize("rounds", [1, 3])
def test_the_picture_shows_single_rounds_and_no_part_of_one(tmp_path: Path, rounds: int) -> None:
    run = make_run(tmp_path / "run", [0.5 + at / 10 for at in range(rounds)])
    axes = drawn([Group(0, "a", (load_run(run),))], "accuracy").axes[0]
    low, high = axes.get_xlim()
    assert [tick for tick in axes.get_xticks() if low <= tick <= high] == list(range(1, rounds + 1))
    assert axes.lines[0].get_marker() == "o"


def test_a_run_that_stopped_by_another_rule_is_not_the_one_that_is_wanted(tmp_path: Path) -> None:
    stop = "evaluate.stop.metric=train_loss", "evaluate.stop.target=1000"
    cells = grid(["quickstart"], [*TOY, *stop], [], [0], tmp_path)
    assert run_grid(cells, lambda _: None, progress=False) == []
    assert cells[0].done
    assert load_run(cells[0].folder).status == "stopped"
    for other in ([], [stop[0], "evaluate.stop.target=0.01"]):
        (again,) = grid(["quickstart"], [*TOY, *other], [], [0], tmp_path)
        with pytest.raises(FolderError, match=r"ended by evaluate\.stop=.*1000.*give another --out"):
            assert again.done


def test_commas_inside_brackets_and_quotes_part_no_values() -> None:
    values = {
        "[1,2],[3]": ["[1,2]", "[3]"],
        "[[1,2],[3]],[[4]]": ["[[1,2],[3]]", "[[4]]"],
        "{a: 1, b: 2},3": ["{a: 1, b: 2}", "3"],
    }
    values |= {'"a, b","c"': ['"a, b"', '"c"'], "it's,2": ["it's", "2"]}
    for text, wanted in values.items():
        assert _axis(f"key={text}") == [("key", value) for value in wanted]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs LaTeX with booktabs")
def test_the_latex_tables_fit_a_page(tmp_path: Path) -> None:
    groups = [_group(tmp_path, 0, "a_%", [0.6, 0.7, 0.8]), _group(tmp_path, 1, "b<{c}", [0.5, 0.7, 0.85])]
    target = Target("accuracy", 0.8)
    rows = compare_rows(groups, "accuracy", target)
    (tmp_path / "tables.tex").write_text(latex(rows, "accuracy", target))
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{tables.tex}\end{document}"
    (tmp_path / "page.tex").write_text(page)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout
    assert "Overfull" not in done.stdout


def test_a_minus_in_latex_is_a_minus(tmp_path: Path) -> None:
    groups = [_group(tmp_path, 0, "a", [0.6, 0.7, 0.8]), _group(tmp_path, 1, "b-1", [0.5, 0.6, 0.71])]
    lines = latex(compare_rows(groups, "accuracy", None), "accuracy", None).splitlines()
    (told,) = (line for line in lines if line.startswith("b-1") and "$-$" in line)
    assert told.split(" & ")[1:3] == ["$-$0.0967", "$-$0.1110 to $-$0.0823"]


def test_it_does_only_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = (["quickstart"], TOY, ["strategy=fedavg,local"])
    cells = grid(*given, [0, 1], tmp_path)
    assert [(cell.label, cell.config.seed) for cell in cells] == [
        ("fedavg", 0), ("fedavg", 1), ("local", 0), ("local", 1)
    ]  # fmt: skip
    assert run_grid(cells[:3], lambda _: None, progress=False) == []
    before = {cell.folder: (cell.folder / "summary.json").stat().st_mtime_ns for cell in cells[:3]}
    time.sleep(0.01)
    told: list[str] = []
    assert run_grid(cells, told.append, progress=False) == []
    assert told == ["3 of 4 runs are there already", "[1 of 1] local, seed 1"]
    assert before == {folder: (folder / "summary.json").stat().st_mtime_ns for folder in before}
    rows, metric, files = summarize(cells, tmp_path)
    assert (metric, [len(row.seeds) for row in rows]) == ("accuracy", [2, 2])
    assert all(path.is_file() for path in files)
    other = grid(["quickstart"], [*TOY, "train.lr=0.01"], given[2], [0, 1], tmp_path)
    with pytest.raises(FolderError, match=r"train\.lr"):
        run_grid(other, lambda _: None, progress=False)


LENT = """
from pydantic import Field
from fedbox import ClientHalf, Plugin, ServerHalf, Settings

class LentSettings(Settings):
    mu: float = Field(0.0, ge=0.0, description="nothing")
    kind: str = Field("", description="what it raises")

class LentServer(ServerHalf[LentSettings]):
    def finish(self, total, round_):
        super().finish(total, round_)
        if self.settings.kind == "value":
            raise ValueError("the mean is odd")
        if self.settings.kind == "contract":
            self.weights = {}

plugin = Plugin(LentSettings, ClientHalf, LentServer)
"""


@pytest.fixture
def lent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A strategy that is no package: a file on the path."""
    (tmp_path / "lent.py").write_text(LENT)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lent", raising=False)
    return "lent:plugin"


def test_rows_may_be_strategies_of_a_file_with_settings(tmp_path: Path, lent: str) -> None:
    """The rows of the others have no block of it, so that their folders can be read where the file is not."""
    sweep = [f"strategy=fedavg,{lent}"]
    fedavg, own = grid(["quickstart"], [*TOY, "settings.lent.mu=0.5"], sweep, [0], tmp_path)
    assert "lent" not in fedavg.config.settings
    assert own.config.settings["lent"] == {"mu": 0.5}
    for wrong, told in (("lent.mu=-1", r"lent\.mu: got -1; allowed"), ("lant.mu=1", "lant: is no strategy")):
        with pytest.raises(ConfigError, match=told):
            grid(["quickstart"], [*TOY, f"settings.{wrong}"], sweep, [0], tmp_path)


def test_a_strategy_that_fails_leaves_the_other_rows_alone(tmp_path: Path, lent: str) -> None:
    cells = grid(
        ["quickstart"], [*TOY, f"strategy={lent}"], ["settings.lent.kind=value,contract,'none'"], [0], tmp_path
    )
    failed = run_grid(cells, lambda _: None, progress=False)
    assert [cell.done for cell in cells] == [False, False, True]
    assert failed[0].startswith("kind=value, seed 0: ValueError: the mean is odd (lent.py, line ")
    assert "kind=contract, seed 0: round 1: LentServer.finish left self.weights without" in failed[1]


def test_what_failed_is_told_though_nothing_is_left_to_compare(tmp_path: Path, fedbox_here: Any) -> None:
    code, _, told = fedbox_here(
        "compare", "quickstart", *TOY, "train.lr=1e30", "--seeds", "2", "--out", str(tmp_path / "c"), "--quiet"
    )
    assert code == 1
    assert told.count("not finite") >= 2, told
    assert "error: no run of the grid measured anything" in told


def test_a_first_row_of_which_nothing_is_left_stays_the_first(tmp_path: Path) -> None:
    cells = grid(["quickstart"], TOY, ["strategy=adabn,fedavg"], [0], tmp_path)  # its model has no BatchNorm
    assert len(run_grid(cells, lambda _: None, progress=False)) == 1
    rows, _, files = summarize(cells, tmp_path)
    assert [(row.label, len(row.seeds), row.missing) for row in rows] == [("adabn", 0, 1), ("fedavg", 1, 0)]
    assert math.isnan(rows[1].difference)
    told = next(path for path in files if path.suffix == ".md").read_text()
    assert "Differences are those to adabn" in told
    assert "1 of 1 runs of adabn failed" in told
    assert "fedavg and adabn have no seed in common." in told


def test_the_faults_of_all_rows_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        grid(["quickstart"], [], ["strategy=fedavg,fedporx,loccal", "rounds=2,none"], [0, 1], Path("x"))
    told = [str(fault) for fault in caught.value.faults]
    assert [text.split(";")[0] for text in told] == [
        "rounds: got 'none'",
        "strategy: got 'fedporx', which is not registered",
        "strategy: got 'loccal', which is not registered",
    ]


def test_a_misspelt_metric_ends_it_after_the_first_run(tmp_path: Path) -> None:
    cells = grid(["quickstart"], TOY, ["strategy=fedavg,centralized"], [0, 1], tmp_path)
    metrics = wanted_metrics("acuracy", Target("los", 0.1))
    faults = "--metric: fedavg, .* recorded no metric 'acuracy'; did you mean 'accuracy'.*\n.*--target: .* 'loss'"
    for _ in range(2):  # the second time a finished run is there at the start
        with pytest.raises(ConfigError, match=faults):
            run_grid(cells, lambda _: None, progress=False, metrics=metrics)
        assert [cell.done for cell in cells] == [True, False, False, False]
    metrics = wanted_metrics("client_accuracy", None)  # of the first row alone: the others may lack it
    assert run_grid([cells[0], cells[2]], lambda _: None, progress=False, metrics=metrics) == []
    with pytest.raises(ConfigError, match="the runs of the grid recorded no metric 'acuracy'"):
        summarize(cells, tmp_path, None, "acuracy")


@pytest.mark.parametrize("width", [40, 80, 200])
def test_no_figure_is_broken_over_lines(width: int) -> None:
    labels = ["fedavg, lr=0.1", "my_own_strategy:plugin, local_epochs=5"]
    row = CompareRow(labels[0], ("0",) * 5, 0.376, 0.0276, -0.1634, 0.4029, -0.0028, p_flip_holm=0.0625)
    rows = [row, replace(row, label=labels[1])]
    metric = "client_accuracy_worst_decile"
    console = Console(width=width, file=io.StringIO())
    _print_columns(
        console, [[line[at] for at in (0, 1, 2, 3, 4, 7)] for line in (headings(metric, None), *written(rows))]
    )
    told = console.file.getvalue()  # type: ignore[attr-defined]
    for figure in ("0.3760 ± 0.0276", "-0.1634 to 0.4029", "-0.0028", "0.062"):
        assert told.count(figure) == 2, figure
    heads, _, below = told.partition("───")
    for text in (f"{metric},meanstd", *labels):
        letters = iter(re.sub(r"\s", "", heads if text.startswith(metric) else below))
        assert all(letter in letters for letter in text.replace(" ", "")), text
    if width > 40:
        assert max(map(len, told.splitlines())) <= width


def test_bad_words_are_told() -> None:
    assert (read_seeds("3"), read_seeds("3,7")) == ([0, 1, 2], [3, 7])
    for text in ("0", "x", "1,1", "-2"):
        with pytest.raises(ConfigError, match="--seeds"):
            read_seeds(text)
    with pytest.raises(ConfigError, match="METRIC=NUMBER"):
        read_target("accuracy")
    with pytest.raises(ConfigError, match="METRIC=NUMBER"):
        read_target("accuracy=nan")
    with pytest.raises(ConfigError, match="key=a,b,c"):
        grid(["quickstart"], [], ["strategy"], [0], Path("x"))
    with pytest.raises(ConfigError, match="twice"):
        grid(["quickstart", "quickstart"], [], [], [0], Path("x"))
    for sweeps, changes in ((["seed=1,2"], []), ([], ["seed=3"])):
        with pytest.raises(ConfigError, match="seed: the seeds of a comparison are given by --seeds"):
            grid(["quickstart"], changes, sweeps, [0, 1], Path("x"))
    assert [
        c.config.model.family for c in grid(["quickstart"], [], ["settings.fedprox={mu: 1},{mu: 2}"], [0], Path("x"))
    ]
