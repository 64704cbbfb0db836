"""Evaluation through a predictor: a network, an engine, and an object of the caller's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from evaluation_data import image_with_square, square_model, truth, write_set
from torch import Tensor

from cspdet.datasets.descriptor import load_dataset_config
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.evaluation.detection import evaluate_detector, inference_on_dataset
from cspdet.evaluation.predictors import NetworkDetector, evaluation_mode
from cspdet.models.config import PostprocessConfig
from cspdet.structures import Detections, Shard

CPU = torch.device("cpu")
# The white squares of the images, which the network finds exactly; the third image is empty.
SQUARES = [truth(10, 3, [0, 0, 32, 32]), truth(20, 3, [64, 32, 32, 32])]


@pytest.fixture
def coco(tmp_path) -> CocoDataset:
    return load_coco(load_dataset_config(write_set(tmp_path, SQUARES)).split("val"), "val")


class FixedPredictor:
    """Detects the same box, of the second class, in every image of 64x96 pixels, and notes what it is asked for."""

    device = CPU

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.min_scores: set[float] = set()

    def detect(self, images: Tensor, postprocess: PostprocessConfig) -> list[Detections]:
        assert images.dtype == torch.uint8
        assert torch.is_inference_mode_enabled()
        self.shapes.append(tuple(images.shape))
        self.min_scores.add(postprocess.min_score)
        box = torch.tensor([[-4.0, 0.0, 32.0, 32.0]])
        return [Detections(box, torch.tensor([0.5]), torch.tensor([1])) for _ in images]


def test_any_object_with_detect_is_evaluated(coco):
    config = square_model().config
    predictor = FixedPredictor()
    eval_ = config.eval.model_copy(update={"batch_size": 2, "min_score": 0.25})
    metrics, results = evaluate_detector(predictor, coco, config.input, eval_, class_mapping=(1, 0))
    assert predictor.shapes == [(2, 3, 64, 96), (1, 3, 64, 96)]
    assert predictor.min_scores == {0.25}
    # The mapping makes it the first class, category 3; the box is clipped. Only the one in the first image is correct.
    assert [(one["image_id"], one["category_id"], one["bbox"]) for one in results] == [
        (image_id, 3, [0.0, 0.0, 32.0, 32.0]) for image_id in (10, 20, 30)
    ]
    # Equal scores keep the order of the images: precision 1 up to a recall of 1/2, which are 51 of 101 recall points.
    assert metrics["AP50"] == pytest.approx(51 / 101)


def test_boxes_are_clipped_only_where_the_config_says_so(coco):
    config = square_model().config
    eval_ = config.eval.model_copy(update={"clip_boxes": False})
    _, results = evaluate_detector(FixedPredictor(), coco, config.input, eval_)
    assert {(one["category_id"], *one["bbox"]) for one in results} == {(17, -4.0, 0.0, 36.0, 32.0)}


def test_shards_together_are_the_whole(coco):
    bundle = square_model()
    predictor = NetworkDetector(bundle.network, CPU)
    arguments = (coco, bundle.config.input, bundle.config.eval, None)
    whole = inference_on_dataset(predictor, *arguments)
    first, second = (inference_on_dataset(predictor, *arguments, Shard(rank, 2)) for rank in range(2))
    first.merge([second.records])
    assert np.array_equal(first.records, whole.records)
    assert first.evaluate()["AP"] == whole.evaluate()["AP"] == pytest.approx(1.0)


def test_a_network_detects_in_input_pixels():
    network = square_model().network
    images = torch.from_numpy(np.stack([image_with_square(0, 1), image_with_square(9, 9)])).permute(0, 3, 1, 2)
    found, nothing = NetworkDetector(network, CPU).detect(images, PostprocessConfig(min_score=0.5))
    assert found.box_xyxy.tolist() == [[32.0, 0.0, 64.0, 32.0]]
    assert len(nothing) == 0


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_a_network_comes_back_after_an_error(training):
    network = square_model().network.train(training)
    network.interrupt_at = 1
    images = torch.zeros(1, 3, 64, 96, dtype=torch.uint8)
    with pytest.raises(KeyboardInterrupt), evaluation_mode(network):
        NetworkDetector(network, CPU).detect(images, PostprocessConfig())
    assert network.training is training
    with evaluation_mode(network):
        assert not network.training
    assert network.training is training
