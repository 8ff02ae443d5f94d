"""Folders of images: layouts that are refused, and ImageNet's flat validation folder."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from image_folders import CLASSES, CONFIG, draw, folder, write_root
from PIL import Image
from scipy.io import savemat
from timm.data.readers.reader_image_folder import find_images_and_targets

from studies.data.transforms import eval_transform


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "data")


def flatten(root) -> list[int]:
    """Makes val a flat folder, mixed; returns the labels in the order of the names."""
    files = sorted((root / "val").glob("*/*"))
    labels = [CLASSES.index(path.parent.name) for path in files]
    order = np.random.default_rng(0).permutation(len(files)).tolist()
    for number, i in enumerate(order, 1):
        files[i].rename(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG")
    for name in CLASSES:
        (root / "val" / name).rmdir()
    return [labels[i] for i in order]


# ---- folders that are not as they should be


def test_missing_and_empty_folders(root, tmp_path):
    with pytest.raises(ValueError, match="does not exist; did you mean data"):
        folder(tmp_path / "dta")
    with pytest.raises(ValueError, match="batch_size 22 is more than the 21"):
        next(folder(root).train_batches(0, 22))
    (root / "val" / CLASSES[0]).rename(root / "val" / "n01440765")
    with pytest.raises(ValueError, match=r"val/n01440765 is none of the 3 classes of train; did you mean n01440764"):
        folder(root)
    shutil.rmtree(root / "val" / "n01440765")
    (root / "val" / CLASSES[0]).mkdir()
    with pytest.raises(ValueError, match="n01440764 has no images"):
        folder(root)
    shutil.rmtree(root / "val")
    with pytest.raises(ValueError, match="has no folder 'val'.* found: train"):
        folder(root)
    (root / "val").mkdir()
    with pytest.raises(ValueError, match="has no images"):
        folder(root)
    shutil.rmtree(root / "train")
    (root / "train").mkdir()
    with pytest.raises(ValueError, match="has no class folders"):
        folder(root)


def test_only_square_images(root):
    with pytest.raises(ValueError, match="square RGB"):
        folder(root, vit_config={**CONFIG, "input_size": (3, 32, 64)})


# ---- ImageNet's flat validation folder


def labels_of(data) -> list[int]:
    return torch.cat([b.target for b in data.test_batches(4)]).tolist()


def test_flat_folder_without_labels(root):
    flatten(root)
    with pytest.raises(ValueError, match="labels are needed in .*: val.txt .* ILSVRC2012_validation_ground_truth.txt"):
        folder(root)


@pytest.mark.parametrize("where", ["", "val"])
@pytest.mark.parametrize("by_name", [True, False])
def test_flat_folder_with_a_list(root, where, by_name):
    labels = flatten(root)
    lines = [f"ILSVRC2012_val_{i:08d}.JPEG {CLASSES[label] if by_name else label}" for i, label in enumerate(labels, 1)]
    (root / where / "val.txt").write_text("\n".join(reversed(lines)))
    data = folder(root)
    assert labels_of(data) == labels
    (root / where / "val.txt").write_text("\n".join(lines[:-1]))
    with pytest.raises(ValueError, match="no label for 1 images: val/ILSVRC2012_val_00000009"):
        folder(root)
    (root / where / "val.txt").write_text("\n".join([*lines[:-1], "ILSVRC2012_val_00000009.JPEG 3"]))
    with pytest.raises(ValueError, match="line 9: .* 0 to 2"):
        folder(root)


def test_flat_folder_with_the_development_kit(root):
    labels = flatten(root)
    kit = [3, 1, 2]  # the kit's number of each class: not in the order of the names
    truth = root / "ILSVRC2012_validation_ground_truth.txt"
    truth.write_text("".join(f"{kit[label]}\n" for label in labels))
    with pytest.raises(ValueError, match="only meta.mat"):
        folder(root)
    kinds = [("ILSVRC2012_ID", "f8"), ("WNID", "O")]
    synsets = np.array([(kit[i], name) for i, name in enumerate(CLASSES)], dtype=kinds)
    savemat(root / "meta.mat", {"synsets": synsets.reshape(-1, 1)})
    assert labels_of(folder(root)) == labels
    truth.write_text("1\n2\n")
    with pytest.raises(ValueError, match="2 labels, and .* 9 images"):
        folder(root)
    truth.write_text("1\n" * 8 + "4\n")
    with pytest.raises(ValueError, match="'4' .* none of the classes"):
        folder(root)
    (root / "meta.mat").write_bytes(b"x" * 500)
    with pytest.raises(ValueError, match="not the meta.mat"):
        folder(root)


def test_classes_are_numbered_as_timm_does(tmp_path, caplog):
    names = [str(number) for number in (10, 2, 0, 1, 11)]
    for name in names:
        draw(tmp_path / "train" / name / "a.png", 0)
        draw(tmp_path / "val" / name / "a.png", 0)
    expected, _ = find_images_and_targets(str(tmp_path / "train"))
    assert [Path(path).parent.name for path, _ in expected] == ["0", "1", "2", "10", "11"]
    assert folder(tmp_path).classes == ["0", "1", "2", "10", "11"]
    assert "0: 0, 1: 1, 2: 2, 4: 11" in caplog.text and "class_map.txt" in caplog.text
    (tmp_path / "class_map.txt").write_text("11\n10\n2\n1\n0\n\n")
    data = folder(tmp_path)
    assert data.classes == ["11", "10", "2", "1", "0"] and labels_of(data) == [4, 3, 1, 0, 2]


def test_synsets_need_no_word(root, caplog):
    assert folder(root).classes == list(CLASSES) and not caplog.text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["n01440764", "n01443537"], "lacks class folder train/n02119789"),
        ([*CLASSES, "n0211978"], "names n0211978, .* did you mean n02119789"),
        ([*CLASSES, CLASSES[0]], "names class n01440764 twice"),
    ],
)
def test_a_class_map_has_each_class_once(root, lines, message):
    (root / "class_map.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        folder(root)


def test_sixteen_bits_of_grey_are_scaled(root):
    grey = np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)
    for name, pixels in (("eight", grey), ("sixteen", grey.astype(np.uint16) * 257)):
        Image.fromarray(pixels).save(root / "val" / CLASSES[0] / f"{name}.png")
    eight, sixteen = folder(root).test_items([3, 4]).images
    assert torch.equal(eight, sixteen) and eight.std() > 0.1


def test_numbers_without_a_range_are_refused(root):
    Image.fromarray(np.full((40, 50), 0.5, np.float32)).save(root / "val" / CLASSES[0] / "float.tiff")
    with pytest.raises(ValueError, match="float.tiff .*mode F"):
        list(folder(root).test_batches(4))


def test_pixels_are_read_as_timm_reads_them(root):
    """No rotation by EXIF; what is transparent shows its colour."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(pixels).save(root / "val" / CLASSES[0] / "turned.png", exif=turned)
    clear = np.dstack([pixels, np.zeros((40, 50), np.uint8)])
    Image.fromarray(clear, "RGBA").save(root / "val" / CLASSES[0] / "clear.png")
    Image.fromarray(pixels).save(root / "val" / CLASSES[0] / "plain.png")
    data = folder(root)
    names = [Path(path).name for path in data._splits["val"].paths]
    images = dict(zip(names[:6], data.test_items(range(6)).images, strict=True))
    assert all(torch.equal(images[name], images["plain.png"]) for name in ("turned.png", "clear.png"))
    with Image.open(root / "val" / CLASSES[0] / "turned.png") as opened:  # as timm's ImageDataset opens it
        assert opened.getexif()[0x0112] == 6
        assert torch.equal(eval_transform(CONFIG)(opened.convert("RGB")), images["turned.png"])
