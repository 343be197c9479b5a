"""Data sets by name: the built-in readers, those of other packages, and the options all share."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from .arrays import DataError, DataSet, ImageData
from .cifar import read_cifar10_jpeg
from .digits import read_digits
from .draws import generator
from .folder import read_image_folder
from .hf import read_hf
from .idx import read_fashion_mnist, read_kmnist, read_mnist
from .options import Reader, call_checked, check_names, did_you_mean, options_of
from .synthetic import read_synthetic

DATASETS: Mapping[str, Reader] = MappingProxyType(
    {
        "cifar10_jpeg": read_cifar10_jpeg,
        "digits": read_digits,
        "fashion_mnist": read_fashion_mnist,
        "hf": read_hf,
        "image_folder": read_image_folder,
        "kmnist": read_kmnist,
        "mnist": read_mnist,
        "synthetic": read_synthetic,
    }
)
ENTRY_POINTS = "fedbox.datasets"


def load_dataset(dataset: str, root: str | Path | None = None, **options: Any) -> DataSet:
    """Read a data set into memory.

    dataset: a name in DATASETS, a name in the entry-point group `fedbox.datasets`, or `module:callable`,
    which is called as callable(root, **options) and must return a DataSet.
    root: where its files lie; `hf` also takes the name of a data set on the Hugging Face hub; `digits`
    and `synthetic` need none.
    options: what the reader declares (see `dataset_options`). Every data set also takes limit and
    test_limit (keep so many samples, the first of a fixed shuffle, in their old order) and mean and std
    (one value a channel, on the scale 0..1).

    Raises DataError for an unknown name or option, a value out of range, or data that cannot be read.
    """
    reader, built_in = _find(dataset)
    check_names(dataset, reader, options, options_of(_finish))
    common = {name: options.pop(name) for name in options_of(_finish) if name in options}
    result = call_checked(dataset, reader, root, **options) if built_in else reader(root, **options)
    if not isinstance(result, DataSet):
        raise DataError(
            f"data set {dataset!r} returned a {type(result).__name__}; it must return a fedbox.data.DataSet"
        )
    finished: DataSet = call_checked(dataset, _finish, result, **common)
    return finished


def available_datasets() -> list[str]:
    """Return the names of the built-in readers and of those that installed packages add, sorted."""
    return sorted({*DATASETS, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def dataset_options(dataset: str) -> dict[str, Any]:
    """Return the options that a data set takes, each with its default."""
    return {**options_of(_find(dataset)[0]), **options_of(_finish)}


def _find(dataset: str) -> tuple[Reader, bool]:
    """Return the reader and whether it is one of ours, whose annotations can be enforced."""
    if dataset in DATASETS:
        return DATASETS[dataset], True
    if ":" in dataset:
        return _imported(dataset), False
    for point in entry_points(group=ENTRY_POINTS, name=dataset):
        return _callable(dataset, point.load()), False
    known = available_datasets()
    raise DataError(
        f"unknown data set {dataset!r}{did_you_mean(dataset, known)}; known are {', '.join(known)}, "
        "or name your own as module:callable"
    )


def _imported(dataset: str) -> Reader:
    module, _, attribute = dataset.partition(":")
    try:
        return _callable(dataset, getattr(importlib.import_module(module), attribute))
    except (ImportError, AttributeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"data set {dataset!r} cannot be imported: {error}") from error


def _callable(dataset: str, found: object) -> Reader:
    if not callable(found):
        raise DataError(f"data set {dataset!r} is a {type(found).__name__}; it must be a callable(root, **options)")
    return found


def _finish(
    data: DataSet,
    *,
    limit: Annotated[int, Field(ge=1)] | None = None,
    test_limit: Annotated[int, Field(ge=0)] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> DataSet:
    return replace(
        data,
        train=_limited(data.train, limit, "train"),
        test=_limited(data.test, test_limit, "test"),
        mean=data.mean if mean is None else mean,
        std=data.std if std is None else std,
    )


def _limited(data: ImageData, limit: int | None, part: str) -> ImageData:
    if limit is None or limit >= len(data):
        return data
    # A fixed seed: the same limit means the same samples in every experiment, whatever its own seed.
    kept = generator(0, f"limit-{part}").permutation(len(data))[:limit]
    kept.sort()
    return data.take(kept)
