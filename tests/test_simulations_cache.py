"""A federation over images that lie in a file: the same model, bit for bit, and nothing copied to the workers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from trees_for_tests import write

import fedbox
from fedbox.configs import load_config
from fedbox.data import DataError
from fedbox.data.rows import Rows
from fedbox.simulations.shared import Block
from fedbox.simulations.sharing import attach, share
from fedbox.strategies.federation import Federation

SIDE = 96


def make_tree(root: Path, pictures: int = 14) -> None:
    """Write small JPEGs with one bright box each, the last two for testing."""
    rng = np.random.default_rng(0)
    parts: dict[str, dict[str, Any]] = {}
    for part in ("train", "test"):
        parts[part] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "lamp"}]}
    (root / "images").mkdir(parents=True)
    for row in range(pictures):
        pixels = rng.integers(90, size=(SIDE // 2, SIDE, 3), dtype=np.uint8)
        x, y = (int(value) for value in rng.integers(0, 24, 2))
        pixels[y : y + 20, x : x + 30] += 150
        Image.fromarray(pixels).save(root / "images" / f"{row}.jpg")
        content = parts["test" if row >= pictures - 2 else "train"]
        content["images"].append({"id": row, "file_name": f"{row}.jpg", "town": "ab"[row % 2]})
        content["annotations"].append({"id": row, "image_id": row, "category_id": 1, "bbox": [x, y, 30, 20]})
    for part, content in parts.items():
        write(root / "annotations" / f"{part}.json", content)


def config(root: Path, cache: Path | None) -> dict[str, Any]:
    options = {"size": 64} | ({"cache": str(cache)} if cache else {})
    return {
        "rounds": 2,
        "data": {
            "dataset": "coco",
            "root": str(root),
            "options": options,
            "partition": {"kind": "natural", "key": "town", "clients": 2},
        },
        "model": {"name": "detector", "options": {"size": "nano"}},
        "train": {"batch_size": 4, "optimizer": "adamw", "lr": 0.002, "view": "strong"},
        "evaluate": {"batch_size": 4},
    }


@pytest.mark.parametrize("strategy", ["fedavg", "centralized"])
def test_the_model_is_the_same_with_and_without_a_cache(tmp_path: Path, strategy: str) -> None:
    make_tree(tmp_path / "coco")
    variants: list[tuple[Path | None, int]] = [(None, 1), (tmp_path / "cache", 1), (tmp_path / "cache", 2)]
    if strategy == "centralized":
        variants.pop()  # its clients rest
    hashes, metrics = set(), []
    for number, (cache, workers) in enumerate(variants):
        made, out = config(tmp_path / "coco", cache), tmp_path / f"run-{number}"
        result = fedbox.run(made, strategy=strategy, workers=workers, out=out, quiet=True, report=False)
        assert result.summary["failures"] == 0
        hashes.add(result.summary["model_sha256"])
        metrics.append(result.metrics)
    assert len(hashes) == 1
    assert metrics[1:] == metrics[:1] * (len(variants) - 1)


def test_workers_map_the_file(tmp_path: Path) -> None:
    make_tree(tmp_path / "coco")
    made = load_config(config(tmp_path / "coco", tmp_path / "cache"))
    federation, block = Federation.prepare(made), Block()
    shared = share(federation, block)
    images = federation.dataset.train.images
    assert sum(np.prod(shape) for _, shape, _ in shared.layout.values()) < images[:1].size
    seen = attach(block, shared, made)
    assert isinstance(seen.dataset.train.images, Rows)
    for name in ("client-0", "client-1"):
        index = federation.roles(name).labelled
        for part in ("images", "boxes", "offsets"):
            ours, theirs = (getattr(each.dataset.train.take(index), part)[:] for each in (seen, federation))
            np.testing.assert_array_equal(ours, theirs)
    Path(shared.files["train"]).unlink()
    with pytest.raises(DataError, match=r"the cached images .*coco-train-64x64-.*npy cannot be read any more"):
        attach(block, shared, made)
    block.close()
