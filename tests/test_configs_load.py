"""How configurations are read: YAML without its surprises, and written so that they come back as they were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fedbox.configs import ConfigError, load_config, to_yaml
from fedbox.configs.load import _Loader


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1.", 1.0), ("-.5", -0.5), ("1.5e+3", 1500.0), ("0", 0), ("-7", -7), ("0x10", 16),
        ("true", True), ("null", None), ("010", "010"), ("1:30", "1:30"), ("2024-01-05", "2024-01-05"),
        ("2024-13-45", "2024-13-45"), ("[1, 2e1]", [1, 20.0]), ("1.2.3", "1.2.3"),
    ],
)  # fmt: skip
def test_a_value_is_what_it_looks_like(text: str, value: Any) -> None:
    config = load_config("quickstart", [f"data.options.x={text}"])
    assert config.data.options["x"] == value
    assert type(config.data.options["x"]) is type(value)


@given(
    st.text(st.characters(codec="utf-8", exclude_categories=["C"]), max_size=12)
    | st.from_regex(r"[-+.0-9eE_:x]{1,8}", fullmatch=True)
)
def test_texts_come_back_as_texts(text: str) -> None:
    config = load_config("quickstart", {"data.options": {"x": text}, "name": "plain"})
    written = to_yaml(config)
    assert yaml.safe_load(written)["data"]["options"]["x"] == text  # for other readers of YAML, too
    again = load_config(yaml.load(written, _Loader))
    assert again.data.options["x"] == text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("? [a]\n: 1\n", "a key must be a text or a number"),
        ("rounds: 1\nrounds: 2\n", "stands twice"),
        ("rounds: !!timestamp 2024-13-45\n", "is not valid YAML"),
    ],
)
def test_a_file_that_cannot_be_read_is_a_fault(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigError, match=told):
        load_config(tmp_path / "mine.yaml")


def test_merge_keys_merge(tmp_path: Path) -> None:
    text = "data: {options: {base: &base {a: 1, b: 2}, own: {<<: *base, b: 3}}}\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert load_config(tmp_path / "mine.yaml").data.options["own"] == {"a": 1, "b": 3}


@pytest.mark.parametrize(
    "change", ["train.lr=.inf", "evaluate.stop.target=.nan", "data.options={{a}}", "data.options=[1"]
)
def test_what_is_no_number_or_no_yaml_is_a_fault(change: str) -> None:
    with pytest.raises(ConfigError, match=change.partition("=")[0]):
        load_config("quickstart", [change])


def test_values_of_numpy_and_torch_are_taken_for_those_of_python() -> None:
    given = {
        "seed": np.int64(3), "rounds": np.arange(9)[7], "train.lr": np.float32(0.5), "train.flip": np.bool_(False),
        "clients.per_round": torch.tensor(2), "model.options": {"hidden": np.array([8, 9])},
        "settings.fedprox.mu": np.float32(0.5),
    }  # fmt: skip
    config = load_config("quickstart", given)
    assert (config.seed, config.rounds, config.train.lr, config.train.flip) == (3, 7, 0.5, False)
    assert config.clients.per_round == 2
    assert config.model.options == {"hidden": [8, 9]}
    assert type(config.settings["fedprox"]["mu"]) is float
    assert load_config({"seed": np.int64(3), "train": {"lr": np.float64(0.5)}}).train.lr == 0.5


def test_a_checked_configuration_is_taken_as_it_is() -> None:
    config = load_config("quickstart", {"model": ["mlp", "cnn"], "train.lr": 0.5})
    assert load_config(config) == config
    assert load_config(config, {"rounds": 2}) == config.model_copy(update={"rounds": 2})


def test_what_no_file_can_hold_is_a_fault_with_its_place() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", {"model.options": {"norms": [1, torch.nn.ReLU]}, "train.lr": lambda: 1})
    assert [fault.path for fault in caught.value.faults] == ["train.lr", "model.options.norms.1"]
    assert "torch.nn.modules.activation.ReLU'>; allowed: a number, a text" in str(caught.value)
    with pytest.raises(ConfigError, match=r"data\.options\.x: got <object"):
        load_config({"data": {"options": {"x": object()}}})
