"""Small data sets of pictures with boxes in each real format, written as their publishers write them."""

import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from fedbox.data.annotations_coco import read_coco, read_soda10m
from fedbox.data.annotations_driving import read_bdd100k, read_cityscapes
from fedbox.data.annotations_voc import read_voc
from fedbox.data.annotations_yolo import read_yolo

# One picture of 80 x 40 (width x height) with a white rectangle on black. Fitted into 32 x 64 it is 64 x 32 and
# every coordinate is multiplied by 0.8; fitted into 64 x 64 it also moves down by 16.
WIDTH, HEIGHT = 80, 40
BOX = (20, 10, 50, 30)
MOVED = [16.0, 8.0, 40.0, 24.0]
SIZE = (32, 64)


def picture(path: Path, box=BOX, size=(WIDTH, HEIGHT)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(pixels).save(path)


def write(path: Path, content) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def coco_file(names, boxes=None, **extra) -> dict:
    x1, y1, x2, y2 = BOX
    boxes = boxes if boxes is not None else [[x1, y1, x2 - x1, y2 - y1]] * len(names)
    return {
        "images": [
            {"id": 10 + row, "file_name": name, "width": WIDTH, "height": HEIGHT, "license": 1, "weather": "rainy"}
            for row, name in enumerate(names)
        ],
        "annotations": [
            {"id": row + 1, "image_id": 10 + row, "category_id": 7, "bbox": box, "iscrowd": 0, "area": 1}
            for row, box in enumerate(boxes)
        ],
        "categories": [{"id": 7, "name": "car"}, {"id": 3, "name": "person", "supercategory": "human"}],
        **extra,
    }


def make_coco(root: Path) -> None:
    for part, names in (("train", ["a.png", "b.png"]), ("test", ["c.png"])):
        write(root / "annotations" / f"{part}.json", coco_file(names))
        for name in names:
            picture(root / "images" / name)


def make_soda(root: Path) -> None:
    base = root / "SSLAD-2D" / "labeled"
    for part, name in (("train", "HT_TRAIN_000001_SH_000.jpg"), ("val", "HT_VAL_000001_SH_001.jpg")):
        content = coco_file([name])
        content["images"][0] |= {"city": "Shanghai", "location": "Citystreet", "period": "Daytime"}
        write(base / "annotations" / f"instance_{part}.json", content)
        picture(base / part / name)


def make_yolo(root: Path) -> None:
    for part, name in (("train", "a"), ("val", "b")):
        picture(root / "images" / part / "rainy" / f"{name}.png")
        line = f"1 {35 / WIDTH} {20 / HEIGHT} {30 / WIDTH} {20 / HEIGHT}\n"
        write(root / "labels" / part / "rainy" / f"{name}.txt", line)
    write(root / "data.yaml", "path: ../data\ntrain: images/train\nval: images/val\nnames:\n  0: person\n  1: car\n")


def voc_xml(name: str, extra: str = "") -> str:
    x1, y1, x2, y2 = BOX
    return f"""<annotation>
  <folder>VOC</folder>
  <filename>{name}.jpg</filename>
  <weather>rainy</weather>
  <size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>
  <segmented>0</segmented>
  <object>
    <name>car</name><pose>Left</pose><truncated>0</truncated><difficult>0</difficult>
    <bndbox><xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox>
  </object>
  <object>
    <name>person</name><difficult>1</difficult>
    <bndbox><xmin>1</xmin><ymin>1</ymin><xmax>5</xmax><ymax>9</ymax></bndbox>
  </object>{extra}
</annotation>
"""


def make_voc(root: Path) -> None:
    for part, name in (("train", "000005"), ("val", "000007")):
        write(root / "ImageSets" / "Main" / f"{part}.txt", f"{name}\n")
        write(root / "Annotations" / f"{name}.xml", voc_xml(name))
        picture(root / "JPEGImages" / f"{name}.jpg")


def make_bdd(root: Path) -> None:
    x1, y1, x2, y2 = BOX
    box = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    for part in ("train", "val"):
        frames = []
        for name, weather in (("0000f77c-6257be58", "rainy"), ("0000f77c-62c2a288", "partly cloudy")):
            labels = [
                {"id": "0", "category": "pedestrian", "attributes": {"occluded": False}, "box2d": box},
                {"id": "1", "category": "traffic light", "box2d": {"x1": 1, "y1": 1, "x2": 3, "y2": 5}},
                {"id": "2", "category": "lane", "poly2d": [{"vertices": [[0, 0], [5, 5]], "types": "LL"}]},
            ]
            where = {"weather": weather, "scene": "city street", "timeofday": "daytime"}
            frames.append({"name": f"{name}.jpg", "attributes": where, "timestamp": 10000, "labels": labels})
            picture(root / "images" / "100k" / part / f"{name}.jpg")
        write(root / "labels" / "det_20" / f"det_{part}.json", frames)


def make_cityscapes(root: Path) -> None:
    x1, y1, x2, y2 = BOX
    for part, city in (("train", "aachen"), ("val", "lindau")):
        stem = f"{city}_000000_000019"
        objects = [
            {"label": "road", "polygon": [[0, 20], [WIDTH - 1, 20], [WIDTH - 1, HEIGHT - 1]]},
            {"label": "car", "polygon": [[x1, 20], [30, y1], [x2, 15], [40, y2]]},
            {"label": "cargroup", "polygon": [[0, 0], [5, 0], [5, 5]]},
        ]
        content = {"imgHeight": HEIGHT, "imgWidth": WIDTH, "objects": objects}
        write(root / "gtFine" / part / city / f"{stem}_gtFine_polygons.json", content)
        picture(root / "leftImg8bit" / part / city / f"{stem}_leftImg8bit.png")


def zipped_tree(root: Path) -> Path:
    """Pack a folder, and give the archive beside it."""
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*.*")):
            archive.write(file, file.relative_to(root))
    return path


FORMATS = {
    "coco": (make_coco, read_coco, {"weather": "rainy"}, "car"),
    "soda10m": (make_soda, read_soda10m, {"weather": "rainy", "city": "Shanghai", "labels": "yes"}, "car"),
    "yolo": (make_yolo, read_yolo, {"folder": "rainy"}, "car"),
    "voc": (make_voc, read_voc, {"weather": "rainy"}, "car"),
    "bdd100k": (make_bdd, read_bdd100k, {"weather": "rainy", "timeofday": "daytime"}, "person"),
    "cityscapes": (make_cityscapes, read_cityscapes, {"city": "aachen"}, "car"),
}
