"""The handwritten digits of scikit-learn (UCI, 1,797 grey images of 8 x 8), embedded as digits.npz.

digits.npz holds images (uint8, [1797, 1, 8, 8]: the original 0..16 scaled to 0..255), labels (uint8) and
test (bool: a stratified fifth, drawn once with a fixed seed). `make_digits` made it from scikit-learn:

    import numpy as np; from fedbox.data.digits import make_digits
    np.savez_compressed("digits.npz", **make_digits())

Reading the file needs NumPy alone.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import DataSet, ImageData
from .draws import count_of, generator, stratified

MEAN = (0.3053,)
STD = (0.3759,)
TEST_SHARE = 0.2


def make_digits() -> dict[str, NDArray[Any]]:
    """Build the arrays of digits.npz from scikit-learn, which must be installed."""
    from sklearn.datasets import load_digits

    source = load_digits()
    images = np.rint(source.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = source.target.astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    test[stratified(labels, count_of(TEST_SHARE, len(labels)), generator(0, "digits-test"))] = True
    return {"images": images, "labels": labels.astype(np.uint8), "test": test}


def read_digits(root: str | Path | None = None) -> DataSet:
    """Read the embedded digits: 1,438 train and 359 test images [1, 8, 8]; `root` is not used."""
    with np.load(Path(__file__).with_name("digits.npz")) as stored:
        images, labels, test = stored["images"], stored["labels"].astype(np.int64), stored["test"]
    classes = tuple(str(digit) for digit in range(10))
    train_part, test_part = (ImageData(images[part], labels[part]) for part in (~test, test))
    return DataSet("digits", train_part, test_part, classes, MEAN, STD)
