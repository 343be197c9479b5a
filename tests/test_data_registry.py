import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from fedbox.data import DATASETS, DataError, DataSet, available_datasets, dataset_options, load_dataset
from fedbox.data import registry as registry_module
from fedbox.data.digits import make_digits


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A real module outside the package, on the import path."""
    (tmp_path / "my_data_plugin.py").write_text(
        "from fedbox.data import load_dataset\n"
        "def digits_too(root, *, twice=False):\n"
        "    return load_dataset('digits', limit=20 if twice else 10)\n"
        "def plain(root, many=10):\n"
        "    return load_dataset('digits', limit=many)\n"
        "def rootless():\n"
        "    return None\n"
        "def broken(root):\n"
        "    return open(root)\n"
        "def wrong(root):\n"
        "    return {'root': root}\n"
        "not_callable = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_data_plugin"
    sys.modules.pop("my_data_plugin", None)


def test_embedded_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    made = make_digits()
    with np.load(Path(registry_module.__file__).with_name("digits.npz")) as stored:
        for key, array in made.items():
            np.testing.assert_array_equal(stored[key], array)
    source = load_digits()
    data = load_dataset("digits")
    back = np.rint(data.train.images[:, 0] * (16 / 255.0))
    np.testing.assert_array_equal(back, source.images[~made["test"]])
    np.testing.assert_array_equal(data.train.labels, source.target[~made["test"]])


def test_digits_have_a_stratified_fifth_for_testing_and_known_constants():
    data = load_dataset("digits")
    assert (len(data.train), len(data.test), data.shape) == (1438, 359, (1, 8, 8))
    both = np.bincount(data.train.labels) + np.bincount(data.test.labels)
    np.testing.assert_allclose(np.bincount(data.test.labels) / both, 0.2, atol=0.01)
    assert data.train.images.mean() / 255 == pytest.approx(data.mean[0], abs=1e-4)
    assert data.train.images.std() / 255 == pytest.approx(data.std[0], abs=1e-4)


def test_limit_nests_and_leaves_the_test_part_whole():
    whole, some, few = (load_dataset("digits", **wish) for wish in ({}, {"limit": 100}, {"limit": 30}))
    assert (len(some.train), len(some.test), len(few.train)) == (100, 359, 30)
    seen = {image.tobytes() for image in some.train.images}
    assert {image.tobytes() for image in few.train.images} <= seen
    assert len(np.unique(few.train.labels)) > 5  # a shuffle, not the first thirty
    assert len(load_dataset("digits", limit=10**6).train) == len(whole.train)
    assert len(load_dataset("digits", test_limit=7).test) == 7


def test_mean_and_std_can_be_given():
    data = load_dataset("digits", mean=[0.25], std=[0.75])
    assert (data.mean, data.std) == ((0.25,), (0.75,))
    with pytest.raises(DataError, match="each of 1 channel"):
        load_dataset("digits", mean=[0.1, 0.2])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digit", {}, r"unknown data set 'digit' \(did you mean 'digits'\?\); known are .*synthetic"),
        (
            "digits",
            {"limt": 3},
            r"no option 'limt' \(did you mean 'limit'\?\); allowed are limit, mean, std, test_limit",
        ),
        ("digits", {"limit": 0}, "limit: got 0, input should be greater"),
        ("synthetic", {"samples": "many", "noise": -1}, r"samples: got 'many'.*noise: got -1"),
        ("no_such_module:read", {}, "cannot be imported: ModuleNotFoundError: No module named 'no_such_module'"),
        ("json:no_such_name", {}, "cannot be imported"),
    ],
)
def test_a_wrong_name_or_option_is_explained(name, options, message):
    with pytest.raises(DataError, match=message):
        load_dataset(name, **options)


def test_a_callable_of_another_module_is_a_data_set(plugin):
    assert len(load_dataset(f"{plugin}:digits_too").train) == 10
    assert len(load_dataset(f"{plugin}:digits_too", twice=True, limit=15).train) == 15
    with pytest.raises(DataError, match="wrong' returned a dict"):
        load_dataset(f"{plugin}:wrong")
    with pytest.raises(DataError, match="is a int; it must be a callable"):
        load_dataset(f"{plugin}:not_callable")
    with pytest.raises(DataError, match=r"no option 'thrice'.*twice"):
        load_dataset(f"{plugin}:digits_too", thrice=True)


def test_a_reader_may_name_its_options_without_a_star(plugin):
    assert dataset_options(f"{plugin}:plain")["many"] == 10
    assert len(load_dataset(f"{plugin}:plain", many=20).train) == 20
    with pytest.raises(DataError, match=r"no option 'mny' \(did you mean 'many'\?\); allowed are limit, many, mean"):
        load_dataset(f"{plugin}:plain", mny=3)


def test_what_a_reader_of_others_raises_is_told_with_its_line(plugin):
    failed = rf"'{plugin}:broken' failed: FileNotFoundError: .*nowhere.* \({plugin}.py, line 9\)"
    with pytest.raises(DataError, match=failed):
        load_dataset(f"{plugin}:broken", "nowhere")
    with pytest.raises(
        DataError, match=r"failed: TypeError: rootless\(\) takes 0 positional arguments but 1 was given$"
    ):
        load_dataset(f"{plugin}:rootless")


def test_a_root_where_nothing_is_read_is_refused():
    for name in ("digits", "scenes", "synthetic", "topics"):
        with pytest.raises(DataError, match=f"data set '{name}' reads no files, yet root is 'mine'; name a data set"):
            load_dataset(name, "mine")


def test_an_installed_package_can_add_a_data_set(plugin, monkeypatch):
    point = EntryPoint("mine", f"{plugin}:digits_too", "fedbox.datasets")

    def installed(**wanted: str) -> list[EntryPoint]:
        return [point] if wanted.get("name", "mine") == "mine" else []

    monkeypatch.setattr(registry_module, "entry_points", installed)
    assert available_datasets() == sorted([*DATASETS, "mine"])
    assert len(load_dataset("mine").train) == 10
    assert dataset_options("mine")["twice"] is False


def test_every_reader_shows_its_options():
    assert dataset_options("synthetic")["samples"] == 2000
    assert dataset_options("hf")["train_split"] == "train"
    for name in DATASETS:
        assert {"limit", "test_limit", "mean", "std"} <= dataset_options(name).keys()


def test_synthetic_is_a_function_of_its_options():
    one, again, other = (load_dataset("synthetic", seed=seed, samples=100) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.train.images, again.train.images)
    np.testing.assert_array_equal(one.test.labels, again.test.labels)
    assert (one.train.images != other.train.images).mean() > 0.9
    assert not np.array_equal(one.train.images[:50], one.test.images[:50])


def test_synthetic_domains_differ_in_look_but_share_their_classes():
    data = load_dataset("synthetic", samples=3000, domains=3, channels=3, size=8, classes=4)
    towns = data.train.attributes["domain"]
    assert sorted(set(towns.tolist())) == ["domain_0", "domain_1", "domain_2"]
    looks = np.array([data.train.images[towns == town].mean((0, 2, 3)) for town in np.unique(towns)])
    assert np.ptp(looks, axis=0).max() > 10
    assert all(len(np.unique(data.train.labels[towns == town])) == 4 for town in np.unique(towns))
    assert data.shape == (3, 8, 8)


def learnt(data: DataSet, steps: int) -> float:
    """Test accuracy of a network with one hidden layer after so many steps of 64 samples."""
    import torch

    torch.manual_seed(0)
    x = torch.from_numpy(data.train.images).flatten(1).float() / 127.5 - 1
    y = torch.from_numpy(data.train.labels)
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    best = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(steps):
        batch = torch.randint(len(x), (64,))
        best.zero_grad()
        torch.nn.functional.cross_entropy(net(x[batch]), y[batch]).backward()
        best.step()
    test = torch.from_numpy(data.test.images).flatten(1).float() / 127.5 - 1
    return float((net(test).argmax(1).numpy() == data.test.labels).mean())


def test_synthetic_is_learnt_well_but_not_at_once():
    data = load_dataset("synthetic", samples=4000, test_samples=1000)
    early, late = learnt(data, 5), learnt(data, 400)
    assert early < 0.6
    assert late > 0.9


def test_synthetic_serves_large_populations_quickly():
    start = time.monotonic()
    assert len(load_dataset("synthetic", samples=200_000, size=8).train) == 200_000
    assert time.monotonic() - start < 10  # 0.2 s on one core; the bound only tells a loop from an array
