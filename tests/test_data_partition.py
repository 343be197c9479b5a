import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbox.data import DataError, Partition, partition
from fedbox.data.dealers import _deal

KINDS = ["iid", "dirichlet", "pathological", "natural", "quantity"]


def labels_of(count: int, classes: int, seed: int = 0) -> np.ndarray:
    """Labels in which every class occurs."""
    rng = np.random.default_rng(seed)
    return rng.permutation(np.concatenate([np.arange(classes), rng.integers(classes, size=count - classes)]))


def parts(result: Partition) -> list[list[int]]:
    return [result.indices(client).tolist() for client in range(len(result))]


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    count=st.integers(60, 400),
    classes=st.integers(1, 6),
    clients=st.integers(1, 10),
    seed=st.integers(0, 2**63),
    balance=st.booleans(),
)
def test_every_sample_goes_to_exactly_one_client(kind, count, classes, clients, seed, balance):
    labels = labels_of(count, classes)
    towns = np.array(["a", "b", "c"])[np.arange(count) % 3]
    result = partition(
        labels,
        {"town": towns},
        kind=kind,
        clients=clients,
        seed=seed,
        alpha=1.0,
        min_size=0,
        classes_per_client=-(-classes // clients),
        key="town",
        balance=balance,
    )
    assert len(result) == clients
    assert np.sort(result.flat).tolist() == list(range(count))
    assert result.flat.dtype == result.offsets.dtype == np.int64
    for client in range(clients):
        assert (np.diff(result.indices(client)) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_seed_decides_and_nothing_else(kind):
    labels, town = labels_of(600, 10), np.arange(600) % 4

    def run(seed: int) -> Partition:
        return partition(labels, {"town": town}, kind=kind, clients=20, seed=seed, key="town")

    np.random.seed(0)
    one = run(7)
    np.random.seed(1)
    again, other = run(7), run(8)
    assert parts(one) == parts(again)
    assert parts(one) != parts(other)


def test_iid_shuffles_and_gives_equal_parts():
    labels = np.repeat(np.arange(10), 103)  # sorted by class, as files often are
    result = partition(labels, kind="iid", clients=4, seed=0)
    assert result.sizes.tolist() == [258, 258, 257, 257]
    for client in range(4):
        share = np.bincount(labels[result.indices(client)], minlength=10) / 258
        assert np.abs(share - 0.1).max() < 0.07


def test_iid_sizes_are_those_of_the_iid_partitioner():
    import datasets
    from flwr_datasets.partitioner import IidPartitioner

    reference = IidPartitioner(7)
    reference.dataset = datasets.Dataset.from_dict({"row": range(100)})
    sizes = [len(reference.load_partition(part)) for part in range(7)]
    assert partition(labels_of(100, 3), kind="iid", clients=7, seed=0).sizes.tolist() == sizes


@pytest.mark.parametrize("name", ["dirichlet", "pathological", "natural", "linear"])
def test_the_shortcut_into_flwr_datasets_agrees_with_its_public_way(name):
    """`_deal` reads a private table; a release that fills it otherwise must show here."""
    import datasets
    from flwr_datasets import partitioner as dealers

    def dealer() -> dealers.Partitioner:
        return {
            "dirichlet": lambda: dealers.DirichletPartitioner(5, "label", 0.5, 0, seed=3, shuffle=False),
            "pathological": lambda: dealers.PathologicalPartitioner(5, "label", 2, seed=3, shuffle=False),
            "natural": lambda: dealers.GroupedNaturalIdPartitioner("label", 1, sort_unique_ids=True),
            "linear": lambda: dealers.LinearPartitioner(5),
        }[name]()

    labels = labels_of(300, 5)
    public = dealer()
    public.dataset = datasets.Dataset.from_dict({"row": range(300), "label": labels})
    expected = [public.load_partition(part)["row"][:] for part in range(5)]
    assert [list(part) for part in _deal(dealer(), label=labels)] == expected


def test_the_way_out_without_the_private_table_agrees():
    from flwr_datasets.partitioner import IidPartitioner  # the one that has no table

    assert _deal(IidPartitioner(3), label=np.zeros(7, np.int64)) == [[0, 1, 2], [3, 4], [5, 6]]


def skew(labels: np.ndarray, result: Partition) -> float:
    """Mean share of a client's commonest class."""
    counts = [np.bincount(labels[result.indices(client)]) for client in range(len(result))]
    return float(np.mean([count.max() / count.sum() for count in counts]))


def test_a_smaller_alpha_means_more_skew():
    labels = labels_of(5000, 10)
    found = [
        skew(labels, partition(labels, kind="dirichlet", clients=10, seed=0, alpha=alpha))
        for alpha in (0.1, 1.0, 100.0)
    ]
    assert found[0] > 0.45 > found[1] > 0.2 > found[2] > 0.1


def test_dirichlet_draws_until_min_size_is_met():
    labels = labels_of(2000, 10)
    loose = partition(labels, kind="dirichlet", clients=20, seed=0, alpha=0.1, min_size=0)
    assert loose.sizes.min() < 12
    assert partition(labels, kind="dirichlet", clients=20, seed=0, alpha=0.1, min_size=12).sizes.min() >= 12


def test_balancing_keeps_clients_near_the_average():
    labels = labels_of(4000, 10)
    loose, even = (
        partition(labels, kind="dirichlet", clients=10, seed=0, alpha=0.3, balance=balance) for balance in (False, True)
    )
    assert even.sizes.max() < loose.sizes.max()


@pytest.mark.parametrize(("clients", "each"), [(20, 2), (10, 3), (5, 2), (3, 4), (1, 10), (30, 10)])
@pytest.mark.parametrize("kind", ["pathological", "label-k"])
def test_pathological_clients_hold_exactly_so_many_classes(kind, clients, each):
    labels = labels_of(1500, 10)
    result = partition(labels, kind=kind, clients=clients, seed=1, classes_per_client=each)
    held = [len(np.unique(labels[result.indices(client)])) for client in range(clients)]
    assert held == [each] * clients


def test_natural_clients_follow_the_sorted_key():
    weather = np.array(["sun", "fog", "rain", "fog", "sun", "fog"])
    result = partition(np.zeros(6, np.int64), {"weather": weather}, kind="natural", key="weather", seed=0)
    assert result.keys == ("fog", "rain", "sun")
    assert parts(result) == [[1, 3, 5], [2], [0, 4]]


def test_natural_numbers_sort_as_numbers():
    result = partition(np.zeros(3, np.int64), {"town": np.array([10, 9, 2])}, kind="natural", key="town", seed=0)
    assert result.keys == ("2", "9", "10")


def test_more_clients_than_values_share_each_value_evenly():
    weather = np.array(["fog"] * 340 + ["rain"] * 990 + ["sun"] * 1000)
    result = partition(
        np.zeros(len(weather), np.int64), {"weather": weather}, kind="natural", key="weather", clients=100, seed=0
    )
    assert [result.keys.count(key) for key in ("fog", "rain", "sun")] == [34, 33, 33]
    assert list(result.keys) == sorted(result.keys)
    for client, key in enumerate(result.keys):
        assert set(weather[result.indices(client)]) == {key}
    assert result.sizes[:34].tolist() == [10] * 34
    assert set(result.sizes[34:67].tolist()) == {30}
    assert set(result.sizes[67:].tolist()) == {30, 31}


def test_fewer_clients_than_values_group_neighbours():
    town = np.arange(10) % 5
    result = partition(np.zeros(10, np.int64), {"town": town}, kind="natural", key="town", clients=2, seed=0)
    assert result.keys == ("0+1+2", "3+4")
    assert parts(result)[1] == [3, 4, 8, 9]


def test_quantity_profiles_grow_as_named():
    labels = np.zeros(1000, np.int64)

    def sizes(profile: str) -> list[int]:
        return partition(labels, kind="quantity", clients=4, seed=0, profile=profile).sizes.tolist()

    assert sizes("linear") == [100, 200, 300, 400]
    assert sizes("square") == [33, 133, 300, 534]  # 1, 4, 9, 16 thirtieths, the rest to the last
    first = 1000 / (1 + np.e + np.e**2 + np.e**3)
    np.testing.assert_allclose(sizes("exponential"), first * np.exp(np.arange(4)), atol=3)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"kind": "dirichlt"}, r"unknown partition kind 'dirichlt' \(did you mean 'dirichlet'\?\); known are iid"),
        ({"kind": "iid", "clients": None}, "'iid' needs clients"),
        ({"kind": "iid", "clients": 101}, "101 clients cannot share 100 samples"),
        ({"kind": "iid", "clients": 0}, "0 clients cannot share"),
        ({"kind": "dirichlet", "alpha": 0.0}, "alpha must be above 0, got 0.0"),
        ({"kind": "dirichlet", "min_size": 20}, "need 200; there are 100: lower data.partition.min_size"),
        (
            {"kind": "dirichlet", "min_size": 10, "alpha": 0.05},
            r"alpha 0.05 over 10 clients and 100 samples .* in 200 draws, below min_size 10: choose a larger alpha",
        ),
        ({"kind": "label-k", "classes_per_client": 11}, r"1\.\.10, the number of classes; got 11"),
        ({"kind": "label-k", "clients": 4}, "at least 5 clients or 3 classes each"),
        ({"kind": "label-k", "clients": 100, "classes_per_client": 5}, "fewer clients or fewer classes_per_client"),
        ({"kind": "natural"}, "needs key, the name of an attribute; the data has town"),
        ({"kind": "natural", "key": "twon"}, r"found no attribute 'twon' \(did you mean 'town'\?\)"),
        ({"kind": "natural", "key": "town", "clients": 60}, "which has 3 samples; choose fewer clients"),
        ({"kind": "quantity", "profile": "cubic"}, "unknown profile 'cubic'; known are linear"),
        ({"kind": "quantity", "profile": "exponential"}, "leaves some with none of the 100 samples"),
        ({"kind": "quantity", "clients": 30}, "choose fewer clients or a flatter profile"),
    ],
)
def test_a_wish_that_cannot_be_granted_is_refused_soon_with_remedies(wish, message):
    town = np.array(["big"] * 97 + ["tiny"] * 3)
    start = time.monotonic()
    with pytest.raises(DataError, match=message):
        partition(labels_of(100, 10), {"town": town}, **{"clients": 10, "seed": 0} | wish)
    assert time.monotonic() - start < 30


def test_a_hundred_thousand_clients_take_seconds():
    labels = labels_of(200_000, 10)
    start = time.monotonic()
    result = partition(labels, kind="iid", clients=100_000, seed=0)
    assert time.monotonic() - start < 20  # 0.2 s on one core; by load_partition it would be 40 s and more
    assert result.sizes.tolist() == [2] * 100_000


def test_the_library_prints_and_warns_nothing(capfd, recwarn):
    labels, town = labels_of(300, 10), np.arange(300) % 3
    for kind in KINDS:
        partition(labels, {"town": town}, kind=kind, clients=15, seed=0, alpha=0.1, key="town")
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    assert not list(recwarn)


def test_mapped_speaks_of_the_larger_array():
    rows = np.array([2, 3, 5, 8])
    result = partition(np.zeros(4, np.int64), kind="iid", clients=2, seed=0)
    assert [rows[part].tolist() for part in parts(result)] == parts(result.mapped(rows))


def test_a_partition_checks_itself():
    flat = np.arange(4)
    with pytest.raises(DataError, match="offsets must rise from 0 to the 4 samples"):
        Partition(np.array([0, 3]), flat)
    with pytest.raises(DataError, match="2 clients but 1 keys"):
        Partition(np.array([0, 3, 4]), flat, ("a",))
    with pytest.raises(DataError, match=r"client 2 does not exist; the partition has clients 0..1"):
        Partition(np.array([0, 3, 4]), flat).indices(2)
    assert Partition(np.array([0, 3, 4]), flat).owners.tolist() == [0, 0, 0, 1]
