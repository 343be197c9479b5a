"""Data sets by name: the built-in readers, those of other packages, and the options all share."""

import importlib
import inspect
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field

from .annotations_coco import read_coco, read_soda10m
from .annotations_driving import read_bdd100k, read_cityscapes
from .annotations_voc import read_voc
from .annotations_yolo import read_yolo
from .arrays import DataError, DataSet, ImageData
from .boxes_data import BoxData, BoxSet
from .cifar import read_cifar10_jpeg
from .digits import read_digits
from .draws import generator
from .folder import read_image_folder
from .hf import read_hf
from .hf_text import read_hf_text
from .idx import read_fashion_mnist, read_kmnist, read_mnist
from .options import Reader, call_checked, check_names, did_you_mean, options_of, unknown_names
from .scenes import read_scenes
from .synthetic import read_synthetic
from .topics import read_topics

DATASETS: Mapping[str, Reader] = MappingProxyType(
    {
        "bdd100k": read_bdd100k,
        "cifar10_jpeg": read_cifar10_jpeg,
        "cityscapes": read_cityscapes,
        "coco": read_coco,
        "digits": read_digits,
        "fashion_mnist": read_fashion_mnist,
        "hf": read_hf,
        "hf_text": read_hf_text,
        "image_folder": read_image_folder,
        "kmnist": read_kmnist,
        "mnist": read_mnist,
        "scenes": read_scenes,
        "soda10m": read_soda10m,
        "synthetic": read_synthetic,
        "topics": read_topics,
        "voc": read_voc,
        "yolo": read_yolo,
    }
)
ENTRY_POINTS = "fedbox.datasets"


def load_dataset(dataset: str, root: str | Path | None = None, **options: Any) -> DataSet | BoxSet:
    """Read a data set, into memory unless its options say otherwise.

    dataset: a name in DATASETS, a name in the entry-point group `fedbox.datasets`, or `module:callable`,
    which is called as callable(root, **options) and must return a DataSet.
    root: where its files lie; `hf` also takes the name of a data set on the Hugging Face hub; `digits`
    and `synthetic` need none.
    options: what the reader declares (see `dataset_options`). Every data set also takes limit and
    test_limit (keep so many samples, the first of a fixed shuffle, in their old order) and mean and std
    (one value a channel, on the scale 0..1).

    Raises DataError for an unknown name or option, a value out of range, a root where nothing is read, data that
    cannot be read, or a failure of the callable.
    """
    reader, built_in = _find(dataset)
    if root is not None and not reads_files(dataset):
        raise DataError(
            f"data set {dataset!r} reads no files, yet root is {str(root)!r}; name a data set that reads them by "
            "data.dataset, such as image_folder, or leave the root (data.root, --data) out"
        )
    check_names(dataset, reader, options, options_of(_finish))
    # Some readers take a limit themselves, so that what is not wanted need not be read.
    own = options_of(reader)
    common = {name: options.pop(name) for name in options_of(_finish) if name in options and name not in own}
    result = call_checked(dataset, reader, root, **options) if built_in else _foreign(dataset, reader, root, options)
    if not isinstance(result, (DataSet, BoxSet)):
        raise DataError(
            f"data set {dataset!r} returned a {type(result).__name__}; it must return a fedbox.data.DataSet or BoxSet"
        )
    finished: DataSet | BoxSet = call_checked(dataset, _finish, result, **common)
    return finished


def available_datasets() -> list[str]:
    """Return the names of the built-in readers and of those that installed packages add, sorted."""
    return sorted({*DATASETS, *(point.name for point in entry_points(group=ENTRY_POINTS))})


def dataset_options(dataset: str) -> dict[str, Any]:
    """Return the options that a data set takes, each with its default."""
    return {**options_of(_find(dataset)[0]), **options_of(_finish)}


def foreign_options(dataset: str, names: Iterable[str]) -> list[str]:
    """Return those of the names that are no options of the data set. Raises DataError when there is none."""
    return unknown_names(_find(dataset)[0], names, options_of(_finish))


def reads_files(dataset: str) -> bool:
    """Say whether a data set reads files; false of fedbox's own that lie in it or are made, whose root is optional."""
    reader, built_in = _find(dataset)
    return not built_in or inspect.signature(reader).parameters["root"].default is inspect.Parameter.empty


def _foreign(dataset: str, reader: Reader, root: str | Path | None, options: Mapping[str, Any]) -> object:
    """Call a reader that is not ours; what it raises is its fault, told by the last line of its own that it passed."""
    try:
        return reader(root, **options)
    except (DataError, MemoryError):
        raise
    except Exception as error:
        steps = traceback.walk_tb(error.__traceback__)
        own = [step for step in steps if step[0].f_globals.get("__name__") == getattr(reader, "__module__", None)]
        place = "".join(f" ({Path(frame.f_code.co_filename).name}, line {line})" for frame, line in own[-1:])
        raise DataError(f"data set {dataset!r} failed: {type(error).__name__}: {error}{place}") from error


def _find(dataset: str) -> tuple[Reader, bool]:
    """Return the reader and whether it is one of ours, whose annotations can be enforced."""
    if dataset in DATASETS:
        return DATASETS[dataset], True
    if ":" in dataset:
        return _imported(dataset, dataset), False
    for point in entry_points(group=ENTRY_POINTS, name=dataset):
        return _imported(dataset, point.value), False
    known = available_datasets()
    raise DataError(
        f"unknown data set {dataset!r}{did_you_mean(dataset, known)}; known are {', '.join(known)}, "
        "or name your own as module:callable"
    )


def _imported(dataset: str, target: str) -> Reader:
    module, _, attribute = target.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (Exception, SystemExit) as error:  # whatever a plugin's import raises is its fault, to be told by name
        raise DataError(f"data set {dataset!r} cannot be imported: {type(error).__name__}: {error}") from error
    return _callable(dataset, found)


def find_reader(dataset: str) -> Reader:
    """Return the callable that reads a data set; see load_dataset. Raises DataError when there is none."""
    return _find(dataset)[0]


def _callable(dataset: str, found: object) -> Reader:
    if not callable(found):
        raise DataError(f"data set {dataset!r} is a {type(found).__name__}; it must be a callable(root, **options)")
    return found


def _finish(
    data: DataSet | BoxSet,
    *,
    limit: Annotated[int, Field(ge=1)] | None = None,
    test_limit: Annotated[int, Field(ge=0)] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
) -> DataSet | BoxSet:
    whole: Any = data
    changed: DataSet | BoxSet = replace(
        whole,
        train=_limited(data.train, limit, "train"),
        test=_limited(data.test, test_limit, "test"),
        mean=data.mean if mean is None else mean,
        std=data.std if std is None else std,
    )
    return changed


def _limited(data: ImageData | BoxData, limit: int | None, part: str) -> ImageData | BoxData:
    if limit is None or limit >= len(data):
        return data
    # A fixed seed: the same limit means the same samples in every experiment, whatever its own seed.
    kept = generator(0, f"limit-{part}").permutation(len(data))[:limit]
    kept.sort()
    return data.take(kept)
