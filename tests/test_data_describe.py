import numpy as np
import pytest
from PIL import Image

from fedbox.data import DataError, Partition, Roles, assign_roles, client_table, partition, plot_partition

LABELS = np.array([0, 1, 2, 0, 1, 2, 0])


def index(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_the_table_counts_each_role():
    parts = Partition(index(0, 4, 7), index(0, 1, 2, 3, 4, 5, 6))
    roles = [Roles(index(0, 1), index(3), index(2)), Roles(index(), index(4, 5, 6), index())]
    table = client_table(parts, LABELS, 4, roles)
    assert table.labelled.tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert table.unlabelled.tolist() == [[1, 0, 0, 0], [1, 1, 1, 0]]
    assert table.test.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0]]
    assert table.total.tolist() == client_table(parts, LABELS, 4).labelled.tolist()


def test_the_table_of_a_real_partition_adds_up():
    labels = np.random.default_rng(0).integers(5, size=1000)
    parts = partition(labels, kind="dirichlet", clients=30, seed=0)
    roles = [
        assign_roles(parts.indices(client), labels, client=str(client), seed=0, test_share=0.2, label_share=0.3)
        for client in range(30)
    ]
    table = client_table(parts, labels, 5, roles)
    assert table.total.sum(0).tolist() == np.bincount(labels).tolist()
    assert table.total.sum(1).tolist() == parts.sizes.tolist()
    assert table.test.sum(1).tolist() == [len(role.test) for role in roles]


def test_the_table_wants_roles_for_all():
    with pytest.raises(DataError, match="2 clients need 2 roles, got 0"):
        client_table(Partition(index(0, 4, 7), np.arange(7)), LABELS, 3, [])


def columns_with_ink(path) -> int:
    """How many columns of the picture hold the dark blue of a full cell."""
    pixels = np.asarray(Image.open(path).convert("RGB"), np.int64)
    return int((np.abs(pixels - (1, 42, 74)).sum(2) < 8).any(0).sum())


@pytest.mark.parametrize("clients", [1, 5, 40, 200])
def test_the_picture_shows_every_client(tmp_path, clients):
    counts = np.zeros((clients, 10), np.int64)
    counts[np.arange(clients), np.arange(clients) % 10] = 50
    path = tmp_path / "partition.png"
    plot_partition(counts, [f"class {n}" for n in range(10)], path, "Dirichlet, alpha 0.5")
    width, height = Image.open(path).size
    assert width <= 3000
    assert height <= 2000
    # Each client's one full cell leaves its colour in its own columns.
    half = counts.copy()
    half[::2] = 0
    other = tmp_path / "half.png"
    plot_partition(half, [f"class {n}" for n in range(10)], other)
    assert columns_with_ink(path) > 1.5 * columns_with_ink(other)


def test_keys_and_many_clients_and_classes_are_drawn(tmp_path):
    counts = np.random.default_rng(0).integers(0, 9, (300, 100))
    classes = [str(n) for n in range(100)]
    for name, keys in (("few", ["fog"] * 150 + ["sun"] * 150), ("many", [f"town {n // 10}" for n in range(300)])):
        plot_partition(counts, classes, tmp_path / f"{name}.png", "by town", keys)
        plot_partition(counts, classes, tmp_path / f"{name}.svg", "by town", keys)
        assert (tmp_path / f"{name}.svg").read_text().count("<path") > 200
        assert Image.open(tmp_path / f"{name}.png").size[0] > 1000


def test_drawing_leaves_no_figure_behind(tmp_path):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    plot_partition(np.ones((2, 2), np.int64), ["a", "b"], tmp_path / "x.png")
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize(
    ("counts", "classes", "keys", "name", "message"),
    [
        (np.ones((2, 3), np.int64), ["a", "b"], None, "x.png", "3 classes, but 2 names"),
        (np.ones((2, 2), np.int64), ["a", "b"], ["k"], "x.png", "2 clients but 1 keys"),
        (np.ones((0, 2), np.int64), ["a", "b"], None, "x.png", r"got shape \(0, 2\)"),
        (np.ones((2, 2), np.int64), ["a", "b"], None, "x.docx", "cannot be written"),
        (np.ones((2, 2), np.int64), ["a", "b"], None, "no/such/folder/x.png", "cannot be written"),
    ],
)
def test_what_cannot_be_drawn_is_named(tmp_path, counts, classes, keys, name, message):
    with pytest.raises(DataError, match=message):
        plot_partition(counts, classes, tmp_path / name, keys=keys)
