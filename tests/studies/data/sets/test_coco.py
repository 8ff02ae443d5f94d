"""COCO, and any data set in its format: what is trained on, what is scored, and that both are those of the files."""

import dataclasses
import json
import logging

import pytest
import timm
import torch
from coco_folders import EMPTY, IDS, NAMES, text_of, write_split
from command_line import study
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from safetensors.torch import save_file
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image

from cropr.dense import DenseViT
from studies.catalogue.recipes import RECIPES
from studies.commands.records import evaluate as scored
from studies.commands.records import write_report
from studies.commands.run import Options, configs_of, prepare
from studies.commands.show import show_study
from studies.data.coco_files import find_split
from studies.data.datasets import create_dataset
from studies.data.loading import WrongFiles
from studies.data.sets.coco import Coco
from studies.models import deploy
from studies.models.backbones import create_backbone, sized_for
from studies.runs.run import execute
from studies.study import check_identity
from studies.tasks.coco_eval import METRICS
from studies.tasks.detection import criterion, evaluate
from studies.training.rates import learning_rate

SIDE = 64


@pytest.fixture
def root(tmp_path):
    write_split(tmp_path, "train2017", num_images=8, seed=1)
    return tmp_path


@pytest.fixture
def masks(root):
    """Of the annotations of val, [H, W] bool by id."""
    return write_split(root, "val2017")


def made(root, **options):
    return Coco(root, image_size=SIDE, patch_size=8, **options)


def content_of(root, split):
    return json.loads((root / "annotations" / f"instances_{split}2017.json").read_text())


def rewrite(root, split, change):
    content = content_of(root, split)
    change(content)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


# ---- what is yielded


def test_test_images_come_whole_with_what_their_files_say(root, masks):
    data, content = made(root), content_of(root, "val")
    assert data.classes == list(NAMES) and (data.num_classes, data.num_train, data.num_test) == (5, 7, 5)
    batches = list(data.test_batches(2))
    assert [batch.item.tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    for batch in batches:
        assert batch.images.shape[1:] == (3, SIDE, SIDE) and batch.patch_target.shape[1:] == ((SIDE // 8) ** 2,)
        for row, item in enumerate(batch.item.tolist()):
            entry, original = content["images"][item], batch.originals[row]
            assert (original.height, original.width) == (entry["height"], entry["width"])
            there = [one for one in content["annotations"] if one["image_id"] == entry["id"]]
            height, width = batch.target.sizes[row].tolist()
            scale = SIDE / max(entry["height"], entry["width"])
            assert (height, width) == (round(entry["height"] * scale), round(entry["width"] * scale))
            assert len(original.objects) == len(there) == int((batch.target.classes[row] >= 0).sum())
            for k, (ours, theirs) in enumerate(zip(original.objects, there, strict=True)):
                assert ours["bbox"] == theirs["bbox"] and ours["area"] == theirs["area"]
                assert IDS[ours["category_id"]] == theirs["category_id"] and ours["iscrowd"] == theirs["iscrowd"]
                assert batch.target.classes[row, k] == ours["category_id"]
                assert batch.target.crowd[row, k] == bool(ours["iscrowd"])
                moved = batch.target.masks[row, k].float().sum() / scale**2
                assert moved == pytest.approx(masks[theirs["id"]].sum(), rel=0.15)
    empty = data.test_items([EMPTY])
    assert empty.target.boxes.shape == (1, 0, 4) and not empty.truth.any() and empty.originals[0].objects == []
    crowd = data.test_items([4]).target
    assert crowd.crowd.sum() == 1 and len(crowd.targets()[0]["labels"]) == (crowd.classes[0] >= 0).sum() - 1


def test_training_images_have_an_object_each_and_are_the_same_in_workers(root, masks, caplog):
    with caplog.at_level(logging.WARNING):
        data = made(root)
    assert [record.message for record in caplog.records] == [
        "instances_train2017.json: 1 of 8 images are not trained on, without an object that is no crowd: "
        f"{EMPTY:012}.png"
    ]
    here, there = (list(made(root, workers=workers).train_batches(1, 3)) for workers in (0, 1))
    assert len(here) == 2 and here[0].originals is None
    for ours, theirs in zip(here, there, strict=True):
        assert ours.item.tolist() == theirs.item.tolist() and torch.equal(ours.images, theirs.images)
        assert all(torch.equal(a, b) for a, b in zip(ours.target, theirs.target, strict=True))
        assert torch.equal(ours.patch_target, theirs.patch_target)
    assert not torch.equal(here[0].images, next(data.train_batches(0, 3)).images)
    rows = next(made(root).train_batches(1, 3, rows=slice(1, 2)))
    assert torch.equal(rows.images, here[0].images[1:2])


def test_boxes_stand_for_masks_where_there_are_none(root, masks):
    for split in ("train", "val"):
        rewrite(root, split, lambda content: [entry.pop("segmentation") for entry in content["annotations"]])
    with pytest.raises(ValueError, match=r"annotation 100: no segmentation, expected polygons or RLE, which masks are"):
        made(root)
    batch = next(made(root, masks=False).test_batches(5))
    there = batch.target.classes[0] >= 0
    boxes = batch.target.boxes[0, there].round().int().tolist()
    for mask, (x0, y0, x1, y1) in zip(batch.target.masks[0, there], boxes, strict=True):
        rectangle = torch.zeros_like(mask)
        rectangle[y0:y1, x0:x1] = True
        border = 2 * (x1 - x0 + y1 - y0)  # which is where resizing to the nearest pixel may differ
        assert (mask ^ rectangle).sum() <= border < rectangle.sum()
    vit = create_backbone(
        "test_vit", pretrained=False, num_classes=len(IDS), detector=True, masks=False, **sized_for("test_vit", SIDE)
    )
    deploy.save(DenseViT(vit), root / "boxes", backbone="test_vit", data_config=None)
    found = scored(root / "boxes", "coco", str(root), "cpu")  # of a detector of boxes alone nothing else is asked
    assert found["num_items"] == 5 and "box_ap" in found and "mask_ap" not in found


# ---- what is refused


def test_what_is_wrong_is_named(root, masks):
    rewrite(root, "val", lambda content: content["categories"].pop())
    with pytest.raises(ValueError, match="annotation 100: category 1 is unknown"):
        made(root)
    rewrite(root, "val", lambda content: content["categories"].append({"id": 1, "name": "someone"}))
    with pytest.raises(ValueError, match="has other categories than instances_train2017.json: someone, .* of person, "):
        made(root)


def test_images_of_another_size_are_named(root, masks):
    Image.new("RGB", (30, 20)).save(root / "val2017" / f"{1:012}.png")
    with pytest.raises(WrongFiles, match=r"val2017/000000000001.png \(30 x 20 px, but instances_val2017.json says "):
        made(root, skip_unreadable=True)


def test_the_fingerprint_is_of_annotations_too(root, masks):
    first = made(root).fingerprint
    assert made(root, seed=3).fingerprint == first
    rewrite(root, "train", lambda content: content["annotations"][0]["bbox"].__setitem__(2, 9.0))
    assert made(root).fingerprint != first


def test_what_is_chosen_is_chosen_by_a_share_of_train(root, masks):
    data, chosen = made(root), made(root, hold_out=True)
    held, trained = set(chosen._splits["val"].paths), set(chosen._splits["train"].paths)
    assert len(held) == 1 and not held & trained and held | trained >= set(data._splits["train"].paths)


# ---- scores


def test_scores_are_pycocotools_own_on_the_files(root, masks, tmp_path):
    """What a model finds, scaled to the files by hand, written down, and scored by pycocotools with COCO's files."""
    data = made(root)
    torch.manual_seed(0)
    vit = create_backbone("scenes_vit_sincos", pretrained=False, img_size=SIDE, num_classes=5, detector=True)
    model, batch = DenseViT(vit), data.test_items(range(5))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        criterion()(model.train()(batch.images), batch.target).div(5).backward()
        optimizer.step()
    found = evaluate(model, data.test_batches(2), "cpu")

    file, _ = find_split(root, "val")
    content, written = json.loads(file.read_text()), {"bbox": [], "segm": []}
    head, sizes = model.vit.head, batch.target.sizes.tolist()
    with torch.no_grad():
        maps = model(batch.images)
        levels, images = head.pyramid(maps), ImageList(batch.images, sizes)
        raw, _ = head.roi_heads(levels, head.rpn(images, levels)[0], sizes)
    for entry, one, (height, width) in zip(content["images"], raw, sizes, strict=True):
        across, down = entry["width"] / width, entry["height"] / height
        boxes = one["boxes"] * torch.tensor([across, down, across, down])
        pasted = paste_masks_in_image(one["masks"], boxes, (entry["height"], entry["width"]))[:, 0] > 0.5
        for box, label, score, mask in zip(
            boxes.tolist(), one["labels"].tolist(), one["scores"].tolist(), pasted.numpy(), strict=True
        ):
            common = {"image_id": entry["id"], "category_id": IDS[label - 1], "score": score}
            written["bbox"].append(common | {"bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]]})
            written["segm"].append(common | {"segmentation": text_of(mask)})
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        results = tmp_path / f"{kind}.json"
        results.write_text(json.dumps(written[kind]))
        coco = COCO(str(file))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        for key, value in zip(METRICS, evaluation.stats, strict=True):
            assert found.metrics.get(f"{name}_{key.lower()}", -1.0) == pytest.approx(value, abs=1e-9), key
        assert 0.02 < found.metrics[f"{name}_ap"] < 0.98


# ---- the command line


def test_from_a_folder_to_the_report(root, masks, tmp_path):
    torch.manual_seed(0)
    save_file(timm.create_model("test_vit").state_dict(), weights := tmp_path / "w.safetensors")
    asked = options(root, img_size=SIDE, backbone=f"test_vit={weights}", reducers="cropr", quick=True,
                    settings=["batch_size=2"], out=(out := tmp_path / "out"))  # fmt: skip
    (config,) = configs_of(asked)
    prepare([config], asked)
    execute(config, out)
    record = json.loads((out / "runs" / config.id / "result.json").read_text())
    assert record["dataset"] == "coco" and record["num_items"] == 5 and record["tokens_per_block"][0] == 17
    assert {"box_ap", "mask_ap", "box_ap50", "mask_ar_100"} <= set(record["metrics"]["final"])
    scores = scored(out / "runs" / config.id / "model", "coco", str(root), "cpu")
    assert scores.pop("num_items") == 5 and scores == {name: record["metrics"]["final"][name] for name in scores}
    write_report([out])
    assert "on coco" in (out / "report" / "table.md").read_text()
    for path in show_study(out, "0,4", None, None):
        assert path.stat().st_size > 10_000
    wider = configs_of(options(root, img_size=80, backbone=f"test_vit={weights}", quick=True))
    with pytest.raises(ValueError, match="its img_size is 64, not 80"):
        check_identity(wider, out, record["provenance"]["data_fingerprint"], wider[0].recipe)


def options(root, **changes):
    asked = {"task": "detection", "dataset": "coco", "data": str(root), "backbone": "test_vit", "protocol": "same"}
    return Options(**asked | changes)


def test_a_missing_image_is_refused_before_work(root, masks, tmp_path):
    (root / "val2017" / f"{0:012}.png").unlink()
    done = study("run", "--task", "detection", "--dataset", "coco", "--data", root, "--backbone", "test_vit",
                 "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 2 and "1 of 5 images are not in" in done.stderr and "000000000000.png" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_size_of_images_is_asked_for(root, masks):
    plain, wide = (configs_of(options(root, img_size=size))[0] for size in (None, 96))
    assert plain.id != wide.id and create_dataset(wide).image_size == 96
    data = create_dataset(plain)
    assert data.image_size == 1024 and data.test_items([0]).patch_target.shape == (1, 64**2)
    vit_14 = dataclasses.replace(wide, img_size=98, backbone="vit_small_patch14_dinov2")
    assert create_dataset(vit_14).patch_size == sized_for(vit_14.backbone, 98).get("patch_size", 14) == 14
    assert create_dataset(dataclasses.replace(vit_14, img_size=96)).patch_size == 16
    assert sized_for(vit_14.backbone, 96)["patch_size"] == 16
    with pytest.raises(ValueError, match="test_vit: images of 100 px are no whole number of patches of 16 px"):
        create_dataset(dataclasses.replace(wide, img_size=100))
    with pytest.raises(ValueError, match="--img-size: scenes has a size of its own; data sets of any size: coco"):
        configs_of(options(None, dataset="scenes", data=None, img_size=64))
    with pytest.raises(ValueError, match="backbone scenes_vit is not of timm"):
        create_dataset(dataclasses.replace(wide, backbone="scenes_vit"))


def test_the_published_recipes():
    vitdet, eva = RECIPES["vitdet"], RECIPES["eva02-coco"]
    assert (vitdet.epochs, vitdet.batch_size, vitdet.lr) == (100, 64, 1e-4)
    assert (vitdet.layer_decay, vitdet.drop_path) == (0.7, 0.1)
    assert (eva.batch_size, eva.lr, eva.layer_decay, eva.drop_path, eva.ema) == (64, 4e-5, 0.8, 0.3, 0.9999)
    steps = eva.epochs * (117_266 // 64)  # images of train2017 with an object that is no crowd
    assert abs(steps - 40_000) < 117_266 / 64
    assert {learning_rate(eva, step, steps, 0) for step in (0, 1, steps // 2, steps - 1)} == {4e-5}
