"""Write a dataset in ultralytics' folder layout, with links to the images; used by the comparisons with ultralytics."""

from __future__ import annotations

import json
from pathlib import Path

from cspdet.datasets.descriptor import DatasetConfig
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.errors import DataError, did_you_mean


def write_yolo_folder(descriptor: DatasetConfig, folder: Path) -> Path:
    """Write `folder`/images/SPLIT and labels/SPLIT of the train and val splits; return the path of data.yaml.

    Files are named by their image ids, so that predictions can be matched with their images. Crowds are excluded.

    Raises:
        DataError: the train split lacks a class of the val split.
    """
    train = load_coco(descriptor.split("train"), "train")
    names = train.classes.names
    document = {"path": str(folder.absolute()), "names": list(names), "nc": len(names)}
    for split in ("train", "val"):
        if getattr(descriptor, split) is None:
            document[split] = "images/train"  # ultralytics requires one
            continue
        coco = train if split == "train" else load_coco(descriptor.split(split), split)
        _write_split(coco, names, folder, split)
        document[split] = f"images/{split}"
    data = folder / "data.yaml"
    data.write_text(json.dumps(document), encoding="utf-8")  # JSON is YAML
    return data


def _write_split(coco: CocoDataset, names: tuple[str, ...], folder: Path, split: str) -> None:
    unknown = [name for name in coco.classes.names if name not in names]
    if unknown:
        raise DataError(
            f"{coco.files.annotations}: class {unknown[0]!r} is not in train{did_you_mean(unknown[0], names)}"
        )
    number = [names.index(name) for name in coco.classes.names]
    images, labels = folder / "images" / split, folder / "labels" / split
    images.mkdir(parents=True)
    labels.mkdir(parents=True)
    for index in range(len(coco)):
        image, name = coco.path(index).absolute(), str(int(coco.image_id[index]))
        (images / f"{name}{image.suffix}").symlink_to(image)
        box_xyxy, class_id, is_crowd = coco.boxes(index)
        height, width = coco.size_hw[index].tolist()
        lines = []
        for (x1, y1, x2, y2), label, crowd in zip(box_xyxy.tolist(), class_id.tolist(), is_crowd, strict=True):
            if not crowd:
                fractions = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
                lines.append(f"{number[label]} " + " ".join(f"{fraction:.8f}" for fraction in fractions))
        (labels / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
