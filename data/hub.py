"""Where the rows of a Hugging Face data set come from: parquet files on disk, or the hub."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .arrays import DataError

_SECONDS = 10
_REMEDY = "give a local parquet file or folder as root, or set HF_HUB_OFFLINE=1 to use what is cached"


class Split(NamedTuple):
    """The rows of one split: a pyarrow table, pictures not decoded, and its `datasets` features by column."""

    table: Any
    features: Mapping[str, Any]

    def column(self, name: str) -> list[Any]:
        """Return a column as a list of Python values."""
        values: list[Any] = self.table.column(name).to_pylist()
        return values


def read_splits(root: str, name: str | None) -> dict[str, Split]:
    """Return the splits of a parquet file or folder, or of of `root` on the hub (configuration `name`).

    A single file is the split "train"; of several the name opens with the split, up to the first hyphen.
    Raises DataError for a path that does not exist, an unreadable file, or a hub that does not answer.
    """
    path = Path(root).expanduser()
    if path.exists():
        return _local(path)
    if path.suffix == ".parquet" or path.is_absolute() or root.startswith((".", "~")) or root.count("/") > 1:
        raise DataError(f"data.root: {str(path)!r} does not exist")
    return as_splits(_from_hub(root, name))


def as_splits(loaded: Mapping[str, Any]) -> dict[str, Split]:
    """Return the splits of a `datasets.DatasetDict`."""
    # Chosen or shuffled rows are an index beside the table; flattening makes the table what it seems to be.
    flat = {split: part.flatten_indices() for split, part in loaded.items()}
    return {split: Split(part.data.table, part.features) for split, part in flat.items()}


def _local(path: Path) -> dict[str, Split]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]
    from datasets import Features

    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    if not files:
        raise DataError(f"data.root: {path} holds no .parquet files")
    tables: dict[str, list[Any]] = {}
    for file in files:
        # data/train-00000-of-00002.parquet and train.parquet both belong to the split "train".
        split = file.stem.split("-")[0] if len(files) > 1 else "train"
        try:
            tables.setdefault(split, []).append(pq.ParquetFile(file).read())
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{file} is no readable parquet file: {error}") from error
    try:
        joined = {split: pa.concat_tables(parts) for split, parts in tables.items()}
    except pa.ArrowException as error:
        raise DataError(f"the parquet files in {path} differ in their columns: {error}") from error
    return {split: Split(table, Features.from_arrow_schema(table.schema)) for split, table in joined.items()}


def _from_hub(root: str, name: str | None) -> Any:
    import datasets
    from huggingface_hub import HfApi, constants

    try:
        if not constants.HF_HUB_OFFLINE:
            # Asked once with a short limit, because load_dataset itself retries for half a minute.
            HfApi().dataset_info(root, timeout=_SECONDS)
        return datasets.load_dataset(root, name)
    except Exception as error:  # the hub's client raises httpx errors, OSError and ValueError alike
        fault = f"{type(error).__name__}: {error}"
        raise DataError(f"data set {root!r} cannot be had from the Hugging Face hub ({fault}); {_REMEDY}") from error
