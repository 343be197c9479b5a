"""The page: complete, safe, small, the same from the same runs."""

import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from runs_for_tests import SVG, Tags, make_line, make_run, page

from fedbox.server.report import write_report


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
    assert [word for word in ("strategy", "seed", "status") if f">{word}</th>" in text] == [
        "strategy",
        "seed",
        "status",
    ]


def test_a_lead_is_clear_only_where_the_seeds_agree(tmp_path: Path) -> None:
    def told(name: str, first: list[float], second: list[float], **more: str) -> str:
        runs = [
            make_run(tmp_path / f"{name}-{strategy}-{seed}", [value], strategy=strategy, seed=seed, **more)
            for strategy, values in (("fedavg", first), ("local", second)) for seed, value in enumerate(values)
        ]  # fmt: skip
        return page(runs, tmp_path)

    clear = told("clear", [0.5, 0.625, 0.75], [0.25, 0.375, 0.53125])
    assert "ahead of local with" in clear
    assert 'scope="col" class="l">strategy</th>' not in clear  # the labels say it, the header says that all ended
    assert 'scope="col" class="l">status</th>' not in clear
    assert "no clear lead over local with" in told("luck", [0.5, 0.625, 0.75], [0.25, 0.75, 0.53125])
    stopped = told("early", [0.5, 0.625, 0.75], [0.25, 0.375, 0.53125], status="stopped")
    assert "6 of 6" in stopped  # a run that stopped as it was told to has come to its end
    assert "Mind this" not in stopped


def test_many_seeds_leave_the_groups_side_by_side(tmp_path: Path) -> None:
    """Of two groups of 12 seeds the one's figures stood 13 rows below the other's."""
    runs = [
        make_run(tmp_path / f"{name}-{seed}", [0.5], name=name, strategy=name, seed=seed)
        for name in ("fedavg", "local") for seed in range(12)
    ]  # fmt: skip
    first, *_ = re.findall(r"<table.*?</table>", page(runs, tmp_path), re.DOTALL)
    assert (first.count('<tr class="head">'), first.count('<tr class="run">')) == (2, 0)
    text = page(runs, tmp_path)
    assert "The same with every seed: 24 runs" in text
    assert text.count('<tr class="run">') == 24
    assert page(runs[:11] + runs[12:20], tmp_path).count('<tr class="head">') == 2


def test_a_seed_that_diverged_is_in_no_mean_in_so_many_words(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / f"r{seed}", [0.5, end], seed=seed) for seed, end in enumerate([0.5, 0.75, None])]
    text = page(runs, tmp_path)
    assert "digits: accuracy is not a finite number at the end of seed 2, so its final mean is that of 2 of 3" in text
    assert "finite number" not in page(runs[:2], tmp_path)
    steady = [make_run(tmp_path / f"s{seed}", [0.5, 0.5], strategy="local", seed=seed) for seed in range(3)]
    assert "local ended with accuracy 0.5000" in page([*runs, *steady], tmp_path)  # 0.625 is that of the lucky two


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


def test_pseudo_labels_are_shown_for_each_client_as_last_told(tmp_path: Path) -> None:
    """A cohort names only some of the clients: client-7 told its share in the first round alone."""
    folder = make_run(tmp_path / "run", [0.5, 0.6])
    rows = [{"client-2": {"pseudo_accepted": 0.125}, "client-7": {"pseudo_accepted": 0.375}}]
    rows.append({"client-2": {"pseudo_accepted": 0.625}})
    lines = [json.dumps(make_line(at, 0.5, clients=clients)) for at, clients in enumerate(rows, start=1)]
    (folder / "rounds.jsonl").write_text("\n".join(lines) + "\n")
    write_report([folder], tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "pseudo_accepted of each client, as last told" in page
    # The mean of 0.625 and 0.375, not of 0.125 as well.
    assert "Distribution over the clients: pseudo_accepted of each client, as last told. digits: mean 0.5000." in page
