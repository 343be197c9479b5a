import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedbox.data import DataError, assign_roles, holdout, server_share
from fedbox.data.draws import generator, stratified

LABELS = np.repeat(np.arange(10), 100)
SHARES = st.floats(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(0, 60),
    test_share=SHARES,
    label_share=st.none() | SHARES,
    seed=st.integers(0, 2**63),
    even=st.booleans(),
)
def test_roles_divide_what_the_client_holds(count, test_share, label_share, seed, even):
    indices = np.sort(np.random.default_rng(1).choice(1000, count, replace=False))
    roles = assign_roles(
        indices,
        LABELS,
        client="a",
        seed=seed,
        test_share=test_share,
        label_share=label_share,
        stratified=even,
    )
    together = np.concatenate([roles.labelled, roles.unlabelled, roles.test])
    assert np.sort(together).tolist() == indices.tolist()
    for part in (roles.labelled, roles.unlabelled, roles.test):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all()
    assert len(roles.test) <= test_share * count + 1e-6
    if count:
        assert len(roles.labelled) + len(roles.unlabelled) >= 1
        assert bool(len(roles.labelled)) == (label_share is None or label_share > 0)


@pytest.mark.parametrize(
    ("wish", "sizes"),
    [
        ({}, (100, 0, 0)),
        ({"label_share": 1.0}, (100, 0, 0)),
        ({"label_share": 0.0}, (0, 100, 0)),
        ({"label_share": 0.001}, (1, 99, 0)),
        ({"label_share": 0.29}, (29, 71, 0)),  # 0.29 * 100 is 28.999...
        ({"label_count": 7}, (7, 93, 0)),
        ({"label_count": 0}, (0, 100, 0)),
        ({"label_count": 1000, "test_share": 0.255}, (75, 0, 25)),
        ({"label_share": 0.5, "test_share": 0.2}, (40, 40, 20)),
        ({"test_share": 1.0}, (1, 0, 99)),
    ],
)
def test_how_many_of_a_hundred(wish, sizes):
    roles = assign_roles(np.arange(100), LABELS, client="a", seed=0, **{"test_share": 0.0} | wish)
    assert (len(roles.labelled), len(roles.unlabelled), len(roles.test)) == sizes


def test_roles_depend_on_seed_and_client_only():
    def run(client: str, seed: int) -> list[int]:
        roles = assign_roles(np.arange(500), LABELS, client=client, seed=seed, test_share=0.2, label_share=0.3)
        return [*roles.labelled.tolist(), -1, *roles.test.tolist()]

    assert run("a", 1) == run("a", 1)
    assert run("a", 1) != run("b", 1)
    assert run("a", 1) != run("a", 2)


def test_the_test_share_does_not_move_with_the_labels():
    few, many = (
        assign_roles(np.arange(500), LABELS, client="a", seed=1, test_share=0.2, label_share=share)
        for share in (0.1, 0.9)
    )
    assert few.test.tolist() == many.test.tolist()


def test_other_clients_labels_are_not_looked_at():
    indices = np.arange(0, 300)
    changed = LABELS.copy()
    changed[300:] = 0
    one, other = (
        assign_roles(indices, labels, client="a", seed=0, test_share=0.1, label_share=0.2, stratified=True)
        for labels in (LABELS, changed)
    )
    assert one.labelled.tolist() == other.labelled.tolist()


def test_stratified_labels_keep_the_proportions_of_the_client():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    roles = assign_roles(np.arange(1000), labels, client="a", seed=0, test_share=0, label_share=0.1, stratified=True)
    assert np.bincount(labels[roles.labelled]).tolist() == [60, 30, 10]


def test_uniform_labels_vary_from_client_to_client():
    labels = np.repeat([0, 1], 500)
    drawn = [
        int(labels[assign_roles(np.arange(1000), labels, client=str(n), seed=0, label_share=0.1).labelled].sum())
        for n in range(200)
    ]
    assert np.mean(drawn) == pytest.approx(50, abs=1.5)
    assert np.std(drawn) == pytest.approx(4.75, abs=1.2)  # hypergeometric: 100 of 1000, half of each


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"test_share": 1.5}, "test_share is a share from 0 to 1, got 1.5"),
        ({"label_share": -0.1}, "label_share is a share from 0 to 1"),
        ({"label_share": float("nan")}, "label_share is a share"),
        ({"label_count": -1}, "label_count must be at least 0, got -1"),
        ({"label_share": 0.1, "label_count": 3}, "not both"),
    ],
)
def test_wrong_wishes_are_refused(wish, message):
    with pytest.raises(DataError, match=message):
        assign_roles(np.arange(10), LABELS, client="a", seed=0, **wish)


def test_the_server_gets_every_class():
    labels = np.concatenate([np.zeros(990, np.int64), np.arange(1, 11)])
    held, rest = server_share(labels, count=20, seed=0)
    assert np.unique(labels[held]).tolist() == list(range(11))
    assert len(held) == 20
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(1000))


@pytest.mark.parametrize(("share", "size"), [(0.0, 0), (0.1, 100), (0.5, 500), (1.0, 1000)])
def test_the_server_share_is_balanced_like_the_data(share, size):
    held, rest = server_share(LABELS, share, seed=3)
    assert (len(held), len(rest)) == (size, 1000 - size)
    assert np.bincount(LABELS[held], minlength=10).tolist() == [size // 10] * 10
    assert held.dtype == rest.dtype == np.int64


def test_holdout_is_another_draw_than_the_server_share():
    held, _ = holdout(LABELS, 0.1, seed=3)
    assert len(held) == 100
    assert held.tolist() != server_share(LABELS, 0.1, seed=3)[0].tolist()
    assert held.tolist() == holdout(LABELS, 0.1, seed=3)[0].tolist()


@pytest.mark.parametrize("wish", [{}, {"share": 0.1, "count": 3}, {"count": 1001}, {"count": -1}, {"share": 2.0}])
def test_wrong_server_wishes_are_refused(wish):
    with pytest.raises(DataError, match="server"):
        server_share(LABELS, **wish, seed=0)


@settings(max_examples=80, deadline=None)
@given(
    labels=st.lists(st.integers(0, 6), max_size=60),
    count=st.integers(0, 70),
    seed=st.integers(0, 100),
)
def test_stratified_counts_are_within_one_of_proportional(labels, count, seed):
    values = np.array(labels, np.int64)
    chosen = stratified(values, count, generator(seed, "test"))
    assert len(chosen) == min(count, len(values))
    assert len(np.unique(chosen)) == len(chosen)
    if not len(values) or not count:
        return
    total, drawn = np.bincount(values, minlength=7), np.bincount(values[chosen], minlength=7)
    exact = total * min(count, len(values)) / len(values)
    assert (drawn <= total).all()
    if count >= (total > 0).sum():
        assert (drawn[total > 0] >= 1).all()
    if (exact[total > 0] >= 1).all():
        assert (np.abs(drawn - exact) < 1).all()


def test_stratified_ties_do_not_favour_low_labels():
    labels = np.repeat(np.arange(10), 10)
    drawn = np.bincount(np.concatenate([labels[stratified(labels, 3, generator(seed, "test"))] for seed in range(500)]))
    assert drawn.min() > 100  # 150 expected for each class


def test_the_generator_is_pinned():
    """Saved runs must stay repeatable: a change of this number changes every experiment."""
    assert generator(7, "partition", "client-3").integers(2**32, size=2).tolist() == PINNED


PINNED = [4201201585, 2127642145]
