"""The 80 classes of MS COCO with their gapped category ids: what a network is built for when no data says otherwise."""

from __future__ import annotations

from cspdet.structures import Categories

_NAMES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
scissors, teddy bear, hair drier, toothbrush"""

# Ids run from 1 to 90; these ten name classes that the released annotations never use.
_UNUSED = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}

COCO_CLASSES = Categories(
    names=tuple(name.strip() for name in _NAMES.replace("\n", " ").split(",")),
    category_ids=tuple(i for i in range(1, 91) if i not in _UNUSED),
)
