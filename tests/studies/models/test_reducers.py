"""Specs of methods, and budgets."""

import pytest
import timm
import torch
from timm.models.vision_transformer import VisionTransformer

from cropr.macs import dense_macs
from cropr.schedule import solve
from studies.commands.run import Options, reducers_of
from studies.models.backbones import create_backbone
from studies.models.methods import builtin, facts, parse, parse_one, reference
from studies.models.reducers import Unreachable, build, reduce

REDUCING = [name for name in builtin() if name != "none"]


def tiny(**options):
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=6, num_heads=3, num_classes=10, **options)


def test_a_comma_separates_reducers_and_options():
    methods = parse("none,cropr:llf=false,queries=4,evit:fuse=false")
    assert [str(method) for method in methods] == ["none", "cropr:queries=4", "evit:rest=drop"]
    assert [method.name for method in parse("all")] == ["none", "random", "cropr", "dynamicvit", "evit", "tome"]
    assert list(builtin())[0] == reference().name == "none" and all(not m.dense for m in parse("all"))
    assert [m.dense for m in parse("all,cropr:queries=64", dense=True)] == [True] * 7


@pytest.mark.parametrize("dense", [False, True])
def test_every_is_all_and_all_other_methods_but_no_control(dense):
    every, standard = ([method.name for method in parse(text, dense)] for text in ("every", "all"))
    assert every == [name for name, cls in builtin().items() if cls.role != "control"]
    assert set(standard) <= set(every) and every[0] == "none" and not {"oracle", "norm", "inverted"} & set(every)
    with pytest.raises(ValueError, match="twice"):
        parse("every,tome")


def test_off_the_shelf_a_group_leaves_out_what_learns():
    names = {text: {m.name for m in reducers_of(Options(reducers=text, train="none"))} for text in ("all", "every")}
    assert names["all"] == {"none", "random", "evit", "tome"} <= names["every"]
    assert not any(builtin()[name].learns for name in names["every"])
    with pytest.raises(ValueError, match="cropr has weights to learn"):
        reducers_of(Options(reducers="random,cropr", train="none"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("croper", ["'croper'", "did you mean cropr", "dynamicvit"]),
        ("cropr:quries=2", ["'quries'", "queries", "rest"]),
        ("evit:fuse=maybe", ["fuse", "'maybe'"]),
        ("evit:rest=fused", ["rest", "'fused'", "did you mean fuse"]),
        ("tome,tome", ["twice", "tome"]),
        ("cropr:rest=llf,cropr:llf=true", ["twice", "cropr:rest=llf"]),
        ("cropr:rate=3,rate=4", ["twice", "rate"]),
        ("none:rate=3", ["unknown option of none", "'rate'"]),
    ],
)
def test_a_bad_name_is_answered_with_the_nearest(text, words):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("budget", [0.8, 0.65, 0.5])
@pytest.mark.parametrize("name", REDUCING)
def test_every_reducer_meets_the_default_budgets_within_a_hundredth(name, budget):
    built = build(tiny(), parse_one(name), budget)
    assert built.reached == pytest.approx(budget, abs=0.01)


def test_cropr_and_random_share_one_schedule():
    for options in ("", ":rest=llf", ":rest=squeeze", ":schedule=geometric", ":schedule=staged,at=2/4"):
        counts = [build(tiny(), parse_one(name + options), 0.6).model.token_counts() for name in ("cropr", "random")]
        assert counts[0] == counts[1]


def test_below_the_floor_of_a_constant_rate_the_schedule_is_geometric():
    assert build(tiny(), parse_one("cropr"), 0.55).kind == "constant"
    assert build(tiny(), parse_one("cropr"), 0.45).kind == "geometric"


@pytest.mark.parametrize(
    ("model", "llf", "floor"),
    [("scenes_vit", "false", 0.514), ("scenes_vit", "true", 0.596)]
    + [("vit_small_patch16_224", "false", 0.514), ("vit_small_patch16_224", "true", 0.548)],
)
def test_the_floor_of_a_constant_rate_is_the_published_one(model, llf, floor):
    vit, method = create_backbone(model, pretrained=False), parse_one(f"cropr:llf={llf}")
    most = method.scales(vit, vit.patch_embed.num_patches)[0].cheapest
    reached = build(vit, parse_one(f"cropr:llf={llf},rate={most:g}")).reached
    assert most == int(most) and round(reached, 3) == floor


def test_an_unreachable_budget_names_the_floor():
    with pytest.raises(Unreachable) as error:
        build(tiny(), parse_one("cropr:rest=llf"), 0.2)
    assert 0.2 < error.value.floor < 0.5 and f"{error.value.floor:.3f}" in str(error.value)


def test_native_parameters_set_the_schedule_themselves():
    vit = tiny()
    assert build(vit, parse_one("tome:r=5")).native == {"r": 5.0}
    assert [n for _, _, n in build(vit, parse_one("cropr:rate=4")).model.token_counts()] == [60, 56, 52, 48, 44, 44]
    bent = build(vit, parse_one("tome:r=6,inflect=-1"))
    assert bent.native == {"r": 6.0} and bent.method.inflect == -1.0
    assert [bent.model.reducers[str(i)].r for i in range(5)] == [12, 9, 7, 4, 2]  # a straight line to 0
    assert build(vit, parse_one("none")).reached == 1.0 and dense_macs(vit) > 0
    with pytest.raises(ValueError, match="evit needs a budget or one of its own parameters: rate, ratio, keeps, keep"):
        build(vit, parse_one("evit"))


def test_a_budget_solves_for_a_bent_schedule_too():
    built = build(tiny(), parse_one("tome:inflect=-1"), 0.6)
    assert built.reached == pytest.approx(0.6, abs=0.02) and built.method.inflect == -1.0
    removed = [r.r for r in built.model.reducers.values()]
    assert removed == sorted(removed, reverse=True) and removed[0] > 2 * removed[-1]


def test_a_reducer_that_reads_the_class_token_refuses_a_model_without_one():
    with pytest.raises(ValueError, match="EViT reads the class token"):
        build(tiny(class_token=False, global_pool="avg"), parse_one("evit"), 0.5)


def test_what_a_record_says_of_a_method():
    found = facts(parse_one("evit:fuse=false"))
    assert found["reducer"] == "evit" and found["options"] == {"rest": "drop"} and found["label"] == "EViT (rest=drop)"
    assert (found["role"], found["rest"], found["method"]["no_method"]) == ("method", "drop", False)
    assert [facts(method())["role"] for method in (builtin()["none"], builtin()["random"])] == ["dense", "random"]
    assert facts(parse_one("cropr", dense=True))["rest"] == "llf" and facts(parse_one("tome"))["rest"] is None


def test_solve_finds_the_nearest_step():
    assert solve(lambda p: round(10 * p) / 10, 0.0, 1.0, 0.34)[1] == 0.3
    assert solve(lambda p: -p, 0.0, 1.0, -0.25)[0] == pytest.approx(0.25, abs=1e-9)


@pytest.mark.parametrize(
    "name", ["cait_xxs24_224", "swin_tiny_patch4_window7_224", "beit_base_patch16_224", "naflexvit_base_patch16_gap"]
)
@pytest.mark.parametrize("spec", ["cropr:rate=4", "tome:r=4", "none"])
def test_models_that_cannot_be_reduced_are_refused_by_name(name, spec):
    with torch.device("meta"):
        vit = timm.create_model(name)
    for size in (None, 224):
        with pytest.raises(ValueError, match=f"not defined for .*{type(vit).__name__}|not defined for .*(Attn|Block)"):
            reduce(vit, spec, img_size=size)
