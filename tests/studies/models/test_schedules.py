"""How many patches stay where, as options say it: counts against a slow computation in fractions."""

import math
from fractions import Fraction

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from studies.models.methods import parse_one
from studies.models.reducers import build

DEPTH, PATCHES, PREFIX = 6, 64, 1
DROPPERS = ("random", "cropr", "evit", "dynamicvit")


def tiny(**options):
    return VisionTransformer(
        img_size=32, patch_size=4, embed_dim=48, depth=DEPTH, num_heads=3, num_classes=10, **options
    )


def slow(name, schedule, value, at=None, rest="drop", extra=PREFIX == 1):
    """[(in attention, in the MLP, behind)] of every block, in whole numbers and fractions."""
    last = DEPTH - 2 if rest == "llf" else DEPTH - 1
    if at is not None:
        places = [block - (name == "dynamicvit") for block in at]
    elif schedule == "staged":
        places = [math.floor(Fraction(DEPTH * stage, 4)) - (name == "dynamicvit") for stage in (1, 2, 3)]
    else:
        places = list(range(last))
    rows, live, gone, stage = [], PATCHES, Fraction(0), 0
    for block in range(DEPTH):
        live = PATCHES if rest == "llf" and block == DEPTH - 1 else live
        entering = live
        if block in places:
            stage += 1
            if schedule == "constant":
                gone += Fraction(str(value))
                keep = PATCHES - int(extra) - math.floor(gone)
            elif schedule == "geometric":
                keep = max(1, round(PATCHES * Fraction(str(value)) ** stage))
            elif schedule == "staged" and name == "evit":
                keep = math.ceil(Fraction(str(value)) * live)  # of what comes in, fused tokens included
            elif schedule == "staged":
                keep = max(1, math.floor(PATCHES * Fraction(str(value)) ** stage))
            else:
                keep = value[stage - 1]
            live = keep + (rest == "fuse")
        rows.append((entering + PREFIX, (live if name == "evit" else entering) + PREFIX, live + PREFIX))
    return rows


def text_of(name, schedule, value):
    parameter = {"constant": "rate", "geometric": "ratio", "staged": "ratio", "explicit": "keeps"}[schedule]
    parameter = "keep" if (name, schedule) == ("evit", "staged") else parameter
    return f"{parameter}={'/'.join(map(str, value)) if isinstance(value, tuple) else value}"


CASES = [
    (name, schedule, value, at)
    for name in DROPPERS
    for schedule, value, at in (
        ("constant", 5, None), ("constant", 2.5, None), ("constant", 7.25, (1, 2, 4)), ("constant", 30, (3,)),
        ("geometric", 0.8, None), ("geometric", 0.35, None), ("geometric", 0.7, (2, 3)), ("geometric", 1, None),
        ("staged", 0.7, None), ("staged", 0.5, (1, 2, 3, 4)), ("staged", 0.9, (2,)),
        ("explicit", (60, 41, 41, 7, 1), None), ("explicit", (40, 12), (1, 4)),
    )
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "schedule", "value", "at", "rest"),
    [
        (*case, rest) for case in CASES for rest in ("drop", "llf", "fuse", "squeeze")
        # DynamicViT has no fused token, and a share of 1 leaves nothing to fuse.
        if rest != "fuse" or (case[0] != "dynamicvit" and case[2] != 1)
    ],
)  # fmt: skip
def test_counts_are_those_of_a_slow_computation(name, schedule, value, at, rest):
    if rest == "llf" and schedule == "explicit" and at is None:
        value = value[:-1]  # one place less
    places = "" if at is None else f",at={'/'.join(map(str, at))}"
    text = f"{name}:schedule={schedule},{text_of(name, schedule, value)}{places},rest={rest}"
    vit = tiny()
    built = build(vit, parse_one(text))
    right = slow(name, schedule, value, at, rest)
    if rest == "fuse" and schedule == "explicit" and at is None:
        # 41 of 41 patches and one fused token: the earlier fused token goes into the new one.
        assert [behind for *_, behind in right][1:3] == [43, 43]
    assert built.model.token_counts() == right
    seen = []
    for block in vit.blocks:
        block.attn.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    built.model.eval()(torch.randn(1, 3, 32, 32))
    assert seen == [entering for entering, *_ in right]


@pytest.mark.parametrize("name", DROPPERS)
def test_the_schedule_is_that_of_the_parameter_or_the_methods_own(name):
    own = ("staged",) if name in ("evit", "dynamicvit") else ("constant", "geometric")
    kinds = {"rate=5": "constant", "keeps=50/40/30/20/10": "explicit"}
    kinds["ratio=0.7"] = "staged" if name == "dynamicvit" else "geometric"
    for text, kind in kinds.items():
        assert parse_one(f"{name}:{text}").kind == kind
    assert build(tiny(), parse_one(name), 0.7).kind == own[0]
    for schedule in ("constant", "geometric", "staged"):
        built = build(tiny(), parse_one(f"{name}:schedule={schedule}"), 0.7)
        assert built.kind == schedule and built.reached == pytest.approx(0.7, abs=0.02)
        parameter = text_of(name, schedule, 1).partition("=")[0]
        assert list(built.native) == [parameter]
        right = [(a, b, c) for a, b, c in slow(name, schedule, float(built.native[parameter]),
                 rest=built.method.rest)]  # fmt: skip
        if schedule != "constant" or float(built.native["rate"]).is_integer():
            assert built.model.token_counts() == right


def test_more_prefix_tokens_mean_no_further_patch():
    vit = tiny(reg_tokens=3)
    (first, *_), (second, *_) = build(vit, parse_one("cropr:rate=5")).model.token_counts()[:2]
    assert first - second == 5
    assert build(tiny(), parse_one("cropr:rate=5,first_extra=0")).model.token_counts()[0][2] == 1 + 59
    assert build(tiny(), parse_one("cropr:rate=5,first_extra=7")).model.token_counts()[0][2] == 1 + 52


REFUSALS = [
    ("rate=5,schedule=geometric", ["rate is not the parameter of schedule=geometric", "ratio is"]),
    ("keeps=5/4,schedule=constant", ["keeps is not the parameter of schedule=constant", "rate is"]),
    ("rate=5,ratio=0.5", ["rate and ratio both set the cost"]),
    ("schedule=explicit", ["schedule=explicit needs keeps="]),
    ("at=99,rate=5", ["99", "of this model of 6", "give at="]),
    ("at=6/3,rate=5", ["at=6/3", "another order or twice"]),
    ("at=3/3,rate=5", ["at=3/3", "another order or twice"]),
    ("keeps=30/40/20/10/5", ["keeps= needs 5 numbers that do not rise"]),
    ("keeps=40/30", ["keeps= needs 5 numbers that do not rise"]),
    ("keeps=40/0/0/0/0", ["keeps", "'40/0/0/0/0'", "[1, inf)"]),
    ("first_extra=2,ratio=0.5,schedule=geometric", ["first_extra is of the constant schedule, not of geometric"]),
    ("rate=13", ["rate 13 removes more than there is"]),
    ("rest=mask", ["rest=mask", "it is for dense tasks", "valid here: drop, fuse, squeeze, llf"]),
]


@pytest.mark.parametrize(("text", "words"), REFUSALS)
@pytest.mark.parametrize("name", DROPPERS)
def test_what_makes_no_sense_is_refused_with_the_reason(name, text, words):
    with pytest.raises(ValueError) as error:
        build(tiny(), parse_one(f"{name}:{text}"), 0.7)
    assert all(word in str(error.value) for word in words), error.value
    if "rate 13" not in words[0]:  # said by the schedule itself, which knows no method
        assert name in str(error.value)


@pytest.mark.parametrize("name", DROPPERS)
def test_a_fused_token_has_no_pixel(name):
    with pytest.raises(ValueError, match=f"rest=fuse of {name}: every pixel needs a patch .*valid here: drop, squeeze"):
        parse_one(f"{name}:rest=fuse", dense=True)


def test_a_fused_token_has_no_place_under_a_mask():
    with pytest.raises(ValueError, match="rest=fuse of dynamicvit: its training marks tokens .*drop, squeeze, llf"):
        parse_one("dynamicvit:rest=fuse")


@pytest.mark.parametrize(
    ("text", "bad"), [("cropr:rest=llf,at=5", 5), ("evit:at=6", 6), ("dynamicvit:at=0/2", 0), ("dynamicvit:at=6", 6)]
)
def test_places_that_a_model_lacks(text, bad):
    method = parse_one(text)
    with pytest.raises(ValueError, match=f"{method.name} reduces .* of this model of 6, not {bad}; give at="):
        build(tiny(), method, 0.7)
