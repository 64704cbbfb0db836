"""A classifier's training images: crops, mixing, shares that are areas, and batches that nothing else decides."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from image_set_data import COLORS, write_images

from cspdet.config.input import InputConfig
from cspdet.config.loader import parse_config
from cspdet.datasets import cache as cache_module
from cspdet.datasets.cache import RamCache, build_cache
from cspdet.datasets.classification.augment import (
    ImageAugment,
    ImageRegion,
    ImageSample,
    cutmix,
    mix_batch,
    mixup,
    mosaic,
    random_crop,
    random_region,
    rotate_image,
)
from cspdet.datasets.classification.crops import ImageCrop
from cspdet.datasets.classification.dataset import ClassificationDataset, ClassificationImages, check_images
from cspdet.datasets.classification.image_folder import ImageFolderDataset, load_image_folder
from cspdet.datasets.classification.loader import crop_batches, image_loader
from cspdet.datasets.collate import ImageBatch
from cspdet.datasets.config import ImageAugmentConfig, LoaderConfig
from cspdet.datasets.loader import EpochLoader
from cspdet.errors import ConfigError, DataError
from cspdet.models.config import ClassifierEvalConfig
from cspdet.structures import SINGLE_PROCESS, Shard

STRONG = ImageAugmentConfig(
    crop_area=(0.3, 1.0), crop_ratio=(0.7, 1.4), rotate=10, hue=0.05, saturation=1.5, exposure=1.5,
    flip_horizontal=0.5, flip_vertical=0.2, erase=0.3, mixup=0.3, cutmix=0.3, mosaic=0.3,
)  # fmt: skip
SIDES = st.integers(1, 60)


def noise_image(height: int, width: int, seed: int = 0) -> np.ndarray:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    image.flags.writeable = False  # a cache's memory
    return image


def plain(value: int, class_id: int, size_hw: tuple[int, int] = (4, 4)) -> ImageSample:
    return ImageSample(np.full((*size_hw, 3), value, np.uint8), (class_id,), (1.0,), class_id)


# --- one image ---------------------------------------------------------------------------------


def test_the_defaults_show_the_center_as_it_is():
    image = noise_image(50, 100)
    view = ImageAugment(ImageAugmentConfig(), (50, 50))(image, np.random.default_rng(0))
    np.testing.assert_array_equal(view, image[:, 25:75])
    wide = ImageAugment(ImageAugmentConfig(), (20, 40))(noise_image(20, 40), np.random.default_rng(0))
    np.testing.assert_array_equal(wide, noise_image(20, 40))


@given(image_hw=st.tuples(SIDES, SIDES), size_hw=st.tuples(SIDES, SIDES), seed=st.integers(0, 99))
def test_crops_lie_in_the_image(image_hw, size_hw, seed):
    crop = random_crop(STRONG, image_hw, size_hw, np.random.default_rng(seed))
    assert 0 <= crop.top < crop.bottom <= image_hw[0]
    assert 0 <= crop.left < crop.right <= image_hw[1]


def test_crops_take_their_share_and_ratio():
    config = ImageAugmentConfig(crop_area=(0.2, 0.4), crop_ratio=(0.5, 2.0))
    crops = [random_crop(config, (400, 600), (100, 200), np.random.default_rng(seed)) for seed in range(300)]
    fractions = [crop.area / (400 * 600) for crop in crops]
    # Relative to the input's 2 to 1, so that nothing is bent by more than that.
    ratios = [(crop.right - crop.left) / (crop.bottom - crop.top) / 2 for crop in crops]
    assert 0.195 < min(fractions) < 0.22
    assert 0.38 < max(fractions) < 0.405
    assert 0.49 < min(ratios) < 0.55
    assert 1.6 < max(ratios) < 2.02
    assert len({(crop.top, crop.left) for crop in crops}) > 280


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"flip_horizontal": 1.0}, np.s_[:, ::-1]),
        ({"flip_vertical": 1.0}, np.s_[::-1]),
        ({"flip_horizontal": 1.0, "flip_vertical": 1.0}, np.s_[::-1, ::-1]),
    ],
)
def test_flips(change, expected):
    view = ImageAugment(ImageAugmentConfig(**change), (30, 30))(noise_image(30, 30), np.random.default_rng(0))
    np.testing.assert_array_equal(view, noise_image(30, 30)[expected])


def test_half_turn_is_both_flips():
    np.testing.assert_array_equal(rotate_image(noise_image(20, 30), 180), noise_image(20, 30)[::-1, ::-1])


def test_erasing_replaces_one_rectangle():
    config = ImageAugmentConfig(erase=1.0, erase_area=(0.1, 0.1))
    for seed in range(20):
        view = ImageAugment(config, (80, 80))(noise_image(80, 80), np.random.default_rng(seed))
        rows, columns = np.nonzero((view != noise_image(80, 80)).any(axis=2))
        height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert height * width <= 0.1 * 80 * 80 * 1.1  # less where it is cut at the border
        assert len(rows) > 0.9 * height * width  # noise rarely equals what was there


def test_view_is_function_of_its_stream():
    augment = ImageAugment(STRONG, (40, 40))
    first, again, other = (augment(noise_image(60, 70), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert first.shape == (40, 40, 3)
    assert first.flags.c_contiguous


# --- several images ----------------------------------------------------------------------------


@given(
    size_hw=st.tuples(SIDES, SIDES), fraction=st.floats(0, 1), log_ratio=st.floats(-1.2, 1.2), seed=st.integers(0, 99)
)
def test_rectangles_lie_in_the_image_and_have_pixel(size_hw, fraction, log_ratio, seed):
    part = random_region(size_hw, fraction, log_ratio, np.random.default_rng(seed))
    assert 0 <= part.top < part.bottom <= size_hw[0]
    assert 0 <= part.left < part.right <= size_hw[1]
    assert part.view(np.zeros((*size_hw, 3))).shape[:2] == (part.bottom - part.top, part.right - part.left)


def test_mixup_by_hand():
    mixed = mixup(plain(100, 0), plain(200, 1), 0.25)
    assert (mixed.image == 125).all()
    assert (mixed.class_id, mixed.label_weight, mixed.index) == ((0, 1), (0.75, 0.25), 0)


def test_cutmix_by_hand():
    mixed = cutmix(plain(0, 4), plain(255, 7), ImageRegion(1, 3, 0, 2))
    assert mixed.image[..., 0].tolist() == [[0, 0, 0, 0], [255, 255, 0, 0], [255, 255, 0, 0], [0, 0, 0, 0]]
    assert (mixed.class_id, mixed.label_weight) == ((4, 7), (0.75, 0.25))


def test_mosaic_by_hand():
    mixed = mosaic([plain(10 * i, i) for i in range(4)], meet_y=1, meet_x=3)
    assert mixed.image[..., 0].tolist() == [[0, 0, 0, 10]] + 3 * [[20, 20, 20, 30]]
    assert mixed.class_id == (0, 1, 2, 3)
    assert mixed.label_weight == (3 / 16, 1 / 16, 9 / 16, 3 / 16)


@given(kind=st.sampled_from(["cutmix", "mosaic"]), height=st.integers(2, 40), width=SIDES, seed=st.integers(0, 999))
def test_shares_are_the_areas_that_show(kind, height, width, seed):
    samples = [plain(i, i, (height, width)) for i in range(6)]
    streams = [np.random.default_rng((seed, i)) for i in range(6)]
    for mixed in mix_batch(samples, ImageAugmentConfig(**{kind: 1.0}), streams):
        seen = np.bincount(mixed.image[..., 0].ravel(), minlength=6) / (height * width)
        weights = np.bincount(mixed.class_id, weights=mixed.label_weight, minlength=6)
        np.testing.assert_allclose(weights, seen, atol=1e-9)


def test_chances_of_mixing():
    samples = [plain(i, i) for i in range(8)]
    parts = Counter()
    config = ImageAugmentConfig(mixup=0.2, mosaic=0.5)
    for seed in range(250):
        streams = [np.random.default_rng((seed, i)) for i in range(8)]
        mixed = mix_batch(samples, config, streams)
        parts.update(len(sample.class_id) for sample in mixed)
        assert all(a is b for a, b in zip(mixed, samples, strict=True) if len(a.class_id) == 1)
        assert [sample.index for sample in mixed] == list(range(8))
        assert all(sum(sample.label_weight) == pytest.approx(1) for sample in mixed)
    # 2000 draws: three standard deviations are 54 of the expected 400 and 67 of 1000
    assert abs(parts[2] - 400) < 54
    assert abs(parts[4] - 1000) < 67


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"mixup": 0.6, "mosaic": 0.6}, r"mixup: expected mixup .* found 1\.2"),
        ({"crop_area": [0.5, 0.4]}, "crop_area: expected two fractions above 0 and up to 1, the lower first"),
        ({"erase_area": [0.5, 1.4]}, "erase_area: expected two fractions"),
        ({"crop_ratio": [0, 1]}, "crop_ratio: expected two ratios above 0"),
        ({"cutmixx": 0.5}, "did you mean 'cutmix'"),
    ],
)
def test_settings_that_cannot_be(values, expected):
    with pytest.raises(ConfigError, match=expected):
        parse_config(values, ImageAugmentConfig, "here")


# --- batches -------------------------------------------------------------------------------------


@pytest.fixture
def images(tmp_path: Path) -> ImageFolderDataset:
    return load_image_folder(write_images(tmp_path / "set", train=4), "train")


def loader(
    images: ImageFolderDataset,
    size_hw: tuple[int, int] = (32, 32),
    augment: ImageAugmentConfig = STRONG,
    shard: Shard = SINGLE_PROCESS,
    **changes,
) -> EpochLoader[ImageBatch]:
    values = {"epochs": 10, "batch_size": 5, "seed": 3, "workers": 0, "cache": "none"}
    input_ = InputConfig.model_construct(size=size_hw)  # smaller than a config may ask for
    return image_loader(images, input_, augment, LoaderConfig(**{**values, **changes}), shard=shard)


def equal(a: ImageBatch, b: ImageBatch) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_batches_do_not_depend_on_the_number_of_workers(images):
    made = {}
    for workers in (0, 2):
        batches = loader(images, workers=workers)
        made[workers] = [batch for epoch in (0, 1) for batch in batches.epoch(epoch)]
    assert [len(batch.images) for batch in made[0]] == [5, 5, 2] * 2
    assert all(equal(a, b) for a, b in zip(made[0], made[2], strict=True))
    assert not torch.equal(made[0][0].images, made[0][3].images)  # epochs differ


def test_epoch_can_be_entered_in_its_middle(images):
    whole, batches = list(loader(images).epoch(4)), loader(images)
    next(batches.epoch(1))
    rest = list(batches.epoch(4, start_batch=1))
    assert len(rest) == len(whole) - 1 == 2
    assert all(equal(a, b) for a, b in zip(whole[1:], rest, strict=True))


def test_every_image_is_seen_once_with_its_class_and_color(images):
    batches = list(loader(images, augment=ImageAugmentConfig()).epoch(0))
    index = torch.cat([batch.image_id for batch in batches])
    assert sorted(index.tolist()) == list(range(12)) != index.tolist()
    class_id, fraction = (torch.cat([batch[part] for batch in batches]) for part in (1, 2))
    assert class_id[:, 0].tolist() == images.label[index].tolist()
    assert fraction.tolist() == [[1, 0, 0, 0]] * 12
    mean = torch.cat([batch.images for batch in batches]).float().mean(dim=(2, 3))
    expected = torch.tensor(list(COLORS.values())).float()[class_id[:, 0]]
    assert (mean - expected).abs().max() < 30


def test_image_left_over_goes_into_the_batch_before_it(images):
    for size, expected in ((11, [12]), (10, [10, 2]), (4, [4, 4, 4]), (12, [12]), (20, [12])):
        batches = loader(images, batch_size=size)
        assert [len(batch.images) for batch in batches.epoch(0)] == expected
        assert len(batches) == len(expected)
    (rest,) = loader(images, batch_size=11).epoch(0, start_batch=0)
    assert sorted(rest.image_id.tolist()) == list(range(12))


def test_the_last_epochs_are_not_mixed(images):
    config = ImageAugmentConfig(mosaic=1.0, close_mixing=2)
    batches = loader(images, augment=config, epochs=5)
    for epoch in range(5):
        fraction = next(batches.epoch(epoch)).label_weight
        assert (fraction[:, 1] > 0).all() == (epoch < 3)
        torch.testing.assert_close(fraction.sum(dim=1), torch.ones(5))


@pytest.mark.parametrize("size", [8, 32])  # stored at 16x19 pixels, and as they are
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_cached_images_give_the_same_batches(images, workers, size, cache, tmp_path):
    read = list(loader(images, size_hw=(size, size)).epoch(0))
    cached = loader(images, size_hw=(size, size), cache=cache, cache_folder=tmp_path / "cache", workers=workers)
    for index in range(len(images)):
        images.path(index).unlink()
    assert all(equal(a, b) for a, b in zip(read, cached.epoch(0), strict=True))


def test_sources_shrink_what_is_much_larger_and_know_their_memory(images, monkeypatch):
    small = ClassificationDataset(images.label, ClassificationImages(images, (8, 8)))
    assert small[0].image.shape == (16, 19, 3)  # 48x56 by a third
    source = ClassificationImages(images, (32, 32))
    assert ClassificationDataset(images.label, source)[0].image.shape == (48, 56, 3)
    assert source.estimate_cache_bytes() == 12 * 3 * 48 * 56
    monkeypatch.setattr(
        cache_module, "available_memory", lambda: 2 * source.estimate_cache_bytes()
    )  # room, but not plenty of it
    assert build_cache(source, LoaderConfig(cache="auto")) is source
    assert isinstance(build_cache(source, LoaderConfig(cache="ram")), RamCache)
    monkeypatch.setattr(cache_module, "available_memory", lambda: 10_000)
    with pytest.raises(ConfigError, match=r"train\.cache: 12 images of this size need .* use train\.cache=none"):
        loader(images, cache="ram")


def break_image(images: ImageFolderDataset, index: int) -> None:
    whole = images.path(index).read_bytes()
    images.path(index).write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_stops_with_one_line(images, workers):
    break_image(images, 5)
    with pytest.raises(DataError) as caught:
        list(loader(images, workers=workers).epoch(0))
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(str(images.path(5)))


@pytest.mark.parametrize(("workers", "cache"), [(0, "none"), (2, "none"), (2, "ram"), (2, "disk")])
def test_unreadable_images_are_replaced_and_counted(images, workers, cache, tmp_path):
    images.path(5).write_bytes(b"no picture")
    break_image(images, 11)
    batches = loader(
        images, workers=workers, cache=cache, on_bad_image="skip", augment=ImageAugmentConfig(), cache_folder=tmp_path
    )
    made = list(batches.epoch(0))
    # 5 is replaced by 6, the last by the first; each with its own class
    index = torch.cat([batch.image_id for batch in made])
    assert Counter(index.tolist()) == Counter({6: 2, 0: 2, **dict.fromkeys((1, 2, 3, 4, 7, 8, 9, 10), 1)})
    assert torch.cat([batch.class_id for batch in made])[:, 0].tolist() == images.label[index].tolist()
    assert set(batches.skipped) == {str(images.path(i)) for i in (5, 11)}


def test_files_are_looked_through_by_their_headers(images):
    assert check_images(images) == []
    images.path(1).write_bytes(b"")
    images.path(7).write_text("<html>not found</html>")
    images.path(9).unlink()
    assert [line.split(":")[0] for line in check_images(images)] == [str(images.path(i)) for i in (1, 7, 9)]


def test_one_image_alone_can_be_mixed_with_nothing_but_itself(tmp_path):
    root = write_images(tmp_path, train=1, classes=1)
    only = load_image_folder(root, "train")
    image = cv2.imread(str(only.path(0)))[..., ::-1]
    (batch,) = loader(only, augment=ImageAugmentConfig(mosaic=1.0), size_hw=(48, 56)).epoch(0)
    np.testing.assert_array_equal(batch.images[0].permute(1, 2, 0).numpy(), image)
    assert batch.class_id.tolist() == [[0, 0, 0, 0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_batches_and_mix_their_own_parts(images, workers):
    plain = ImageAugmentConfig(crop_area=(0.3, 1.0), flip_horizontal=0.5)
    whole = list(loader(images, augment=plain).epoch(1))
    parts = [loader(images, augment=plain, shard=Shard(rank, 2), workers=workers) for rank in range(2)]
    # 5, 5, 2 images become 5 and 7: of the last two, each process would have one alone
    assert [parts[0].images_in_batch(number) for number in range(len(parts[0]))] == [5, 7]
    seen = {}
    for zero, one in zip(parts[0].epoch(1), parts[1].epoch(1), strict=True):
        for batch in (zero, one):
            seen |= dict(zip(batch.image_id.tolist(), batch.images, strict=True))
    expected = {i: image for batch in whole for i, image in zip(batch.image_id.tolist(), batch.images, strict=True)}
    assert set(seen) == set(expected)
    assert all(torch.equal(image, expected[i]) for i, image in seen.items())
    mixed = next(loader(images, augment=ImageAugmentConfig(mosaic=1.0), shard=Shard(0, 2)).epoch(0))
    own = set(images.label[mixed.image_id].tolist())
    assert set(mixed.class_id.flatten().tolist()) <= own


def test_evaluation_is_shared_in_order(images):
    crop, pairs = ImageCrop((32, 32), 32), ClassifierEvalConfig(batch_size=2, workers=0)
    parts = [[batch.indices for batch in crop_batches(images, crop, pairs, shard=Shard(rank, 5))] for rank in range(5)]
    assert parts == [[(0, 5), (10,)], [(1, 6), (11,)], [(2, 7)], [(3, 8)], [(4, 9)]]
    assert list(crop_batches(images, crop, pairs, shard=Shard(12, 13))) == []


def test_rare_classes_are_seen_more_often(tmp_path):
    root = write_images(tmp_path, train=4)
    rare, *others = sorted((root / "train").iterdir())
    for path in sorted(rare.iterdir())[1:]:
        path.unlink()
    images = load_image_folder(root, "train")
    # 9 images, 1 and 4 and 4 of a class: below a threshold of 4/9, the first wants sqrt(4/9 / (1/9)) = 2 showings.
    (batch,) = loader(images, augment=ImageAugmentConfig(), batch_size=64, repeat_threshold=4 / 9).epoch(0)
    times = Counter(images.name(index).split("/")[1] for index in batch.image_id.tolist())
    assert times == {rare.name: 2, **{other.name: 4 for other in others}}


def test_repeated_image_is_varied_and_mixed_again(images):
    values = {"repeat_threshold": 1.0, "batch_size": 64}  # a third of the images each: sqrt(3), 12 become 21
    (batch,) = loader(images, augment=ImageAugmentConfig(crop_area=(0.3, 1.0)), **values).epoch(0)
    assert len(batch.images) == round(12 * 3**0.5) == 21
    for index, count in Counter(batch.image_id.tolist()).items():
        seen = batch.images[batch.image_id == index]
        assert 1 <= count <= 2
        assert len(seen.flatten(1).unique(dim=0)) == count
    (mixed,) = loader(images, augment=ImageAugmentConfig(mixup=1.0), **values).epoch(0)
    for index, count in Counter(mixed.image_id.tolist()).items():
        assert len(mixed.label_weight[mixed.image_id == index].unique(dim=0)) == count
