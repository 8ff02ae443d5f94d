"""Names, options and budgets of the reducers."""

import pytest
from studies.reducer_specs import METHODS, parse
from timm.models.vision_transformer import VisionTransformer

from cropr.cropr import scales
from cropr.macs import dense_macs
from cropr.schedule import solve
from studies.models.backbones import create_backbone
from studies.models.reducers import Unreachable, build


def tiny(**options):
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=6, num_heads=3, num_classes=10, **options)


def test_a_comma_separates_reducers_and_options():
    specs = parse("none,cropr:llf=false,queries=4,evit:fuse=false")
    assert [str(spec) for spec in specs] == ["none", "cropr:llf=false,queries=4", "evit:fuse=false"]
    assert [spec.name for spec in parse("all")] == list(METHODS)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("croper", ["'croper'", "did you mean cropr", "dynamicvit"]),
        ("cropr:quries=2", ["'quries'", "queries", "llf"]),
        ("evit:fuse=maybe", ["fuse", "'maybe'"]),
        ("tome,tome", ["twice", "tome"]),
    ],
)
def test_a_bad_name_is_answered_with_the_nearest(text, words):
    with pytest.raises(ValueError) as error:
        parse(text)
    assert all(word in str(error.value) for word in words)


@pytest.mark.parametrize("budget", [0.8, 0.65, 0.5])
@pytest.mark.parametrize("name", [name for name in METHODS if name != "none"])
def test_every_reducer_meets_the_default_budgets_within_a_hundredth(name, budget):
    built = build(tiny(), parse(name)[0], budget)
    assert built.reached == pytest.approx(budget, abs=0.01)


def test_cropr_and_random_share_one_schedule():
    counts = [build(tiny(), parse(name)[0], 0.57).model.token_counts() for name in ("cropr", "random")]
    assert counts[0] == counts[1]


def test_below_the_floor_of_a_constant_rate_the_schedule_is_geometric():
    assert build(tiny(), parse("cropr")[0], 0.55).kind == "constant"
    assert build(tiny(), parse("cropr")[0], 0.45).kind == "geometric"


@pytest.mark.parametrize(
    ("model", "llf", "floor"),
    [("scenes_vit", "false", 0.514), ("scenes_vit", "true", 0.596)]
    + [("vit_small_patch16_224", "false", 0.514), ("vit_small_patch16_224", "true", 0.548)],
)
def test_the_floor_of_a_constant_rate_is_the_published_one(model, llf, floor):
    vit = create_backbone(model, pretrained=False)
    most = scales(vit, vit.patch_embed.num_patches, llf=llf == "true")[0].cheapest
    reached = build(vit, parse(f"cropr:llf={llf},rate={most:g}")[0]).reached
    assert most == int(most) and round(reached, 3) == floor


def test_an_unreachable_budget_names_the_floor():
    with pytest.raises(Unreachable) as error:
        build(tiny(), parse("cropr:llf=true")[0], 0.2)
    assert 0.2 < error.value.floor < 0.5 and f"{error.value.floor:.3f}" in str(error.value)


def test_native_parameters_set_the_schedule_themselves():
    vit = tiny()
    assert build(vit, parse("tome:r=5")[0]).native == {"r": 5.0}
    assert [n for _, _, n in build(vit, parse("cropr:rate=4")[0]).model.token_counts()] == [60, 56, 52, 48, 44, 44]
    assert build(vit, parse("tome:r=6,inflect=-1")[0]).native["r"] == (6.0, -1.0)
    assert build(vit, parse("none")[0]).reached == 1.0 and dense_macs(vit) > 0


def test_a_reducer_that_reads_the_class_token_refuses_a_model_without_one():
    with pytest.raises(ValueError, match="EViT reads the class token"):
        build(tiny(class_token=False, global_pool="avg"), parse("evit")[0], 0.5)


def test_solve_finds_the_nearest_step():
    assert solve(lambda p: round(10 * p) / 10, 0.0, 1.0, 0.34)[1] == 0.3
    assert solve(lambda p: -p, 0.0, 1.0, -0.25)[0] == pytest.approx(0.25, abs=1e-9)
