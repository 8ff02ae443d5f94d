"""Annotation files in COCO's format: what is read of them, and what is refused."""

import json

import numpy as np
import pytest
from coco_folders import EMPTY, IDS, NAMES, annotation, runs_of, text_of, write_split

from studies.data.coco_files import Object, find_split, mask_of, read_annotations


@pytest.fixture
def masks(tmp_path):
    return write_split(tmp_path / "data")


@pytest.fixture
def split(tmp_path, masks):
    return find_split(tmp_path / "data", "val")


@pytest.fixture
def content(split):
    """What the annotation file holds."""
    return json.loads(split[0].read_text())


@pytest.fixture
def reread(split, content):
    """Writes `content` back and reads it."""

    def write_and_read():
        split[0].write_text(json.dumps(content))
        return read_annotations(*split)

    return write_and_read


# ---- what is read


def test_objects_are_those_that_were_written(split, content, masks):
    read = read_annotations(*split)
    assert read.classes == list(NAMES) and read.skipped == {} and read.notes() == []
    assert [tuple(image) for image in read.images] == [
        (entry["id"], entry["file_name"], entry["height"], entry["width"]) for entry in content["images"]
    ]
    by_id = {item.id: (image, item) for image, items in zip(read.images, read.objects, strict=True) for item in items}
    assert set(by_id) == set(masks)
    for entry in content["annotations"]:
        image, item = by_id[entry["id"]]
        x, y, width, height = entry["bbox"]
        assert image.id == entry["image_id"] and IDS[item.category] == entry["category_id"]
        assert item.box == (x, y, x + width, y + height) and item.area == masks[item.id].sum()
        assert item.segmentation == entry["segmentation"]
        assert np.array_equal(mask_of(item, image.height, image.width), masks[item.id])


def test_the_folder_has_every_case(split, content):
    read = read_annotations(*split)
    forms = {
        "polygons" if isinstance(entry["segmentation"], list) else type(entry["segmentation"]["counts"]).__name__
        for entry in content["annotations"]
    }
    assert forms == {"polygons", "list", "str"}
    assert [len(items) for items in read.objects].count(0) == 1 and read.objects[EMPTY] == []
    assert [item.crowd for items in read.objects for item in items] == [False] * 9 + [True]


def test_91_ids_become_80_numbers(content, reread):
    absent = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91}
    ids = [number for number in range(1, 92) if number not in absent]
    content["categories"] = [{"id": number, "name": f"class {number}"} for number in reversed(ids)]
    for entry, number in zip(content["annotations"], [1, 11, 13, 25, 27, 28, 31, 88, 89, 90], strict=True):
        entry["category_id"] = number
    read = reread()
    assert read.classes == [f"class {number}" for number in ids] and len(read.classes) == 80
    assert [item.category for items in read.objects for item in items] == [0, 10, 11, 23, 24, 25, 26, 77, 78, 79]


def test_boxes_are_clipped(content, reread):
    entry, image = content["annotations"][0], content["images"][0]
    entry["bbox"] = [-3, -4.5, 1000, 10]
    assert reread().objects[0][0].box == (0.0, 0.0, image["width"], 5.5)


def test_what_is_left_out_is_counted_and_named(content, reread):
    height, width = content["images"][0]["height"], content["images"][0]["width"]
    mask = np.zeros((height, width), bool)
    mask[5:15, 5:15] = True
    corners = [5, 5, 15, 5, 15, 15]
    add = content["annotations"].append
    for number, box in enumerate([[5, 5, 0.5, 9], [5, 5, 9, 0], [5, 5, -4, 9], [-9, 5, 9.5, 9], [width, 5, 0, 9]]):
        add(annotation(number, 7, mask, [corners]) | {"bbox": box})
    add(annotation(5, 7, mask, [corners]) | {"bbox": [5, height - 0.9, 9, 9]})
    add(annotation(6, 7, mask, []))
    add(annotation(7, 7, mask, [[], [5, 5, 15, 5]]))
    add(annotation(8, 7, mask, runs_of(mask & False)))
    add(annotation(9, 7, mask, [corners[:4], corners]))
    read = reread()
    assert list(read.skipped.values()) == [[0, 1, 2, 3, 4, 5], [6, 7], [8]]
    assert read.notes() == [
        "6 annotations left out, box narrower or lower than 1 px within the image: 0, 1, 2, 3, 4 and 1 more",
        "2 annotations left out, no polygon of 3 points or more: 6, 7",
        "1 annotation left out, RLE without a pixel: 8",
    ]
    assert read.objects[0][-1].id == 9 and read.objects[0][-1].segmentation == [corners]
    assert sum(map(len, read.objects)) + 9 == len(content["annotations"])


# ---- masks


def thing(segmentation) -> Object:
    return Object(0, (0.0, 0.0, 1.0, 1.0), segmentation, 1.0, False, 1)


def inside(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether the centre of a pixel is within a polygon [P, 2], by the edges to its right. -> [H, W] bool"""
    y, x = np.mgrid[:height, :width] + 0.5
    odd = np.zeros((height, width), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        if y0 != y1:
            odd ^= ((y0 <= y) != (y1 <= y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return odd


def near_edge(polygon: np.ndarray, height: int, width: int) -> np.ndarray:
    """Whether a pixel is within a pixel of the edges of a polygon [P, 2]. -> [H, W] bool"""
    y, x = np.mgrid[:height, :width] + 0.5
    near = np.zeros((height, width), bool)
    for start, end in zip(polygon, np.roll(polygon, -1, 0), strict=True):
        for px, py in np.linspace(start, end, 500):
            near |= (abs(x - px) <= 1) & (abs(y - py) <= 1)
    return near


def test_masks_of_polygons_are_the_points_within():
    rng = np.random.default_rng(1)
    for _ in range(5):
        angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 7)), rng.uniform(8, 30, 7)
        polygon = np.stack([35 + radii * np.cos(angles), 25 + radii * np.sin(angles)], 1)  # a star; it may stick out
        mask = mask_of(thing([polygon.ravel().tolist()]), 50, 70)
        assert mask.shape == (50, 70) and mask.dtype == bool and mask.flags.c_contiguous
        differs = mask != inside(polygon, 50, 70)
        assert not (differs & ~near_edge(polygon, 50, 70)).any() and mask.any()


def test_the_polygons_of_an_object_are_united():
    expected = np.zeros((20, 30), bool)
    expected[2:8, 3:9] = expected[6:12, 7:20] = True
    polygons = [[3, 2, 9, 2, 9, 8, 3, 8], [7, 6, 20, 6, 20, 12, 7, 12]]
    assert np.array_equal(mask_of(thing(polygons), 20, 30), expected)


@pytest.mark.parametrize("form", [runs_of, text_of])
@pytest.mark.parametrize("share", [0.02, 0.5, 1.0])
def test_masks_of_runs(content, reread, form, share):
    """Noise has short runs and many of them, at both borders, and text of every length."""
    height, width = content["images"][0]["height"], content["images"][0]["width"]
    noise = np.random.default_rng(2).random((height, width)) < share
    content["annotations"] = [annotation(1, 7, noise, form(noise))]
    item = reread().objects[0][0]
    assert np.array_equal(mask_of(item, height, width), noise)


# ---- what is refused


def refused(content, key, place, changes):
    """Changes an entry, or adds one where `place` is None, which starts as the last one there is."""
    entries = content[key]
    if place is None:
        entries.append(dict(entries[-1]))
        place = -1
    entries[place] |= changes


@pytest.mark.parametrize(
    ("key", "place", "changes", "message"),
    [
        ("images", None, {}, "has image ids twice: 47"),
        ("annotations", None, {}, "has annotation ids twice: 109"),
        ("categories", None, {"name": "new"}, "has category ids twice: 1"),
        ("categories", None, {"id": 3}, "has category names twice: person"),
        ("images", 1, {"height": 0}, "image 17: .* x 0 px, expected 1 x 1 or more"),
        ("annotations", 0, {"image_id": 8}, "annotation 100: image 8 is none of the 5 images"),
        ("annotations", 0, {"category_id": 3}, "annotation 100: category 3 is unknown; categories: 1, 2, 5, 13, 90"),
        ("annotations", 0, {"area": float("nan")}, "annotation 100: area nan, expected a finite number"),
        ("annotations", 0, {"area": -1}, "annotation 100: area -1, expected a finite number from 0 on"),
        ("annotations", 0, {"bbox": [1, 2, 3]}, "annotation 100: bbox has 3 numbers, expected 4: x, y, width, height"),
        ("annotations", 0, {"bbox": [1, 2, float("inf"), 4]}, "annotation 100: bbox has the coordinate inf, expected"),
        ("annotations", 0, {"bbox": [100, 2, 5, 5]}, r"annotation 100: bbox \[100, 2, 5, 5\] is outside its image 0"),
        ("annotations", 0, {"bbox": [-5, 2, 5, 5]}, "annotation 100: bbox .* is outside .* which has .* x .* px"),
        ("annotations", 0, {"segmentation": [[1, 2, 3, 4, 5]]}, "annotation 100: a polygon has 5 numbers, expected pa"),
        ("annotations", 0, {"segmentation": [[1, 2, 3, 4, 5, float("nan")]]}, "a polygon has the coordinate nan, expe"),
        ("annotations", 0, {"segmentation": [[1, 2, 3, 4, 5, 1e9]]}, "coordinate 1000000000.0, .* within ±1,000,000"),
        ("annotations", 0, {"iscrowd": 2}, "annotations.0.iscrowd: should be 0 or 1, not 2"),
        ("annotations", 0, {"bbox": [1, 2, 3, "4"]}, "annotations.0.bbox.3: should be a valid number, not '4'"),
        ("annotations", 0, {"segmentation": None}, "annotations.0.segmentation"),
    ],
)
def test_wrong_entries(split, content, reread, key, place, changes, message):
    refused(content, key, place, changes)
    with pytest.raises(ValueError, match=message) as error:
        reread()
    assert str(error.value).startswith(str(split[0])) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("counts", "size", "message"),
    [
        (
            [40, 10],
            [5, 10],
            r"RLE of size \[5, 10\], expected that of its image 0+.png: \[{h}, {w}\] \(height, width\)",
        ),
        ([40, 10], ["h", "w"], "RLE of 50 pixels, expected the {n} of its image"),
        ([], ["h", "w"], "RLE of 0 pixels, expected the {n} of its image"),
        ("R53", ["h", "w"], "RLE of .* pixels, expected the {n} of its image"),
        ([40, -10, 5], ["h", "w"], "RLE with a run of -10 pixels, expected 0 or more"),
        ("1 2", ["h", "w"], "RLE text '1 2', expected characters from '0' to 'o'"),
        ("1oo", ["h", "w"], "RLE text '1oo' ends within a number"),
    ],
)
def test_wrong_runs(content, reread, counts, size, message):
    """From most of them pycocotools makes masks of memory that was never written."""
    height, width = content["images"][0]["height"], content["images"][0]["width"]
    size = [height, width] if size == ["h", "w"] else size
    content["annotations"][0]["segmentation"] = {"counts": counts, "size": size}
    for key, value in (("{h}", height), ("{w}", width), ("{n}", height * width)):
        message = message.replace(key, str(value))
    with pytest.raises(ValueError, match=f"annotation 100: {message}"):
        reread()


def test_transposed_runs(content, reread):
    height, width = content["images"][0]["height"], content["images"][0]["width"]
    mask = np.ones((width, height), bool)
    content["annotations"][0]["segmentation"] = text_of(mask)
    with pytest.raises(ValueError, match=rf"annotation 100: RLE of size \[{width}, {height}\], expected that of its"):
        reread()


def test_missing_images_are_counted_and_named(split, content, reread):
    for entry in content["images"][:2]:
        (split[1] / entry["file_name"]).unlink()
    with pytest.raises(ValueError, match=f"2 of 5 images are not in {split[1]}: 000000000000.png, 000000000001.png$"):
        reread()
    content["images"] += [{"id": 1000 + i, "file_name": f"{i}.jpg", "height": 5, "width": 5} for i in range(5)]
    with pytest.raises(ValueError, match="7 of 10 images .*, 0.jpg, 1.jpg, 2.jpg and 2 more"):
        reread()


def test_files_that_are_no_coco(split, content):
    for text, message in (
        ('{"shapes": []}', "images is missing"),
        ("[]", "the whole: .* valid dictionary"),
        (json.dumps(content)[:-9], "not complete JSON"),
        (json.dumps({key: content[key] for key in ("images", "annotations")}), "categories is missing"),
    ):
        split[0].write_text(text)
        with pytest.raises(ValueError, match=f"instances_val2017.json: {message}"):
            read_annotations(*split)


def test_files_without_ground_truth(content, reread):
    content["annotations"] = []
    with pytest.raises(ValueError, match="has no annotations; expected: the objects of each image, which test sets"):
        reread()
    del content["annotations"]
    with pytest.raises(ValueError, match="has no annotations; expected: the objects of each image, which test sets"):
        reread()


def test_files_of_which_nothing_is_left(content, reread):
    for entry in content["annotations"]:
        entry["segmentation"] = []
    with pytest.raises(ValueError, match="no annotation can be used: 10 annotations left out, no polygon of 3 points"):
        reread()


def test_missing_file_and_folder(split):
    file, folder = split
    with pytest.raises(ValueError, match="instances_va2017.json does not exist; .*; did you mean instances_val2017"):
        read_annotations(file.with_name("instances_va2017.json"), folder)
    with pytest.raises(ValueError, match="val2071 does not exist; .* has: annotations, val2017; did you mean val2017"):
        read_annotations(file, folder.with_name("val2071"))


# ---- splits


@pytest.fixture
def root(tmp_path):
    """Folders and empty annotation files of several splits."""
    (tmp_path / "annotations").mkdir()
    for name in ("train2017", "val2014", "val2017", "test", "test_small", "extra_a", "extra_b", "mini_2020"):
        (tmp_path / name).mkdir()
        (tmp_path / "annotations" / f"instances_{name}.json").touch()
    (tmp_path / "annotations" / "captions_val2017.json").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("split", "name"),
    [("train", "train2017"), ("val", "val2017"), ("val2014", "val2014"), ("test", "test"), ("mini", "mini_2020")],
)
def test_splits(root, split, name):
    assert find_split(root, split) == (root / "annotations" / f"instances_{name}.json", root / name)


def test_splits_that_are_not_there(root):
    with pytest.raises(
        ValueError, match="several annotation files of split 'extra': .*_a.json, instances_extra_b.json"
    ):
        find_split(root, "extra")
    with pytest.raises(ValueError, match="no instances_vla2017.json or .*; found: .*and 3 more; did you mean val2017"):
        find_split(root, "vla")
    (root / "mini_2020").rename(root / "mini_2021")
    with pytest.raises(ValueError, match="no folder mini_2020 with the images of .*; did you mean mini_2021"):
        find_split(root, "mini")
    with pytest.raises(ValueError, match="data folder .*/test/annotations does not exist; .*/test has: nothing"):
        find_split(root / "test", "val")
    with pytest.raises(ValueError, match="tets does not exist; .* did you mean test"):
        find_split(root / "tets", "val")
