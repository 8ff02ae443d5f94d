"""Three ways to count, on every method and two families of models."""

import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from tiny_models import place

from baselines import dynamicvit
from baselines.random_pruning import RandomPruning
from cropr.macs import dense_macs
from cropr.vit import ReducedViT
from cropr.windows import Windows
from studies.measure.flops import check_macs, count_macs, count_torch

METHODS = {
    "none": lambda vit, n: {},
    "cropr": lambda vit, n: place("cropr", vit, n, rate=8),
    "cropr with projections": lambda vit, n: place("cropr", vit, n, rate=8, k_proj=True, q_proj=True, pre_norm=True),
    "cropr that samples": lambda vit, n: place("cropr", vit, n, rate=8, select="sample"),
    "random": lambda vit, n: place("random", vit, n, rate=8),
    "tome": lambda vit, n: place("tome", vit, n, r=8),
    "evit": lambda vit, n: place("evit", vit, n, keep=0.5, at=(1, 2)),
    "dynamicvit": lambda vit, n: place("dynamicvit", vit, n, ratio=0.5, at=(1, 2)),
}
SIZES = dict(img_size=32, patch_size=4, embed_dim=48, depth=4, num_heads=3, num_classes=10)
MODELS = {"vit": lambda: VisionTransformer(**SIZES), "eva": lambda: Eva(**SIZES, use_rot_pos_emb=True, swiglu_mlp=True)}


def reduced(model="vit", method="none", **options):
    vit = MODELS[model]()
    return ReducedViT(vit, METHODS[method](vit, vit.patch_embed.num_patches), **options)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_three_counts_agree(model, method):
    """Within 1 % is the contract; today they are the same integer, so a tolerance would hide a change."""
    counts = check_macs(reduced(model, method))
    assert counts.closed_form == counts.fvcore == counts.torch
    dense = check_macs(reduced(model)).closed_form
    assert counts.closed_form == dense if method == "none" else counts.closed_form < 0.9 * dense


def test_attention_counts():
    """DeiT-S is 4.60 GMACs; 4.25 is what fvcore says without a rule for fused attention (Cropr, Table 1)."""
    counts = check_macs(ReducedViT(timm.create_model("deit_small_patch16_224")))
    for macs in (counts.closed_form, counts.fvcore, counts.torch):
        assert macs / 1e9 == pytest.approx(4.60, abs=0.005)


def test_fused_tokens_and_larger_images_count():
    vit = VisionTransformer(**SIZES, dynamic_img_size=True)
    small, large = (check_macs(ReducedViT(vit, img_size=size)) for size in (32, (48, 32)))
    assert large.closed_form > 1.5 * small.closed_form  # 96 patches for 64
    reducers = place("cropr", vit, 64, rate=8, rest="llf")
    fused = check_macs(ReducedViT(vit, reducers, llf=True))
    assert fused.closed_form > check_macs(ReducedViT(vit, place("cropr", vit, 64, rate=8, rest="llf"))).closed_form


WINDOWED = {
    "none": lambda vit: {},
    "cropr": lambda vit: place("cropr", vit, 64, rate=20),
    "fused": lambda vit: place("evit", vit, 64, keep=0.5),
    "fused, as many as before": lambda vit: {1: RandomPruning(63, 0, rest="fuse")},
    "nothing to do": lambda vit: {1: RandomPruning(64, 0)},
    "tome": lambda vit: place("tome", vit, 64, r=8),
}


@pytest.mark.parametrize("method", WINDOWED)
@pytest.mark.parametrize(("model", "text"), [("vit", "4:global=1/3"), ("eva", "3:global=1/3,windows=by-position")])
def test_windows_count_as_they_run(model, text, method):
    """With padding and without; three counts of a model that is windowed before the first reducer has done anything."""
    vit = MODELS[model]()
    vit.windows = Windows.parse(text)
    counts = count_macs(ReducedViT(vit, WINDOWED[method](vit)))
    assert counts.closed_form == counts.fvcore == counts.torch
    assert counts.torch != count_macs(reduced(model)).torch


@pytest.mark.parametrize("llf", [False, True])
def test_windows_of_larger_images_count(llf):
    vit = VisionTransformer(**SIZES, dynamic_img_size=True)
    vit.windows = Windows.parse("5:global=1/3")
    found = place("cropr", vit, 12 * 20, rate=100, rest="llf" if llf else "drop")
    model = ReducedViT(vit, found, llf=llf, img_size=(48, 80))
    counts = count_macs(model)
    assert counts.closed_form == counts.fvcore == counts.torch


def test_published_macs_of_windows():
    """EVA-02-L at 1,536 px with windows of 16: 4,258.8 GMACs with the products of attention, by our own sum (Cropr's
    2,790 are its linear layers alone)."""
    with torch.device("meta"):
        vit = timm.create_model(
            "eva02_large_patch14_448", patch_size=16, img_size=1536, num_classes=0, class_token=False
        )
    vit.windows = Windows.parse("16")
    assert vit.windows.global_of(24) == (2, 5, 8, 11, 14, 17, 20, 23)
    macs = dense_macs(vit)
    assert macs == count_torch(ReducedViT(vit).eval(), torch.empty(1, 3, 1536, 1536, device="meta"))
    attention = 2 * 1024 * (8 * 9216**2 + 16 * 36 * 256**2)
    assert (round(macs / 1e9, 1), round((macs - attention) / 1e9, 1)) == (4258.8, 2789.9)


class Understated(dynamicvit.DynamicViT):
    """Keeps quiet about its predictor."""

    def macs(self, num_live, num_prefix, embed_dim):
        return 0


def test_wrong_closed_form_is_refused():
    vit = MODELS["vit"]()
    model = ReducedViT(vit, {0: Understated(32, vit.embed_dim)})
    counts = count_macs(model)
    assert counts.closed_form * 1.01 < counts.fvcore == counts.torch
    with pytest.raises(ValueError, match=f"{counts.closed_form:,}, fvcore {counts.fvcore:,}, torch {counts.torch:,}"):
        check_macs(model)


def test_training_models_are_counted_as_deployed_and_left_alone():
    model = reduced(method="cropr").train()
    attn = model.vit.blocks[0].attn
    before = {name: x.clone() for name, x in model.state_dict().items()}
    hooks = len(attn.q_norm._forward_hooks) + len(attn.k_norm._forward_hooks)
    assert check_macs(model) == check_macs(model.fold())
    assert model.training and all(part.training for part in model.modules())
    assert model.vit.patch_embed.img_size == (32, 32)
    assert len(attn.q_norm._forward_hooks) + len(attn.k_norm._forward_hooks) == hooks
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert all(x.requires_grad for x in model.parameters())
