"""Any Hugging Face data set of labelled texts, as the tokens of a tokenizer: for `model=hf_text`.

A sentence is an "image" [3, 1, length]. A token's number plus one is written in base 256 over the three channels, the
highest digit first; 0 in all of them fills up behind the last token. Normalised by mean 0 and std 1/255 the network
receives the digits themselves, so that texts go the ways of images: partitions, labels, batches, the wire.
"""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from .arrays import DataError, ImageData, TextSet, UInt8Array
from .hf import choose_splits, find_label, held_out, labels_of, only_column, value_column
from .hub import Split, read_splits

TEXT_NAMES = ("text", "sentence", "content", "review")
MASK = "mask"
_DIGITS = 3


def read_hf_text(
    root: str | Path | None,
    *,
    tokenizer: str | None = None,
    revision: str | None = None,
    length: Annotated[int, Field(ge=4, le=4096)] = 64,
    template: str | None = None,
    keep: Literal["start", "end"] = "start",
    name: str | None = None,
    train_split: str = "train",
    test_split: str | None = None,
    label_column: str | None = None,
    attributes: Sequence[str] = (),
    test_share: Annotated[float, Field(ge=0, lt=1)] = 0.2,
) -> TextSet:
    """Read labelled texts as tokens, uint8 [n, 3, 1, length]; needs the extra `text`.

    root, name, train_split, test_split, label_column, attributes, test_share: as for `hf`.
    tokenizer: a folder as transformers' save_pretrained writes it, or a name on the hub, that of the model to be
    trained; revision: branch, tag or commit there.
    template: what is tokenized, with the columns of a row in braces, as in "{sentence} It was {mask}."; {mask} is the
    tokenizer's mask token. By default the column text, sentence, content or review.
    keep: which end of a text stays when it has more than `length` tokens; "end" where the template ends in a prompt.

    Raises DataError as `hf` does, for a tokenizer that cannot be had, and for a template that does not fit the rows.
    """
    if root is None:
        raise DataError("data set 'hf_text' needs root: a name on the Hugging Face hub, or parquet files")
    if tokenizer is None:
        raise DataError("data set 'hf_text' needs the option tokenizer: a folder, or a name on the hub, of the model")
    splits = read_splits(str(root), name)
    chosen = choose_splits(str(root), splits, train_split, test_split)
    train = chosen[train_split]
    words = _tokenizer(tokenizer, revision, keep)
    named = [column for column in TEXT_NAMES if column in train.features]
    form = template or "{" + only_column("template", named[:1], train) + "}"
    labels, classes = labels_of(chosen, find_label(train) if label_column is None else label_column)
    parts = []
    for split, rows in chosen.items():
        tokens = _encode(words, _texts(split, rows, form, words.mask_token), length)
        parts.append(ImageData(tokens, labels[split], {key: value_column(split, rows, key) for key in attributes}))
    if len(parts) == 1:
        parts = held_out(parts[0], test_share)
    return TextSet(f"hf_text:{root}", parts[0], parts[1], classes, (0.0,) * _DIGITS, (1 / 255,) * _DIGITS)


def _tokenizer(source: str, revision: str | None, keep: str) -> Any:
    try:
        from transformers import AutoTokenizer
    except ImportError as error:
        raise DataError(f"data set 'hf_text' needs the extra 'text' ({error}): pip install 'fedbox[text]'") from error
    try:
        return AutoTokenizer.from_pretrained(
            source, revision=revision, truncation_side="right" if keep == "start" else "left"
        )
    except Exception as error:  # what a missing file, a broken one and an unreachable hub bring about
        raise DataError(
            f"data set 'hf_text': the tokenizer {source!r} is no folder that can be read, and could not be had "
            f"from the Hugging Face hub: {type(error).__name__}: {error} Where the hub is out of reach, copy the "
            "model's folder and name its path."
        ) from error


def _texts(split: str, rows: Split, template: str, mask: str | None) -> list[str]:
    """Return each row's text: the template with its columns filled in."""
    try:
        fields = [field for _, field, *_ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise DataError(f"template {template!r} cannot be read: {error}; write a column as {{column}}") from error
    known = {*rows.features, MASK}
    unknown = [field for field in fields if field not in known]
    if unknown or not set(fields) - {MASK}:
        raise DataError(
            f"template {template!r} must name columns of split {split!r} in braces; it has "
            f"{', '.join(map(repr, unknown)) or 'none'}, allowed are {', '.join(sorted(known))}"
        )
    if MASK in fields and mask is None:
        raise DataError(f"template {template!r} has {{{MASK}}}, and the tokenizer has no mask token; leave it out")
    columns: Mapping[str, list[Any]] = {field: rows.column(field) for field in {*fields} - {MASK}}
    for field, values in columns.items():
        for row, value in enumerate(values):
            if value is None:
                raise DataError(f"split {split!r}, row {row}: column {field!r} is empty; leave such rows out")
    return [
        template.format(**{field: values[row] for field, values in columns.items()}, **{MASK: mask})
        for row in range(rows.table.num_rows)
    ]


def _encode(words: Any, texts: list[str], length: int) -> UInt8Array:
    if not texts:
        return np.zeros((0, _DIGITS, 1, length), np.uint8)
    found = words(texts, truncation=True, max_length=length, return_attention_mask=False)["input_ids"]
    numbers: NDArray[np.int64] = np.zeros((len(texts), length), np.int64)
    for row, ids in enumerate(found):
        numbers[row, : len(ids)] = np.asarray(ids, np.int64) + 1
    digits = [(numbers >> shift) & 0xFF for shift in (16, 8, 0)]
    return np.stack(digits, axis=1).astype(np.uint8)[:, :, None, :]
