"""Any Hugging Face data set of labelled pictures: by its name on the hub, or as parquet files on disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .arrays import DataError, DataSet, ImageData, Int64Array
from .draws import count_of, generator, stratified
from .files import read_bytes
from .hub import Split, read_splits
from .options import did_you_mean
from .pictures import Size, decode_all

LABEL_NAMES = ("label", "labels", "target", "class", "fine_label", "category", "y")
TEST_NAMES = ("test", "validation", "valid", "val")


class _Columns(NamedTuple):
    image: str
    label: str
    attributes: Sequence[str]


def read_hf(
    root: str | Path | None,
    *,
    name: str | None = None,
    train_split: str = "train",
    test_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    attributes: Sequence[str] = (),
    test_share: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    size: Size = None,
    channels: Literal[1, 3] | None = None,
) -> DataSet:
    """Read a Hugging Face data set of labelled pictures.

    root: a parquet file, a folder of parquet files (their names open with the split, as in
    train-00000-of-00001.parquet), or a name on the hub such as "ylecun/mnist".
    name: the configuration on the hub. train_split, test_split: names of splits; the test split is by
    default the first of test, validation, valid, val. Where there is none, test_share of the train split
    is kept for testing, every class in proportion.
    image_column, label_column: found by their features if not given. attributes: columns to keep as
    natural keys. size, channels: as for `image_folder`; by default the pictures decide.

    Raises DataError if the hub does not answer, a split or column is missing or ambiguous, a picture does
    not decode, or a sample has no label.
    """
    if root is None:
        raise DataError("data set 'hf' needs root: a name on the Hugging Face hub, or parquet files")
    splits = read_splits(str(root), name)
    chosen = choose_splits(str(root), splits, train_split, test_split)
    columns = _columns(splits[train_split], image_column, label_column, attributes)
    labels, classes = labels_of(chosen, columns.label)
    parts = []
    for split, rows in chosen.items():
        images = _images(split, rows, columns.image, size, channels)
        keys = {key: value_column(split, rows, key) for key in columns.attributes}
        parts.append(ImageData(images, labels[split], keys))
        channels = 1 if images.shape[1] == 1 else 3  # the train pictures decide for the test pictures
    if len(parts) == 1:
        parts = held_out(parts[0], test_share)
    depth = parts[0].images.shape[1]
    return DataSet(f"hf:{root}", parts[0], parts[1], classes, (0.5,) * depth, (0.5,) * depth)


def choose_splits(root: str, splits: Mapping[str, Split], train: str, test: str | None) -> dict[str, Split]:
    """Return the train split and, if there is one, the test split, by name; by default the first of the usual names.

    Raises DataError for a name that is not among the splits.
    """
    for wanted in (train, test):
        if wanted is not None and wanted not in splits:
            hint = did_you_mean(wanted, splits)
            raise DataError(f"data set {root!r} has no split {wanted!r}{hint}; it has {', '.join(splits)}")
    if test == train:
        raise DataError(f"test_split is {test!r}, the train split; leave it out to keep test_share of it for testing")
    others = (split for split in TEST_NAMES if split in splits and split != train)
    names = (train, test if test is not None else next(others, None))
    return {split: splits[split] for split in names if split is not None}


def _columns(rows: Split, image: str | None, label: str | None, attributes: Sequence[str]) -> _Columns:
    if image is None:
        pictures = [column for column, kind in rows.features.items() if _is_image(kind)]
        image = only_column("image_column", pictures, rows)
    return _Columns(image, find_label(rows) if label is None else label, attributes)


def find_label(rows: Split) -> str:
    """Return the column of the labels, by its type or else its name; DataError where that is none or several."""
    import datasets

    classes = [column for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)]
    named = [column for column in LABEL_NAMES if column in rows.features]
    return only_column("label_column", ["label"] if "label" in classes else classes or named[:1], rows)


def only_column(option: str, found: list[str], rows: Split) -> str:
    """Return the one column that was found for an option; DataError for none and for several."""
    if len(found) == 1:
        return found[0]
    fault = f"may be any of {', '.join(found)}" if found else "was not found"
    raise DataError(f"{option} {fault}; name one of the columns: {', '.join(rows.features)}")


def _require(split: str, rows: Split, column: str) -> None:
    if column not in rows.features:
        hint = did_you_mean(column, rows.features)
        raise DataError(f"split {split!r} has no column {column!r}{hint}; it has {', '.join(rows.features)}")


def _is_image(kind: Any) -> bool:
    import datasets

    if isinstance(kind, Mapping):  # a file written without `datasets` shows the struct itself
        return "bytes" in kind
    return isinstance(kind, datasets.Image) or getattr(kind, "dtype", "") in ("binary", "large_binary")


def _images(split: str, rows: Split, column: str, size: Size, channels: int | None) -> NDArray[np.uint8]:
    _require(split, rows, column)
    if not _is_image(rows.features[column]):
        kind = rows.features[column]
        raise DataError(f"column {column!r} holds {kind}, not pictures (bytes, or bytes and path)")

    def pictures() -> Iterator[tuple[str, bytes]]:
        for row, cell in enumerate(rows.table.column(column)):
            where = f"split {split!r}, row {row}, column {column!r}"
            yield where, _cell_bytes(cell.as_py(), where)

    return decode_all(pictures(), rows.table.num_rows, channels, size)


def _cell_bytes(cell: Any, where: str) -> bytes:
    content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
    if content is not None:
        return bytes(content)
    if path:
        return read_bytes(Path(path))
    raise DataError(f"{where}: there is no picture")


def value_column(split: str, rows: Split, column: str) -> NDArray[Any]:
    """Return a column of numbers or texts as an array [n], class labels by their names."""
    _require(split, rows, column)
    values = np.asarray(rows.column(column))
    if values.dtype == object or values.ndim != 1:
        raise DataError(f"attribute {column!r} must be a column of numbers or texts without gaps")
    kind = rows.features[column]
    if hasattr(kind, "names") and len(values) and values.min() < 0:
        raise DataError(f"split {split!r}, row {int(values.argmin())}: attribute {column!r} holds no label (-1)")
    return np.asarray(kind.names)[values] if hasattr(kind, "names") else values


def labels_of(splits: Mapping[str, Split], column: str) -> tuple[dict[str, Int64Array], tuple[str, ...]]:
    """Return each split's labels as 0, 1, ... and the class names, which all splits share."""
    values: dict[str, list[Any]] = {}
    for split, rows in splits.items():
        _require(split, rows, column)
        values[split] = rows.column(column)
        for missing in (None, -1):
            if missing in values[split]:
                row = values[split].index(missing)
                raise DataError(
                    f"split {split!r}, row {row}: column {column!r} holds no label ({missing}); choose a labelled split"
                )
    kind = next(iter(splits.values())).features[column]
    if hasattr(kind, "names"):
        return {split: np.asarray(rows, np.int64) for split, rows in values.items()}, tuple(kind.names)
    if getattr(kind, "dtype", "") not in ("string", "large_string", "bool") and "int" not in str(kind):
        raise DataError(f"column {column!r} holds {kind}; labels are integers or texts")
    known = sorted({value for rows in values.values() for value in rows})
    number = {value: index for index, value in enumerate(known)}
    numbered = {split: np.array([number[value] for value in rows], np.int64) for split, rows in values.items()}
    return numbered, tuple(map(str, known))


def held_out(data: ImageData, share: float) -> list[ImageData]:
    """Return train and test part: a share of every class is kept for testing, the same in every run."""
    chosen = stratified(data.labels, count_of(share, len(data)), generator(0, "hf-test"))
    return [data.take(np.setdiff1d(np.arange(len(data)), chosen)), data.take(chosen)]
