"""A greedy schedule against the same by hand, with a loss that is known of every schedule."""

from types import SimpleNamespace

import pytest
import torch
from tiny_models import NUM_PATCHES, images, place, tiny

from cropr.greedy import greedy_keeps, mean_loss
from cropr.macs import count, dense_macs
from cropr.objective import CrossEntropy
from cropr.vit import ReducedViT

WEIGHTS = (3.0, 1.0, 0.2)


def made_up(keeps):
    return sum(weight * (NUM_PATCHES - keep) ** 1.5 for weight, keep in zip(WEIGHTS, keeps, strict=True))


def model_of(vit, keeps=(30, 20, 10), name="norm"):
    return ReducedViT(vit, place(name, vit, NUM_PATCHES, at=(0, 1, 3), keeps=keeps)).eval()


def by_hand(vit, target, step, rule):
    """The ways written out: every place in turn, models made anew."""

    def share(keeps):
        return count(model_of(vit, keeps)).total / dense_macs(vit)

    way = [(NUM_PATCHES,) * 3]
    while share(way[-1]) > target:
        a, b, c = way[-1]
        options = [(a - step, min(a - step, b), min(a - step, c)), (a, b - step, min(b - step, c)), (a, b, c - step)]
        options = [keeps for keeps in options if min(keeps) >= 1]
        dearer = [made_up(keeps) - made_up(way[-1]) for keeps in options]
        saved = [share(way[-1]) - share(keeps) for keeps in options]
        worth = {"per MAC": [d / s for d, s in zip(dearer, saved, strict=True)], "loss": dearer, "MACs": saved}[rule]
        way.append(options[min(range(len(options)), key=worth.__getitem__)])
    return way


def test_each_step_is_the_one_that_costs_least_for_what_it_saves():
    vit = tiny("token")
    model = model_of(vit)
    found = greedy_keeps(model, lambda m: made_up([r.keep for r in m.reducers.values()]), 0.6, step=4)
    assert [step.keeps for step in found] == by_hand(vit, 0.6, 4, "per MAC")
    assert found[-1].share <= 0.6 < found[-2].share and found[0].share == 1
    for rule in ("loss", "MACs"):
        assert [step.keeps for step in found] != by_hand(vit, 0.6, 4, rule)
    assert [reducer.keep for reducer in model.reducers.values()] == [30, 20, 10]


def test_on_images_it_is_no_worse_than_a_constant_rate():
    vit, x = tiny("token"), images(12)
    with torch.no_grad():
        target = vit(x).argmax(dim=1)
    parts = zip(x.split(5), target.split(5), strict=True)
    loss = mean_loss([SimpleNamespace(images=some, target=theirs) for some, theirs in parts], CrossEntropy())
    with torch.no_grad():
        whole = torch.nn.functional.cross_entropy(vit(x), target).item()
    assert loss(ReducedViT(vit)) == pytest.approx(whole, rel=1e-5)
    constant = model_of(vit, (30, 24, 18))
    share = count(constant).total / dense_macs(vit)
    found = greedy_keeps(model_of(vit), loss, share, step=3)[-1]
    assert found.share <= share and found.loss < loss(constant)
    assert loss(model_of(vit, found.keeps)) == found.loss


def test_what_it_cannot_do_is_said():
    vit = tiny("token")
    with pytest.raises(ValueError, match="target 0.01 is out of reach"):
        greedy_keeps(model_of(vit), lambda _: 0.0, 0.01)
    for name, options in (("tome", {"r": 3}), ("evit", {"keep": 0.7})):
        model = ReducedViT(vit, place(name, vit, NUM_PATCHES, **options))
        with pytest.raises(ValueError, match="(ToMe|EViT) is not set by the number"):
            greedy_keeps(model, lambda _: 0.0, 0.9)
