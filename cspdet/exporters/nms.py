"""NMS as ONNX nodes that are appended to a graph with decoded outputs, so that the file returns detections."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cspdet.inference.metadata import NmsConfig
from cspdet.models.postprocess import MAX_NMS_COORDINATE

if TYPE_CHECKING:
    import onnx


def add_nms(model: onnx.ModelProto, config: NmsConfig) -> onnx.ModelProto:
    """Replace the outputs `box_xyxy` (B, S, 4) and `score` (B, S, C) of a graph by `detections` (N, 7), in place.

    The columns are image index, x1, y1, x2, y2 in input pixels, score and class index. Rows are sorted by score over
    the whole batch, with at most `max_detections` rows per image. NMS is per class, as in `cspdet.models.postprocess`.
    The changed model is also returned.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = model.graph
    del graph.output[:]
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in _constants(config).items())
    make = helper.make_node
    graph.node.extend([
        make("Transpose", ["score"], ["nms_score"], perm=[0, 2, 1]),  # (B, C, S)
        make("Clip", ["box_xyxy", "nms_min_coordinate", "nms_max_coordinate"], ["nms_clamped"]),
        make("NonMaxSuppression", ["nms_clamped", "nms_score", "nms_count", "nms_iou", "nms_min_score"], ["nms_all"]),
        # Rows (M, 3) of image, class, prior; sorted by score.
        make("GatherND", ["nms_score", "nms_all"], ["nms_all_score"]),
        make("Shape", ["nms_all_score"], ["nms_total"]),
        make("TopK", ["nms_all_score", "nms_total"], ["nms_sorted", "nms_order"], axis=0),
        make("Gather", ["nms_all", "nms_order"], ["nms_rows"], axis=0),
        # Rank of each row among those of its image.
        make("Gather", ["nms_rows", "nms_zero"], ["nms_image"], axis=1),  # (M, 1)
        make("Shape", ["box_xyxy"], ["nms_shape"]),
        make("Gather", ["nms_shape", "nms_zero_scalar"], ["nms_batch"], axis=0),
        make("Range", ["nms_zero_scalar", "nms_batch", "nms_one_scalar"], ["nms_images"]),
        make("Equal", ["nms_image", "nms_images"], ["nms_same_image"]),  # (M, B)
        make("Cast", ["nms_same_image"], ["nms_same_image_float"], to=TensorProto.FLOAT),
        make("CumSum", ["nms_same_image_float", "nms_zero_scalar"], ["nms_cumulative"]),
        make("Mul", ["nms_cumulative", "nms_same_image_float"], ["nms_same_image_so_far"]),
        make("ReduceSum", ["nms_same_image_so_far", "nms_one"], ["nms_rank"], keepdims=0),
        make("LessOrEqual", ["nms_rank", "nms_max_detections"], ["nms_kept"]),
        make("NonZero", ["nms_kept"], ["nms_kept_rows"]),  # (1, N)
        make("Squeeze", ["nms_kept_rows", "nms_zero"], ["nms_kept_index"]),
        make("Gather", ["nms_rows", "nms_kept_index"], ["nms_best"], axis=0),
        make("Gather", ["nms_sorted", "nms_kept_index"], ["nms_best_score"], axis=0),
        # Boxes by image and prior.
        make("Gather", ["nms_best", "nms_image_and_prior"], ["nms_box_index"], axis=1),
        make("GatherND", ["box_xyxy", "nms_box_index"], ["nms_box"]),
        make("Gather", ["nms_best", "nms_zero"], ["nms_best_picture"], axis=1),
        make("Gather", ["nms_best", "nms_one"], ["nms_best_class"], axis=1),
        make("Cast", ["nms_best_picture"], ["nms_image_float"], to=TensorProto.FLOAT),
        make("Cast", ["nms_best_class"], ["nms_class_float"], to=TensorProto.FLOAT),
        make("Unsqueeze", ["nms_best_score", "nms_one"], ["nms_score_column"]),
        make("Concat", ["nms_image_float", "nms_box", "nms_score_column", "nms_class_float"], ["detections"], axis=1),
    ])  # fmt: skip
    graph.output.append(helper.make_tensor_value_info("detections", TensorProto.FLOAT, ["num_detections", 7]))
    return model


def nms_probe(model: onnx.ModelProto, config: NmsConfig) -> onnx.ModelProto:
    """Copy a model with built-in NMS, set the thresholds `config`, and add the outputs `box_xyxy` and `score`."""
    from onnx import ModelProto, TensorProto, helper, numpy_helper

    probe = ModelProto()
    probe.CopyFrom(model)
    constants = _constants(config)
    for tensor in probe.graph.initializer:
        if tensor.name in constants:
            tensor.CopyFrom(numpy_helper.from_array(constants[tensor.name], tensor.name))
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "priors", None])
        for name in ("box_xyxy", "score")
    )
    return probe


def _constants(config: NmsConfig) -> dict[str, np.ndarray]:
    return {
        "nms_count": np.array([config.max_detections], np.int64),
        "nms_iou": np.array([config.nms_iou], np.float32),
        "nms_min_score": np.array([config.min_score], np.float32),
        "nms_min_coordinate": np.array(-MAX_NMS_COORDINATE, np.float32),
        "nms_max_coordinate": np.array(MAX_NMS_COORDINATE, np.float32),
        "nms_max_detections": np.array(config.max_detections, np.float32),
        "nms_zero": np.array([0], np.int64),
        "nms_one": np.array([1], np.int64),
        "nms_zero_scalar": np.array(0, np.int64),
        "nms_one_scalar": np.array(1, np.int64),
        "nms_image_and_prior": np.array([0, 2], np.int64),
    }
