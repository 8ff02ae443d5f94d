"""Files, folders and paths as they come: odd names, no home, closed or absent places."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from command_line import study
from image_folders import draw, folder, write_root
from PIL import Image
from safetensors.torch import save_file
from synthetic_records import write_study

from studies.config import Recipe
from studies.data.loading import SOME_FILES, looked_into
from studies.data.sets.scenes import Scenes
from studies.doctor import examine
from studies.training.distributed import check_shared

NAMES = [os.fsdecode(name) for name in (b"caf\xe9", "漢字".encode(), b"a$b & %c d", b"<one>", b"-x=y,z@3")]


@pytest.fixture
def root(tmp_path):
    """Class folders with names of all kinds; one has a single image."""
    for number, name in enumerate(NAMES):
        for i in range(1 if number == 3 else 4):
            draw(Path(f"{tmp_path}/{name}.png"), 10 * number + i)  # a name that Pillow's `save` takes is made first
            for split in ("train", "val"):
                place = tmp_path / "data ü $1" / split / name / f"i {i} $.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(f"{tmp_path}/{name}.png", place)
    return tmp_path / "data ü $1"


def test_a_folder_with_odd_names_from_the_command_to_the_pictures(root, tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit", num_classes=len(NAMES)).state_dict(), tmp_path / "w $.safetensors")
    out = tmp_path / "out 漢字 $<b>"
    done = study(
        "run", "--dataset", "imagenet", "--data", root, "--backbone", f"test_vit={tmp_path / 'w $.safetensors'}",
        "--train", "none", "--reducers", "none,random", "--budgets", "0.7", "--out", out,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = study("show", out, "--items", ",".join(map(str, range(0, 17, 4))))
    assert done.returncode == 0 and len(list((out / "report").glob("tokens_*.png"))) == 5, done.stderr
    assert done.stderr.count("no font here has") <= 1 and "Traceback" not in done.stderr


def test_a_picture_that_is_a_bomb_is_refused(tmp_path):
    Image.new("1", (15_000, 15_000)).save(tmp_path / "bomb.png")
    done = study("show", "--image", tmp_path / "bomb.png", "--backbone", "test_vit", "--reducers", "tome")
    assert done.returncode == 2 and "bomb.png is no image that can be read" in done.stderr, done.stderr


def test_a_home_is_found_in_a_file_of_options(tmp_path):
    write_study(tmp_path / "home" / "records", methods=("none",), num_items=10)
    (tmp_path / "study.toml").write_text('out = "~/records"\ndata = "~/nowhere"\ndataset = "imagenet"\n')
    done = study("run", "--config", tmp_path / "study.toml", "--backbone", "test_vit", HOME=str(tmp_path / "home"))
    assert done.returncode == 2 and f"{tmp_path}/home/nowhere does not exist" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "args", [("--out", "~nosuchuser/x"), ("--dataset", "imagenet", "--data", "~nosuchuser/x"),
             ("--backbone", "test_vit=~nosuchuser/x"), ("--reducers", "~nosuchuser/mine.py"),
             ("--launcher", "slurm", "--profile", "~nosuchuser/x")],
)  # fmt: skip
def test_a_home_that_nobody_has_is_refused(args):
    done = study("run", *args)
    assert done.returncode == 2 and "~nosuchuser" in done.stderr and "Traceback" not in done.stderr, done.stderr


@pytest.mark.parametrize("option", ["--data", "--out", "--backbone"])
def test_a_path_that_no_record_can_hold_is_refused(option, tmp_path):
    odd = f"{tmp_path}/caf\udce9"
    args = ["--dataset", "imagenet", "--data", str(tmp_path), option, f"test_vit={odd}" if option[2] == "b" else odd]
    done = study("run", *args)
    assert done.returncode == 2 and f"{option} is no UTF-8" in done.stderr, done.stderr


def test_more_processes_than_images(tmp_path):
    environment = {"TORCHELASTIC_RUN_ID": "1", "WORLD_SIZE": "901", "RANK": "0", "LOCAL_RANK": "0"}
    done = study("run", "--reducers", "none", "--out", tmp_path / "out", **environment)
    assert done.returncode == 2 and "901 processes cannot share 900 validation images" in done.stderr, done.stderr
    check_shared(Scenes(), Recipe(batch_size=8, accumulate=2), 4)
    with pytest.raises(ValueError, match="5 processes cannot share 4 images of a batch: .* start at most 4"):
        check_shared(Scenes(), Recipe(batch_size=8, accumulate=2), 5)


def test_the_doctor_of_a_place_that_is_none(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for place in (tmp_path / "file" / "out", tmp_path / "loop" / "out", tmp_path / "none" / "out"):
        found = {finding.name: finding for finding in examine(place)}
        assert found["records"].state == ("ok" if "none" in place.parts else "failed"), found["records"]


def test_pictures_that_change_make_another_data_set(tmp_path):
    root = write_root(tmp_path / "data")
    before, path = folder(root).fingerprint, next((root / "train").rglob("*.png"))
    with Image.open(path) as image:
        pixels = np.array(image)
    changed = path.read_bytes()
    while len(changed) != path.stat().st_size or changed == path.read_bytes():
        pixels[0, 0] += 1
        Image.fromarray(pixels).save(tmp_path / "other.png")
        changed = (tmp_path / "other.png").read_bytes()
    path.write_bytes(changed)  # of the same name and size
    assert folder(root).fingerprint != before


def test_of_large_sets_some_files_are_looked_into(tmp_path):
    files = [tmp_path / str(i) for i in range(2 * SOME_FILES)]
    for file in files:
        file.write_bytes(b"xx")
    assert looked_into(files, whole_bytes=len(files) * 2) == files
    some = looked_into(files, whole_bytes=len(files) * 2 - 1)
    assert len(set(some)) == SOME_FILES and {files[0], files[-1]} < set(some)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--set", "augment=rand-m9"), "--set augment: scenes has an augmentation of its own"),
        (("--set", "random_erasing=0.1"), "--set random_erasing: scenes has an augmentation of its own"),
        (("--backbone", "scenes_vit="), "'scenes_vit=' names no file"),
        (("--backbone", "scenes_vit=FOLDER/d.safetensors"), "d.safetensors is a folder, not a file"),
        (("--config", "FOLDER/date.toml"), "out is a date; write it as text"),
    ],
)
def test_what_would_be_taken_in_silence(args, said, tmp_path):
    (tmp_path / "d.safetensors").mkdir()
    (tmp_path / "date.toml").write_text("out = 2020-01-01\n")
    done = study("run", *(arg.replace("FOLDER", str(tmp_path)) for arg in args))
    assert done.returncode == 2 and said in done.stderr, done.stderr
