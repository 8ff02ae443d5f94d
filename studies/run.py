"""One run from start to finish: backbone, fine-tune, evaluate, record."""

from __future__ import annotations

import hashlib
import io
import json
import resource
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
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
from results.store import SCHEMA, Claim, run_status, write_bytes, write_failure, write_json
from studies.backbones import create_backbone, sized_for
from studies.config import RunConfig
from studies.datasets import create_dataset
from studies.deploy import save
from studies.distributed import World, join
from studies.measure.flops import check_macs
from studies.provenance import now, provenance
from studies.reducers import Built, Spec, Unreachable, build, make_objective, parse
from studies.tasks import Evaluation, load_task
from studies.train import Trainer

__all__ = ["backbone_dir", "execute", "make_backbone", "train_backbone"]


def execute(config: RunConfig, out: Path) -> None:
    """Do the run and write its record, unless there is one. A failure is recorded and raised. Where this process is one
    of several that train together, all of them call this, and the first one claims and writes.

    Raises results.store.ClaimedElsewhere where another process is at it.
    """
    world = join(config.device)
    run_dir = out / "runs" / config.id
    run_dir.mkdir(parents=True, exist_ok=True)
    with _claimed(run_dir, world) as open_:
        if not open_:
            return
        try:
            torch.set_num_threads(config.num_threads)
            if world.first:
                write_json(run_dir / "config.json", config.to_dict())
            _run(config, out, run_dir, world)
        except Exception as error:
            if world.first:
                write_failure(run_dir, error, config.to_dict())
            raise
        if world.first:
            (run_dir / "failure.json").unlink(missing_ok=True)


@contextmanager
def _claimed(run_dir: Path, world: World) -> Iterator[bool]:
    """Holds the run, and says whether there is something to do: the first process finds out for all of them."""
    with ExitStack() as stack:
        to_do = False
        try:
            if world.first:
                stack.enter_context(Claim(run_dir))
                to_do = run_status(run_dir).state not in ("done", "unreachable")
        finally:
            (to_do,) = world.any(to_do)
        yield to_do


def _run(config: RunConfig, out: Path, run_dir: Path, world: World) -> None:
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
        history, model, final = _train(config, built, objective, data, run_dir, world)
    else:
        objective, model = Objective(task.criterion()), built.model
        final = _evaluate(config, model, data, world)
    if not world.first:
        return
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **final.predictions)  # type: ignore[arg-type]
    write_bytes(run_dir / "predictions.npz", buffer.getvalue())
    save(model, run_dir / "model", backbone=config.backbone, data_config=None)
    record = _record(config, spec, data, started) | _outcome(config, built, objective, final, history)
    write_json(run_dir / "result.json", record | {"weight_digest": weight_digest(model), "num_processes": world.size})
    (run_dir / "last.safetensors").unlink(missing_ok=True)  # the run is finished: nothing is left to continue


def _train(
    config: RunConfig, built: Built, objective: Any, data: Any, run_dir: Path, world: World
) -> tuple[list[dict[str, Any]], ReducedViT, Evaluation]:
    scores: list[Evaluation] = []

    def evaluate_epoch(model: ReducedViT) -> dict[str, float]:
        scores[:] = [_evaluate(config, model, data, world)]
        return scores[0].metrics

    assert config.recipe is not None
    trainer = Trainer(
        built.model,
        objective,
        data,
        config.recipe,
        run_dir,
        device=config.device,
        seed=config.seed,
        evaluate=evaluate_epoch,
        world=world,
    )
    history = trainer.run()
    # A run that was stopped behind its last epoch has trained, and its scores are not in memory.
    final = scores[0] if scores else _evaluate(config, trainer.evaluated, data, world)
    return history, trainer.evaluated, final


def _evaluate(config: RunConfig, model: ReducedViT, data: Any, world: World) -> Evaluation:
    """Scores of the model as it is deployed."""
    amp = getattr(torch, config.recipe.amp) if config.recipe and config.recipe.amp else None
    task = load_task(config.task)
    size = min(task.eval_batch(data.image_size), data.num_test // world.size)  # a batch for every process
    batches = data.test_batches(max(1, size), world.turns)
    return task.evaluate(model.fold().to(config.device), batches, config.device, amp, world)


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
    config: RunConfig, built: Built, objective: Any, final: Evaluation, history: list[dict[str, Any]]
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


def train_backbone(config: RunConfig, out: Path, num_threads: int) -> None:
    """Train the backbone of `config` for its task, on the data set itself, unless it is there."""
    assert config.backbone_recipe is not None
    folder = backbone_dir(config, out)
    folder.mkdir(parents=True, exist_ok=True)
    with Claim(folder):
        if (folder / "backbone.safetensors").exists():
            return
        torch.set_num_threads(num_threads)
        torch.manual_seed(config.seed)
        started, data, recipe = now(), create_dataset(config), config.backbone_recipe
        vit = create_backbone(config.backbone, num_classes=data.num_classes, pretrained=False)
        write_json(folder / "config.json", replace(config, recipe=recipe, reducer="none", budget=None).to_dict())
        task = load_task(config.task)
        objective = task.BackboneObjective(vit.embed_dim, data.num_classes, recipe.label_smoothing)
        model = DenseViT(vit) if task.DENSE else ReducedViT(vit)
        trainer = Trainer(model, objective, data, recipe, folder, device=config.device, seed=config.seed)
        try:
            begun = time.monotonic()
            history = trainer.run()
        except Exception as error:
            write_failure(folder, error, config.to_dict())
            raise
        batches = data.test_batches(task.eval_batch(data.image_size))
        scores = task.evaluate(model.to(config.device), batches, config.device)
        write_bytes(folder / "backbone.safetensors", to_bytes({k: v.cpu() for k, v in vit.state_dict().items()}))
        write_json(folder / "result.json", {
            "schema": SCHEMA, "status": "done", "metrics": scores.metrics,
            "train_seconds": history[-1]["train_seconds"],
            "wall_seconds": time.monotonic() - begun, "weight_digest": weight_digest(vit),
            "provenance": provenance(config.device, dtype="float32", seeds={"run": config.seed},
                                     fingerprint=data.fingerprint, started=started),
        })  # fmt: skip
        (folder / "failure.json").unlink(missing_ok=True)
        (folder / "last.safetensors").unlink(missing_ok=True)
