"""What becomes of every grid position, against a loop that follows each of them by itself."""

import numpy as np
import pytest
import torch
from tiny_models import DEPTH, DROPPERS, NUM_PATCHES, images, reduced

from cropr.tokens import Tokens
from results.pictures import changed_blocks
from studies.show import default_runs, holders, trace

CASES = [
    ("cropr", "token"), ("random", "registers"), ("tome", "token"), ("tome", "distilled"), ("tome", "eva_mixed"),
    ("evit", "token"), ("evit_fused", "distilled"), ("dynamicvit", "dinov3"), ("cropr", "registers_only"),
]  # fmt: skip


def states_of(model, batch):
    """What every reducer returned, by block."""
    states = {}
    for i, reducer in model.reducers.items():
        reducer.register_forward_hook(lambda _, args, tokens, i=int(i): states.__setitem__(i, tokens))
    model.forward_features(batch, track=True)
    return states


@pytest.mark.parametrize("method, name", CASES)
@torch.no_grad()
def test_every_position_is_live_dropped_or_owned_once(method, name):
    model, batch = reduced(method, name), images()
    held = trace(model, batch).held
    assert held.shape == (len(batch), DEPTH, NUM_PATCHES)
    states = states_of(model, batch)
    for b in range(len(batch)):
        alive = set(range(NUM_PATCHES))
        for i in range(DEPTH):
            row = held[b, i].tolist()
            live = {p for p in range(NUM_PATCHES) if row[p] == p}
            gone = {p for p in range(NUM_PATCHES) if row[p] == -1}
            owned = {p for p in range(NUM_PATCHES) if row[p] not in (-1, p)}
            assert len(live) + len(gone) + len(owned) == NUM_PATCHES
            assert {row[p] for p in owned} <= live <= alive  # what is gone does not come back
            alive = live
            if i not in states:
                assert i == 0 and live == set(range(NUM_PATCHES)) or row == held[b, i - 1].tolist()
                continue
            tokens = states[i]
            assert live == {p for p in tokens.positions()[b].tolist() if p >= 0}
            if method in DROPPERS or method == "evit_fused":
                dropped = [p for _, at in tokens.dropped for p in at[b].tolist() if p >= 0]
                assert not owned and sorted(dropped) == sorted(gone)
            else:  # sizes are summed by the merges, not read from the owners
                assert not gone
                sizes = tokens.size[b, tokens.num_prefix :].tolist()
                assert sizes == [row.count(p) for p in tokens.positions()[b].tolist()]


@torch.no_grad()
def test_the_trace_is_of_the_model_that_is_deployed():
    model = reduced("cropr", "token").fold()
    assert torch.equal(trace(model, images()).logits, model(images()))
    kept = [int((row == torch.arange(NUM_PATCHES)).sum()) for row in trace(model, images()).held[0]]
    assert kept == [behind - 1 for _, _, behind in model.token_counts()]


@torch.no_grad()
def test_last_layer_fusion_brings_all_patches_back():
    held = trace(reduced("random", "token", llf=True), images()).held
    assert (held[:, -1] == torch.arange(NUM_PATCHES)).all() and (held[:, -2] == -1).any()
    assert changed_blocks(held[0].numpy())[-1] == DEPTH - 1


def test_holders_of_tokens_made_by_hand():
    def tokens(n, **kwargs):
        return Tokens(torch.zeros(1, 1 + n, 2), num_prefix=1, grid=4, **kwargs)

    merged = tokens(2, index=torch.tensor([[3, 1]]), owner=torch.tensor([[1, 1, 0, 0]]))
    assert holders({1: merged}, 3)[0].tolist() == [[0, 1, 2, 3], [1, 1, 3, 3], [1, 1, 3, 3]]
    fused = tokens(3, index=torch.tensor([[2, 0, -1]]))
    assert holders({0: fused}, 2)[0].tolist() == [[0, -1, 2, -1]] * 2


def test_one_run_for_each_reducer_at_its_smallest_budget():
    def record(reducer, label, budget, seed):
        return {"reducer": reducer, "label": label, "budget_asked": budget, "seed": seed}

    records = {
        "a": record("evit", "EViT", 0.8, 0), "b": record("evit", "EViT", 0.5, 1), "c": record("evit", "EViT", 0.5, 0),
        "d": record("evit", "EViT (fuse=false)", 0.5, 0), "e": record("none", "Dense", None, 0),
    }  # fmt: skip
    assert default_runs(records) == ["e", "c", "d"]


def test_hooks_are_gone():
    model = reduced("tome", "token")
    trace(model, images())
    assert not any(reducer._forward_hooks for reducer in model.reducers.values())


def test_changed_blocks():
    still = np.arange(4)
    assert changed_blocks(np.stack([still, still])) == []
    assert changed_blocks(np.array([still, [0, 1, 1, 3], [0, 1, 1, 3], [0, -1, -1, 3]])) == [1, 3]
