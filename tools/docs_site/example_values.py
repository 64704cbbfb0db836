"""Example values of the flags: the reference shows one for each flag, and a test parses each."""

from __future__ import annotations

# By flag; `COMMAND FLAG` where commands differ.
BY_FLAG = {
    "--backend": "onnxruntime",
    "--base-url": "http://localhost:8000",
    "--batch": "1,8",
    "--batch-size": "4",
    "--bn-eps": "1e-6",
    "--calibration": "photos",
    "--classes": "person,dog",
    "--codec": "h264",
    "--config": "csppelee_efm_sam",
    "--copy": "csppelee_efm_sam",
    "--count": "9",
    "--crop": "1",
    "--data": "data/shapes/shapes.yaml",
    "--detections": "results.json",
    "--device": "cuda:0",
    "--difficult": "crowd",
    "--evaluator": "pycocotools",
    "--file": "yolov4-tiny.weights",
    "--format": "onnx",
    "--gallery": "48",
    "--image": "street.jpg",
    "--images": "photos",
    "--import": "mynets",
    "--interpolation": "bicubic",
    "--keys": "loss,AP",
    "--layer": "maps",
    "--license": "mit",
    "--line-width": "3",
    "--log-level": "warning",
    "--margin": "0.1",
    "--max-detections": "300",
    "--max-seconds": "60",
    "--min-iou": "0.75",
    "--min-score": "0.4",
    "--min-side": "16",
    "--mot": "tracks.txt",
    "--name": "my-detector",
    "--names": "names.txt",
    "--nms-iou": "0.5",
    "--opencv-python": "opencv4/bin/python",
    "--opset": "18",
    "--output": "runs/mine",
    "--outputs": "decoded",
    "--plot": "plot.png",
    "--precision": "fp16",
    "--preset": "medium",
    "--reconnect": "10",
    "--repeat": "50",
    "--report": "data.html",
    "--resamples": "5000",
    "--resize": "288",
    "--resume": "runs/csppelee_efm_sam",
    "--samples": "8",
    "--save-as": "coco,csv",
    "--seed": "1",
    "--size": "416x608",
    "--smooth": "5",
    "--split": "train",
    "--splits": "val test",
    "--stop-after": "10",
    "--stride": "2",
    "--threads": "4",
    "--tile": "640",
    "--tile-overlap": "0.3",
    "--title": "'Two seeds'",
    "--top": "5",
    "--val-fraction": "0.1",
    "--vote-iou": "0.6",
    "--voc-iou": "0.7",
    "--voc-pixels": "continuous",
    "--weights": "runs/csppelee_efm_sam/best.pt",
    "--workers": "2",
    "--x": "images_seen",
    "anchors --split": "val",
    "classify --output": "photos.jsonl",
    "extract-features --output": "photos.npz",
    "export --output": "detector.onnx",
    "plot --output": "curves.svg",
    "push --output": "cells",
    "prepare-data --output": "data/mine",
    "prepare-data convert --format": "yolo",
    "prepare-data shapes --images": "1000",
    "prepare-data shapes --size": "416",
    "train-classifier --data": "imagenet",
    "eval-classifier --data": "imagenet",
    "train-classifier --weights": "csresnet50.weights",
}


def example_value(command: str, flag: str) -> str:
    """Return the example value of a flag.

    Args:
        command: The command with its subcommand, such as `prepare-data voc`.
        flag: The flag, such as `--output`.

    Raises:
        KeyError: The flag has no example.
    """
    for name in (f"{command} {flag}", f"{command.split()[0]} {flag}", flag):
        if name in BY_FLAG:
            return BY_FLAG[name]
    raise KeyError(f"{command} {flag}: add an example value to tools/docs_site/example_values.py")
