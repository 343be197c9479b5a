"""The commands `fedbox predict` and `fedbox evaluate`: a finished model at work. Heavy imports stand inside."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from ..data.arrays import DataError
    from .predicting import FinishedModel, Found

_SHOWN = 50
"""Rows of the table; the file that --out names has all."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a run.")]
Client = Annotated[
    str | None, typer.Option(metavar="NAME", help="Take the model that this client kept, not the global one.")
]


def predict(
    folder: Folder,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures, or folders of pictures.")],
    out: Annotated[Path | None, typer.Option(help="JSON file to write, in the form of COCO's results.")] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Leave out what has no higher score (default: 0.3 for boxes, 0 for a class)."),
    ] = None,
    draw: Annotated[Path | None, typer.Option(help="Folder for copies of the pictures with their boxes.")] = None,
    client: Client = None,
    device: Annotated[str | None, typer.Option(help="Torch device, as cpu or cuda:0 (default: the run's).")] = None,
) -> None:
    """Say what a run's model sees in pictures: a class for each, or the boxes of a detector.

    Pictures are turned upright, resized and normalised as those of the run; boxes are in pixels of the picture. One
    that does not decode is named and left out, and the exit code is then 3.

    [dim]fedbox predict runs/fedavg pictures --out found.json[/]
    """
    from rich.console import Console

    from ..data.arrays import DataError
    from ..data.progress import progress
    from .finished import load
    from .picture_files import draw as drawn
    from .picture_files import listed, targets

    pictures = listed(images)
    model = load(folder, client=client, device=device)
    model.inputs.check_pictures()
    if draw is not None and not model.boxed:
        raise DataError("--draw draws boxes, and this model finds none: it gives a class to each picture")
    places = targets(pictures, draw) if draw is not None else {}
    _tell_note(model)
    found: dict[Path, list[Found]] = {}
    faults: list[str] = []
    for picture, seen in progress(_seen(model, list(pictures), threshold), "predicting", len(pictures)):
        if isinstance(seen, DataError):
            faults.append(str(seen))
            continue
        found[picture] = seen
        if picture in places:
            drawn(picture, seen, places[picture])
    Console().print(_table(model, found))
    if out is not None:
        _write(out, found)
        typer.echo(f"written: {out}")
    if draw is not None:
        typer.echo(f"drawn: {draw}")
    for fault in faults:
        typer.secho(f"error: {fault}", fg=typer.colors.RED, err=True)
    if faults:
        raise typer.Exit(DataError.exit_code)


def evaluate(
    folder: Folder,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Other data to measure on, such as data.root=OTHER."),
    ] = None,
    client: Client = None,
    own: Annotated[
        bool, typer.Option("--own", help="Measure on the client's own test samples, as the run did (with --client).")
    ] = False,
) -> None:
    """Measure a run's model again, on the test set of its configuration or, by KEY=VALUE, on another one.

    Keys are those of the configuration: data.*, evaluate.* and engine.* may be changed. Another data set must have the
    same classes and images of the same size; it is normalised as the run's. Without changes the figures are those of
    the run's summary.json.

    [dim]fedbox evaluate runs/fedavg[/]
    """
    from rich.console import Console

    from ..server.console import metrics_table
    from ..server.records import nested
    from .finished import evaluate as measure

    model, metrics, name = measure(folder, overrides or (), client=client, own=own)
    _tell_note(model)
    typer.echo(f"{folder}, the model after round {model.round}, on {name}:")
    Console().print(metrics_table(nested(metrics)))


def _tell_note(model: "FinishedModel") -> None:
    if model.note:
        typer.echo(f"note: {model.note}", err=True)


def _seen(
    model: "FinishedModel", pictures: Sequence[Path], threshold: float | None
) -> "Iterator[tuple[Path, list[Found] | DataError]]":
    """Give what is seen in each picture, or why it cannot be: several at a time, one by one where one is broken."""
    from ..data.arrays import DataError
    from .predicting import BATCH

    for start in range(0, len(pictures), BATCH):
        batch = pictures[start : start + BATCH]
        try:
            yield from zip(batch, model.predict(batch, threshold=threshold), strict=True)
        except DataError as error:
            if len(batch) == 1:
                yield batch[0], error
            else:
                for picture in batch:
                    yield from _seen(model, [picture], threshold)


def _table(model: "FinishedModel", found: "Mapping[Path, Sequence[Found]]") -> "Table":
    """Tabulate what was seen: image, class, score; or image, boxes, and how many of each class."""
    from collections import Counter

    from rich.box import SIMPLE
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE, pad_edge=False)
    for number, head in enumerate(("image", "boxes", "by class") if model.boxed else ("image", "class", "score")):
        table.add_column(head, overflow="fold", justify="right" if number == (1 if model.boxed else 2) else "left")
    for picture, seen in list(found.items())[:_SHOWN]:
        if model.boxed:
            counts = Counter(each.category for each in seen)
            cells = [str(len(seen)), ", ".join(f"{name} {count}" for name, count in counts.most_common())]
        else:
            cells = [seen[0].category, f"{seen[0].score:.3f}"] if seen else ["-", "-"]
        table.add_row(*map(escape, (str(picture), *cells)))
    if len(found) > _SHOWN:
        table.caption = f"and {len(found) - _SHOWN} more images (--out FILE.json has all)"
    return table


def _write(out: Path, found: "Mapping[Path, Sequence[Found]]") -> None:
    """Write what was seen as a list, as COCO's results: file_name, category, category_id, score and, of boxes, bbox."""
    import json

    from ..server.folder import write_asked

    rows = []
    for picture, seen in found.items():
        for each in seen:
            box = {} if each.bbox is None else {"bbox": [round(side, 2) for side in each.bbox]}
            about = {"file_name": str(picture), "category": each.category, "category_id": each.category_id}
            rows.append(json.dumps({**about, **box, "score": round(each.score, 6)}, ensure_ascii=False))
    # What is no text in the name of a file becomes JSON's own escape of it, which gives the same name back.
    write_asked(out, ("[" + ",\n ".join(rows) + "]\n").encode(errors="backslashreplace"))
