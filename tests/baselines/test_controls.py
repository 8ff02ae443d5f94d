"""Controls against slow and obvious computations in float64."""

import math

import pytest
import torch
from tiny_models import NUM_PATCHES, images, place, tiny

from baselines.controls.centre import CentreScore
from baselines.controls.grid import GridScore, spread_order
from baselines.controls.inverted import Inverted
from cropr.cropr import Cropr
from cropr.tokens import Attended, Tokens
from cropr.vit import ReducedViT
from studies.models.methods import builtin, parse_one
from studies.models.reducers import build

CONTROLS = ["centre", "classattn", "grid", "inverted", "keynorm", "norm", "oracle"]


def tokens(batch=3, seed=0):
    x = torch.randn(batch, 1 + NUM_PATCHES, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Tokens(x, 1, NUM_PATCHES)


def test_all_are_there_and_none_is_among_all():
    assert [name for name, cls in builtin().items() if cls.role == "control"] == CONTROLS
    assert not any(builtin()[name].standard for name in CONTROLS)
    assert [name for name in CONTROLS if builtin()[name].reads_labels] == ["oracle"]


@pytest.mark.parametrize("name", [name for name in CONTROLS if name not in ("classattn", "keynorm")])
@pytest.mark.parametrize("dense", [False, True])
def test_behind_a_block_they_have_the_counts_of_random_pruning(name, dense):
    vit = tiny("token")
    ours, chance = (build(vit, parse_one(n, dense), 0.7).model.token_counts() for n in (name, "random"))
    assert ours == chance


def test_norm():
    state, (score,) = tokens(), [place("norm", tiny("token"), NUM_PATCHES, rate=5)[0]]
    found = score.score(state)
    for b in range(3):
        for n in range(NUM_PATCHES):
            assert found[b, n].item() == pytest.approx(math.sqrt(sum(v**2 for v in state.patches[b, n].tolist())))


def test_keynorm():
    state, score = tokens(), place("keynorm", tiny("token"), NUM_PATCHES, rate=5)[0]
    k = torch.randn(3, 4, 1 + NUM_PATCHES, 8, dtype=torch.float64)
    found = score.score(state, Attended(k, k, 1.0, 1))
    for b in range(3):
        for n in range(NUM_PATCHES):
            norms = [math.sqrt(sum(v**2 for v in k[b, h, n + 1].tolist())) for h in range(4)]
            assert found[b, n].item() == pytest.approx(sum(norms) / 4)


def test_classattn():
    state, score = tokens(), place("classattn", tiny("token"), NUM_PATCHES, rate=5)[0]
    q, k = torch.randn(2, 3, 4, 1 + NUM_PATCHES, 8, dtype=torch.float64)
    found = score.score(state, Attended(q, k, 0.3, 1))
    for b in range(3):
        rows = []
        for h in range(4):
            logits = [
                0.3 * sum(x * y for x, y in zip(q[b, h, 0].tolist(), key.tolist(), strict=True)) for key in k[b, h]
            ]
            total = sum(math.exp(v) for v in logits)
            rows.append([math.exp(v) / total for v in logits[1:]])
        for n in range(NUM_PATCHES):
            assert found[b, n].item() == pytest.approx(sum(row[n] for row in rows) / 4, rel=1e-5)


def test_grid_is_spread_evenly_at_every_count():
    """Of any `keep` patches, quarters of the image differ by three at most; in raster order by nine."""

    def unevenness(order):
        worst = 0
        for keep in range(1, 37):
            quarters = [0] * 4
            for position in order[:keep]:
                quarters[2 * (position // 6 >= 3) + (position % 6 >= 3)] += 1
            worst = max(worst, max(quarters) - min(quarters))
        return worst

    order = spread_order(6, 6)
    assert sorted(order) == list(range(36))
    assert unevenness(order) <= 3 and unevenness(range(36)) == 9
    kept = Tokens(tokens().x, 1, 36).prune(GridScore(9, 6, 6).score(tokens()), 9).index
    assert kept[0].tolist() == order[:9] and kept.eq(kept[0]).all()


def test_centre():
    score = CentreScore(4, 4, 6).score(Tokens(torch.zeros(1, 24, 8), 0, 24))[0]
    far = [((r - 1.5) ** 2 + (c - 2.5) ** 2, r * 6 + c) for r in range(4) for c in range(6)]
    assert score.argsort(descending=True).tolist() == [position for _, position in sorted(far)]


def test_a_fused_token_goes_last_where_positions_decide():
    state = tokens()
    pruned = state.prune(torch.randn(3, NUM_PATCHES), 20).append(state.x[:, 1])
    for reducer in (GridScore(5, 6, 6), CentreScore(5, 6, 6)):
        assert reducer.score(pruned).argmin(dim=1).eq(20).all()


def test_inverted_keeps_what_cropr_drops():
    vit = tiny("token")
    torch.manual_seed(0)
    (ours,) = Cropr(keeps=(20,), at=(0,)).place(vit, NUM_PATCHES).values()
    (other,) = Inverted(keeps=(16,), at=(0,)).place(vit, NUM_PATCHES).values()
    other.load_state_dict(ours.state_dict())
    kept, inverted = (
        ReducedViT(vit, {0: reducer}).eval().forward_features(images()).index for reducer in (ours, other)
    )
    assert torch.cat([kept, inverted], dim=1).sort(1).values.equal(torch.arange(NUM_PATCHES).expand(3, -1))


def test_oracle_keeps_what_is_labelled_and_asks_for_labels():
    vit = tiny("token")
    model = build(vit, parse_one("oracle:keeps=10,at=0")).model.eval()
    truth = torch.zeros(3, NUM_PATCHES, dtype=torch.bool)
    truth[0, [30, 3, 7]] = truth[1, 5:30] = True
    with model.told(truth):
        index = model.forward_features(images()).index
    assert index[0].tolist() == [3, 7, 30, 0, 1, 2, 4, 5, 6, 8]
    assert index[1].tolist() == list(range(5, 15)) and index[2].tolist() == list(range(10))
    assert model.truth is None
    with pytest.raises(ValueError, match="no labels of patches"), model.told(None):
        pass
    with pytest.raises(ValueError, match="labels of 9 patches for a model of 36"), model.told(truth[:, :9]):
        pass
    with build(vit, parse_one("norm:rate=3")).model.told(None):
        pass  # who does not read needs none
