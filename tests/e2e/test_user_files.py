"""Every command leaves each file of the user as it was: hashed before and after, with outputs asked into its place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from darknet_data import CLASSIFIER, TINY, write_pair
from video_data import write_video

from cspdet.cli.main import COMMAND_HELP, main

pytestmark = pytest.mark.e2e

RESULT = [{"image_id": 1, "category_id": 1, "bbox": [5, 6, 20, 18], "score": 0.9}]


def write_image(path: str, seed: int = 0) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(path, np.random.default_rng(seed).integers(0, 255, (64, 64, 3), np.uint8))


def write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


def write_coco() -> None:
    for split in ("train", "val"):
        images, annotations = [], []
        for i in range(1, 5):
            write_image(f"set/p/{split}{i}.jpg", i if split == "val" else -i % 100)
            images.append({"id": i, "file_name": f"{split}{i}.jpg", "width": 64, "height": 64})
            annotations.append({"id": i, "image_id": i, "category_id": 1 + i % 2, "bbox": [5, 6, 20 + i, 18]})
        categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write(f"set/{split}.json", json.dumps(content))
    splits = (f"{split}: {{images: p, annotations: {split}.json}}" for split in ("train", "val"))
    write("set/data.yaml", "\n".join(splits))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's folder, which is the working directory: data, configs, Darknet files, checkpoints, other files."""
    folder = tmp_path_factory.mktemp("user")
    before, environ = Path.cwd(), dict(os.environ)
    os.environ.update(CSPDET_HOME=str(tmp_path_factory.mktemp("cache")), CSPDET_OFFLINE="1")
    os.chdir(folder)
    write_coco()
    write_pair(folder, TINY, "tiny")
    write_pair(folder, CLASSIFIER, "kinds")
    write("tiny.names", "a\nb\n")
    assert main(["import-darknet", "tiny.cfg", "tiny.weights", "--names", "tiny.names", "--output", "tiny.pt"]) == 0
    write("kinds.names", "v\nw\nx\ny\nz\n")
    assert main(["import-darknet", "kinds.cfg", "kinds.weights", "--names", "kinds.names", "--output", "kinds.pt"]) == 0
    config = "model: {name: darknet, cfg: CFG}\ninput: {size: [64, 64]}\ndata: DATA\n"
    config += "train: {epochs: 1, batch_size: 4, precision: fp32, workers: 0, cache: none}\neval: {workers: 0}\n"
    write("mine/config.yaml", "# my notes\n" + config.replace("CFG", "../tiny.cfg").replace("DATA", "../set/data.yaml"))
    write("tiny.yaml", config.replace("CFG", "tiny.cfg").replace("DATA", "set/data.yaml"))
    kinds = config.replace("CFG", "kinds.cfg").replace("DATA", "kinds").replace("cache: none", "batch_size: 4")
    write("kinds.yaml", "task: classification\n" + kinds.replace("batch_size: 4, ", "", 1))
    write("own/detections.json", json.dumps(RESULT))
    write("others/detections.json", '{"info": "of another program"}')
    write("others/metrics.json", '{"of": "another program"}')
    write("others/config.yaml", "of: another program\n")
    write("others/best.pt", "a checkpoint of another program")
    for name in ("a.jpg", "b/a.png", "long/" + "n" * 251 + ".jpg"):
        write_image(f"photos/{name}")
    write_image("others/a.jpg", 7)
    write_image("others/b/a.png", 8)
    write_video(Path("photos/v.mp4"), (np.full((64, 64, 3), 90, np.uint8) for _ in range(2)))
    shutil.copy("photos/v.mp4", "others/v.mp4")
    for name in ("detections.jsonl", "mot.txt", "list.json", "page.html", "index.html", "analysis.json", "classes.csv"):
        write(f"others/{name}", "precious\n")
    for name in ("plot.png", "plot.svg"):
        shutil.copy("photos/b/a.png", f"others/{name}")
    for name in ("tiny.onnx", "tiny.torchscript", "tiny.xml", "tiny.bin", "features.npz", "a.jpg.npy"):
        write(f"others/{name}", "of another program")
    write("runs_of_mine/metrics.jsonl", '{"epoch": 1, "loss": 2.0}\n{"epoch": 2, "loss": 1.0}\n')
    for i in range(3):
        write_image(f"yolo/images/train/{i}.jpg", i)
        write(f"yolo/labels/train/{i}.txt", "0 .5 .5 .5 .5\n")
        write(f"yolo/labels/{i}.txt", "0 .5 .5 .5 .5\n")
    write("yolo/data.yaml", "train: images/train\nnames: [a, b]\n")
    for split in ("train", "val"):
        for i, kind in enumerate("vwxyz"):
            write_image(f"kinds/{split}/{kind}/{i}.jpg", i)
    Path("photos-link").symlink_to("photos")
    Path("run-locked").mkdir()
    Path("run-locked/.run.lock").symlink_to("../tiny.yaml")
    yield folder
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(before)


def hashes(folder: Path) -> dict[str, str]:
    """The link target or hash of each file."""
    return {
        str(path.relative_to(folder)): os.readlink(path)
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


DETECT = "detect tiny.pt photos --backend torch --min-score 0.02"
ALIASES = ("photos", "./photos/b/..", "photos-link")
BACKBONE = f"{Path(__file__).parents[2]}/configs/yolov3_tiny_prn.yaml input.size=64"
MODEL = "tiny.yaml --weights tiny.weights"
# Commands and their exit codes: 0 writes only new files, 2 is refused.
COMMANDS: list[tuple[str, int]] = [
    (f"{DETECT} --output out", 0),
    (f"{DETECT} --output out", 0),  # replaces its own results
    *((f"{DETECT} --output {name}", 2) for name in (*ALIASES, "others", "tiny.pt")),
    (f"{DETECT} --output photos/b", 2),
    ("detect tiny.pt others/a.jpg --backend torch --output others", 2),
    ("detect tiny.pt photos/v.mp4 --backend torch --output others --codec mp4v", 2),
    ("detect tiny.pt 97 --backend torch --output others", 2),
    *(
        (f"detect tiny.pt photos/a.jpg --backend torch --output out2 --mot {name}", 2)
        for name in (*(f"{name}/a.jpg" for name in ALIASES), "set/val.json", "others/mot.txt", "tiny.pt", "set")
    ),
    *((f"{DETECT} --save-as {name} --output others", 2) for name in ("coco", "yolo", "csv")),
    ("detect tiny.pt yolo/images/train --backend torch --no-draw --save-as yolo --output yolo", 2),
    ("detect tiny.pt yolo/images/train --backend torch --no-draw --save-as yolo --output prelabelled", 0),
    ("detect tiny.pt yolo/images/train --backend torch --no-draw --save-as yolo --output prelabelled", 2),
    ("detect tiny.pt photos/a.jpg --backend torch --save-as csv --output prelabelled", 0),
    ("detect tiny.pt photos/a.jpg --backend torch --save-as csv --output prelabelled", 0),
    ("predict tiny.pt photos/a.jpg --backend torch --output others", 2),
    ("predict kinds.pt photos --output others/list.json", 2),
    ("classify kinds.pt photos --output set/val.json", 2),
    ("classify kinds.pt photos --output list.json", 0),
    ("classify kinds.pt photos --output list.json", 0),
    (f"extract-features {BACKBONE} photos --output others/features.npz", 2),
    (f"extract-features {BACKBONE} photos/a.jpg --output others", 2),
    (f"extract-features {BACKBONE} photos/a.jpg --output features", 0),
    (f"extract-features {BACKBONE} photos/a.jpg --output features", 0),
    ("eval tiny.pt --data set/data.yaml --output evaluated", 0),
    ("eval tiny.pt --data set/data.yaml --output evaluated", 0),
    ("eval tiny.pt --data set/data.yaml --output others", 2),
    ("eval --detections own/detections.json --data set/data.yaml --min-score 0.5 --output own", 2),
    ("eval --detections own/detections.json --data set/data.yaml --output ./set/../own", 2),
    ("eval-classifier kinds.pt --data kinds --output others", 2),
    ("analyze own/detections.json --data set/data.yaml --output analyzed --resamples 10", 0),
    ("analyze own/detections.json --data set/data.yaml --output analyzed --resamples 10", 0),
    ("analyze own/detections.json --data set/data.yaml --output others", 2),
    ("export tiny.pt --format darknet", 2),
    ("export tiny.pt --format darknet --output tiny.cfg", 2),
    (f"export {MODEL} --format darknet --output ./set/../tiny.cfg", 2),
    ("export tiny.pt --format darknet --output exported/tiny.cfg", 0),
    ("export tiny.pt --format darknet --output exported/tiny.cfg", 0),
    ("export tiny.pt --format torchscript --output exported/tiny.torchscript", 0),
    ("export tiny.pt --format torchscript --output exported/tiny.torchscript", 0),
    *((f"export tiny.pt --format {name} --output others/tiny.{suffix}", 2)
      for name, suffix in (("onnx", "onnx"), ("torchscript", "torchscript"), ("openvino", "xml"))),
    ("import-darknet tiny.cfg tiny.weights --output others/best.pt", 2),
    ("import-darknet tiny.cfg tiny.weights --output imported.pt", 0),
    ("import-darknet tiny.cfg tiny.weights --output imported.pt", 0),
    ("train mine/config.yaml --output mine", 2),
    ("train tiny.yaml --output others", 2),
    ("train tiny.yaml --output run-locked", 2),
    ("train tiny.yaml --output lr=0.1", 0),
    ("train tiny.yaml --output lr=0.1", 2),
    ("import-darknet tiny.cfg tiny.weights --output lr=0.1/best.pt", 2),
    ("train-classifier kinds.yaml --output others", 2),
    *((f"plot runs_of_mine --output {name}", 2) for name in ("others/plot.png", "others/plot.svg", "photos/b/a.png")),
    ("plot runs_of_mine", 0),
    ("plot runs_of_mine", 0),
    ("info tiny.yaml --plot others/plot.png", 2),
    ("info tiny.yaml --plot layers.svg", 0),
    ("info tiny.yaml --plot layers.svg", 0),
    ("benchmark tiny.yaml --plot others/plot.png", 2),
    ("configs --copy yolov3_tiny tiny.yaml", 2),
    ("configs --copy yolov3_tiny new.yaml", 0),
    ("configs --copy yolov3_tiny new.yaml", 2),
    ("anchors set/data.yaml --config tiny.yaml", 0),
    ("check-data set/data.yaml", 0),
    ("check-data set/data.yaml --report others/page.html", 2),
    ("check-data set/data.yaml --report page.html", 0),
    ("check-data set/data.yaml --report page.html", 0),
    *((f"prepare-data yolo yolo/data.yaml --output {name}", 2) for name in ("yolo", "set", "photos", "tiny.yaml")),
    ("prepare-data yolo yolo --output converted", 0),
    ("prepare-data yolo yolo --output converted", 0),
    ("prepare-data convert set/data.yaml --output set", 2),
    ("prepare-data objects set/data.yaml --output set", 2),
    ("prepare-data shapes --images 2 --output photos", 2),
    ("zoo", 0),
    ("fetch yolov4-tiny --file others/a.jpg", 2),
    ("fetch yolov4-tiny", 2),
    ("push tiny.pt someone/detector", 2),
]  # fmt: skip


def test_every_command_keeps_the_files_of_the_user(folder, capsys):
    before, created = hashes(folder), set[str]()
    for text, code in COMMANDS:
        found = main(text.split())
        stderr = capsys.readouterr().err
        now = hashes(folder)
        changed = [name for name, value in before.items() if now.get(name) != value]
        assert not changed, f"{text}: changed {changed}"
        assert found == code, f"{text}: exit {found}, {stderr}"
        assert "Traceback" not in stderr
        assert "no such" not in stderr, text
        if code == 2:
            assert any(line.startswith("error: ") for line in stderr.splitlines()), text
            assert now.keys() - before.keys() == created, f"{text}: refused, but changed what commands wrote before"
        created = now.keys() - before.keys()
    assert {text.split()[0] for text, _ in COMMANDS} == set(COMMAND_HELP)


# Commands that write into a folder.
INTO_FOLDER = [
    "detect tiny.pt photos --backend torch --save-as csv --output",
    "detect tiny.pt photos/a.jpg photos/v.mp4 --backend torch --no-draw --save-as coco,yolo --output",
    "eval tiny.pt --data set/data.yaml --output",
    "eval-classifier kinds.pt --data kinds --output",
    "analyze own/detections.json --data set/data.yaml --resamples 10 --output",
    f"extract-features {BACKBONE} photos/a.jpg photos/b/a.png --output",
    "train tiny.yaml --output",
    "train-classifier kinds.yaml --output",
    "prepare-data yolo yolo --output",
    "prepare-data objects set/data.yaml --output",
]


@pytest.mark.parametrize("command", INTO_FOLDER, ids=lambda text: text.split()[0])
def test_each_output_is_refused_where_the_user_has_a_file(command, folder, tmp_path, capsys):
    assert main([*command.split(), str(tmp_path / "new")]) == 0
    outputs = [path.relative_to(tmp_path / "new") for path in (tmp_path / "new").rglob("*") if path.is_file()]
    outputs = [path for path in outputs if path.parts[0] != "tensorboard"]  # event files have unique names
    assert outputs
    for i, output in enumerate(outputs):
        existing = tmp_path / str(i) / output
        existing.parent.mkdir(parents=True)
        existing.write_text("precious")
        capsys.readouterr()
        assert main([*command.split(), str(tmp_path / str(i))]) == 2, output
        stderr = capsys.readouterr().err
        assert existing.read_text() == "precious", output
        assert [path for path in (tmp_path / str(i)).rglob("*") if path.is_file()] == [existing], stderr
