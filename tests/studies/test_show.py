"""What becomes of every grid position, against a loop that follows each of them by itself."""

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny_models import DEPTH, DROPPERS, NUM_PATCHES, images, reduced

from cropr.tokens import Tokens
from results.figures.pictures import changed_blocks
from results.records.store import read_predictions
from studies.commands.show import show_image, show_study
from studies.config import RunConfig
from studies.models.backbones import create_backbone
from studies.runs.run import execute
from studies.show import default_runs, holders, rows_of_study, trace

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
        role = "dense" if reducer == "none" else "method"
        return {"role": role, "reducer": reducer, "label": label, "budget_asked": budget, "seed": seed}

    records = {
        "a": record("evit", "EViT", 0.8, 0), "b": record("evit", "EViT", 0.5, 1), "c": record("evit", "EViT", 0.5, 0),
        "d": record("evit", "EViT (rest=drop)", 0.5, 0), "e": record("none", "Dense", None, 0),
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


# ---- pictures of a study, and of an image file


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study of two runs off the shelf, with random weights."""
    out = tmp_path_factory.mktemp("study")
    torch.manual_seed(0)
    save_file(create_backbone("scenes_vit", pretrained=False).state_dict(), out / "vit.safetensors")
    for reducer, budget in (("none", None), ("tome", 0.65)):
        config = RunConfig(
            "pareto", "classification", "scenes", "scenes_vit", reducer, 1, budget, 0, None,
            checkpoint=str(out / "vit.safetensors"),
        )  # fmt: skip
        execute(config, out)
    return out


def test_a_picture_of_each_item_with_the_recorded_prediction(finished, tmp_path):
    paths = show_study(finished, "0,7", None, tmp_path)
    assert [path.name for path in paths] == ["tokens_0.png", "tokens_7.png"]
    assert all(path.read_bytes()[:4] == b"\x89PNG" for path in paths)
    rows = rows_of_study(finished, [0, 7])
    (tome,) = finished.glob("runs/tome-*")
    recorded = read_predictions(tome)
    for item, (dense, reduced_row) in rows.items():
        true, said = recorded["target"][item], recorded["prediction"][item]
        assert reduced_row.verdict == f"true {true}, predicted {said}" and reduced_row.correct == (true == said)
        assert dense.name.startswith("Dense") and changed_blocks(dense.held) == []
        assert reduced_row.name.startswith("ToMe at 0.65") and len(changed_blocks(reduced_row.held)) > 0
        assert reduced_row.image.shape == (32, 32, 3) and 0 <= reduced_row.image.min() < reduced_row.image.max() <= 1
    assert [len(only) for only in rows_of_study(finished, [3], [tome.name]).values()] == [1]


@pytest.mark.parametrize(
    "items, runs, words",
    [("2022", None, "0 to 2021"), ("x", None, "'x'"), ("0", "tome-0.65-s0", "did you mean tome-0.65-s0-")],
)
def test_what_is_not_there_is_named(finished, tmp_path, items, runs, words):
    with pytest.raises(ValueError, match=words):
        show_study(finished, items, runs, tmp_path)


def test_an_image_file_with_a_model_off_the_shelf(tmp_path):
    file = tmp_path / "some.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)).save(file)
    (path,) = show_image(file, "scenes_vit", False, "all", "0.65", tmp_path)
    assert path.name == "tokens_some.png" and path.exists()
    with pytest.raises(ValueError, match="cropr has weights to learn"):
        show_image(file, "scenes_vit", False, "cropr", "0.65", tmp_path)
    file.write_text("no image")
    with pytest.raises(ValueError, match="some.png is no image"):
        show_image(file, "scenes_vit", False, "tome", "0.65", tmp_path)
