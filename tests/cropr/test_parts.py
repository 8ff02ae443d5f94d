"""Dense outputs, selections, schedules and costs: the parts beside the published methods."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from tiny_models import DEPTH, MODELS, NUM_PATCHES, WIDTH, images, place, reduced, reducers, tiny
from torch.utils.flop_counter import FlopCounterMode

from baselines.random_pruning import RandomPruning
from baselines.tome import ToMe
from cropr.cropr import CroprModule, CroprObjective
from cropr.macs import count, dense_macs
from cropr.method.objective import CrossEntropy, weighted_loss
from cropr.schedule import constant, curriculum, geometric, kept, solve, spread, staged
from cropr.tokens import Tokens
from cropr.tokens.random_bits import image_seeds, uniform
from cropr.vit import ReducedViT

# Dense outputs


@torch.no_grad()
@pytest.mark.parametrize("method", ["cropr", "random", "tome", "evit", "evit_fused", "dynamicvit"])
@pytest.mark.parametrize("name", ["distilled", "eva_swiglu"])
def test_restored_tokens_are_in_grid_order(method, name):
    tokens = reduced(method, name).forward_features(images(), track=True)
    dense, prefix = tokens.restore(), tokens.num_prefix
    assert dense.x.shape == (3, prefix + NUM_PATCHES, WIDTH)
    assert dense.x[:, :prefix].equal(tokens.x[:, :prefix])
    for b in range(3):
        where = {}
        if method == "tome":
            where = {at: tokens.patches[b, owner] for at, owner in enumerate(tokens.owner[b].tolist())}
        else:
            for values, positions in [(tokens.patches, tokens.index), *tokens.dropped]:
                where |= dict(zip(positions[b].tolist(), values[b], strict=True))
        for at in range(NUM_PATCHES):
            assert dense.x[b, prefix + at].equal(where[at])


@torch.no_grad()
@pytest.mark.parametrize("method", ["cropr", "evit_fused"])
def test_what_was_not_followed_cannot_be_restored(method):
    tokens = reduced(method, "token").forward_features(images())
    assert tokens.dropped == ()
    with pytest.raises(ValueError, match="track=True remembers dropped ones"):
        tokens.restore()


def test_one_fused_token_does_not_pass_for_the_patch_it_replaced():
    tokens = Tokens(torch.randn(2, 5, 8), 1, 4).prune(torch.rand(2, 4), 3).append(torch.zeros(2, 8))
    assert tokens.num_live == tokens.grid
    with pytest.raises(ValueError, match="track=True"):
        tokens.restore()


@torch.no_grad()
def test_merging_and_dropping_together_is_refused_where_owners_are_followed():
    vit = tiny("token")
    model = ReducedViT(vit, {1: ToMe(5), 2: CroprModule(20, WIDTH, 7)}).eval()
    assert model.forward_features(images()).num_live == 20
    with pytest.raises(ValueError, match="merged and then dropped"):
        model.forward_features(images(), track=True)


# Selection


@torch.no_grad()
def test_lowest_keeps_what_top_drops():
    top, lowest = (CroprModule(12, WIDTH, 7, select=how).eval() for how in ("top", "lowest"))
    lowest.load_state_dict(top.state_dict())
    tokens = Tokens(torch.randn(2, 25, WIDTH), 1, 24)
    both = torch.cat([top(tokens).index, lowest(tokens).index], dim=1)
    assert both.sort(1).values.equal(torch.arange(24).expand(2, -1))
    with pytest.raises(ValueError, match="unknown selection 'best'; valid: top, lowest, sample"):
        CroprModule(12, WIDTH, 7, select="best")


@torch.no_grad()
def test_samples_follow_the_softmax_of_the_scores():
    module, images_ = CroprModule(1, WIDTH, 7, select="sample").eval(), torch.randn(4000, 3, 4, 4)
    x = torch.randn(1, 1 + 5, WIDTH)
    module.queries.mul_(4)
    logits = (x[0, 1:] @ module.folded_weight()) * WIDTH**-0.5
    tokens = Tokens(x.expand(4000, -1, -1), 1, 5, seed=image_seeds(images_))
    chosen = module(tokens).index[:, 0]
    share = torch.bincount(chosen, minlength=5) / 4000
    torch.testing.assert_close(share, logits.softmax(0), atol=0.03, rtol=0)
    assert module(tokens).index[:, 0].equal(chosen)
    assert module.fold()(tokens).index[:, 0].equal(chosen)


@torch.no_grad()
def test_random_pruning_depends_on_image_block_and_seed_alone():
    x, vit = images(4), tiny("token")
    first = ReducedViT(vit, {0: RandomPruning(18, 0)}).eval()
    index = first.forward_features(x).index
    assert first.forward_features(x).index.equal(index)
    assert first.forward_features(x.flip(0)).index.equal(index.flip(0))
    assert not index[0].equal(index[1])
    other = ReducedViT(vit, {0: RandomPruning(18, 1)}).eval().forward_features(x).index
    assert not other.equal(index)
    draws = uniform(image_seeds(torch.randn(200, 3, 8, 8)), torch.arange(50).expand(200, -1), salt=3)
    assert draws.min() > 0
    assert draws.max() < 1
    assert abs(draws.mean() - 0.5) < 0.01
    assert abs(draws.var() - 1 / 12) < 0.005
    assert torch.corrcoef(draws.T).fill_diagonal_(0).abs().max() < 0.35


def test_several_queries_count_once_together():
    vit = tiny("token")
    model = ReducedViT(vit, place("cropr", vit, NUM_PATCHES, rate=5, queries=3)).train()
    target = torch.tensor([0, 3, 6])
    batch = SimpleNamespace(images=images(), target=target)
    terms, counts = CroprObjective(CrossEntropy(), weight=0.5)(model, batch)
    tokens = model.forward_features(images())
    by_head = [sum(F.cross_entropy(aux[:, m], target) for m in range(3)) / 3 for aux in tokens.aux]
    main = F.cross_entropy(model.forward_head(tokens), target)
    torch.testing.assert_close(weighted_loss(terms, counts), main + 0.5 * sum(by_head))
    torch.testing.assert_close(torch.stack([terms[f"aux_{i}"].total / 3 for i in range(4)]), torch.stack(by_head))


# Schedules and costs


def test_where_modules_are():
    token, distilled = tiny("token"), tiny("distilled")

    def keeps(vit, **options):
        return {block: reducer.keep for block, reducer in place("cropr", vit, 36, **options).items()}

    assert keeps(token, rate=5) == {0: 30, 1: 25, 2: 20, 3: 15}
    assert keeps(token, rate=5, rest="llf") == {0: 30, 1: 25, 2: 20}
    assert keeps(distilled, rate=5) == {0: 31, 1: 26, 2: 21, 3: 16}
    assert keeps(distilled, rate=5, first_extra=2)[0] == 29
    assert keeps(token, ratio=0.5) == {0: 18, 1: 9, 2: 4, 3: 2}
    with pytest.raises(ValueError, match="needs a budget, or one of rate, ratio, keeps"):
        keeps(token)
    with pytest.raises(ValueError, match="rate and ratio both set the cost"):
        keeps(token, rate=5, ratio=0.5)


def test_schedules_are_whole_numbers():
    assert spread(2.5, 4) == [2, 3, 2, 3]
    assert sum(spread(0.1, 30)) == 3
    assert constant(196, 8, 3, first_extra=1) == [187, 179, 171]
    assert geometric(196, 0.1, 4) == [20, 2, 1, 1]
    assert staged(196, 1.0, 3) == [196] * 3
    assert kept(1.0, 7) == 7
    assert curriculum(8, 30)[7] == 4
    assert [len(curriculum(8, epochs)) for epochs in range(1, 8)] == list(range(1, 8))
    assert curriculum(8, 1) == [8]
    assert curriculum(8, 3) == [0, 8, 8]
    for share in (0, -0.1, 1.1):
        with pytest.raises(ValueError, match="not in"):
            kept(share, 9)
        with pytest.raises(ValueError, match="not in"):
            geometric(9, share, 2)


@pytest.mark.parametrize("sign", [1, -1])
def test_solve_takes_the_nearer_side_of_a_step(sign):
    def steps(x):
        return sign * 10 * int(x)

    assert steps(solve(steps, 0, 9, sign * 44)[0]) == sign * 40
    assert steps(solve(steps, 0, 9, sign * 46)[0]) == sign * 50
    assert solve(steps, 0, 9, sign * 1000) == (9, sign * 90)


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_macs_are_those_that_torch_counts(name):
    """torch counts two operations per MAC; explicit attention, since its counter may not know the fused one."""
    vit = tiny(name).requires_grad_(False)  # the counter stumbles over the latent query of attention pooling otherwise
    for module in vit.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    with FlopCounterMode(display=False) as counter:
        vit(images(1))
    assert counter.get_total_flops() == 2 * dense_macs(vit)
    model = ReducedViT(vit, reducers("cropr", vit)).eval().fold()
    with FlopCounterMode(display=False) as counter:
        model(images(1))
    assert counter.get_total_flops() == 2 * count(model).total
    assert 0 < count(model).scoring < count(model).backbone < dense_macs(vit)
    assert len(model.reducers) == DEPTH - 1
