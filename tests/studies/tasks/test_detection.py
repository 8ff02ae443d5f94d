"""Detection: the pyramid and the heads, what they are trained for, and how they are scored."""

import hashlib
import json

import numpy as np
import pytest
import torch
from command_line import study

from cropr.dense import DenseViT
from cropr.method import Training
from results.statistics.metrics.average_precision import Matches, average_precision
from studies.commands.run import Options, configs_of
from studies.config import CHOICES
from studies.data import Instances
from studies.data.sets.scenes import Scenes
from studies.measure.flops import check_macs
from studies.models import deploy
from studies.models.backbones import create_backbone
from studies.models.methods import builtin, parse_one
from studies.models.reducers import build
from studies.runs.pretraining import backbone_dir
from studies.study import check_identity, timing_dir
from studies.tasks import declared
from studies.tasks.detection import criterion, evaluate
from studies.tasks.detector import DetectionHead, SimplePyramid

STANDARD = [name for name, method in builtin().items() if method.standard and name != "none"]


@pytest.fixture(scope="module")
def scenes():
    return Scenes("detection", num_digits=(1, 4))


def backbone(name="scenes_vit_sincos", **options):
    torch.manual_seed(0)
    return create_backbone(name, pretrained=False, detector=True, **options)


def reduced(spec, budget=None):
    return build(backbone(), parse_one(spec, True), budget).model


# ---- data


def test_objects_of_scenes_are_those_that_were_drawn(scenes):
    index = np.arange(20)
    batch, drawn = scenes.batch("test", index), scenes.render("test", index)
    for number, target in enumerate(batch.target.targets()):
        there = np.flatnonzero(drawn.classes[number] >= 0)
        assert target["labels"].tolist() == (drawn.classes[number][there] + 1).tolist() and len(there) >= 1
        for box, mask, slot in zip(target["boxes"], target["masks"], there, strict=True):
            rows, columns = np.nonzero(drawn.instances[number] == slot + 1)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert (mask.numpy() == (drawn.instances[number] == slot + 1)).all() and mask.sum() == len(rows)
    counts = {len(target["labels"]) for target in batch.target.targets()}
    assert counts == {1, 2, 3, 4}


def test_masks_may_overlap_and_a_crowd_is_no_target():
    boxes = torch.tensor([[[0, 0, 2, 2], [1, 1, 4, 4], [0, 0, 4, 4]], [[0, 0, 1, 4], [0] * 4, [0] * 4]]).float()
    masks = torch.zeros(2, 3, 4, 4, dtype=torch.bool)
    for image, slot in ((0, 0), (0, 1), (0, 2), (1, 0)):
        x0, y0, x1, y1 = boxes[image, slot].int().tolist()
        masks[image, slot, y0:y1, x0:x1] = True
    crowd = torch.tensor([[False, False, True], [False, False, False]])
    objects = Instances(boxes, torch.tensor([[4, 0, 2], [1, -1, -1]]), masks, crowd, torch.full((2, 2), 4))
    first, second = objects.targets()
    assert first["labels"].tolist() == [5, 1] and second["labels"].tolist() == [2]
    assert torch.equal(first["boxes"], boxes[0, :2]) and torch.equal(second["masks"], masks[1, :1].byte())
    assert first["masks"].dtype == torch.uint8 and first["masks"][:, 1, 1].tolist() == [1, 1]


# ---- the head


@pytest.mark.parametrize(
    ("scales", "sides"), [((2.0, 1.0, 0.5), (16, 8, 4, 2)), ((4.0, 2.0, 1.0, 0.5), (32, 16, 8, 4, 2))]
)
def test_the_pyramid_has_a_map_for_each_scale(scales, sides):
    maps = SimplePyramid(32, 24, scales)(torch.randn(2, 32, 8, 8))
    assert [tuple(found.shape) for found in maps.values()] == [(2, 24, side, side) for side in sides]


def test_small_and_large_patches_have_their_own_sizes():
    small, large = DetectionHead(96, 10, 4), DetectionHead(384, 80, 16)
    assert len(small.pyramid.levels) == 3 and len(large.pyramid.levels) == 4
    assert [size for (size,) in large.rpn.anchor_generator.sizes] == [16, 32, 64, 128, 256]
    assert large.roi_heads.box_predictor.cls_score.out_features == 81


@pytest.mark.parametrize("patch_size", [4, 14, 16])
@pytest.mark.parametrize("sizes", [[(96, 224)], [(224, 224)], [(224, 96)]])
def test_regions_are_looked_up_where_they_are(patch_size, sizes):
    """Maps that hold the x and y of their cells in pixels give the centres of boxes, however much is padding."""
    align = DetectionHead(32, 3, patch_size).roi_heads.box_roi_pool
    maps, boxes = {}, torch.tensor([[24.0, 40, 40, 52], [16, 20, 84, 90]])
    for name, scale in zip(align.featmap_names, (2, 1, 0.5) if patch_size == 4 else (4, 2, 1, 0.5), strict=True):
        cells = torch.arange(round(224 / patch_size * scale)) * patch_size / scale
        maps[name] = torch.stack(torch.meshgrid(cells, cells, indexing="xy"))[None]
    centres = align(maps, [boxes], sizes).mean((2, 3))
    torch.testing.assert_close(centres, (boxes[:, :2] + boxes[:, 2:]) / 2, rtol=0, atol=1e-3)


def test_what_is_found_lies_in_the_image_and_is_scaled_to_its_file(scenes):
    model = DenseViT(backbone()).eval()
    with torch.no_grad():
        maps = model(scenes.test_items(range(3)).images)
    detect = model.vit.head.detect
    for one in detect(maps, [(20, 32)] * 3):
        assert len(one.boxes) and one.masks.shape[1:] == (20, 32)
        assert one.boxes.amin() >= 0 and (one.boxes.amax(0) <= torch.tensor([32, 20, 32, 20])).all()
    for one, scaled in zip(detect(maps), detect(maps, [(32, 32)] * 3, [(64, 96)] * 3), strict=True):
        torch.testing.assert_close(scaled.boxes, one.boxes * torch.tensor([3.0, 2, 3, 2]))
        assert torch.equal(scaled.scores, one.scores) and scaled.masks.shape == (len(one.boxes), 64, 96)
        outside = scaled.masks.clone()
        for mask, (x0, y0, x1, y1) in zip(outside, scaled.boxes.tolist(), strict=True):
            mask[max(0, int(y0) - 3) : int(y1) + 3, max(0, int(x0) - 3) : int(x1) + 3] = False
        assert scaled.masks.any() and not outside.any()


def test_what_a_call_returns_is_the_map_of_the_last_tokens(scenes):
    model = DenseViT(backbone()).eval()
    images = scenes.test_items(range(3)).images
    with torch.no_grad():
        maps = model(images)
        tokens = model.vit.forward_features(images)
    expected = tokens[:, 1:].transpose(1, 2).reshape(3, 96, 8, 8)
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize("spec", ["cropr:rate=0", "random:rate=0", "evit:keep=1", "tome:r=0"])
def test_with_nothing_pruned_it_is_the_plain_detector(spec, scenes):
    images = scenes.test_items(range(4)).images
    plain, model = DenseViT(backbone()).eval(), reduced(spec).eval()
    with torch.no_grad():
        assert torch.equal(plain(images), model(images))
        for ours, theirs in zip(
            model.vit.head.detect(model(images)), plain.vit.head.detect(plain(images)), strict=True
        ):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("name", STANDARD)
def test_costs_are_those_of_the_encoder_counted_three_ways(name):
    counts = check_macs(reduced(name, 0.7).fold().eval())
    dense = check_macs(DenseViT(backbone()).eval())
    assert counts.closed_form == counts.torch and counts.closed_form / dense.closed_form == pytest.approx(0.7, abs=0.02)


# ---- training


def test_the_loss_is_torchvisions_and_of_each_image_alike(scenes):
    """Twice the batch, twice the loss, as far as what is drawn at random allows; gradients reach encoder and heads."""
    model, batch = DenseViT(backbone()).train(), next(scenes.train_batches(0, 8))
    loss = criterion()
    torch.manual_seed(0)
    features = model(batch.images)
    total = loss(features, batch.target)
    assert loss.count(batch.target) == 8 and 0 < float(total.detach()) / 8 < 20
    total.backward()
    lacking = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert all("cls_token" in name or "norm1.bias" in name or "qkv.bias" in name for name in lacking), lacking
    with pytest.raises(ValueError, match="no label smoothing"):
        criterion(0.1)


def test_a_few_steps_find_the_digits(scenes):
    """Six scenes learnt by heart are found again; the same steps with boxes of other scenes are not."""

    def learnt(shift):
        model, batch = DenseViT(backbone()), scenes.batch("train", np.arange(6))
        target = type(batch.target)(*(part.roll(shift, 0) for part in batch.target))
        optimizer = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.0)
        for _ in range(120):
            model.train()
            optimizer.zero_grad()
            criterion()(model(batch.images), target).div(6).backward()
            optimizer.step()
        return evaluate(model, [batch], "cpu").metrics

    found, lost = learnt(0), learnt(3)
    assert found["box_ap50"] > 0.5 > lost["box_ap50"] + 0.2, (found, lost)


# ---- scores


def test_scores_and_matches_say_the_same(scenes):
    model = DenseViT(backbone())
    found = evaluate(model, [scenes.test_items(range(8)), scenes.test_items(range(8, 12))], "cpu")
    names = {f"{kind}_{key}" for kind in ("box", "mask") for key in ("ap", "ap50", "ap75", "ar_100", "ap_small")}
    assert names <= set(found.metrics) and found.predictions["item"].tolist() == list(range(12))
    for kind in ("box", "mask"):
        matches = Matches.from_arrays(found.predictions, prefix=f"{kind}_")
        assert average_precision(matches) == pytest.approx(found.metrics[f"{kind}_ap"], abs=1e-9)
    hits, objects = found.predictions["found_by_place"].sum(axis=(0, 1))
    matches = Matches.from_arrays(found.predictions, prefix="box_")
    assert objects == matches.truths[0].sum() and 0 < hits == matches.matched[0, 0].sum() < objects


def test_a_detector_is_the_same_after_loading(tmp_path, scenes):
    model = reduced("cropr", 0.7).eval()
    deploy.save(model, tmp_path / "m", backbone="scenes_vit_sincos", data_config=None)
    loaded, images = deploy.load(tmp_path / "m"), scenes.test_items(range(2)).images
    with torch.no_grad():
        assert torch.equal(loaded(images), model.fold()(images))
        pairs = zip(loaded.vit.head.detect(loaded(images)), model.vit.head.detect(model(images)), strict=True)
    assert all(torch.equal(a, b) for ours, theirs in pairs for a, b in zip(ours, theirs, strict=True))


# ---- boxes alone


def test_without_masks_boxes_are_learnt_and_scored_alone(tmp_path, scenes):
    """The same boxes as with the head of masks, nothing of masks, and so after loading."""
    whole, boxes = DenseViT(backbone()), DenseViT(backbone(masks=False))
    state = boxes.vit.state_dict()
    assert set(whole.vit.state_dict()) - set(state) == {key for key in whole.vit.state_dict() if ".mask_" in key}
    whole.vit.load_state_dict(state, strict=False)
    batch = scenes.test_items(range(8))
    loss = criterion()(boxes.train()(batch.images), batch.target)
    loss.backward()
    assert float(loss.detach()) > 0 and all(p.grad is not None for p in boxes.vit.head.parameters())
    found, both = evaluate(boxes, [batch], "cpu"), evaluate(whole, [batch], "cpu")
    assert len(found.predictions["box_score"]) > 0
    for metrics, names in ((found.metrics, ["box_ap"]), (both.metrics, ["box_ap", "mask_ap"])):
        assert [metric["name"] for metric in declared("detection", metrics) if not metric["of"]] == names
        assert {metric["name"].partition("_")[0] for metric in declared("detection", metrics)} == {
            name.partition("_")[0] for name in names
        }
    sized = {
        f"box_{kind}_{size}" for kind in ("ap", "ar") for size in ("small", "medium", "large")
    }  # with masks a false box has their size
    alike = {key: value for key, value in both.metrics.items() if key.startswith("box_") and key not in sized}
    assert {key: value for key, value in found.metrics.items() if key not in sized} == alike
    assert sum("recall" not in key for key in alike) == 6
    assert {key for key in found.predictions if key.startswith("mask_")} == set() and len(found.predictions) > 2
    deploy.save(boxes, tmp_path / "m", backbone="scenes_vit_sincos", data_config=None)
    loaded = deploy.load(tmp_path / "m")
    assert loaded.vit.head.detect(loaded(batch.images))[0].masks is None and not loaded.vit.head.masks


def test_boxes_alone_are_another_run():
    whole, boxes = (configs_of(Options(task="detection", seeds=1, masks=masks)) for masks in (True, False))
    assert not {config.id for config in whole} & {config.id for config in boxes}
    content = whole[0].to_dict()
    assert content.pop("masks") is True  # as in records from before there was a choice
    assert hash_of(content) == whole[0].id.rpartition("-")[2]
    with pytest.raises(ValueError, match="--no-masks is of detection, and segmentation"):
        configs_of(Options(task="segmentation", masks=False))


def hash_of(content):
    for key in ("device", "data_dir", "own", "split", "source", *(set(CHOICES) & set(content))):
        del content[key]
    content["checkpoint"] = content.pop("checkpoint_digest")
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]


def test_boxes_alone_are_another_study(tmp_path):
    whole, boxes = (configs_of(Options(task="detection", seeds=1, masks=masks)) for masks in (True, False))
    said = study("run", "--task", "detection", "--seeds", "1", "--no-masks", "--dry-run")
    assert said.stdout.split() == [config.id for config in boxes], said.stderr
    assert timing_dir(whole, tmp_path) != timing_dir(boxes, tmp_path)
    assert backbone_dir(whole[0], tmp_path) != backbone_dir(boxes[0], tmp_path)
    check_identity(whole, tmp_path, "f00d", None)
    with pytest.raises(ValueError, match="its masks is True, not False; give another --out"):
        check_identity(boxes, tmp_path, "f00d", None)
    identity = json.loads((tmp_path / "study.json").read_text())
    del identity["masks"]  # as in studies from before there was a choice
    (tmp_path / "study.json").write_text(json.dumps(identity))
    check_identity(whole, tmp_path, "f00d", None)
    with pytest.raises(ValueError, match="its masks is True"):
        check_identity(boxes, tmp_path, "f00d", None)


def test_from_the_command_to_the_report(tmp_path):
    out = tmp_path / "out"
    command = ("run", "--task", "detection", "--quick", "--reducers", "none,cropr", "--out", out,
               "--set", "batch_size=64")  # fmt: skip
    done = study(*command, timeout=600)
    assert done.returncode == 0, done.stderr
    records = {path.parent: json.loads(path.read_text()) for path in out.glob("runs/*/result.json")}
    assert len(records) == 2
    for record in records.values():
        assert {"box_ap", "mask_ap", "box_ap50", "box_ar_100"} <= set(record["metrics"]["final"])
        assert record["macs_g"].get("decoder", 0) == 0 and record["detector"]["num_proposals"] == 64
    folder, record = next(iter(records.items()))
    scores = json.loads(study("evaluate", folder / "model", "--quick").stdout)
    assert scores["box_ap"] == record["metrics"]["final"]["box_ap"] and scores["num_items"] == record["num_items"]
    (timing,) = (json.loads(path.read_text()) for path in out.glob("speed/*/result.json"))
    assert timing["whole"]["num_images"] == 5 and not timing["whole"]["fixed_regions"]
    assert all(0 < row["whole"]["num_proposals"] <= 64 for row in timing["variants"])
    assert "box AP, %" in (out / "report" / "table.md").read_text()
    again = study(*command)
    assert again.returncode == 0 and {p: json.loads((p / "result.json").read_text()) for p in records} == records
    shown = study("show", out, "--items", "3")
    assert shown.returncode == 0 and (out / "report" / "tokens_3.png").read_bytes()[:4] == b"\x89PNG", shown.stderr


def test_a_detector_has_no_logits_of_patches_that_leave():
    with pytest.raises(ValueError, match="a detector does not; valid: llf, none, concat, mask, nearest"):
        reduced("cropr:rest=logits", 0.7)


def test_dynamicvit_is_held_to_the_teachers_features(scenes):
    """A detector's patches have no classes, whose divergence from the teacher's would count."""
    built = build(backbone(), parse_one("dynamicvit", True), 0.7)
    objective = built.method.objective(Training(built.model.train(), criterion(), backbone))
    terms, _ = objective(built.model, next(scenes.train_batches(0, 4)))
    assert set(terms) == {"ce", "ratio", "token"} and all(float(term.total.detach()) > 0 for term in terms.values())
