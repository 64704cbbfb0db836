"""The loaders: equal batches for every number of workers, resumable epochs, errors that arrive unchanged."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from cspdet.config.input import InputConfig
from cspdet.datasets import cache as cache_module
from cspdet.datasets.cache import RamCache, build_cache
from cspdet.datasets.config import AlbumentationsTransform, AugmentConfig, LoaderConfig
from cspdet.datasets.descriptor import SplitFiles
from cspdet.datasets.detection.dataset import DetectionDataset, DetectionImages
from cspdet.datasets.detection.loader import eval_loader, train_loader
from cspdet.datasets.formats.coco import CocoDataset, load_coco
from cspdet.datasets.loader import EpochLoader, EvalLoader
from cspdet.datasets.workers import worker_crash_error
from cspdet.errors import ConfigError, DataError
from cspdet.letterbox import PAD_VALUE
from cspdet.models.config import EvalConfig
from cspdet.structures import SINGLE_PROCESS, Batch, Shard

NUM_IMAGES = 11
STRONG = AugmentConfig(
    mosaic=0.7, scale=(0.5, 1.5), translate=0.1, hue=0.02, saturation=1.5, exposure=1.5, flip_horizontal=0.5
)


def make_set(folder: Path, num_images: int = NUM_IMAGES) -> CocoDataset:
    """Noise of growing width, 48 rows; one box each, and a crowd on the second, none on the third."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    images, boxes = [], []
    for i in range(num_images):
        width = 60 + 10 * i
        noise = rng.integers(0, 256, (6, 8, 3), np.uint8)
        cv2.imwrite(str(folder / "images" / f"{i}.png"), cv2.resize(noise, (width, 48)))
        images.append({"id": 100 + i, "file_name": f"{i}.png", "width": width, "height": 48})
        box = {"image_id": 100 + i, "category_id": 5 + i % 2, "bbox": [8, 12, 20, 24], "iscrowd": int(i == 1)}
        if i != 2:
            boxes.append({**box, "id": i + 1, "area": 480})
    document = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": 5, "name": "a"}, {"id": 6, "name": "b"}],
    }
    (folder / "train.json").write_text(json.dumps(document))
    return load_coco(SplitFiles(images=folder / "images", annotations=folder / "train.json"), "train")


@pytest.fixture
def coco(tmp_path: Path) -> CocoDataset:
    return make_set(tmp_path / "set")


def loader(
    coco: CocoDataset,
    size_hw: tuple[int, int] = (64, 64),
    resize: str = "letterbox",
    augment: AugmentConfig = STRONG,
    shard: Shard = SINGLE_PROCESS,
    **changes,
) -> EpochLoader[Batch]:
    values = {"epochs": 10, "batch_size": 4, "seed": 3, "workers": 0, "cache": "none"}
    config = LoaderConfig(**{**values, **changes})
    return train_loader(coco, InputConfig(size=size_hw, resize=resize), augment, config, shard=shard)


def evaluation(
    coco: CocoDataset,
    size_hw: tuple[int, int] = (64, 64),
    batch_size: int = 16,
    workers: int = 0,
    shard: Shard = SINGLE_PROCESS,
) -> EvalLoader:
    config = EvalConfig(batch_size=batch_size, workers=workers)
    return eval_loader(coco, InputConfig(size=size_hw), config, shard=shard)


def cached(coco: CocoDataset, cache: str, num_processes: int = 1) -> RamCache | DetectionImages:
    return build_cache(DetectionImages(coco, (64, 64)), LoaderConfig(cache=cache), num_processes=num_processes)


def equal(a: Batch, b: Batch) -> bool:
    pairs = [(a.images, b.images), *zip(a.targets, b.targets, strict=True)]
    return all(torch.equal(x, y) for x, y in [*pairs, (a.image_id, b.image_id), (a.size_hw, b.size_hw)])


def test_batches_do_not_depend_on_the_number_of_workers(coco):
    blur = AlbumentationsTransform(name="RandomBrightnessContrast", args={"p": 0.5})
    augment = STRONG.model_copy(update={"albumentations": (blur,)})
    made = {}
    for workers in (0, 1, 2):
        batches = loader(coco, workers=workers, augment=augment)
        made[workers] = [batch for epoch in (0, 1) for batch in batches.epoch(epoch)]
    assert len(made[0]) == 6
    for workers in (1, 2):
        assert all(equal(a, b) for a, b in zip(made[0], made[workers], strict=True))
    assert not torch.equal(made[0][0].images, made[0][3].images)  # epochs differ


@pytest.mark.e2e
def test_spawned_workers_give_the_same_batches(coco):
    expected, expected_eval = list(loader(coco).epoch(0)), list(evaluation(coco, batch_size=4))
    before = multiprocessing.get_start_method(allow_none=True)
    multiprocessing.set_start_method("spawn", force=True)
    try:
        found = list(loader(coco, workers=1, cache="ram").epoch(0))
        found_eval = list(evaluation(coco, batch_size=4, workers=1))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert all(equal(a, b) for a, b in zip(found, expected, strict=True))
    assert all(equal(a, b) for a, b in zip(found_eval, expected_eval, strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_can_be_entered_in_its_middle(coco, workers):
    whole = list(loader(coco).epoch(4))
    batches = loader(coco, workers=workers)
    next(batches.epoch(1))  # an epoch that was left early leaves nothing behind
    rest = list(batches.epoch(4, start_batch=1))
    assert len(rest) == len(whole) - 1
    assert all(equal(a, b) for a, b in zip(whole[1:], rest, strict=True))
    assert len(batches) == len(whole) == 3


def test_every_image_is_seen_once_epoch(coco):
    batches = list(loader(coco, augment=AugmentConfig()).epoch(0))
    assert [len(batch.images) for batch in batches] == [4, 4, 3]
    ids = torch.cat([batch.image_id for batch in batches]).tolist()
    assert sorted(ids) == [100 + i for i in range(NUM_IMAGES)]
    assert ids != sorted(ids)
    sizes = dict(zip(ids, torch.cat([batch.size_hw for batch in batches]).tolist(), strict=True))
    assert sizes == {100 + i: [48, 60 + 10 * i] for i in range(NUM_IMAGES)}


def test_seeds_change_order_and_augmentation(coco):
    a, b = (next(loader(coco, seed=seed).epoch(0)) for seed in (1, 2))
    assert a.image_id.tolist() != b.image_id.tolist()


def test_every_image_has_draws_of_its_own(coco):
    plain = next(loader(coco, augment=AugmentConfig(), batch_size=NUM_IMAGES).epoch(0))
    turned = next(loader(coco, augment=AugmentConfig(rotate=5), batch_size=NUM_IMAGES).epoch(0))
    change = (turned.targets.box_xyxy - plain.targets.box_xyxy)[:, 0]
    assert len(set(change.tolist())) == NUM_IMAGES - 1  # one image has no box


def test_starting_epoch_leaves_the_global_generator_alone(coco):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(loader(coco).epoch(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_targets_are_flat_and_point_at_their_images(coco):
    batches = list(loader(coco, augment=AugmentConfig(), batch_size=NUM_IMAGES).epoch(0))
    images, targets, image_id, _ = batches[0]
    row = {number: i for i, number in enumerate(image_id.tolist())}
    assert images.shape == (NUM_IMAGES, 3, 64, 64)
    assert images.dtype == torch.uint8
    assert images.is_contiguous()
    assert Counter(targets.image_index.tolist()) == Counter(set(range(NUM_IMAGES)) - {row[102]})  # 102 has no box
    assert (
        targets.is_crowd.nonzero().flatten().tolist() == (targets.image_index == row[101]).nonzero().flatten().tolist()
    )
    assert targets.class_id[targets.image_index == row[103]].tolist() == [1]
    # Picture 110 is 160x48: by 0.4 to 64x19 (19.2), 22 rows above it. Its box x 8..28, y 12..36 of 48 becomes
    # x 3.2..11.2, y 22 + 12 * 19 / 48 = 26.75 to 22 + 36 * 19 / 48 = 36.25.
    torch.testing.assert_close(
        targets.box_xyxy[targets.image_index == row[110]], torch.tensor([[3.2, 26.75, 11.2, 36.25]])
    )
    assert (images[row[110], :, :22] == PAD_VALUE).all()
    assert (images[row[110], :, 22:41] != PAD_VALUE).any()


def test_images_without_any_box_make_batch(coco):
    batches = loader(coco, augment=AugmentConfig(), batch_size=1).epoch(0)
    (empty,) = [batch for batch in batches if batch.image_id.tolist() == [102]]
    assert empty.targets.box_xyxy.shape == (0, 4)
    assert empty.targets.class_id.dtype == torch.int64


@pytest.mark.parametrize("mixing", [{"mosaic": 1.0}, {"mixup": 1.0}, {"cutmix": 1.0}])
def test_the_last_epochs_have_no_mixing(coco, mixing):
    augment = AugmentConfig(**mixing, close_mosaic=2)
    batches = loader(coco, augment=augment, epochs=5)
    plain = loader(coco, augment=AugmentConfig(), epochs=5)
    for epoch in range(5):
        same = torch.equal(next(batches.epoch(epoch)).images, next(plain.epoch(epoch)).images)
        assert same == (epoch >= 3)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("resize", ["letterbox", "stretch"])
@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_cached_images_give_the_same_batches(coco, workers, resize, cache, tmp_path):
    read = list(loader(coco, resize=resize).epoch(0))
    batches = loader(coco, resize=resize, cache=cache, cache_folder=tmp_path / "cache", workers=workers)
    assert all(equal(a, b) for a, b in zip(read, batches.epoch(0), strict=True))


def test_cache_on_disk_serves_the_runs_to_come(coco, tmp_path, monkeypatch):
    batches = loader(coco, cache="disk", cache_folder=tmp_path)
    read = list(batches.epoch(0))
    monkeypatch.setattr(DetectionImages, "__getitem__", lambda self, index: pytest.fail("decoded again"))
    for workers in (0, 2):
        again = loader(coco, cache="disk", cache_folder=tmp_path, workers=workers)
        assert all(equal(a, b) for a, b in zip(read, again.epoch(0), strict=True))
    assert len(list(tmp_path.glob("*.images"))) == 1
    monkeypatch.undo()
    for other in ({"size_hw": (64, 96)}, {"resize": "stretch"}):
        loader(coco, cache="disk", cache_folder=tmp_path, **other)
    assert len(list(tmp_path.glob("*.images"))) == 3


def test_cache_on_disk_needs_folder(coco):
    with pytest.raises(ConfigError, match=r"train\.cache_folder: train\.cache=disk needs a folder"):
        loader(coco, cache="disk")


def test_cache_needs_no_files_once_filled(coco):
    batches = loader(coco, cache="ram")
    for i in range(NUM_IMAGES):
        coco.path(i).unlink()
    assert len(list(batches.epoch(0))) == 3


def test_cache_that_does_not_fit_is_refused(coco, monkeypatch):
    monkeypatch.setattr(cache_module, "available_memory", lambda: 10_000)
    with pytest.raises(ConfigError, match=r"train\.cache: 11 images of this size need .* use train\.cache=none"):
        loader(coco, cache="ram")


def test_free_memory_is_known_on_linux():
    free = cache_module.available_memory()
    assert free is None or free > 2**20


def test_sources_shrink_but_never_enlarge(coco):
    source = DetectionDataset(coco, DetectionImages(coco, (64, 64)))
    # 60x48 is smaller than the input and stays; 160x48 shrinks by 0.4 to 64x19.
    assert source[0].image.shape == (48, 60, 3)
    assert source[10].image.shape == (19, 64, 3)
    np.testing.assert_allclose(source[10].box_xyxy, [[3.2, 4.75, 11.2, 14.25]], rtol=1e-6)


def break_image(coco: CocoDataset, index: int) -> None:
    whole = coco.path(index).read_bytes()
    coco.path(index).write_bytes(whole[: len(whole) // 2])


def test_workers_outlive_schedulers_signal_but_not_their_parents(coco):
    before = set(multiprocessing.active_children())
    whole = loader(coco, workers=1)
    batches = whole.epoch(0)
    next(batches)
    (worker,) = set(multiprocessing.active_children()) - before
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    assert len(list(batches)) > 0
    assert len(list(whole.epoch(1))) > 0
    assert worker.is_alive()
    os.kill(worker.pid, signal.SIGTERM)  # as torch and multiprocessing do with those that they cannot reach
    worker.join(10)
    assert worker.exitcode == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_stops_with_one_line(coco, workers):
    break_image(coco, 5)
    with pytest.raises(DataError) as caught:
        list(loader(coco, workers=workers).epoch(0))
    assert len(caught.value.problems) == 1
    assert str(caught.value).startswith(str(coco.path(5)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_cache_names_all_unreadable_images(coco, cache, tmp_path):
    for index in (2, 5):
        break_image(coco, index)
    with pytest.raises(DataError) as caught:
        loader(coco, cache=cache, cache_folder=tmp_path)
    assert [problem.split(":")[0] for problem in caught.value.problems] == [str(coco.path(i)) for i in (2, 5)]


@pytest.mark.parametrize(
    ("workers", "cache", "runs"), [(0, "none", 1), (2, "none", 1), (2, "ram", 1), (2, "disk", 1), (0, "disk", 2)]
)
def test_unreadable_images_are_replaced_and_counted(coco, workers, cache, runs, tmp_path):
    for index in (5, 6, 10):
        break_image(coco, index)
    for _ in range(runs):  # the second finds the cache of the first
        batches = loader(
            coco, workers=workers, cache=cache, on_bad_image="skip", augment=AugmentConfig(), cache_folder=tmp_path
        )
    made = list(batches.epoch(0))
    ids = Counter(torch.cat([batch.image_id for batch in made]).tolist())
    # 5 and 6 are replaced by 7, the last by the first
    assert ids == Counter({107: 3, 100: 2, **{100 + i: 1 for i in (1, 2, 3, 4, 8, 9)}})
    assert {tuple(size) for batch in made for size in batch.size_hw.tolist()} == {
        (48, 60 + 10 * i) for i in (0, 1, 2, 3, 4, 7, 8, 9)
    }
    assert set(batches.skipped) == {str(coco.path(i)) for i in (5, 6, 10)}
    assert all(path in reason for path, reason in batches.skipped.items())


def test_no_readable_image_is_error(coco):
    for index in range(NUM_IMAGES):
        break_image(coco, index)
    with pytest.raises(DataError, match="no image is readable"):
        list(loader(coco, on_bad_image="skip").epoch(0))


def test_size_other_than_annotated_is_error(coco):
    cv2.imwrite(str(coco.path(3)), np.zeros((90, 48, 3), np.uint8))
    with pytest.raises(DataError, match=r"3\.png: the file is 48x90 .* the annotations say 90x48"):
        list(loader(coco).epoch(0))
    with pytest.raises(DataError, match="annotations say 90x48"):
        list(evaluation(coco))


def test_killed_worker_is_error_not_wait(coco, monkeypatch):
    batches = loader(coco, workers=1, batch_size=1)
    epoch = batches.epoch(0)
    next(epoch)
    iterator = batches._batches._iterator
    monkeypatch.setattr(type(iterator)._try_get_data, "__defaults__", (0.1,))  # seconds between looks at the workers
    # torch's own handler may raise anywhere, even in pytest, so it is out of the way here
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    try:
        os.kill(iterator._workers[0].pid, signal.SIGKILL)
        with pytest.raises(DataError, match=r"a loader process died, .* train\.cache=none"):
            list(epoch)
    finally:
        iterator._shutdown_workers()  # or the handler would find the dead one again when others end
        signal.signal(signal.SIGCHLD, handler)


def test_only_death_is_explained_as_one():
    killed = worker_crash_error(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))
    assert str(killed).endswith("(DataLoader worker (pid 7) is killed by signal: Killed.)")
    assert "a loader process died" in str(worker_crash_error(EOFError()))
    assert worker_crash_error(RuntimeError("Caught RuntimeError in DataLoader worker process 0.")) is None


def test_workers_leave_interrupts_to_the_main_process(coco):
    batches = loader(coco, workers=1, batch_size=1)
    epoch = batches.epoch(0)
    next(epoch)
    (worker,) = batches._batches._iterator._workers
    os.kill(worker.pid, signal.SIGINT)
    assert len(list(epoch)) == NUM_IMAGES - 1


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_goes_through_the_set_in_order(coco, workers):
    batches = list(evaluation(coco, (64, 96), 4, workers))
    assert [len(batch.images) for batch in batches] == [4, 4, 3]
    assert torch.cat([batch.image_id for batch in batches]).tolist() == [100 + i for i in range(NUM_IMAGES)]
    first = batches[0]
    # 60x48 in 96x64: by 4/3 to 80x64, 8 columns to its left: x 8..28, y 12..36 becomes 18.7..45.3, 16..48.
    box = first.targets.box_xyxy[first.targets.image_index == 0]
    torch.testing.assert_close(box, torch.tensor([[8 + 32 / 3, 16, 8 + 112 / 3, 48]]))
    assert (first.images[0, :, :, :8] == PAD_VALUE).all()
    assert first.size_hw[:2].tolist() == [[48, 60], [48, 70]]
    assert first.targets.is_crowd.tolist() == [
        False,
        True,
        False,
    ]  # the crowd is kept, the third image has no box


def test_errors_of_evaluation_arrive_from_workers(coco):
    break_image(coco, 9)
    with pytest.raises(DataError) as caught:
        list(evaluation(coco, batch_size=4, workers=2))
    assert str(caught.value).startswith(str(coco.path(9)))


def test_automatic_cache_is_taken_only_where_it_fits_well(coco, monkeypatch):
    assert isinstance(cached(coco, "auto"), RamCache)
    needed = cached(coco, "ram").nbytes
    monkeypatch.setattr(cache_module, "available_memory", lambda: 2 * needed)  # room, but not plenty of it
    assert isinstance(cached(coco, "auto"), DetectionImages)
    assert isinstance(cached(coco, "ram"), RamCache)


# --- several processes, and rare classes --------------------------------------------------------


def images_by_id(batch: Batch) -> dict[int, tuple[torch.Tensor, list[list[float]]]]:
    """What is shown under each image id: the pixels, and the boxes with their classes and crowds."""
    targets = batch.targets
    rows = torch.cat((targets.box_xyxy, targets.class_id[:, None], targets.is_crowd[:, None]), dim=1)
    return {
        image_id: (batch.images[i], rows[targets.image_index == i].tolist())
        for i, image_id in enumerate(batch.image_id.tolist())
    }


@pytest.mark.parametrize(("world", "workers"), [(2, 0), (2, 2), (4, 0)])
def test_processes_together_have_the_batches_of_one(coco, world, workers):
    augment = STRONG.model_copy(update={"mixup": 0.3, "cutmix": 0.3, "copy_small": 1, "albumentations": ()})
    sizes = {"augment": augment, "batch_size": 6}
    whole = list(loader(coco, **sizes).epoch(1))
    shards = [loader(coco, **sizes, workers=workers, shard=Shard(rank, world)) for rank in range(world)]
    assert {len(shard) for shard in shards} == {2}
    parts = zip(*(shard.epoch(1) for shard in shards), strict=True)
    for number, (batch, local) in enumerate(zip(whole, parts, strict=True)):
        assert [len(part.images) for part in local] == [len(batch.images[rank::world]) for rank in range(world)]
        assert {shard.images_in_batch(number) for shard in shards} == {len(batch.images)}
        expected, found = images_by_id(batch), {}
        for part in local:
            found |= images_by_id(part)
        assert set(found) == set(expected)
        for image_id, (image, boxes) in expected.items():
            assert torch.equal(found[image_id][0], image)
            assert found[image_id][1] == boxes


def test_process_enters_the_middle_of_epoch(coco):
    values = {"shard": Shard(1, 2), "repeat_threshold": 1.0}
    whole = list(loader(coco, **values).epoch(2))
    rest = list(loader(coco, **values).epoch(2, start_batch=1))
    assert len(rest) == len(whole) - 1 >= 1
    assert all(equal(a, b) for a, b in zip(whole[1:], rest, strict=True))


def test_evaluation_is_shared_in_order(coco):
    parts = [evaluation(coco, batch_size=2, shard=Shard(rank, 3)) for rank in range(3)]
    ids = [[i for batch in part for i in batch.image_id.tolist()] for part in parts]
    assert ids == [[100 + i for i in range(rank, NUM_IMAGES, 3)] for rank in range(3)]
    assert [len(part) for part in parts] == [2, 2, 2]
    assert list(evaluation(coco, shard=Shard(11, 12))) == []


def test_rare_classes_are_seen_more_often_and_varied_again(coco):
    # Without the crowd on 1 and the empty 2, class 0 (images 0, 4, 6, 8, 10) has a share of 5/11 and class 1
    # (3, 5, 7, 9) one of 4/11; below a threshold of 1 they want sqrt(11 / 5) = 1.48 and sqrt(11 / 4) = 1.66.
    batches = loader(coco, repeat_threshold=1.0, batch_size=32)
    (batch,) = batches.epoch(0)
    (plain,) = loader(coco, batch_size=32).epoch(0)
    assert len(batch.images) == round(5 * (11 / 5) ** 0.5 + 4 * (11 / 4) ** 0.5 + 2) == 16
    assert batches.images_in_batch(0) == 16
    times = Counter(batch.image_id.tolist())
    assert times[101] == times[102] == 1
    first_seen = images_by_id(plain)
    for image_id in times:
        seen = [batch.images[i] for i in (batch.image_id == image_id).nonzero().flatten().tolist()]
        same = [torch.equal(image, first_seen[image_id][0]) for image in seen]
        assert sum(same) == 1  # the first time as without repeats, the others in another way
    (again,) = loader(coco, repeat_threshold=1.0, batch_size=32, workers=2).epoch(0)
    assert equal(batch, again)


def test_processes_share_the_memory_of_machine(coco, monkeypatch):
    needed = cached(coco, "ram").nbytes
    monkeypatch.setattr(cache_module, "available_memory", lambda: 4 * needed)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert isinstance(cached(coco, "auto"), RamCache)
    assert isinstance(cached(coco, "auto", num_processes=2), DetectionImages)
    loader(coco, cache="ram", shard=Shard(0, 2))
    with pytest.raises(ConfigError, match=r"in each of 4 processes, .* train\.cache=disk"):
        loader(coco, cache="ram", shard=Shard(0, 4))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")  # one on each of four machines
    loader(coco, cache="ram", shard=Shard(0, 4))
