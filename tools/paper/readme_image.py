"""Create the image of README.md: detections of a run beside its error analysis page.

make demo
python tools/paper/readme_image.py runs/demo/train runs/demo/analyze/index.html

Writes docs/images/demo.jpg. Needs Chromium or Chrome, which renders the page.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

import cv2
import numpy as np

from cspdet import DetectionResult, UserError, load_detector
from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.image_io import read_image
from cspdet.recipe import load_recipe

OUTPUT = Path(__file__).parents[2] / "docs/images/demo.jpg"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FRAME = 320  # side of a detection image in the result, in pixels; two rows of two
LINE_WIDTH = 2  # of boxes, in image pixels
PAGE_WIDTH = 1000  # width of the browser window, in CSS pixels
QUALITY = 85  # JPEG


def render_page(page: Path, side: int) -> np.ndarray:
    """Return the top of an HTML page as an RGB image (side, side, 3)."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit(f"error: expected one of {', '.join(BROWSERS)} on PATH, to render {page}")
    with tempfile.TemporaryDirectory() as folder:
        screenshot = Path(folder, "page.png")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
                   f"--user-data-dir={folder}/profile", f"--window-size={PAGE_WIDTH},{PAGE_WIDTH}"]  # fmt: skip
        command = [browser, *options, f"--screenshot={screenshot}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        pixels = read_image(screenshot)
    return cv2.resize(pixels, (side, side), interpolation=cv2.INTER_AREA)


def select_images(run: Path, min_score: float) -> list[DetectionResult]:
    """Return the four val images of a run whose detections have the highest sum of scores."""
    data = load_recipe(run / "config.yaml").data
    assert data is not None, "config.yaml of a detector has the path of its data"
    val = load_dataset_config(data).split("val")
    detector = load_detector(run / "best.pt", backend="torch", min_score=min_score)
    results = [detector.predict(path) for path in sorted(val.images.iterdir())]
    return sorted(results, key=lambda result: -float(result.score.sum()))[:4]


def main() -> None:
    """Compose the image and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of a detector")
    parser.add_argument("page", type=Path, metavar="PAGE", help="index.html that `cspdet analyze RUN` wrote")
    parser.add_argument("--min-score", type=float, default=0.4, metavar="S", help="default: 0.4")
    args = parser.parse_args()
    try:
        results = select_images(args.run, args.min_score)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    frames = [
        cv2.resize(result.plot(line_width=LINE_WIDTH), (FRAME, FRAME), interpolation=cv2.INTER_AREA)
        for result in results
    ]
    detections = np.vstack([np.hstack(frames[:2]), np.hstack(frames[2:])])
    image = np.hstack([detections, render_page(args.page, len(detections))])
    cv2.imwrite(str(OUTPUT), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    print(f"{OUTPUT}: {OUTPUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
