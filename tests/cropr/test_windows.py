"""Attention within windows: what it computes, where reducers may be, and that it is written down."""

import copy

import pytest
import torch
from slow_windows import slow_features
from timm.models.vision_transformer import VisionTransformer
from tiny_models import DEPTH, DROPPERS, MODELS, NUM_PATCHES, WIDTH, idle, images, place, tiny

from cropr.cropr import CroprModule
from cropr.dense import DenseViT
from cropr.vit import ReducedViT
from cropr.windows import Windows, global_blocks

GLOBAL = (1, 4)  # of the tiny models


def windowed(name, text, **options):
    vit = tiny(name, **options)
    vit.windows = Windows.parse(text)
    return vit


def at_global(found):
    return {i: reducer for i, reducer in found.items() if i in GLOBAL}


# What it computes


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "text"),
    [(name, "4") for name in ("token", "registers_only", "eva_fused", "eva_swiglu", "eva_mixed", "dinov3")]
    + [("token", "3"), ("eva_mixed", "3"), ("eva_fused", "2:global=0/4")],
)
def test_an_independent_computation(name, text):
    """Windows that divide the grid and that do not, of each kind of rotary embedding."""
    model = ReducedViT(windowed(name, text).double()).eval()
    x = images(2).double()
    right = slow_features(model, x).x
    torch.testing.assert_close(model.forward_features(x).x, right, atol=1e-9, rtol=1e-9)
    assert (model.vit.forward_features(x) - right).abs().max() > 1e-2


@torch.no_grad()
@pytest.mark.parametrize("name", ["token", "eva_fused"])
def test_a_grid_that_is_no_square(name):
    model = ReducedViT(windowed(name, "3", img_size=(32, 56)).double()).eval()  # 4 x 7 patches
    x = torch.randn(2, 3, 32, 56, dtype=torch.float64)
    torch.testing.assert_close(model.forward_features(x).x, slow_features(model, x).x, atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("text", ["6", "14"])
@pytest.mark.parametrize("name", MODELS)
def test_one_window_is_the_plain_model(name, text):
    assert ReducedViT(windowed(name, text)).eval()(images()).equal(tiny(name)(images()))


REDUCED = {
    "cropr": lambda vit: place("cropr", vit, NUM_PATCHES, rate=8),
    "tome": lambda vit: place("tome", vit, NUM_PATCHES, r=9),
    "evit": lambda vit: place("evit", vit, NUM_PATCHES, keep=0.5),
    "dynamicvit": lambda vit: place("dynamicvit", vit, NUM_PATCHES, ratio=0.5),
}


def reduced(method, name, text, policy=None, llf=False):
    vit = windowed(name, text)
    torch.manual_seed(1)
    found = REDUCED[method](vit)
    for reducer in found.values():
        for parameter in reducer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return ReducedViT(vit, found, policy=policy, llf=llf).double()


@torch.no_grad()
@pytest.mark.parametrize("after", ["global", "by-position"])
@pytest.mark.parametrize(
    ("method", "name", "llf"),
    [("cropr", "token", False), ("cropr", "eva_mixed", True), ("tome", "token", False), ("tome", "eva_fused", False)]
    + [("evit", "token", False), ("dynamicvit", "eva_fused", False)],
)
def test_behind_the_first_reduction(method, name, llf, after):
    """EViT's fused token has no position."""
    model = reduced(method, name, f"4:global=1/4,windows={after}", llf=llf).eval()
    other = reduced(method, name, f"4:global=1/4,windows={'global' if after != 'global' else 'by-position'}", llf=llf)
    x = images(2).double()
    ours, right = model.forward_features(x), slow_features(model, x)
    torch.testing.assert_close(ours.x, right.x, atol=1e-6, rtol=1e-6)  # sizes are float32
    assert (other.eval().forward_features(x).x - right.x).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("after", ["global", "by-position"])
@pytest.mark.parametrize("name", ["token", "eva_fused"])
def test_masked_training(name, after):
    model, x = reduced("dynamicvit", name, f"4:windows={after}", policy="exact").train(), images(2).double()
    torch.manual_seed(3)
    ours = model.forward_features(x)
    torch.manual_seed(3)
    right = slow_features(model, x)
    assert all(a.equal(b) for a, b in zip(ours.aux, right.aux, strict=True)) and 0 < ours.aux[-1].mean() < 1
    torch.testing.assert_close(ours.x, right.x, atol=1e-4, rtol=1e-4)  # that softmax is in float32


@torch.no_grad()
def test_masked_training_that_keeps_all_is_the_plain_model_with_windows():
    """Up to the eps of the policy's softmax; both ways of masking."""
    vit = windowed("eva_fused", "4:windows=by-position")
    right = ReducedViT(vit).eval()(images())
    for policy in ("exact", "sdpa"):
        model = ReducedViT(vit, {}, policy=policy).eval()
        model.masked_eval = True
        torch.testing.assert_close(model(images()), right, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("after", ["global", "by-position"])
@pytest.mark.parametrize("method", DROPPERS)
def test_nothing_pruned_is_the_plain_model_with_windows(method, after):
    vit, x = windowed("token", f"4:windows={after}"), images()
    plain = ReducedViT(vit).eval()
    assert ReducedViT(vit, at_global(idle(method))).eval()(x).equal(plain(x))
    assert ReducedViT(vit, at_global(idle(method, llf=True)), llf=True).eval()(x).equal(plain(x))
    dense = DenseViT(vit, at_global(idle(method, llf=True))).eval().forward_features(x).x
    assert dense.equal(plain.forward_features(x).x)


def test_gradients_with_checkpointing_are_the_same():
    vit = windowed("eva_fused", "4:windows=by-position")
    model, grads = ReducedViT(vit, REDUCED["cropr"](vit)).eval(), []
    for save in (False, True):
        vit.set_grad_checkpointing(save)
        model.zero_grad()
        model(images()).square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in vit.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 50
    torch.testing.assert_close(grads[1], grads[0])
    assert all(grad.isfinite().all() for grad in grads[0].values())


@torch.no_grad()
def test_copies_and_folded_models_have_the_same_windows():
    model, x = reduced("cropr", "token", "4:windows=by-position").eval(), images().double()
    for other in (copy.deepcopy(model), model.fold(), copy.deepcopy(model).fold()):
        assert other.windows == model.windows
        torch.testing.assert_close(other(x), model(x))


def test_the_teacher_has_windows_too():
    from baselines.dynamicvit import DynamicViTMethod
    from cropr.method import Training
    from cropr.method.objective import CrossEntropy

    vit = windowed("token", "4")
    model = ReducedViT(vit, REDUCED["dynamicvit"](vit), policy="exact")
    training = Training(model, CrossEntropy(), teacher=lambda: windowed("token", "4"))
    teacher = DynamicViTMethod(ratio=0.5).objective(training).teacher
    with torch.no_grad():
        right = ReducedViT(windowed("token", "4")).eval()(images())
        assert teacher(images()).equal(right) and not right.equal(tiny("token")(images()))


# Where reducers are


def deep(depth, text):
    with torch.device("meta"):
        vit = VisionTransformer(img_size=48, patch_size=8, embed_dim=12, depth=depth, num_heads=1, num_classes=2)
    vit.windows = Windows.parse(text)
    return vit


@pytest.mark.parametrize(
    ("depth", "text", "method", "options", "blocks"),
    [
        (12, "3", "cropr", {"rate": 2}, (2, 5, 8)),
        (12, "3", "cropr", {"rate": 2, "rest": "llf"}, (2, 5, 8)),
        (12, "3:global=4/10/11", "random", {"rate": 2}, (4, 10)),
        (12, "3:global=4/10/11", "random", {"rate": 2, "rest": "llf"}, (4,)),
        (12, "3", "evit", {"keep": 0.5}, (2, 5, 8)),
        (12, "3", "dynamicvit", {"ratio": 0.5}, (2, 5, 8)),
        (12, "3", "tome", {"r": 2}, (2, 5, 8, 11)),
        (12, "3", "cropr", {"ratio": 0.5, "schedule": "staged"}, (2, 5, 8)),
        (24, "3", "dynamicvit", {"ratio": 0.5}, (5, 11, 17)),
        (24, "3:global=11/17/23", "evit", {"keep": 0.5}, (11, 17)),
        (24, "3", "cropr", {"ratio": 0.5, "at": (5, 8, 11, 14, 20)}, (5, 8, 11, 14, 20)),
        (6, "3", "evit", {"keep": 0.5}, (2,)),
        (6, "3", "dynamicvit", {"ratio": 0.5, "at": (3,)}, (2,)),
    ],
)
def test_places(depth, text, method, options, blocks):
    vit = deep(depth, text)
    with torch.device("meta"):
        found = place(method, vit, NUM_PATCHES, **options)
        ReducedViT(vit, found, llf=options.get("rest") == "llf")
    assert tuple(found) == blocks


@pytest.mark.parametrize("reducer", ["cropr", "random", "tome", "evit", "dynamicvit", "cropr:rest=llf"])
@pytest.mark.parametrize("text", ["4", "4:global=1/3/5/7/9/11,windows=by-position"])
def test_a_budget_is_met(reducer, text):
    from studies.models.methods import parse_one
    from studies.models.reducers import build

    built = build(deep(12, text), parse_one(reducer), 0.7)
    assert built.reached == pytest.approx(0.7, abs=0.02)
    assert set(map(int, built.model.reducers)) <= set(global_blocks(built.model.vit))


# Bad input


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "'' is no whole number; written 14, 14:windows=by-position"),
        ("0", "windows are 1 patch wide or more"),
        ("4.5", "'4.5' is no whole number"),
        ("-2", "'-2' is no whole number"),
        ("4:window=global", "unknown option of windows 'window'; did you mean windows\\? Valid: global, windows"),
        ("4:windows=by-postion", "unknown windows 'by-postion'; did you mean by-position\\?"),
        ("4:global=1/x", "'x' is no whole number"),
        ("4:", "unknown option of windows ''"),
    ],
)
def test_what_is_no_window(text, said):
    with pytest.raises(ValueError, match=said):
        Windows.parse(text)


@pytest.mark.parametrize(
    "text", ["14", "14:global=2/5/8/11", "14:windows=by-position", "7:global=11,windows=by-position"]
)
def test_windows_are_written_as_they_are_read(text):
    assert str(Windows.parse(text)) == text
    assert str(Windows.parse("14:windows=global,global=8/2/2/11")) == "14:global=2/8/11"


def test_reducers_at_window_blocks_are_refused_by_name():
    vit = windowed("token", "4")
    assert global_blocks(vit) == GLOBAL and global_blocks(tiny("token")) == tuple(range(DEPTH))
    with pytest.raises(
        ValueError, match="CroprModule at block 2, which attends within windows; valid, as global: 1, 4"
    ):
        ReducedViT(vit, {2: CroprModule(9, WIDTH, 7)})
    with pytest.raises(ValueError, match="ToMe at block 0, which .* valid, as global: 1, 4"):
        ReducedViT(vit, place("tome", vit, NUM_PATCHES, r=(4, 4)))
    with pytest.raises(ValueError, match="cropr reduces at blocks 2/5/8 \\(windows 3\\) of this model of 12, not 4"):
        place("cropr", deep(12, "3"), NUM_PATCHES, rate=2, rest="llf", at=(4, 8))
    with pytest.raises(ValueError, match="dynamicvit reduces in front of blocks 3/6/9 \\(windows 3\\) .* not 5"):
        place("dynamicvit", deep(12, "3"), NUM_PATCHES, ratio=0.5, at=(5,))


def test_global_blocks_that_the_model_does_not_have():
    with pytest.raises(ValueError, match="window 4:global=1: the last block, 4, must be global"):
        ReducedViT(windowed("token", "4:global=1"))
    with pytest.raises(ValueError, match="block 7 is to be global; the model has blocks 0 to 4"):
        ReducedViT(windowed("token", "4:global=4/7"))
