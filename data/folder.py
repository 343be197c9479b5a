"""A folder of pictures per class: root/train/<class>/*.png, or root/<domain>/<class>/*.png."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from .arrays import DataError, DataSet, ImageData
from .files import folder, read_bytes
from .pictures import Size, decode_all

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")

# One picture: its file, its class name, its domain ("" where the layout has none).
Entry = tuple[Path, str, str]
Known = tuple[str, ...] | None


def read_image_folder(
    root: str | Path | None,
    *,
    size: Size = None,
    channels: Literal[1, 3] = 3,
    test_share: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    domains: bool = False,
    classes: Annotated[tuple[str, ...], Field(min_length=1)] | None = None,
) -> DataSet:
    """Read root/train/<class>/<picture>, and root/test/<class>/<picture> where that exists.

    size: side or [height, width] to resize to (bilinear); needed if the pictures differ in size.
    channels: 1 for grey, 3 for colour.
    test_share: the share kept as test part where there is no test folder. A hash of the file's name below
    `root` decides, so that adding pictures never moves one from train to test.
    domains: read root/<domain>/<class>/<picture> instead and keep the attribute "domain".

    classes: the names of all classes, in the order of their labels, for a site that may lack pictures of
    some; without them classes are those of the folders, sorted by name.

    Raises DataError for a missing or empty folder, a folder of no class, a test class without a train
    folder, or a picture that does not decode.
    """
    layout = "<domain>/<class>/<picture>" if domains else "train/<class>/<picture>"
    place = folder("image_folder", root, layout)
    train, test = _domain_entries(place, classes) if domains else _split_entries(place, classes)
    if test is None:
        train, test = _by_hash(place, train, test_share, whole=classes is None)
    if not train:
        raise DataError(f"{place} has no train picture of any class; the layout is {layout}")
    names = classes or tuple(sorted({name for _, name, _ in train} | {name for _, name, _ in test}))
    # Test pictures are decoded together with train's: one size check for all.
    data = _load([*train, *test], names, size, channels)
    rows = np.arange(len(data))
    mean, std = (0.5,) * channels, (0.5,) * channels
    parts = data.take(rows[: len(train)]), data.take(rows[len(train) :])
    return DataSet("image_folder", *parts, names, mean, std)


def _split_entries(root: Path, known: Known) -> tuple[list[Entry], list[Entry] | None]:
    if not (root / "train").is_dir():
        hint = "; for <domain>/<class>/ folders set domains: true" if _folders(root) else ""
        raise DataError(f"{root} has no folder 'train'; the layout is train/<class>/<picture>{hint}")
    train = _class_entries(root / "train", "", known)
    if not (root / "test").is_dir():
        return train, None
    test = _class_entries(root / "test", "", known)
    unknown = sorted({name for _, name, _ in test} - {name for _, name, _ in train})
    if unknown and known is None:
        raise DataError(f"{root / 'test'} has the class(es) {', '.join(unknown)} that {root / 'train'} lacks")
    return train, test


def _domain_entries(root: Path, known: Known) -> tuple[list[Entry], list[Entry] | None]:
    domains = _folders(root)
    if not domains:
        raise DataError(f"{root} holds no folders; with domains: true the layout is <domain>/<class>/<picture>")
    return [entry for domain in domains for entry in _class_entries(domain, domain.name, known)], None


def _class_entries(parent: Path, domain: str, known: Known) -> list[Entry]:
    classes = _folders(parent)
    if not classes:
        raise DataError(f"{parent} holds no class folders; put each class's pictures into a folder of its name")
    entries: list[Entry] = []
    for place in classes:
        files = sorted(file for file in place.iterdir() if file.suffix.lower() in SUFFIXES and _visible(file))
        if known is not None and place.name not in known:
            raise DataError(f"class folder {place} is none of the option classes: {', '.join(known)}")
        if not files and known is None:
            told = f"class folder {place} holds no picture ({', '.join(SUFFIXES)})"
            raise DataError(f"{told}; fill or remove it, or name all classes in the option classes")
        entries.extend((file, place.name, domain) for file in files)
    return entries


def _folders(parent: Path) -> list[Path]:
    return sorted(entry for entry in parent.iterdir() if entry.is_dir() and _visible(entry))


def _visible(path: Path) -> bool:
    return not path.name.startswith(".")


def _by_hash(root: Path, entries: Sequence[Entry], share: float, *, whole: bool) -> tuple[list[Entry], list[Entry]]:
    def is_test(file: Path) -> bool:
        digest = sha256(file.relative_to(root).as_posix().encode()).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    chosen = [is_test(file) for file, _, _ in entries]
    train = [entry for entry, test in zip(entries, chosen, strict=True) if not test]
    test = [entry for entry, test in zip(entries, chosen, strict=True) if test]
    lost = sorted({name for _, name, _ in test} - {name for _, name, _ in train})
    if lost and whole:
        raise DataError(
            f"{root}: test_share {share} leaves no train picture for {', '.join(lost)}; "
            "lower it, add pictures, or give a test folder"
        )
    return train, test


def _load(entries: Sequence[Entry], classes: tuple[str, ...], size: Size, channels: int) -> ImageData:
    pictures = ((str(file), read_bytes(file)) for file, _, _ in entries)
    images = decode_all(pictures, len(entries), channels, size)
    number = {name: index for index, name in enumerate(classes)}
    labels = np.array([number[name] for _, name, _ in entries], np.int64)
    domains = np.array([domain for _, _, domain in entries])
    attributes = {"domain": domains} if domains.any() else {}
    return ImageData(images, labels, attributes)
