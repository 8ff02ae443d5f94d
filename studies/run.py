"""One run from start to finish: backbone, fine-tune, evaluate, record."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from cropr.dense import DenseViT
from cropr.macs import count, dense_macs
from cropr.objective import Objective
from cropr.vit import ReducedViT
from results.store import (
    SCHEMA,
    Claim,
    ClaimedElsewhere,
    last_error,
    run_status,
    write_bytes,
    write_failure,
    write_json,
)
from studies.backbones import create_backbone, sized_for
from studies.config import RunConfig
from studies.datasets import create_dataset
from studies.deploy import save
from studies.distributed import World, join
from studies.measure.flops import check_macs
from studies.provenance import now, provenance
from studies.reducers import Built, Spec, Unreachable, build, make_objective, parse
from studies.tasks import Evaluation, load_task
from studies.train import Stopped, Trainer

__all__ = ["BackboneFailed", "Host", "backbone_dir", "ensure_backbone", "execute", "make_backbone", "train_backbone"]

POLL_S = 2.0  # between two looks at a backbone that another process trains


@dataclass(frozen=True)
class Host:
    """What surrounds a run: how it claims its directory, the threads of a backbone (a run takes what its config says),
    who is told of each trainer before it starts, and whether what has failed is tried again."""

    claim: Callable[[Path], Claim] = Claim
    num_threads: int = 1
    training: Callable[[Trainer], None] | None = None
    repeat_failed: bool = True

    def given_up(self, folder: Path) -> bool:
        return not self.repeat_failed and (folder / "failure.json").exists()


HERE = Host()


class BackboneFailed(RuntimeError):
    """The backbone that a run starts from could not be trained."""


@dataclass(frozen=True)
class _Held:
    """A folder that this process, or the first of its world, has claimed."""

    folder: Path
    host: Host
    world: World
    claim: Claim | None  # None in the others

    def check(self) -> None:
        """Raise ClaimedElsewhere where another process took over: this one was thought dead and must write no more."""
        if self.claim is not None and not self.claim.held():
            raise ClaimedElsewhere(f"{self.folder.name} was taken over: this process was thought dead")

    @contextmanager
    def recording_failures(self, config: RunConfig) -> Iterator[None]:
        """Leaves failure.json for what goes wrong; that of an earlier attempt goes as soon as a new one starts."""
        if self.world.first:
            (self.folder / "failure.json").unlink(missing_ok=True)
        try:
            yield
        except (ClaimedElsewhere, Stopped):  # nothing went wrong: it is another's now, or it goes on later
            raise
        except Exception as error:
            if self.world.first:
                write_failure(self.folder, error, config.to_dict())
            raise

    def run(self, trainer: Trainer) -> list[dict[str, float]]:
        if self.host.training is not None:
            self.host.training(trainer)
        return trainer.run()


def execute(config: RunConfig, out: Path, host: Host = HERE) -> None:
    """Do the run and write its record, unless there is one. A failure is recorded and raised. Where this process is one
    of several that train together, all of them call this, and the first one claims and writes.

    Raises results.store.ClaimedElsewhere where another process is at it, studies.train.Stopped where it was asked to
    stop.
    """
    world = join(config.device)
    run_dir = out / "runs" / config.id
    run_dir.mkdir(parents=True, exist_ok=True)
    with _claimed(run_dir, world, host) as held:
        if held is None:
            return
        with held.recording_failures(config):
            if world.first:
                write_json(run_dir / "config.json", config.to_dict())
            if config.backbone_recipe is not None and not _backbone_for_all(config, out, held):
                return
            torch.set_num_threads(config.num_threads)
            _run(config, out, held)


@contextmanager
def _claimed(run_dir: Path, world: World, host: Host) -> Iterator[_Held | None]:
    """Holds the run; None where nothing is to do. The first process finds out for all of them."""
    with ExitStack() as stack:
        to_do, claim = False, None
        try:
            if world.first:
                claim = stack.enter_context(host.claim(run_dir))
                finished = run_status(run_dir).state in ("done", "unreachable")
                to_do = not finished and not host.given_up(run_dir)
        finally:
            (to_do,) = world.any(to_do)
        yield _Held(run_dir, host, world, claim) if to_do else None


def _backbone_for_all(config: RunConfig, out: Path, held: _Held) -> bool:
    """Whether the backbone is there: the first process makes sure of it for all of them."""
    there = False
    try:
        if held.world.first:
            ensure_backbone(config, out, held.host)
            there = True
    finally:
        (there,) = held.world.any(there)
    return there


def _run(config: RunConfig, out: Path, held: _Held) -> None:
    run_dir, world = held.folder, held.world
    started, (spec,), task = now(), parse(config.reducer), load_task(config.task)
    data = create_dataset(config)
    vit = make_backbone(config, out, data)
    torch.manual_seed(config.seed)  # the reducer's own weights
    try:
        built = build(vit, spec, config.budget, seed=config.seed, dense=task.DENSE)
    except Unreachable as unreachable:
        if world.first:
            write_json(run_dir / "result.json", _record(config, spec, data, started) | {
                "status": "unreachable", "floor": unreachable.floor
            })  # fmt: skip
        return
    check_macs(built.model.fold().eval())
    history: list[dict[str, Any]] = []
    if config.recipe is not None:
        loss = task.criterion(config.recipe.label_smoothing)
        objective = make_objective(
            spec, built, loss, lambda: make_backbone(config, out, data).to(config.device), config.recipe.epochs
        )  # fmt: skip
        history, model, final = _train(config, built, objective, data, held)
    else:
        objective, model = Objective(task.criterion()), built.model
        final = _evaluate(config, model, data, world)
    wants_masked = spec.values(spec.method.scoring).get("eval_mode") == "masked"
    masked = _evaluate(config, model, data, world, masked=True) if wants_masked else None
    if not world.first:
        return
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **final.predictions)  # type: ignore[arg-type]
    held.check()
    write_bytes(run_dir / "predictions.npz", buffer.getvalue())
    save(model, run_dir / "model", backbone=config.backbone, data_config=None)
    record = _record(config, spec, data, started) | _outcome(config, built, objective, final, masked, history)
    write_json(run_dir / "result.json", record | {"weight_digest": weight_digest(model), "num_processes": world.size})
    (run_dir / "last.safetensors").unlink(missing_ok=True)  # the run is finished: nothing is left to continue


def _train(
    config: RunConfig, built: Built, objective: Any, data: Any, held: _Held
) -> tuple[list[dict[str, Any]], ReducedViT, Evaluation]:
    scores: list[Evaluation] = []

    def evaluate_epoch(model: ReducedViT) -> dict[str, float]:
        scores[:] = [_evaluate(config, model, data, held.world)]
        held.check()
        return scores[0].metrics

    assert config.recipe is not None
    trainer = Trainer(
        built.model,
        objective,
        data,
        config.recipe,
        held.folder,
        device=config.device,
        seed=config.seed,
        evaluate=evaluate_epoch,
        world=held.world,
    )
    history = held.run(trainer)
    # A run that was stopped behind its last epoch has trained, and its scores are not in memory.
    final = scores[0] if scores else _evaluate(config, trainer.evaluated, data, held.world)
    return history, trainer.evaluated, final


def _evaluate(config: RunConfig, model: ReducedViT, data: Any, world: World, masked: bool = False) -> Evaluation:
    """Scores of the model as it is deployed, or with dropped tokens marked as in training."""
    amp = getattr(torch, config.recipe.amp) if config.recipe and config.recipe.amp else None
    task = load_task(config.task)
    size = min(task.eval_batch(data.image_size), data.num_test // world.size)  # a batch for every process
    batches = data.test_batches(max(1, size), world.turns)
    model.masked_eval = masked
    scored = model if masked else model.fold()
    scores = task.evaluate(scored.to(config.device), batches, config.device, amp, world)
    model.masked_eval = False
    return scores


def _record(config: RunConfig, spec: Spec, data: Any, started: str) -> dict[str, Any]:
    dtype = config.recipe.amp if config.recipe and config.recipe.amp else "float32"
    seeds = {"run": config.seed, "data": data.seed}
    return {
        "schema": SCHEMA,
        "id": config.id,
        "status": "done",
        "study": config.study,
        "task": config.task,
        "dataset": config.dataset,
        "backbone": config.backbone,
        "seed": config.seed,
        "quick": config.quick,
        "reducer": spec.name,
        "options": dict(spec.options),
        "variant": config.variant,
        "label": spec.label,
        "method_version": config.method_version,
        "budget_asked": config.budget,
        "lr": config.recipe.lr if config.recipe else None,
        "epochs": config.recipe.epochs if config.recipe else 0,
        "provenance": provenance(
            config.device, dtype=dtype, seeds=seeds, fingerprint=data.fingerprint, started=started
        ),
    }


def _outcome(
    config: RunConfig,
    built: Built,
    objective: Any,
    final: Evaluation,
    masked: Evaluation | None,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    deployed = built.model.fold()
    macs, dense = count(deployed), dense_macs(deployed.vit, deployed.num_patches, decoder=deployed.dense)
    epochs, metric = config.recipe.epochs if config.recipe else 0, load_task(config.task).METRIC
    best = max(history, key=lambda line: line[metric], default={metric: final.metrics[metric], "epoch": epochs})
    curriculum = getattr(objective, "curriculum", None)
    return {
        "objective": objective.name if config.recipe else "off the shelf",
        "budget_reached": built.reached,
        "schedule": [behind - deployed.num_prefix_tokens for _, _, behind in deployed.token_counts()],
        "schedule_kind": built.kind,
        "native": built.native,
        "metrics": {
            "final": {**final.metrics, "epoch": epochs},
            "best": {metric: best[metric], "epoch": best["epoch"]},
            **({"masked": masked.metrics} if masked is not None else {}),
        },
        "num_items": len(final.predictions["item"]),
        "macs_g": macs.record(dense),
        "params_m": sum(p.numel() for p in deployed.parameters()) / 1e6,
        "tokens_per_block": [entering for entering, _, _ in deployed.token_counts()],
        "peak_memory_mib": peak_memory_mib(config.device),
        "train_seconds": history[-1]["train_seconds"] if history else 0.0,
        **({"fusion": deployed.fusion} if isinstance(deployed, DenseViT) else {}),
        **({"curriculum": curriculum.record()} if curriculum is not None else {}),
    }


def peak_memory_mib(device: str) -> float:
    """Largest memory so far: of the GPU, or of this process (Linux counts in KiB)."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def weight_digest(model: nn.Module) -> str:
    """sha256 over all weights, to compare two runs bit for bit."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def backbone_dir(config: RunConfig, out: Path) -> Path:
    """Where the backbone of this run is trained and kept, by the hash of all that goes into it."""
    assert config.backbone_recipe is not None
    content = [config.dataset, config.backbone, config.seed, asdict(config.backbone_recipe), config.quick]
    content += [] if config.task == "classification" else [config.task]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return out / "backbones" / f"{config.backbone}-s{config.seed}-{digest}"


def make_backbone(config: RunConfig, out: Path, data: Any) -> nn.Module:
    """The plain pretrained model: the project's own, a checkpoint, or timm's pretrained weights."""
    drop_path = config.recipe.drop_path if config.recipe else 0.0
    own = config.backbone_recipe is not None
    vit = create_backbone(
        config.backbone,
        num_classes=data.num_classes,
        pretrained=not own and config.checkpoint is None,
        checkpoint=config.checkpoint,
        drop_path_rate=drop_path,
        **(sized_for(config.backbone, data.image_size) if load_task(config.task).DENSE else {}),
    )
    if own:
        vit.load_state_dict(load_file(backbone_dir(config, out) / "backbone.safetensors"))
    return vit


def ensure_backbone(config: RunConfig, out: Path, host: Host = HERE) -> None:
    """The backbone of `config` is there when this returns: trained before, by another process meanwhile, or here.

    Raises BackboneFailed where its training failed; it is tried again when it is submitted again.
    """
    folder = backbone_dir(config, out)
    while not (folder / "backbone.safetensors").exists():
        if (folder / "failure.json").exists():
            raise BackboneFailed(f"its backbone failed: {last_error(folder)}; see {folder / 'failure.json'}")
        try:
            train_backbone(config, out, host)
        except ClaimedElsewhere:
            time.sleep(POLL_S)


def train_backbone(config: RunConfig, out: Path, host: Host = HERE) -> None:
    """Train the backbone of `config` for its task, on the data set itself, unless it is there. One process
    does it. A failure is recorded and raised. Raises results.store.ClaimedElsewhere, studies.train.Stopped."""
    folder = backbone_dir(config, out)
    folder.mkdir(parents=True, exist_ok=True)
    with host.claim(folder) as claim:
        if (folder / "backbone.safetensors").exists() or host.given_up(folder):
            return
        held = _Held(folder, host, World(), claim)
        with held.recording_failures(config):
            torch.set_num_threads(host.num_threads)
            _train_backbone(config, held)


def _train_backbone(config: RunConfig, held: _Held) -> None:
    torch.manual_seed(config.seed)
    folder, recipe = held.folder, config.backbone_recipe
    started, data = now(), create_dataset(config)
    assert recipe is not None
    vit = create_backbone(config.backbone, num_classes=data.num_classes, pretrained=False)
    write_json(folder / "config.json", replace(config, recipe=recipe, reducer="none", budget=None).to_dict())
    task = load_task(config.task)
    objective = task.BackboneObjective(vit.embed_dim, data.num_classes, recipe.label_smoothing)
    model = DenseViT(vit) if task.DENSE else ReducedViT(vit)
    trainer = Trainer(model, objective, data, recipe, folder, device=config.device, seed=config.seed)
    begun = time.monotonic()
    history = held.run(trainer)
    batches = data.test_batches(task.eval_batch(data.image_size))
    scores = task.evaluate(model.to(config.device), batches, config.device)
    held.check()
    write_bytes(folder / "backbone.safetensors", to_bytes({k: v.cpu() for k, v in vit.state_dict().items()}))
    write_json(folder / "result.json", {
        "schema": SCHEMA, "status": "done", "metrics": scores.metrics,
        "train_seconds": history[-1]["train_seconds"],
        "wall_seconds": time.monotonic() - begun, "weight_digest": weight_digest(vit),
        "provenance": provenance(config.device, dtype="float32", seeds={"run": config.seed},
                                 fingerprint=data.fingerprint, started=started),
    })  # fmt: skip
    (folder / "last.safetensors").unlink(missing_ok=True)
