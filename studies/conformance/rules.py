"""The rules, one function each: it raises AssertionError with what was expected and seen, or NotApplicable.

Each makes its own models, so that none depends on another or on their order.

Letters: B images, P prefix tokens, N live patches, L patches of the full grid.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cropr.method import Method, Training
from cropr.objective import CrossEntropy, weighted_loss
from cropr.tokens import Tokens
from cropr.vit import ReducedViT
from studies.conformance.models import KINDS, NUM_PATCHES, images, tiny
from studies.measure.flops import check_macs
from studies.models.reducers import Built, Unreachable, build

__all__ = ["RULES", "NotApplicable", "Rule"]

BUDGET = 0.65
Rule = Callable[[Method, str], None]


class NotApplicable(Exception):
    """The rule says nothing of this method, or the method refuses this kind of model; the reason."""


def made(method: Method, kind: str) -> Built:
    """`method` on a tiny model, at a budget unless it sets its own cost."""
    torch.manual_seed(1)
    vit = tiny(kind)
    try:
        built = build(vit, method, BUDGET if method.takes_budget else None)
    except Unreachable as error:
        raise NotApplicable(str(error)) from None
    except ValueError as error:
        if "class token" in str(error) and vit.cls_token is None:
            raise NotApplicable(f"refused by name: {error}") from None
        raise
    for reducer in built.model.reducers.values():  # weights as after some training: nothing is exactly zero or even
        for parameter in reducer.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=2 * parameter[0].numel() ** -0.5)
    return built


def needs_reducers(built: Built) -> None:
    if not built.model.reducers:
        raise NotApplicable("it reduces nothing")


def truth() -> Tensor:
    """[B, L] something to predict in a corner, for what reads labels."""
    return (torch.arange(NUM_PATCHES) % 6 < 3).expand(3, -1)


def features(model: ReducedViT, x: Tensor, track: bool = False) -> Tokens:
    with model.told(truth()[: len(x)] if model.reads_truth else None):
        return model.forward_features(x, track=track)


def logits(model: ReducedViT, x: Tensor) -> Tensor:
    return model.forward_head(features(model, x))


def say(condition: Any, text: str) -> None:
    if not bool(condition):
        raise AssertionError(text)


def distance(a: Tensor, b: Tensor) -> str:
    return f"largest difference {(a.float() - b.float()).abs().max().item():.2g}"


@torch.no_grad()
def idle(method: Method, kind: str) -> None:
    """Where nothing leaves it is the plain model, bit for bit."""
    vit, x = tiny(kind), images()
    own = {name: option for name, option in method.options().items() if option.sets_cost}
    if not own:
        values: dict[str, Any] = {}
    else:
        scale = replace(method, **dict.fromkeys(own), other=None).scales(vit, NUM_PATCHES)[0]
        values = dict.fromkeys(own) | {scale.parameter: scale.dearest}
        if scale.kind == "constant" and "first_extra" in method.options():
            values["first_extra"] = 0
    plain = vit(x)
    built = refusing(lambda: build(vit, replace(method, **values), None), vit)
    found = logits(built.model.eval(), x)
    say(found.equal(plain), f"with {values} it is not the plain model: {distance(found, plain)}")


def refusing(make: Callable[[], Built], vit: nn.Module) -> Built:
    try:
        return make()
    except ValueError as error:
        if "class token" in str(error) and vit.cls_token is None:
            raise NotApplicable(f"refused by name: {error}") from None
        raise


@torch.no_grad()
def counts(method: Method, kind: str) -> None:
    """As many tokens as it says, in attention and MLP of every block and at the end."""
    model = made(method, kind).model.eval()
    in_attn: list[int] = []
    in_mlp: list[int] = []
    with ExitStack() as hooks:
        for block in model.vit.blocks:
            for part, seen in ((block.attn, in_attn), (block.mlp, in_mlp)):
                hook = part.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].shape[1]))
                hooks.callback(hook.remove)
        out = features(model, images()).x
    said = model.token_counts()
    seen_counts = list(zip(in_attn, in_mlp, strict=True))
    expected = [(attn, mlp) for attn, mlp, _ in said]
    say(seen_counts == expected, f"tokens in attention and MLP: {expected} declared, {seen_counts} seen")
    say(out.shape[1] == said[-1][2], f"{said[-1][2]} tokens declared at the end, {out.shape[1]} seen")


def macs(method: Method, kind: str) -> None:
    """The MACs that it declares are those of fvcore and of torch's counter, within 1 %."""
    if method.reads_labels:
        raise NotApplicable("it has no cost of its own: the labels are given")
    model = made(method, kind).model.eval()
    try:
        check_macs(model)
    except ValueError as error:
        raise AssertionError(str(error)) from None


@torch.no_grad()
def accounted(method: Method, kind: str) -> None:
    """Prefix tokens stay first and in order; every grid position is live, dropped or owned exactly once."""
    built = made(method, kind)
    needs_reducers(built)
    model, calls = built.model.eval(), []
    hooks = [
        r.register_forward_hook(lambda _, args, out: calls.append((args[0], out))) for r in model.reducers.values()
    ]
    try:
        end = features(model, images(), track=True)
    finally:
        for hook in hooks:
            hook.remove()
    for before, after in calls:
        prefix = before.num_prefix
        say(after.num_prefix == prefix, "the number of prefix tokens changed")
        say(after.x[:, :prefix].equal(before.x[:, :prefix]), "prefix tokens are not first and as they were")
    state = calls[-1][1] if model.llf else end
    everywhere = torch.arange(NUM_PATCHES).expand(3, -1)
    if state.owner is not None:
        held = state.positions().gather(1, state.owner)
        at_owner = held.gather(1, state.positions().clamp(min=0))
        say(state.owner.max() < state.num_live, "an owner is no live token")
        say(at_owner.equal(state.positions()), "a live token does not own its own position")
        return
    positions = torch.cat([state.positions(), *(at for _, at in state.dropped)], dim=1).sort(1).values
    nowhere = positions.shape[1] - NUM_PATCHES
    say(nowhere >= 0 and positions[:, :nowhere].eq(-1).all(), "grid positions were lost: neither live nor dropped")
    say(positions[:, nowhere:].equal(everywhere), "a grid position is live or dropped twice, or lost")


@torch.no_grad()
def batch_invariance(method: Method, kind: str) -> None:
    """What becomes of an image does not depend on its batch mates."""
    model, x = made(method, kind).model.eval(), images()
    together = logits(model, x)
    with model.told(truth()[1:2] if model.reads_truth else None):
        alone = model.forward_head(model.forward_features(x[1:2]))
    close = torch.allclose(alone, together[1:2], atol=1e-4, rtol=1e-4)
    say(close, f"an image alone and in a batch differ: {distance(alone, together[1:2])}")


@torch.no_grad()
def repeatable(method: Method, kind: str) -> None:
    """The same images give the same result twice."""
    model, x = made(method, kind).model.eval(), images()
    first, second = logits(model, x), logits(model, x)
    say(first.equal(second), f"two passes differ: {distance(first, second)}")


def gradients(method: Method, kind: str) -> None:
    """A loss reaches all weights of its own, which are there only if it says that it learns; its auxiliary losses alone
    do not reach the backbone, unless it says so."""
    built = made(method, kind)
    model, x = built.model.train(), images()
    own = {name: p for name, p in model.named_parameters() if not name.startswith("vit.")}
    say(bool(own) == bool(method.learns) or not model.reducers, f"learns is {method.learns!r}, its weights: {len(own)}")
    objective = method_objective(built, kind)
    batch = Batch(x, torch.tensor([0, 3, 6]))
    with model.told(truth() if model.reads_truth else None):
        terms, found = objective(model, batch)
    weighted_loss(terms, found).backward()
    deaf = [name for name, p in own.items() if p.grad is None or not p.grad.abs().sum() > 0]
    say(not deaf, f"no gradient reaches {', '.join(deaf[:3])}")
    bad = [name for name, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    say(not bad, f"gradients that are no numbers: {', '.join(bad[:3])}")
    auxiliary = {name: term for name, term in terms.items() if name.startswith("aux")}
    if not auxiliary or not getattr(method, "detach", True):
        return
    model.zero_grad()
    with model.told(truth() if model.reads_truth else None):
        terms, found = objective(model, batch)
    weighted_loss({name: term for name, term in terms.items() if name in auxiliary}, found).backward()
    leaks = [n for n, p in model.named_parameters() if n.startswith("vit.") and p.grad is not None and p.grad.any()]
    say(not leaks, f"the auxiliary loss leaks into the backbone: {', '.join(leaks[:3])}")


class Batch:
    def __init__(self, x: Tensor, target: Tensor):
        self.images, self.target = x, target


def method_objective(built: Built, kind: str) -> Any:
    objective = built.method.objective(Training(built.model, CrossEntropy(), lambda: tiny(kind), 4))
    objective.before_step(built.model, 1.0)
    return objective


@torch.no_grad()
def masked(method: Method, kind: str) -> None:
    """Trained under a mask: marked tokens count as removed ones."""
    built = made(method, kind)
    if built.model.policy is None:
        raise NotApplicable("it is not trained under a mask")
    model, x, kept = built.model.eval(), images(), []
    hooks = [
        r.register_forward_hook(lambda _, args, out: kept.append(out.positions())) for r in model.reducers.values()
    ]
    try:
        removed = logits(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    turn = iter(kept)

    def force(_: nn.Module, args: tuple, out: Tokens) -> Tokens:
        policy = torch.zeros(3, NUM_PATCHES).scatter(1, next(turn), 1.0)
        return replace(args[0], policy=policy, aux=out.aux)

    if any(reducer.merges for reducer in model.reducers.values()):
        raise NotApplicable("what stays changes with what leaves; its file's test holds the two forms together")
    hooks = [reducer.register_forward_hook(force) for reducer in model.reducers.values()]
    model.masked_eval = True
    try:
        marked = logits(model, x)
    finally:
        model.masked_eval = False
        for hook in hooks:
            hook.remove()
    say(torch.allclose(marked, removed, atol=1e-3, rtol=1e-3), f"masked and removed: {distance(marked, removed)}")


@torch.no_grad()
def folded(method: Method, kind: str) -> None:
    """Without what only training needs it decides the same."""
    model, x = made(method, kind).model.eval(), images()
    before, after = logits(model, x), logits(model.fold().eval(), x)
    say(torch.allclose(before, after, atol=1e-5, rtol=1e-5), f"folded it differs: {distance(before, after)}")


@torch.no_grad()
def deployed(method: Method, kind: str) -> None:
    """Saved and loaded it is the same, bit for bit."""
    from studies.models.backbones import create_backbone
    from studies.models.deploy import load, save

    vit = create_backbone("scenes_vit", pretrained=False)
    built = build(vit, method, BUDGET if method.takes_budget else None)
    x, labels = torch.randn(2, 3, 32, 32), torch.arange(64).expand(2, -1) % 8 < 4
    model = built.model.eval().fold()
    with tempfile.TemporaryDirectory() as folder:
        save(built.model, Path(folder) / "m", backbone="scenes_vit", data_config=None)
        again = load(Path(folder) / "m")
    with model.told(labels if model.reads_truth else None), again.told(labels if again.reads_truth else None):
        before, after = model(x), again(x)
    say(before.equal(after), f"loaded it differs: {distance(before, after)}")


@torch.no_grad()
def bfloat16(method: Method, kind: str) -> None:
    """In bfloat16 the logits are numbers."""
    model = copy.deepcopy(made(method, kind).model).eval().fold().to(torch.bfloat16)
    found = logits(model, images().bfloat16())
    say(found.isfinite().all(), "logits in bfloat16 are no numbers")


@torch.no_grad()
def compiled(method: Method, kind: str) -> None:
    """It is one graph to torch.compile, with the same result."""
    import torch._dynamo as dynamo

    model, x = made(method, kind).model.eval().fold(), images()
    right = model(x)
    dynamo.reset()
    try:
        found = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)(x)
    except Exception as error:
        raise AssertionError(f"not one graph: {str(error).strip().splitlines()[0]}") from error
    finally:
        dynamo.reset()
    say(torch.allclose(found, right, atol=1e-5), f"compiled it differs: {distance(found, right)}")


@torch.no_grad()
def exported(method: Method, kind: str) -> None:
    """torch.export takes it, with the same result."""
    model, x = made(method, kind).model.eval().fold(), images()
    right = model(x)
    try:
        found = torch.export.export(model, (x,)).module()(x)
    except Exception as error:
        raise AssertionError(f"cannot be exported: {str(error).strip().splitlines()[0]}") from error
    say(torch.allclose(found, right, atol=1e-5), f"exported it differs: {distance(found, right)}")


def budgets(method: Method, kind: str) -> None:
    """A budget is met within .02 of the dense MACs, or refused with its floor."""
    if not method.takes_budget:
        raise NotApplicable("it sets its own cost" if method.native else "it has no cost to set")
    for budget in (0.8, BUDGET):
        try:
            built = build(tiny(kind), method, budget)
        except Unreachable:
            continue
        except ValueError as error:
            if "class token" in str(error):
                raise NotApplicable(f"refused by name: {error}") from None
            raise
        free = 0.0 if method.counts_scoring else 0.02  # methods on one schedule do not pay for scores
        exact = method.other is None  # at the counts of another method it costs what they cost
        say(not exact or abs(built.reached - budget) < 0.02 + free, f"{budget} asked, {built.reached:.3f} reached")


FEW, ALL = ("class token",), tuple(KINDS)
RULES: dict[str, tuple[Rule, tuple[str, ...]]] = {
    "idle is the plain model": (idle, ALL),
    "token counts": (counts, ALL),
    "declared MACs": (macs, ("class token", "Eva")),
    "tokens are accounted for": (accounted, ALL),
    "batch invariance": (batch_invariance, ALL),
    "the same twice": (repeatable, FEW),
    "gradients": (gradients, ("class token", "average", "Eva")),
    "masked is removed": (masked, ("class token", "average", "Eva")),
    "folded is unfolded": (folded, ("class token", "Eva")),
    "saved and loaded": (deployed, FEW),
    "bfloat16": (bfloat16, ("class token", "DINOv3")),
    "one graph": (compiled, ("class token", "Eva")),
    "export": (exported, ("class token", "Eva")),
    "budgets": (budgets, ("class token",)),
}


def cases() -> Iterator[tuple[str, str]]:
    """(rule, kind of model)"""
    for rule, (_, kinds) in RULES.items():
        yield from ((rule, kind) for kind in kinds)
