"""The pages of docs/ tell the truth: tables match the schema, commands and examples work, messages exist."""

import importlib.util
import os
import re
from collections.abc import Iterator
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from pages_for_tests import COMMANDS, DOCS, EXAMPLES, PAGES, ROOT, blocks

import fedbox
from fedbox.__main__ import app
from fedbox.configs import Config, bundled, load_config
from fedbox.data import DATASETS, dataset_options
from fedbox.data.dealers import KINDS
from fedbox.models import build_model
from fedbox.simulations.run import check
from fedbox.strategies import Ask, Batch, ClientHalf, Samples, ServerHalf, Site, Update
from fedbox.strategies.registry import find
from fedbox.testing import CHECKS, TOYS, Subject

TOY: dict[str, Any] = {"rounds": 2, "engine": {"workers": 1}, "train": {"lr": 0.1}, "model": "mlp"}
# Several pages give the same command: once is enough, whatever its folder is called.
DIFFERENT = list(
    {re.sub(r" --out \S+", "", " ".join(words)): (page, words) for page, words in reversed(COMMANDS)}.values()
)
STRATEGIES = [(name, block) for _, name, block in EXAMPLES if "plugin = Plugin(" in block]


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_up_to_date() -> None:
    for page, text in _generator().pages().items():
        assert page.read_text(encoding="utf-8") == text, f"{page.name} is out of date: run python docs/generate.py"


def test_every_key_of_the_schema_is_in_the_tables() -> None:
    def keys(block: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for name, value in block.items():
            yield prefix + name
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{name}.")

    text = (DOCS / "configuration.md").read_text(encoding="utf-8")
    assert [key for key in keys(Config().model_dump()) if f"`{key}`" not in text] == []


def test_there_are_commands_to_check() -> None:
    assert {page.name for page, _ in COMMANDS} >= {
        "README.md",
        "configuration.md",
        "data.md",
        "plugins.md",
        "errors.md",
    }
    assert {words[0] for _, words in COMMANDS} >= {"run", "data", "report", "configs", "strategies", "compare"}


@pytest.mark.parametrize(
    ("page", "words"), DIFFERENT, ids=lambda value: getattr(value, "name", None) or " ".join(value)
)
def test_commands_on_the_pages_are_right(example_files: Path, page: Path, words: list[str]) -> None:
    """Options and names exist, and the configuration of `run` and `data` has no fault."""
    group: Any = typer.main.get_command(app)
    name, *rest = words
    assert name in group.commands, f"{page.name}: there is no command fedbox {name}"
    # Parses as the command line does, and raises a usage error for an unknown option.
    given = group.commands[name].make_context(name, rest).params
    if name in ("run", "data") and words[1:2] != ["quickstart.zip"]:  # a bundle, made where the pages are run
        source, changes = given["config"], list(given["overrides"] or [])
        if source is not None and "=" in source:
            source, changes = None, [source, *changes]
        if source is not None and source.endswith(".zip"):
            return  # a bundle, which an earlier command of its page writes
        short = {"engine": "engine.kind", "workers": "engine.workers"}
        changes += [f"{key}={given[option]}" for option, key in short.items() if given.get(option) is not None]
        config = check(source or "quickstart", changes)
        assert find(config.strategy)
        assert set(config.data.options) <= set(dataset_options(config.data.dataset))
        shape = {"detector": (3, 64, 64), "transformer": (1, 1, 16)}.get(config.model.name, (1, 8, 8))
        if config.model.name == "hf_text":
            return  # its weights lie on the hub
        assert build_model(config.model.name, shape=shape, classes=10, seed=0, options=config.model.options)
    elif name == "strategies" and given["name"]:
        assert find(given["name"])
    elif name == "configs" and given["name"]:
        assert given["name"] in bundled()


def test_yaml_on_the_pages_is_right() -> None:
    found = [block for page in PAGES for block in blocks(page, "yaml")]
    assert found
    for block in found:
        load_config(yaml.safe_load(block))


@pytest.mark.parametrize(("name", "code"), STRATEGIES, ids=[name for name, _ in STRATEGIES])
def test_strategies_on_the_pages_run(example_files: Path, name: str, code: str) -> None:
    (example_files / f"{name}.py").write_text(code, encoding="utf-8")
    boxed = 'needs = "boxes"' in code
    data = {"options": {"limit": 300, "test_limit": 100}, "partition": {"clients": 3}, "test_share": 0.2}
    result = fedbox.run(
        {**TOYS["boxes"].config, "rounds": 2} if boxed else {**TOY, "data": {**data, "server": {"share": 0.1}}},
        strategy=f"{name}:plugin",
        out=example_files / "run",
        quiet=True,
        report=False,
    )
    losses = [record["metrics"].get("train_loss") for record in result.rounds]
    assert result.summary["status"] == "completed"
    assert result.summary["failures"] == 0
    assert losses == [None, None] or boxed or losses[1] < losses[0]
    assert boxed or result.metrics["accuracy"] > 0.15


@pytest.mark.parametrize(("name", "code"), STRATEGIES, ids=[name for name, _ in STRATEGIES])
def test_strategies_on_the_pages_declare_what_the_checks_want(example_files: Path, name: str, code: str) -> None:
    (example_files / f"{name}.py").write_text(code, encoding="utf-8")
    with Subject(f"{name}:plugin") as subject:
        for check in CHECKS:
            if check.name in ("settings", "hooks"):
                assert check(subject)


def test_the_strategy_for_samples_without_labels_trains_on_what_it_guesses(example_files: Path) -> None:
    data = {"options": {"limit": 600, "test_limit": 200}, "partition": {"kind": "iid", "clients": 3}}
    config = {**TOY, "data": {**data, "labels": {"share": 0.1}}, "train": {"lr": 0.2, "epochs": 10}}

    def trained(strategy: str, threshold: float) -> fedbox.Result:
        settings = {"guess": {"threshold": threshold}}
        out = example_files / f"{strategy[:5]}-{threshold}"
        return fedbox.run(config, strategy=strategy, settings=settings, out=out, quiet=True, report=False)

    guessed, never = trained("guess:plugin", 0.5), trained("guess:plugin", 1.0)
    for result in (guessed, never):
        assert result.summary["failures"] == 0
        assert result.rounds[0]["clients"]["client-0"]["examples"] == 200  # of both kinds
        assert result.metrics["accuracy"] > 0.5
    assert guessed.summary["model_sha256"] != never.summary["model_sha256"]


def test_the_data_set_on_the_page_runs(example_files: Path) -> None:
    data = {"dataset": "dots:read", "partition": {"clients": 2}}
    result = fedbox.run({**TOY, "data": data}, out=example_files / "run", quiet=True, report=False)
    assert result.metrics["accuracy"] > 0.9


def _members(kind: type) -> set[str]:
    """Give the public members of a class, and the attributes that its __init__ or its fields set."""
    fields = set(getattr(kind, "__dataclass_fields__", {})) | set(getattr(kind, "__annotations__", {}))
    return {name for name in {*vars(kind), *fields} if not name.startswith("_")}


@pytest.mark.parametrize("kind", [Site, ClientHalf, ServerHalf, Ask, Update, Samples, Batch])
def test_the_guide_names_every_member_of_the_contract(kind: type) -> None:
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    code = " ".join(re.findall(r"`([^`\n]+)`", text))
    assert [name for name in sorted(_members(kind)) if not re.search(rf"\b{name}\b", code)] == []


def test_the_guide_names_the_arguments_of_fit() -> None:
    text = (DOCS / "plugins.md").read_text(encoding="utf-8")
    call = re.search(r"`site\.fit\((.*?)\)`", text)
    assert call is not None
    assert re.findall(r"(\w+)=", call[1]) == list(signature(Site.fit).parameters)[1:]


def test_the_data_page_names_every_data_set_option_and_partition() -> None:
    text = (DOCS / "data.md").read_text(encoding="utf-8")
    wanted = {*DATASETS, *KINDS, *(option for name in DATASETS for option in dataset_options(name))}
    assert [name for name in sorted(wanted) if f"`{name}`" not in text] == []


def test_messages_on_the_error_page_exist() -> None:
    """What stands between the `...` of a message stands in the code, strings that were broken over lines joined."""
    code = "\n".join(path.read_text(encoding="utf-8") for path in [*ROOT.glob("*/*.py"), *ROOT.glob("*.py")])
    joined = re.sub(r'"\s*\n\s*f?"', "", code)
    messages = blocks(DOCS / "errors.md", "text")
    assert len(messages) > 30
    parts = [part.strip(" ;,:\n") for message in messages for part in message.split("...")]
    assert [part for part in parts if part not in joined] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]*))?\)", page.read_text(encoding="utf-8")):
        found = Path(os.path.normpath(page.parent / target)) if target else page
        assert found.exists(), f"{page.name} points to {target}, which does not exist"
        if anchor:
            heads = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
