"""What a model is given: images of one shape, made of pictures in one way, scaled by known constants.

It is kept with a model's weights, so that a finished model can be used where its data set is not at hand.
"""

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from .arrays import DataError, DataSet, TextSet, UInt8Array
from .boxes_data import BoxSet
from .framing import letterbox, unfit
from .pictures import in_mode, pixels

if TYPE_CHECKING:
    from PIL.Image import Image

Task = Literal["boxes", "classes", "texts"]


@dataclass(frozen=True)
class Inputs:
    """What a model is given, and what the numbers of its classes stand for.

    dataset: the name of the data set that it was trained on. shape: channels, height, width of an image.
    classes: the name of each label, label 0 first. mean, std: one value a channel, on the scale 0..1.
    """

    dataset: str
    task: Task
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, data: DataSet | BoxSet) -> "Inputs":
        """Give what a data set gives to a model."""
        task: Task = "texts" if isinstance(data, TextSet) else "classes" if isinstance(data, DataSet) else "boxes"
        mean, std = (tuple(float(value) for value in values) for values in (data.mean, data.std))
        return cls(data.name, task, data.shape, tuple(data.classes), mean, std)

    def to_json(self) -> str:
        """Give it as JSON, which `from_json` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Inputs":
        """Read what `to_json` gave. Raises ValueError, KeyError, TypeError for anything else."""
        told = json.loads(text)
        if told["task"] not in get_args(Task):
            raise ValueError(f"the task is {told['task']!r}; known are {', '.join(get_args(Task))}")
        channels, height, width = (int(side) for side in told["shape"])
        classes, mean, std = (tuple(told[name]) for name in ("classes", "mean", "std"))
        return cls(str(told["dataset"]), told["task"], (channels, height, width), classes, mean, std)

    def check_pictures(self) -> None:
        """Raise DataError unless images can be made of pictures."""
        if self.task == "texts":
            raise DataError("the model reads sentences, and pictures hold none; fedbox evaluate measures it")
        if self.shape[0] not in (1, 3):
            raise DataError(f"the model takes {self.shape[0]} channels, pictures have 1 or 3; call its `model` instead")

    def image(self, picture: "Image", name: str) -> UInt8Array:
        """Make of an upright picture an image as in the data set, uint8 [channels, height, width].

        For classes it is stretched to the size, for boxes fitted into it on grey, as the readers of these do. `name`
        says in an error which picture it was. Raises DataError for one of more than 8 bits a value.
        """
        channels, frame = self.shape[0], self.shape[1:]
        picture = in_mode(picture, name, channels)
        if self.task == "boxes":
            return letterbox(picture.convert("RGB"), frame)[:channels]
        return pixels(picture, frame)

    def boxes(self, found: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.float64]:
        """Give boxes in an image, [n, 4] xyxy, in pixels of its picture of (width, height), clipped to it."""
        return unfit(found, size, self.shape[1:])

    def check(self, data: DataSet | BoxSet) -> None:
        """Raise DataError unless a model that takes these can be measured on the data set."""
        other = Inputs.of(data)
        if other.task != self.task:
            raise DataError(f"the model was trained on {self.task}; {data.name} holds {other.task}")
        if other.shape != self.shape:
            raise DataError(
                f"the model takes images of {_sides(self.shape)} (channels x height x width), those of {data.name} are "
                f"{_sides(other.shape)}; readers of pictures take data.options.size and data.options.channels"
            )
        if other.classes != self.classes:
            raise DataError(
                f"the model knows the classes {', '.join(self.classes)}, in this order; {data.name} has "
                f"{', '.join(other.classes)}; name them in data.options.classes, where the reader takes that"
            )


def _sides(shape: tuple[int, int, int]) -> str:
    return " x ".join(map(str, shape))
