"""Rules of what is done with a model: training, deployment, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
from torch import Tensor

from cropr.macs import count, dense_macs
from cropr.method import Training
from cropr.method.objective import CrossEntropy, weighted_loss
from cropr.reducer import observed
from cropr.tokens import Tokens
from cropr.vit import ReducedViT
from studies.conformance.case import Case, Refused, close, names_itself, rule, same
from studies.conformance.models import MODELS, images, sharpen, tiny
from studies.models.reducers import Unreachable, build

__all__: list[str] = []

BACKBONE = "scenes_vit"  # embedded: a saved model says the name of its backbone
BUDGET, MISSED_BY = 0.6, 0.02
BATCHES = (3, 5)  # a batch of 1 is a graph of its own to dynamo
MASKED_ATOL = {"exact": 1e-3, "sdpa": 5e-2}  # sdpa is approximate, see cropr/vit/masking.py


@rule("gradients", kinds=("token", "avg", "dinov3"))
def gradients(case: Case, kind: str) -> None:
    """The loss is finite and reaches all weights of the reducers where the method says that it learns, and none where
    it says nothing."""
    model, terms, counts = trained(case, kind)
    loss = weighted_loss(terms, counts)
    if not loss.isfinite():
        raise AssertionError(f"expected a finite loss, seen {loss.item():g}")
    loss.backward()
    reached = {name: p.grad is not None for name, p in model.reducers.named_parameters()}
    if not case.method.learns:
        if wrong := [name for name, has in reached.items() if has]:
            raise AssertionError(
                f"it says nothing of what it learns (`learns`), and reducers.{wrong[0]} has a gradient"
            )
        return
    if not reached:
        raise AssertionError(f"it says that it learns {case.method.learns!r}, and its reducers have no parameters")
    if wrong := [name for name, has in reached.items() if not has]:
        raise AssertionError(f"it says that it learns {case.method.learns!r}; no gradient reaches reducers.{wrong[0]}")
    for block, reducer in model.reducers.items():
        if not any(p.grad is not None and p.grad.any() for p in reducer.parameters()):
            raise AssertionError(f"reducer at block {block}: all gradients are 0")


@rule("auxiliary loss", kinds=("token", "avg", "dinov3"))
def auxiliary_loss(case: Case, kind: str) -> None:
    """Detached (option `detach`), the auxiliary loss does not reach the backbone."""
    if getattr(case.method, "detach", False) is not True:
        raise Refused("it does not say that an auxiliary loss is detached (option detach)")
    model, terms, _ = trained(case, kind)
    losses = {name: term.total for name, term in terms.items() if name.startswith("aux")}
    outputs = [aux for aux in model.forward_features(images()).aux if torch.is_tensor(aux)]
    losses |= {f"the output aux[{i}]": aux.float().square().sum() for i, aux in enumerate(outputs)}
    for name, loss in losses.items():
        if loss.requires_grad:
            model.zero_grad()
            loss.backward(retain_graph=True)
            if leaks := [key for key, p in model.vit.named_parameters() if p.grad is not None and p.grad.any()]:
                raise AssertionError(f"it says that {name} is detached, and its gradient reaches vit.{leaks[0]}")


def trained(case: Case, kind: str) -> tuple[ReducedViT, dict, dict]:
    """A model at the end of its training, the terms of its loss, and what they are divided by."""
    built, batch = case.built(kind), SimpleNamespace(images=images(), target=torch.tensor([0, 3, 6]))
    training = Training(built.model, CrossEntropy(), teacher=lambda: tiny(kind, seed=4), epochs=2)
    objective = built.method.objective(training)
    built.model.train()
    objective.before_step(built.model, 1.0)
    torch.manual_seed(5)
    terms, counts = objective(built.model, batch)
    return built.model, dict(terms), dict(counts)


@rule("masked training", kinds=("token", "avg", "dinov3"))
@torch.no_grad()
def masked_training(case: Case, kind: str) -> None:
    """With the same decisions, tokens that are marked as in training give the logits of tokens that are removed."""
    if case.method.policy is None:
        raise Refused("it removes tokens in training too (no policy)")
    model, kept = case.model(kind), {}

    def note(block: str, args: tuple, after: Tokens) -> None:
        kept[block] = torch.zeros(len(after.x), after.grid).scatter(1, after.positions().clamp(min=0), 1.0)

    with observed(dict(model.reducers.items()), note):
        pruned = model(images())
    model.masked_eval = True
    for block, reducer in model.reducers.items():
        if hasattr(reducer, "decide"):  # before anything else is made of the decision
            reducer.decide = forced(kept[block])
    with observed(dict(model.reducers.items()), lambda block, args, after: replace(after, policy=kept[block])):
        masked = model(images())
    close(masked, pruned, "logits of marked and of removed tokens", atol=MASKED_ATOL[case.method.policy], rtol=1e-3)


def forced(decision: Tensor) -> Callable[..., Tensor]:
    return lambda *_: decision


@rule("folding")
@torch.no_grad()
def folding(case: Case, kind: str) -> None:
    """Folded, a model keeps the same patches and has the same logits, and nothing that only training needs."""
    model = case.model(kind)
    expected = model.forward_features(images())
    folded = model.fold().eval()
    if folded is model:
        raise Refused("there is nothing to fold")
    seen = folded.forward_features(images())
    if seen.index is not None and expected.index is not None:
        same(seen.index, expected.index, "patches that are kept, folded and unfolded")
    close(folded.forward_head(seen), model.forward_head(expected), "logits, folded and unfolded")


@rule("saving", kinds=(BACKBONE,))
@torch.no_grad()
def saving(case: Case, kind: str) -> None:
    """Saved and loaded, the deployed model has the same logits, bit for bit."""
    from studies.models.backbones import create_backbone
    from studies.models.deploy import load, save

    torch.manual_seed(0)
    model = case.reduce(sharpen(create_backbone(kind, pretrained=False))).model
    x = images(3, model.vit.patch_embed.img_size[0])
    with TemporaryDirectory() as folder:
        save(model, Path(folder) / "model", backbone=kind, data_config=None)
        loaded = load(Path(folder) / "model")
    same(loaded(x), model.fold().eval()(x), "logits of the model as loaded and as saved")


@rule("compiling", kinds=("dinov3",))  # has a class token, registers and RoPE; seconds a kind
@torch.no_grad()
def compiling(case: Case, kind: str) -> None:
    """torch.compile makes one graph of the deployed model for batches of any size, with the same logits."""
    model = case.model(kind).fold().eval()
    torch._dynamo.reset()  # what is compiled already counts towards a limit
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    try:
        with torch._dynamo.config.patch(error_on_recompile=True):
            for size in BATCHES:
                batch = images(size)
                torch._dynamo.mark_dynamic(batch, 0)
                close(compiled(batch), model(batch), f"logits of {size} images, compiled and not")
    finally:
        torch._dynamo.reset()


@rule("exporting", kinds=("token", "dinov3"))
@torch.no_grad()
def exporting(case: Case, kind: str) -> None:
    """torch.export takes the deployed model, with the same logits."""
    model = case.model(kind).fold().eval()
    expected = model(images())
    program = torch.export.export(model, (images(),))
    close(program.module()(images()), expected, "logits, exported and not")


@rule("refusals", kinds=("",))
def refusals(case: Case, kind: str) -> None:
    """What it does not take it refuses with a ValueError that names it: models, and values outside an option's
    range."""
    method, made = type(case.method), []
    for name in MODELS:
        try:
            case.built(name)
            made.append(name)
        except Refused as refusal:
            last = refusal
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise AssertionError(
                f"model {name}: expected a reduced model, or a ValueError that names {method.name}; seen {said}"
            ) from error
    if not made and not method.reads_labels:
        raise AssertionError(f"it is for none of {len(MODELS)} kinds of models: {last}")
    for key, option in method.options().items():
        for text in option.bad_texts():
            try:
                method.parse({key: text})
            except ValueError as error:
                if key not in str(error):
                    raise AssertionError(f"{key}={text} is refused by another name: {error}") from None
            else:
                raise AssertionError(f"{key}={text} is outside the range of {key}, and is taken")


@rule("budget", kinds=(BACKBONE,))
def budget(case: Case, kind: str) -> None:
    """A budget of 0.6 of the MACs is met within 0.02, or refused as out of reach."""
    from studies.models.backbones import create_backbone

    if not case.method.takes_budget:
        raise Refused("its cost is given" if case.method.native else "no option of it sets the cost")
    vit = create_backbone(kind, pretrained=False)
    try:
        built = build(vit, case.method, BUDGET)
    except Unreachable:
        return
    except ValueError as error:
        if names_itself(error, case.method):
            raise Refused(str(error)) from None
        raise
    macs = count(built.model)
    spent = (macs.total if case.method.counts_scoring else macs.total - macs.scoring) / dense_macs(vit)
    if abs(spent - BUDGET) > MISSED_BY:
        raise AssertionError(f"expected {BUDGET} of the MACs of the plain model within {MISSED_BY}, seen {spent:.3f}")
