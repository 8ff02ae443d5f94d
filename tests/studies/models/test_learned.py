"""`schedule=learned` at a budget: counts that meet it, and what is refused before anything is searched."""

from types import SimpleNamespace

import pytest
import timm
import torch
from tiny_models import tiny

from cropr.cropr import Cropr
from cropr.macs import count, dense_macs
from cropr.method.objective import CrossEntropy
from studies.commands.reading.names import names
from studies.models.backbones import create_backbone
from studies.models.learned import batches_of, search, stand_in
from studies.models.methods import builtin, parse_one
from studies.models.reducers import Unreachable, build, reduce

CANNOT = {"none", "algm", "pitome"}
LEARN = [name for name, cls in builtin().items() if name not in CANNOT and not cls.reads_labels]


def learned(name):
    return parse_one(f"{name}:schedule=learned")


def spent(built, own):
    """Share of the dense MACs that a budget pays for."""
    macs = count(built.model.fold())
    return (macs.total if own.counts_scoring else macs.total - macs.scoring) / dense_macs(built.model.vit)


@pytest.mark.parametrize("name", LEARN)
def test_counts_meet_the_budget_or_the_floor_is_said(name):
    vit, method = create_backbone("scenes_vit", pretrained=False), learned(name)
    floor = None
    for budget in (0.9, 0.65, 0.02):
        try:
            fitted = stand_in(vit, method, budget)
        except Unreachable as error:
            floor = error.floor
            assert budget == 0.02 and f"cannot reach {budget}" in str(error) and str(method) in str(error)
            continue
        assert fitted.native and not fitted.takes_budget and not fitted.unsearched
        assert spent(build(vit, fitted), method) == pytest.approx(budget, abs=0.01)
        assert parse_one(str(fitted)) == fitted
    assert floor is not None and 0.02 < floor < 0.65
    assert stand_in(vit, method, floor).native  # and that it can


def test_a_search_is_the_same_again_and_leaves_random_numbers_alone():
    vit, x = tiny("token"), torch.randn(8, 3, 48, 48, generator=torch.Generator().manual_seed(1))
    batch = SimpleNamespace(images=x, target=torch.arange(8) % 7)
    for spec in ("random:schedule=learned", "dynamicvit:schedule=learned"):
        torch.manual_seed(3)
        state = torch.get_rng_state()
        first = search(vit, parse_one(spec), 0.6, [batch] * 4, CrossEntropy(), steps=4, seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        again, other = (search(vit, parse_one(spec), 0.6, [batch] * 4, CrossEntropy(), 4, seed) for seed in (1, 2))
        assert again.record | {"seconds": 0} == first.record | {"seconds": 0} and again.method == first.method
        drawn = other.record["loss_last"] != first.record["loss_last"]
        assert drawn == spec.startswith("random")  # its own scores; learned ones are stood in for
        assert (first.record["steps"], first.record["num_items"], first.record["seed"]) == (4, 32, 1)
        assert parse_one(first.record["found"]) == first.method


def test_a_twin_has_the_very_counts():
    vit = create_backbone("scenes_vit", pretrained=False)
    for name in ("evit", "tome", "cropr"):
        own = build(vit, stand_in(vit, learned(name), 0.65)).model
        twin = build(vit, stand_in(vit, parse_one(f"random:like={name}:schedule=learned"), 0.65)).model
        assert [c for *_, c in own.token_counts()] == [c for *_, c in twin.token_counts()]


def test_batches_are_training_items_from_an_epoch_on():
    asked = []

    class Items:
        num_train = 10

        def train_batches(self, epoch, size):
            for number in range(self.num_train // size):
                asked.append((epoch, number, size))
                yield number

    assert list(batches_of(Items(), 7, steps=5, size=4)) == [0, 1, 0, 1, 0]
    assert asked == [(7, 0, 4), (7, 1, 4), (8, 0, 4), (8, 1, 4), (9, 0, 4)]
    asked.clear()
    assert list(batches_of(Items(), 0, steps=2, size=32)) == [0, 0] and asked == [(0, 0, 10), (1, 0, 10)]


@pytest.mark.parametrize("name", sorted(CANNOT))
def test_methods_without_free_counts_refuse_by_name(name):
    reason = {"none": "none has none to choose", "algm": "rate= sets those of algm", "pitome": "ratio= sets those of"}
    with pytest.raises(ValueError, match=f"{name}: schedule=learned is for methods whose counts .*{reason[name]}"):
        learned(name)


@pytest.mark.parametrize(
    ("spec", "dense", "said"),
    [
        ("evit:schedule=learned,keep=0.7", False, "evit: schedule=learned finds the counts, and keep= sets them"),
        ("cropr:schedule=learned,rate=3", False, "cropr: schedule=learned finds the counts, and rate= sets them"),
        ("tome:schedule=learned,r=8/4", False, "tome: schedule=learned finds the counts, and r= sets them"),
        ("tome:schedule=learned,inflect=1", False, "and inflect= sets them"),
        ("diffrate:schedule=learned,merges=1", False, "diffrate: schedule=learned finds the counts, and merges="),
        ("cropr:schedule=learned", True, "cropr: schedule=learned is for images"),
        ("tome:schedule=learned", True, "tome: schedule=learned is for images"),
        ("evit:schedule=learnt", False, "did you mean learned?"),
    ],
)
def test_what_a_learned_schedule_leaves_no_room_for(spec, dense, said):
    with pytest.raises(ValueError) as error:
        parse_one(spec, dense)
    assert said in str(error.value)


def test_models_that_it_is_not_for():
    for name in ("cropr", "tome", "dpcknn"):
        with pytest.raises(ValueError, match=f"{name}: schedule=learned ranks patches by class attention.* no class"):
            stand_in(tiny("registers_only"), learned(name), 0.65)
    assert stand_in(tiny("registers_only"), learned("random"), 0.65).native  # by its own scores
    with pytest.raises(ValueError, match="diffrate: rest=llf: the search merges patches"):
        stand_in(tiny("token"), parse_one("diffrate:schedule=learned,rest=llf"), 0.65)
    windows = create_backbone("vit_tiny_patch16_224", pretrained=False, img_size=64, window="2")
    with pytest.raises(ValueError, match="evit: schedule=learned is not for models that attend within windows"):
        stand_in(windows, learned("evit"), 0.65)


def test_where_nothing_is_trained_it_is_refused_naming_the_search():
    vit = timm.create_model("vit_tiny_patch16_224")
    for budget, said in ((0.65, r"studies\.models\.learned\.search\(\)"), (None, "needs a budget"), (0.01, "floor")):
        with pytest.raises(ValueError, match=f"evit:schedule=learned.*{said}"):
            reduce(vit, "evit:schedule=learned", budget)


def test_lists_say_it():
    for name in ("evit", "tome"):
        option = names("reducers", name)[name]["options"]["schedule"]
        assert "learned" in option["choices"] and "a search finds them" in option["meaning"]
    assert "learned" in Cropr.options()["schedule"].choices
