"""Make the pictures of the pages: runs, their reports, and what Chromium shows of them.

    pip install playwright && python docs/pictures.py [--runs DIR]

Runs that DIR holds already are not made again. Needs a Chromium (FEDBOX_CHROMIUM names one) and some ten minutes.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).resolve().parent / "images"
LARGEST = 150_000  # bytes of a picture
RUNS = {
    "comparison": "compare quickstart --sweep strategy=fedavg,fedprox,local --seeds 3 --target accuracy=0.9",
    "fedsa": "run digits-fedsa",
    "scenes": "run scenes-fedsto data.options.samples=1600 data.options.test_samples=160",
}
DESK, WIDE, PHONE = (1280, 800), (1280, 1400), (390, 844)
# picture: page, part of it (an empty selector: what the window shows), window, colours
SHOTS = {
    "report": ("comparison/report.html", "", DESK, "light"),
    "report-dark": ("comparison/report.html", "#holdings, #cost", WIDE, "dark"),
    "report-phone": ("comparison/report.html", "", PHONE, "light"),
    "compare": ("comparison/compare.html", "", (1280, 1250), "light"),
    "timeline": ("comparison/report.html", "#timeline", WIDE, "light"),
    "prototypes": ("fedsa/report.html", "#landmarks", WIDE, "light"),
    "boxes": ("scenes/report.html", "#examples", WIDE, "light"),
}


def main() -> None:
    """Run what is missing, then take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs/pictures"), help="folder of the runs")
    folder = parser.parse_args().runs
    for name, words in RUNS.items():
        if not (folder / name / "report.html").is_file():
            out = ["--out", str(folder / name)]
            subprocess.run([sys.executable, "-m", "fedbox", *words.split(), *out], check=True)
    from playwright.sync_api import sync_playwright

    path = os.environ.get("FEDBOX_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        )
        for name, (page, part, size, scheme) in SHOTS.items():
            context = browser.new_context(
                viewport={"width": size[0], "height": size[1]}, color_scheme=scheme, reduced_motion="reduce"
            )
            shown = context.new_page()
            shown.goto((folder / page).resolve().as_uri())
            save(name, shot(shown, part, size))
            context.close()
        browser.close()


def shot(shown: Any, part: str, size: tuple[int, int]) -> Image.Image:
    """Give what the window shows, or the parts of the page, at most a window high."""
    if not part:
        return Image.open(io.BytesIO(shown.screenshot()))
    boxes = [element.bounding_box() for element in shown.query_selector_all(part)]
    top, bottom = min(box["y"] for box in boxes), max(box["y"] + box["height"] for box in boxes)
    clip = {"x": 0, "y": top - 16, "width": size[0], "height": min(bottom - top + 32, size[1])}
    return Image.open(io.BytesIO(shown.screenshot(full_page=True, clip=clip)))


def save(name: str, image: Image.Image) -> None:
    """Write it as WebP, without loss where that is small enough."""
    path = IMAGES / f"{name}.webp"
    image.convert("RGB").save(path, lossless=True, method=6)
    if path.stat().st_size > LARGEST:
        image.convert("RGB").save(path, quality=82, method=6)
    if path.stat().st_size > LARGEST:
        raise SystemExit(f"{path} has {path.stat().st_size:,} bytes; at most {LARGEST:,} are wanted")
    print(f"{path.name}: {image.width} x {image.height}, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
