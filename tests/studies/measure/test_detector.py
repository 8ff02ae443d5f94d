"""What stands behind the encoder of a detector is counted apart, and timed together with it."""

import numpy as np
import pytest
import torch
from torch import nn

from cropr.dense import DenseViT
from cropr.macs import count
from cropr.reducer import observed
from studies.commands.run import Options, configs_of
from studies.data.sets.scenes import Scenes
from studies.measure.bench import bench, variants_of
from studies.measure.detector import Detector, Whole, detector_costs, fixed_regions, time_whole
from studies.measure.flops import count_torch
from studies.measure.speed_record import ratio_spread
from studies.models import deploy
from studies.models.backbones import create_backbone
from studies.models.methods import parse, parse_one
from studies.models.reducers import build
from studies.study import whole_models

SETTING = {"device": "cpu", "rounds": 4, "min_seconds": 0.0}


def backbone(**options):
    torch.manual_seed(0)
    return create_backbone("scenes_vit", pretrained=False, detector=True, **options)


def reduced(spec, vit=None):
    return build(vit or backbone(), parse_one(spec, True), None).model.fold().eval()


def images(num=1):
    return torch.randn(num, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def found_by(model):
    return model.vit.head.detect(model(images(2)))


# ---- costs


def layer_macs(name, layer, seen, output):
    """Of one call: a weight for each output and input, of a transposed convolution for each input and output."""
    (x,) = seen
    spots = x if isinstance(layer, nn.ConvTranspose2d) else output
    return spots.numel() * layer.weight[0].numel()


@pytest.mark.parametrize("masks", [True, False])
def test_pyramid_and_heads_are_the_sum_of_their_layers(masks):
    """Counted on the meta device by torch, beside every layer of a real pass with the regions fixed."""
    model = DenseViT(backbone(masks=masks)).eval()
    for block in model.vit.blocks:
        block.attn.fused_attn = False  # torch does not count the fused kernel of CPUs
    head, macs = model.vit.head, {"pyramid": 0, "heads": 0}
    layers = {
        name: layer for name, layer in head.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear))
    }  # fmt: skip

    def note(name, seen, output):
        part = "pyramid" if name.startswith("pyramid") else "heads"
        macs[part] += layer_macs(name, layers[name], seen, output)

    with fixed_regions(head, (32, 32)), torch.inference_mode():
        with observed(layers, note):
            Detector(model)(images())
        whole = count_torch(Detector(model), images())
    costs = detector_costs(model)
    assert costs["pyramid_macs_g"] == macs["pyramid"] / 1e9 and costs["heads_macs_g"] == macs["heads"] / 1e9
    assert whole == count(model).total + macs["pyramid"] + macs["heads"]
    assert (costs["num_proposals"], costs["num_detections"]) == (64, 10)


def test_they_are_the_same_for_every_reducer_and_all_weights():
    costs = [detector_costs(reduced(spec)) for spec in ("none", "cropr:rate=10", "random:rate=4", "tome:r=8")]
    vit = backbone()
    for parameter in vit.parameters():
        parameter.data.normal_(0, 3)
    assert all(found == costs[0] for found in [*costs, detector_costs(reduced("none", vit))])
    assert detector_costs(DenseViT(backbone(masks=False)))["heads_macs_g"] < costs[0]["heads_macs_g"]


# ---- speed


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_fixed_regions_are_as_many_whatever_the_weights(scale):
    model = DenseViT(backbone()).eval()
    for parameter in model.vit.head.parameters():
        parameter.data.normal_(0, scale)
    free = found_by(model)
    seen = []
    with (
        fixed_regions(model.vit.head, (32, 32)),
        observed({"box_head": model.vit.head.roi_heads.box_head}, lambda name, args, out: seen.append(len(out))),
    ):
        found = found_by(model)
    assert seen == [128] and [len(one.boxes) for one in found] == [10, 10]  # of two images
    for one in found:
        assert (one.scores > 0.9).all() and one.masks.shape == (10, 32, 32) and len(one.boxes.unique(dim=0)) == 10
        assert (one.boxes >= 0).all() and (one.boxes <= 32).all()
    again = found_by(model)
    assert all(torch.equal(a, b) for one, two in zip(free, again, strict=True) for a, b in zip(one, two, strict=True))


def test_whole_detectors_are_timed_beside_their_encoders():
    variants = variants_of(parse("cropr,random", True), [0.5], dense=True)
    vit = backbone()
    models = {name: build(vit, method, budget).model.fold().eval() for name, (method, budget) in variants.items()}
    record = bench(vit, variants, Whole(models, images(), fixed=True), batch_size=2, **SETTING)
    assert record["whole"] | {"load_of_others": 0} == {
        "batch_size": 1, "img_size": 32, "dtype": "float32", "compiled": False, "rounds": 4, "load_of_others": 0,
        "num_images": 1, "fixed_regions": True,
    }  # fmt: skip
    dense = np.array(record["variants"][0]["whole"]["samples_s"])
    for row in record["variants"]:
        whole, own = row["whole"], np.array(row["whole"]["samples_s"])
        assert len(own) == 4 and whole["ratio"] == ratio_spread(dense, own) and own.min() > 0
        assert whole["images_per_s"]["median"] == pytest.approx(1 / np.median(own))
        assert (whole["num_proposals"], whole["num_detections"]) == (64, 10)
        assert row["detector"] == detector_costs(models[row["variant"]])
    assert not vit.head.rpn._forward_hooks


def test_heads_stay_in_float32_and_each_round_has_its_image():
    model, said, seen = DenseViT(backbone()), [], []

    def note(module, args):
        assert args[0].dtype is torch.bfloat16 and len(args[0]) == 1
        if said and "round" in said[-1]:
            seen.append(args[0].float())

    model.register_forward_pre_hook(note)
    whole = Whole({"none": model}, images(3), fixed=False)
    _, rows = time_whole(whole, dense="none", dtype="bfloat16", progress=said.append, **SETTING)
    assert {p.dtype for p in model.vit.head.parameters()} == {torch.float32}
    assert {p.dtype for p in model.vit.blocks.parameters()} == {torch.bfloat16}
    rounded = images(3).bfloat16().float()
    assert all(torch.equal(seen[i], rounded[[number % 3]]) for i, number in enumerate((1, 2, 3, 4)))
    found = model.eval().vit.head.detect(model(images(3)[:1].bfloat16()))
    assert 0 < rows["none"]["num_proposals"] <= 64 and len(found[0].boxes) <= 10


def test_a_study_times_the_detectors_that_it_trained(tmp_path):
    configs = configs_of(Options(task="detection", seeds=1, reducers="none,random,tome", budgets="0.5"))
    scenes = Scenes("detection", num_digits=(1, 4))
    trained = {config.variant: config for config in configs if config.reducer != "tome"}
    assert whole_models(configs, tmp_path, scenes, 3) is None
    for name, spec in (("random@0.5", "random:rate=6"), ("none", "none")):
        vit = backbone()
        vit.head.rpn.head.cls_logits.bias.data += len(name)  # weights that tell
        folder = tmp_path / "runs" / trained[name].id
        folder.mkdir(parents=True)
        deploy.save(reduced(spec, vit), folder / "model", backbone="scenes_vit", data_config=None)
    whole = whole_models(configs, tmp_path, scenes, 3)
    assert set(whole.models) == {"none", "random@0.5"} and not whole.fixed
    for name, model in whole.models.items():
        assert torch.equal(model.vit.head.rpn.head.cls_logits.bias, torch.full((3,), float(len(name))))
    assert torch.equal(whole.images, scenes.test_items(range(3)).images)
