"""Darknet's grammar, and what a cfg may not say: every mistake with its line."""

from __future__ import annotations

import pytest
from darknet_data import CFGS, NET, RICH, TINY, conv, network, region, yolo

from cspdet.darknet.cfg import parse_cfg, read_cfg
from cspdet.darknet.graph import build_graph
from cspdet.darknet.num_classes import with_num_classes
from cspdet.errors import ConfigError


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        network(text)
    return caught.value.problems


def test_blanks_comments_line_ends_and_duplicates_are_read_as_darknet_does():
    text = "\ufeff# a cfg\r\n[net]\r\n wid th = 32 \r\n;no=1\r\nheight=3 2#px\r\nwidth=64\r\n[conv]\r\nfilters = 4\r\n"
    cfg = parse_cfg(text.lstrip("\ufeff"), "x.cfg")
    assert cfg.size_hw == (32, 32)  # the first width counts
    assert [section.section_type for section in cfg.layers] == ["convolutional"]
    assert cfg.layers[0].line == 7
    assert cfg.layers[0].get_int("filters") == 4


def test_lists_end_at_a_comment():
    cfg = parse_cfg(NET + "[yolo]\nmask = 0,1 # , 2\nanchors = 1.5,2, .5,4e1#,3\nnum=2\n", "x.cfg")
    assert cfg.layers[0].get_ints("mask") == (0, 1)
    assert cfg.layers[0].get_floats("anchors") == (1.5, 2, 0.5, 40)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "x.cfg"
    path.write_bytes("\ufeff[net]\n[avg]\n".encode())
    assert parse_cfg(read_cfg(path), "x.cfg").layers[0].section_type == "avgpool"


def test_hints_are_counted_and_what_is_read_is_none():
    assert parse_cfg(TINY, "x.cfg").ignored_keys == {"[net] batch": 1, "[yolo] ignore_thresh": 2}
    assert parse_cfg(RICH, "x.cfg").ignored_keys == {"[yolo] ignore_thresh": 1}


CONV = NET + "[convolutional]\n"
BACK = "[route]\nlayers=0\n"
HEAD = conv(7) + yolo("0")

# A cfg with one mistake, and what the message must say; `:N:` is the line, counted by hand in NET, which has 6 lines.
MISTAKES = {
    "section": (NET + "[convolutionel]\n", "x.cfg:7: unknown section [convolutionel] (did you mean 'convolutional'?)"),
    "key": (CONV + "fliters=3\n", "x.cfg:8: [convolutional] unknown key 'fliters' (did you"),
    "fixed": (CONV + "antialiasing=1\n", "x.cfg:8: [convolutional] antialiasing=1 is not supported"),
    "weights_type": (
        NET + conv(4) + "[shortcut]\nfrom=-1\nweights_type=per_feature\n",
        "weights_type=per_feature is not",
    ),
    "no key": (NET + "[avgpool]\nhello\n", "x.cfg:8: expected [section] or key=value, found 'hello'"),
    "open section": (NET + "[avgpool\n", "x.cfg:7: expected [section] or key=value, found '[avgpool'"),
    "before": ("width=3\n" + NET, "x.cfg:1: 'width=3' is before the first [section]"),
    "no net": ("[avgpool]\n", "expected [net] as the first section"),
    "two nets": (NET + conv(4) + "[net]\n", "[net] is not the first [net]"),
    "empty": ("", "expected [net] as the first section"),
    "no layer": (NET, "expected layers after [net], found none"),
    "word": (CONV + "filters=many\n", "x.cfg:8: [convolutional] filters: expected an integer, found 'many'"),
    "half": (CONV + "filters=1.5\n", "expected an integer, found '1.5'"),
    "none": (CONV + "filters=\n", "expected an integer, found ''"),
    "negative": (CONV + "stride=-2\n", "x.cfg:8: [convolutional] stride: expected an integer from 1"),
    "activation": (NET + conv(4, act="lekay"), "activation: unknown 'lekay' (did you mean 'leaky'?)"),
    "no height": (NET.replace("height=64", "") + conv(4), "x.cfg:2: [net] height is missing"),
    "colors": (NET.replace("channels=3", "channels=1") + conv(4), "channels: expected 3 input channels, found 1"),
    "groups": (NET + conv(4, 1, 1, "groups=2"), "groups: 2 groups do not divide 3 input channels and 4 filters"),
    "absurd filters": (NET + conv(10**9), "filters: expected an integer from 1 to 1048576"),
    "absurd side": (NET.replace("=64", "=999999") + conv(4), "expected an integer from 1 to 8192, found 999999"),
    "absurd weights": (NET + conv(2**14, 3) + conv(2**14, 3), "weights; expected at most 536,870,912"),
    "absurd maps": (NET.replace("=64", "=8192") + conv(64), "values; expected at most 268,435,456"),
    "forward": (
        NET + "[route]\nlayers=1\n" + conv(4),
        "x.cfg:8: [route] layers: 1 is layer 1 relative to layer 0; expected none",
    ),
    "itself": (
        NET + conv(4) + "[route]\nlayers=1\n",
        "layers: 1 is layer 1 relative to layer 1; expected an earlier layer",
    ),
    "far back": (NET + conv(4) + "[shortcut]\nfrom=-9\n", "from: -9 is layer -8 relative to layer 1"),
    "no layers": (NET + conv(4) + "[route]\n", "[route] layers is missing"),
    "sizes": (NET + conv(4) + conv(4, 3, 2) + "[route]\nlayers=0,1\n", "layer 0 is 4x64x64, but layer 1 is 4x32x32"),
    "group id": (
        NET + conv(4) + "[route]\nlayers=0\ngroups=2\ngroup_id=2\n",
        "group_id: expected an integer from 0 to 1",
    ),
    "smaller source": (
        NET + conv(4, 3, 2) + "[upsample]\n[shortcut]\nfrom=0\n",
        "layer 0 is 4x32x32, the layer before 4x64x64",
    ),
    "sam": (NET + conv(4) + conv(8) + "[sam]\nfrom=0\n", "[sam] from: layer 0 is 4x64x64; expected 8x64x64"),
    "scale": (NET + conv(4) + "[scale_channels]\nfrom=0\n", "the layer before is 4x64x64; expected 4x1x1"),
    "nothing left": (CONV + "filters=4\nsize=99\n", "the output is empty"),
    "filters of a head": (
        NET + conv(8, act="linear") + yolo("0"),
        "has 8 input channels; expected 7: 1 anchors times",
    ),
    "mask": (NET + conv(7, act="linear") + yolo("3"), "mask: expected numbers from 0 to 2, found 3"),
    "few anchors": (
        NET + conv(7) + "[yolo]\nmask=0\nclasses=2\nnum=2\nanchors=1,2,3\n",
        "two numbers for each of num=2, found 3",
    ),
    "anchor of nothing": (
        NET + conv(7) + "[yolo]\nclasses=2\nanchors=1,0\n",
        "anchors: expected widths and heights above 0",
    ),
    "classes": (NET + HEAD + BACK + conv(8) + yolo("0", classes=3), "classes: expected 2 as in"),
    "region taken": (NET + conv(16, act="linear") + region() + conv(4), "reads layer 1, a [region], whose output"),
    "tree": (NET + conv(16, act="linear") + region("tree=9k.tree"), "[region] tree: is not supported: classes in a h"),
    "softmax of a region": (
        NET + conv(16, act="linear") + region().replace("softmax=1", ""),
        "[region] expected softmax=1: without softmax, versions of Darknet compute different scores",
    ),
    "coords": (NET + conv(16) + region().replace("coords=4", "coords=14"), "coords=14 is not supported; only coords=4"),
    "yolo taken": (NET + HEAD + conv(4), "reads layer 1, a [yolo]"),
    "scale_x_y": (NET + conv(7) + yolo("0", "scale_x_y=3"), "scale_x_y: expected a number from 1 to 2, found 3"),
    "new_coords": (
        NET + conv(7, norm=False, act="linear") + yolo("0", "new_coords=1"),
        "new_coords of the [yolo] after it needs",
    ),
    "new_coords taken": (
        NET + conv(7, norm=False, act="logistic") + yolo("0", "new_coords=1") + BACK + HEAD,
        "reads layer 0, which with new_coords only the [yolo] after it may read",
    ),
    "neither": (
        NET + conv(4),
        "the output of the network is 4x64x64; expected a [yolo], or one cell as in a classifier",
    ),
    "softmax": (NET + "[avgpool]\n[softmax]\n[avgpool]\n", "[softmax] is supported as the last layer only"),
    "pixels": (NET.replace("=64", "=70") + conv(7, 3, 32) + yolo("0"), "3x3 cells for 70x70 pixels"),
    "window": (NET + "[maxpool]\nsize=3\npadding=5\n", "padding: expected at most 4 for a size of 3, found 5"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_errors_are_reported_with_their_line(kind):
    text, message = MISTAKES[kind]
    found = problems(text)
    assert message in "\n".join(found)
    assert all(problem.startswith("x.cfg:") for problem in found)


def test_all_unknown_words_are_reported_together():
    text = NET + "[convolutional]\nfliters=3\nstrid=1\n[maxpol]\n"
    assert len(problems(text)) == 3


def test_a_cfg_takes_another_number_of_classes():
    cfg = with_num_classes(parse_cfg(TINY, "x.cfg"), 5)
    assert cfg.num_classes == 5
    assert [layer.shape.channels for layer in build_graph(cfg).layers if layer.section.section_type == "yolo"] == [
        10,
        10,
    ]
    assert with_num_classes(cfg, 5) == cfg
    with pytest.raises(ConfigError, match=r"expected a \[convolutional\] before it"):
        with_num_classes(parse_cfg(NET + "[upsample]\n" + yolo("0"), "x.cfg"), 5)


def test_files_that_are_no_cfg(tmp_path):
    (tmp_path / "yolo.cfg").write_text(TINY)
    with pytest.raises(ConfigError, match=r"no such file \(did you mean 'yolo.cfg'"):
        read_cfg(tmp_path / "yol.cfg")
    (tmp_path / "big.cfg").write_bytes(b" " * 2_000_000)
    with pytest.raises(ConfigError, match="expected at most 1,000,000 bytes"):
        read_cfg(tmp_path / "big.cfg")
    with pytest.raises(ConfigError, match="is a folder"):
        read_cfg(tmp_path)


@pytest.mark.parametrize("name", CFGS)
def test_maps_are_freed_after_their_last_use_and_never_before(name):
    network = build_graph(parse_cfg(CFGS[name], "x.cfg"))
    gone: set[int] = set()
    for layer, freed in zip(network.layers, network.last_uses, strict=True):
        assert not gone & set(layer.sources)
        gone |= set(freed)
    kept = {layer.index for layer in network.layers[-1:]}
    assert gone | kept == {-1, *range(len(network.layers))}
