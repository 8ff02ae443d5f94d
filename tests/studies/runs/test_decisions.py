"""Ties at the cut and shares under a mask, against counts by hand; a score that saturates is found out."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from baselines.dynamicvit import DynamicViT
from baselines.tome import ToMe, best_edges
from cropr.reducer import Dropper
from cropr.tokens import Attended, Tokens
from cropr.vit import ReducedViT
from studies.models.methods import builtin, parse_one
from studies.models.reducers import build
from studies.runs.decisions import asked_shares, tied_at_cut, watched


class Saturated(Dropper):
    """A score that has come to its ceiling in images whose first pixel is positive."""

    def score(self, tokens, attended=None):
        own = torch.linspace(0, 1, tokens.num_live).expand(len(tokens.x), -1)
        return torch.where(self.ceiling[: len(tokens.x), None], own.clamp(max=0.5), own)


def vit():
    torch.manual_seed(0)
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=6, num_heads=3, num_classes=10).eval()


def test_a_tie_is_equality_of_the_last_that_stays_and_the_first_that_leaves():
    scores = torch.tensor([[3.0, 1, 2, 2], [3, 3, 2, 1], [1, 1, 1, 1], [float("nan")] * 4])
    assert tied_at_cut(scores, 2).tolist() == [True, False, True, False]
    assert tied_at_cut(scores, 1).tolist() == [False, True, True, False]
    assert not tied_at_cut(scores, 4).any()


@torch.no_grad()
def test_saturated_images_are_counted():
    reducer = Saturated(10)
    model = ReducedViT(vit(), {1: reducer, 3: ToMe(2)}).eval()
    reducer.ceiling = torch.tensor([True, False, True, False, False])
    with watched(model, "cpu") as decisions:
        model(torch.randn(5, 3, 32, 32))
        reducer.ceiling = torch.tensor([False, True, False])
        model(torch.randn(3, 3, 32, 32))
    assert decisions.tied_at_cut() == [3 / 8, 0.0]
    model(torch.randn(3, 3, 32, 32))
    assert decisions.tied_at_cut() == [3 / 8, 0.0]  # nobody watches any more


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name in builtin() if name not in ("none", "oracle")])
def test_watching_changes_nothing_and_methods_decide_by_themselves(name):
    built = build(vit(), parse_one(name), 0.5, seed=0)
    model, images = built.model.fold().eval(), torch.randn(6, 3, 32, 32)
    right = model(images)
    with watched(model, "cpu") as decisions:
        assert model(images).equal(right)
    assert len(decisions.tied_at_cut()) == len(model.reducers) and not any(decisions.tied_at_cut())


@torch.no_grad()
def test_shares_under_a_mask():
    built = build(vit(), parse_one("dynamicvit"), 0.5, seed=0)
    model, images = built.model.eval(), torch.randn(4, 3, 32, 32)
    model.masked_eval = True
    with watched(model, "cpu") as decisions:
        aux = model.forward_features(images).aux
    assert decisions.kept_share() == pytest.approx([keep.mean().item() for keep in aux])
    assert asked_shares(model) == [reducer.keep / 64 for reducer in model.reducers.values()]


@torch.no_grad()
def test_a_predictor_that_saturates_still_has_an_order():
    """The margin of the logits ranks where the log-probability, in the release, has rounded to 0."""
    torch.manual_seed(0)
    reducer = DynamicViT(5, 48).eval()
    torch.nn.init.constant_(reducer.predictor.out_linear3.bias[:1], 200.0)
    tokens = Tokens(torch.randn(3, 17, 48), 1, 16)
    log_prob = reducer.predictor(tokens.patches, torch.ones(3, 16))[..., 0]
    assert tied_at_cut(log_prob, 5).all()
    assert not tied_at_cut(*reducer.ranking(tokens)).any()
    torch.nn.init.zeros_(reducer.predictor.out_linear3.bias)
    unsaturated = reducer.predictor(tokens.patches, torch.ones(3, 16))[..., 0]
    assert reducer.ranking(tokens)[0].argsort(1).equal(unsaturated.argsort(1))


def test_equal_scores_go_by_the_place_on_the_grid():
    """Whatever order an earlier pruning left the patches in, remembered or not."""
    index = torch.tensor([[7, 2, 9, 0, 4, 3]])
    for track in (False, True):
        tokens = Tokens(torch.randn(1, 7, 8), 1, 12, index=index, track=track)
        scores = torch.tensor([[1.0, 1, 2, 1, 1, 0]])
        assert index.gather(1, tokens.rank(scores, 4)[:, :4]).tolist() == [[9, 0, 2, 4]]
        fresh = Tokens(torch.randn(1, 7, 8), 1, 6, track=track)
        assert fresh.rank(torch.zeros(1, 6), 3)[:, :3].tolist() == [[0, 1, 2]]


@torch.no_grad()
def test_tome_decides_by_its_best_edges():
    keys = torch.randn(2, 3, 17, 16)
    attended = Attended(keys, keys, 1.0, 1)
    numbers, take = ToMe(4).ranking(Tokens(torch.randn(2, 17, 48), 1, 16), attended)
    assert take == 4 and numbers.equal(best_edges(keys.mean(1), 1)[0])
    assert ToMe(0).ranking(Tokens(torch.randn(2, 17, 48), 1, 16), attended) is None
