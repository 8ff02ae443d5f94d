"""Data sets by name: what each of them is made of, and which task it serves."""

import dataclasses
import math

import pytest
from image_folders import write_root as write_images
from segmentation_folders import write_root

from studies.config import RunConfig
from studies.data.datasets import create_dataset, datasets
from studies.data.sets.masks import MaskFolder
from studies.tasks import TASKS

CONFIG = RunConfig(
    study="s", task="segmentation", dataset="masks", backbone="vit_tiny_patch16_224.augreg_in21k", reducer="none",
    method_version=1, budget=None, seed=3, recipe=None,
)  # fmt: skip


def config(**changes) -> RunConfig:
    return dataclasses.replace(CONFIG, **changes)


def test_masks_are_prepared_for_the_backbone(tmp_path):
    data = create_dataset(config(data_dir=str(write_root(tmp_path / "data"))))
    assert isinstance(data, MaskFolder) and data.seed == 3
    assert (data.image_size, data.mean, data.std) == (224, (0.5,) * 3, (0.5,) * 3)
    other = create_dataset(config(data_dir=str(tmp_path / "data"), backbone="deit_tiny_patch16_224.fb_in1k"))
    assert other.mean == (0.485, 0.456, 0.406)


def test_palettes_have_a_name_of_their_own(tmp_path):
    root = str(write_root(tmp_path / "data", palette=True))
    assert create_dataset(config(data_dir=root, dataset="masks-palette")).num_test == 8
    with pytest.raises(ValueError, match="--dataset masks-palette"):
        create_dataset(config(data_dir=root))


@pytest.mark.parametrize("dataset", ["ade20k", "masks", "masks-palette"])
def test_what_is_missing_is_named(dataset, tmp_path):
    with pytest.raises(ValueError, match=f"{dataset} needs --data DIR: "):
        create_dataset(config(dataset=dataset))
    with pytest.raises(ValueError, match=f"data set {dataset} serves segmentation, not classification"):
        create_dataset(config(dataset=dataset, task="classification"))
    with pytest.raises(ValueError, match="does not exist"):
        create_dataset(config(dataset=dataset, data_dir=str(tmp_path / "nothing")))
    with pytest.raises(ValueError, match="data set imagenet serves classification and fidelity, not segmentation"):
        create_dataset(config(dataset="imagenet"))


def test_every_declaration_makes_what_it_says(tmp_path):
    names = list(datasets())
    assert names[0] == "scenes" and {"imagenet", "ade20k", "masks", "masks-palette"} < set(names)
    for dataset in datasets().values():
        assert set(dataset.tasks) <= set(TASKS) and {"train", "test"} <= set(dataset.splits) and dataset.summary
    for task in datasets()["scenes"].tasks:
        data = create_dataset(config(dataset="scenes", task=task))
        batch = next(iter(data.test_batches(4)))
        assert len(batch.images) == 4 and batch.images.shape[-1] == data.image_size
        assert data.num_classes == len(data.classes) + (task == "segmentation")  # the background


def test_an_unknown_data_set_names_the_nearest():
    with pytest.raises(ValueError, match="unknown data set 'scene'; did you mean scenes"):
        create_dataset(config(dataset="scene"))


@pytest.mark.parametrize("dataset", ["imagenet", "masks"])
def test_what_is_chosen_is_chosen_by_a_share_of_the_training_items(dataset, tmp_path):
    root = write_root(tmp_path / "data") if dataset == "masks" else write_images(tmp_path / "data")
    task = "segmentation" if dataset == "masks" else "classification"
    plain = config(dataset=dataset, task=task, data_dir=str(root))
    data, chosen = create_dataset(plain), create_dataset(dataclasses.replace(plain, split="val"))
    assert chosen.num_test == math.ceil(0.05 * data.num_train) and chosen.num_train + chosen.num_test == data.num_train
    assert data.num_val == 0 and list(data.val_batches(2)) == [] and chosen.fingerprint != data.fingerprint
    held, trained, tested = (
        {path for path in made._splits[split].paths}
        for made, split in ((chosen, "val"), (chosen, "train"), (data, "val"))
    )
    assert held | trained == set(data._splits["train"].paths) and not held & (trained | tested)
    assert create_dataset(dataclasses.replace(plain, split="val")).fingerprint == chosen.fingerprint
