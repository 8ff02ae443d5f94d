"""Rules of what flows through a model: which tokens, how many, at what cost, and what they depend on.

Letters: B images, P prefix tokens, N live patches, L patches of the full grid.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from cropr.method import Method
from cropr.reducer import Reducer, observed
from cropr.tokens import Tokens
from cropr.vit import ReducedViT
from studies.conformance.case import Case, Refused, close, rule, same, without_cost
from studies.conformance.models import HEADS, NUM_PATCHES, images, tiny
from studies.measure.flops import TOLERANCE, check_macs, copy_onto

__all__ = ["seen_counts"]


@rule("idle")
@torch.no_grad()
def idle(case: Case, kind: str) -> None:
    """Where nothing leaves the model is the plain one, bit for bit."""
    tried = 0
    for setting, from_scale in idle_settings(case.method, kind):
        model = case.built(kind, setting).model
        whole = NUM_PATCHES + model.num_prefix_tokens
        if any(count != whole for counts in model.token_counts() for count in counts):
            if from_scale:
                raise AssertionError(f"{setting} is the dearest end of its scale, and tokens leave all the same")
            continue
        x, vit, tried = images(), tiny(kind), tried + 1
        same(model(x), vit(x), f"logits of {setting} and of the plain model")
        features = model.forward_features(x, track=True).x
        same(features, vit.forward_features(x), f"tokens of {setting} and of the plain model")
    if not tried:
        raise Refused("no option of it sets the cost to where nothing leaves")


def idle_settings(method: Method, kind: str) -> Iterator[tuple[Method, bool]]:
    """The method at the dearest end of each scale (True), and of each other parameter of the cost (False)."""
    if method.reducer is None and not method.options():
        yield method, False
        return
    opened = without_cost(method)
    ends = {scale.parameter: scale.dearest for scale in opened.scales(tiny(kind), NUM_PATCHES)}
    for name, option in method.options().items():
        if option.sets_cost and {int, float} & set(option.kinds):
            end = ends.get(name, 0 if option.low == 0 else option.high)
            change: dict[str, Any] = {name: end}
            try:
                yield replace(opened, **change), name in ends
            except ValueError:  # not together with what is given, such as a schedule
                continue


@rule("token counts")
@torch.no_grad()
def token_counts(case: Case, kind: str) -> None:
    """As many tokens are in attention and MLP of each block, and behind the last, as `count_after` predicts."""
    model = case.model(kind)
    predicted = model.token_counts()
    seen, last = seen_counts(model)
    for i, ((attention, mlp, _), found) in enumerate(zip(predicted, seen, strict=True)):
        if found != (attention, mlp):
            raise AssertionError(
                f"block {i}: expected {attention} tokens in attention and {mlp} in the MLP, seen {found[0]} and "
                f"{found[1]}"
            )
    if last != predicted[-1][2]:
        raise AssertionError(f"behind the last block: expected {predicted[-1][2]} tokens, seen {last}")


def seen_counts(model: ReducedViT, dtype: torch.dtype = torch.float32) -> tuple[list[tuple[int, int]], int]:
    """(tokens in attention, tokens in the MLP) of every block as they come by, and tokens behind the last."""
    seen: dict[str, int] = {}
    blocks = dict(enumerate(model.vit.blocks))
    parts = {f"{i}.{part}": getattr(block, part) for i, block in blocks.items() for part in ("attn", "mlp")}

    def note(name: str, args: tuple, output: object) -> None:
        seen[name] = args[0].shape[1]

    with observed(parts, note):
        last = model.forward_features(images().to(dtype)).x.shape[1]
    return [(seen[f"{i}.attn"], seen[f"{i}.mlp"]) for i in blocks], last


@rule("MACs", kinds=("token", "avg", "eva_swiglu"))
def macs(case: Case, kind: str) -> None:
    """Declared MACs are those that fvcore and torch count, of the model and of each reducer, within a hundredth."""
    model = case.model(kind)
    # Reducers first: of a whole model they are a hundredth at most, and their errors would hide.
    for i, (declared, counted) in reducer_macs(model).items():
        if abs(declared - counted) > TOLERANCE * counted:
            raise AssertionError(
                f"reducer at block {i}: declares {declared:,} MACs (see score_macs), torch {counted:,}"
            )
    check_macs(model)


def reducer_macs(model: ReducedViT) -> dict[int, tuple[int, int]]:
    """Block -> MACs that its reducer declares, and those that torch counts in it."""
    meta = copy_onto(model, "meta").fold().eval()
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        meta(images(1).to("meta"))
    counted = {name.partition(".")[2]: sum(ops.values()) // 2 for name, ops in counter.get_flop_counts().items()}
    found, prefix = {}, model.num_prefix_tokens
    for i, (attended, _, _) in enumerate(model.token_counts()):
        if str(i) in meta.reducers:
            declared = meta.reducers[str(i)].macs(attended - prefix, prefix, model.vit.embed_dim)
            found[i] = (declared, counted.get(f"reducers.{i}", 0))
    return found


@rule("prefix tokens")
@torch.no_grad()
def prefix_tokens(case: Case, kind: str) -> None:
    """Class token, distillation token and registers come out of each reducer first, in order, and as they were."""
    model = case.model(kind)

    def note(block: str, args: tuple, after: Tokens) -> None:
        before: Tokens = args[0]
        prefix = before.num_prefix
        if after.num_prefix != prefix:
            raise AssertionError(f"reducer at block {block}: expected {prefix} prefix tokens, seen {after.num_prefix}")
        same(after.x[:, :prefix], before.x[:, :prefix], f"reducer at block {block}: prefix tokens behind and before it")

    with observed(dict(model.reducers.items()), note):
        model(images())


@rule("grid positions")
@torch.no_grad()
def grid_positions(case: Case, kind: str) -> None:
    """Behind each reducer every position of the grid is live, dropped or part of one merged token, exactly once."""
    model = case.model(kind)

    def note(block: str, args: tuple, after: Tokens) -> None:
        problem = unaccounted(after, model.reducers[block])
        if problem is not None:
            raise AssertionError(f"reducer at block {block}: {problem}")

    with observed(dict(model.reducers.items()), note):
        model.forward_features(images(), track=True)


def unaccounted(tokens: Tokens, reducer: Reducer) -> str | None:
    """What is wrong with where the patches are, in words."""
    at, rows = tokens.positions(), len(tokens.x)
    if at.shape != (rows, tokens.num_live):
        return f"expected {[rows, tokens.num_live]} positions in index, one for each live patch, seen {list(at.shape)}"
    if tokens.owner is not None:
        return unowned(tokens)
    if reducer.merges:
        return "it merges, and the owners of the positions are not followed (owner)"
    positions = torch.cat([at, *(gone for _, gone in tokens.dropped)], dim=1)
    if positions.min() < -1 or positions.max() >= tokens.grid:
        return f"expected positions of -1 to {tokens.grid - 1}, seen {positions.min()} to {positions.max()}"
    held = F.one_hot(positions + 1, tokens.grid + 1).sum(1)[:, 1:]  # [B, L]
    if held.eq(1).all():
        return None
    row, place = (held != 1).nonzero()[0].tolist()
    return f"position {place} of image {row} is live or dropped {held[row, place]} times, expected once"


def unowned(tokens: Tokens) -> str | None:
    """The same of merged patches."""
    owner, live = tokens.owner, tokens.num_live
    assert owner is not None
    if owner.shape != (len(tokens.x), tokens.grid) or owner.min() < 0 or owner.max() >= live:
        return f"expected an owner below {live} for each of {tokens.grid} positions"
    held = F.one_hot(owner, live).sum(1)  # [B, N]
    if held.min() < 1:
        return "a live patch owns no position"
    if not owner.gather(1, tokens.positions()).equal(torch.arange(live).expand(len(owner), -1)):
        return "a live patch stands at a position that another one owns"
    if tokens.size is not None and not tokens.size[:, tokens.num_prefix :].equal(held.to(tokens.size.dtype)):
        return "sizes are not the numbers of positions that patches own"
    return None


@rule("batch")
@torch.no_grad()
def batch(case: Case, kind: str) -> None:
    """An image alone keeps the patches, merges them into the same ones and has the logits that it has in a batch."""
    model, x = case.model(kind), images(HEADS)  # as many images as heads: axes that are mixed up would fit
    together = model.forward_features(x)
    logits, owner = model.forward_head(together), model.forward_features(x, track=True).owner
    for i in range(HEADS):
        alone = model.forward_features(x[i : i + 1])
        if owner is not None:
            own = model.forward_features(x[i : i + 1], track=True).owner
            assert own is not None
            same(own, owner[i : i + 1], f"owners of the patches of image {i}, alone and in a batch")
        if together.index is not None and alone.index is not None:
            same(alone.index, together.index[i : i + 1], f"patches that image {i} keeps, alone and in a batch")
        close(model.forward_head(alone), logits[i : i + 1], f"logits of image {i}, alone and in a batch")


@rule("repeatable")
@torch.no_grad()
def repeatable(case: Case, kind: str) -> None:
    """The same images give the same logits, whatever was drawn at random before."""
    model, x = case.model(kind), images()
    torch.manual_seed(2)
    first = model(x)
    torch.manual_seed(3)
    same(model(x), first, "logits the second time and the first")


@rule("finite")
@torch.no_grad()
def finite(case: Case, kind: str) -> None:
    """Logits are finite, of images that are black, of one colour and far out as well."""
    model, x = case.model(kind), images()
    for name, batch in {"drawn": x, "black": 0 * x, "one colour": 0 * x + 1, "hundredfold": 100 * x}.items():
        all_finite(model(batch), f"logits of {name} images")


@rule("bfloat16")
@torch.no_grad()
def bfloat16(case: Case, kind: str) -> None:
    """In bfloat16 logits are finite and of that type, and as many tokens are left."""
    model = case.model(kind)
    expected = seen_counts(model)
    model.to(torch.bfloat16)
    logits = model(images().bfloat16())
    if logits.dtype is not torch.bfloat16:
        raise AssertionError(f"expected logits in torch.bfloat16, seen {logits.dtype}")
    all_finite(logits, "logits in bfloat16")
    seen = seen_counts(model, torch.bfloat16)
    if seen != expected:
        raise AssertionError(f"tokens in bfloat16: expected as in float32, {expected}, seen {seen}")


def all_finite(x: torch.Tensor, what: str) -> None:
    if not x.isfinite().all():
        bad = int((~x.isfinite()).sum())
        raise AssertionError(f"{what}: expected finite numbers, {bad} of {x.numel()} are not")
