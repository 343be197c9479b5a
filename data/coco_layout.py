"""Where COCO's files lie: annotation files and folders of pictures by the names that are usual, where none are given.

The official archives unpack to annotations/instances_train2017.json, train2017/ and val2017/; most tools put the
folders of pictures below images/; Roboflow's exports have train/_annotations.coco.json among the pictures. What is
found follows from the names alone, and what is not unique is refused.
"""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from .annotations import shown
from .arrays import DataError
from .trees import Tree

TRAIN, TEST, IMAGES = "annotations/train.json", "annotations/test.json", "images"
_ALSO = {
    TRAIN: ("annotations/instances_train*.json", "train/_annotations.coco.json"),
    TEST: ("annotations/val.json", "annotations/instances_val*.json", "valid/_annotations.coco.json"),
}


def annotations_of(tree: Tree, option: str, given: str) -> str:
    """Return the annotation file of a part: the given one or, where a default is missing, the one in its place.

    Raises DataError where several are, or none.
    """
    if tree.has(given):
        return given
    there = known_annotations(tree)
    found = [path for path in there if any(fnmatchcase(path, pattern) for pattern in _ALSO.get(given, ()))]
    if len(found) == 1:
        return found[0]
    told = (
        f"in its place there are {', '.join(found)}" if found else f"annotation files are {', '.join(there) or 'none'}"
    )
    without = ", or data.options.test=null" if option == "test" else ""
    hint = f"name one with data.options.{option}{without}{tree.astray()}"
    raise DataError(f"{tree.full(given)} does not exist; {told}; {hint}")


def known_annotations(tree: Tree) -> list[str]:
    """Return the annotation files that there may be."""
    return tree.below("annotations", (".json",)) or tree.below("", (".json",))


def folder_of(tree: Tree, annotations: str, files: Sequence[str], option: str, given: str | None, first: str) -> str:
    """Return the folder from which the pictures `files` of an annotation file count: the first that has one of them.

    Where the option gives none, it is `first`, the root, one with the name of the annotation file, or the one in which
    that lies. Raises DataError where no picture is found.
    """
    own, _, name = annotations.rpartition("/")
    name = name.removesuffix(".json").removeprefix("instances_")
    usual = [folder for part in (name, name.rstrip("0123456789")) for folder in (part, f"{IMAGES}/{part}")]
    folders = list(dict.fromkeys([first, "", *usual, own] if given is None else [given, ""]))
    for file in files:
        for folder in folders:
            if tree.has(below(folder, file)):
                return folder
    if not files:
        return folders[0]
    places = ", ".join(f"{folder}/" if folder else "the root" for folder in folders)
    raise DataError(
        f"none of the {len(files)} pictures of {tree.full(annotations)} is there; looked for {shown(files[0])} in "
        f"{places}; name their folder with data.options.{option}, or are these the annotations of other pictures?"
    )


def below(folder: str, file: str) -> str:
    """Return the path of a file in a folder, which may be the root."""
    return file if folder in ("", ".") else f"{folder}/{file}"
