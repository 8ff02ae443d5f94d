"""One run from start to finish: backbone, fine-tune, evaluate, record."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cropr.dense import DenseViT
from cropr.macs import count, dense_macs
from cropr.method import LEARNED, Method, Training
from cropr.method.objective import Objective
from cropr.vit import ReducedViT
from results.records.schema import SCHEMA
from results.records.store import write_bytes, write_json
from studies.config import RunConfig
from studies.data import Data
from studies.data.datasets import create_dataset
from studies.measure.detector import detector_costs
from studies.measure.flops import check_macs
from studies.memory import PeakMemory
from studies.models.deploy import save
from studies.models.learned import Learned
from studies.models.methods import facts, parse_one
from studies.models.reducers import Built, Unreachable, build
from studies.robustness.score import FILE as CORRUPTED
from studies.runs.decisions import asked_shares, kept_of_mirrored, watched
from studies.runs.holding import HERE, Held, Host, claimed
from studies.runs.learned import learned
from studies.runs.pretraining import ensure_backbone, make_backbone
from studies.runs.provenance import now, provenance, weight_digest
from studies.runs.source import carry_over, ensure_source
from studies.tasks import TASKS, declared, load_task
from studies.tasks.kept import KeptPatches
from studies.training.distributed import World, check_shared, join
from studies.training.trainer import Trainer

__all__ = ["execute"]


def execute(config: RunConfig, out: Path, host: Host = HERE) -> None:
    """Do the run and write its record, unless there is one. A failure is recorded and raised. Where this process is one
    of several that train together, all of them call this, and the first one claims and writes.

    Raises ClaimedElsewhere where another process is at it, Stopped where it was asked to stop.
    """
    world = join(config.device)
    run_dir = out / "runs" / config.id
    run_dir.mkdir(parents=True, exist_ok=True)
    with claimed(run_dir, world, host) as held:
        if held is None:
            return
        with held.recording_failures(config):
            if world.first:
                write_json(run_dir / "config.json", config.to_dict())
            if config.backbone_recipe is not None and not _backbone_for_all(config, out, held):
                return
            torch.set_num_threads(config.num_threads)
            _run(config, out, held)


def _backbone_for_all(config: RunConfig, out: Path, held: Held) -> bool:
    """Whether the backbone is there: the first process makes sure of it for all of them."""
    there = False
    try:
        if held.world.first:
            ensure_backbone(config, out, held.host)
            there = True
    finally:
        (there,) = held.world.any(there)
    return there


class Score(NamedTuple):
    """What a model is worth on a split, as the record holds it."""

    metrics: dict[str, float]
    predictions: dict[str, np.ndarray]  # see Evaluation
    facts: dict[str, Any]
    kept: dict[str, np.ndarray]  # live patches of some items, see KeptPatches
    decisions: dict[str, Any]  # `tied_at_cut`: share of images of each reducer; or `masked`: shares of the grid


def _run(config: RunConfig, out: Path, held: Held) -> None:
    run_dir, world = held.folder, held.world
    memory = PeakMemory(config.device)
    started, task = now(), load_task(config.task)
    method = parse_one(config.reducer, TASKS[config.task].dense)
    data = create_dataset(config, held.host.workers)
    check_shared(data, config.recipe, world.size)
    vit = make_backbone(config, out, data)
    found: Learned | None = None
    try:
        if method.unsearched:
            found = learned(config, method, vit, data, held)
        torch.manual_seed(config.seed)  # the reducer's own weights
        built = build(vit, method if found is None else found.method, config.budget, seed=config.seed)
    except Unreachable as unreachable:
        if world.first:
            write_json(run_dir / "result.json", _record(config, method, data, started) | {
                "status": "unreachable", "floor": unreachable.floor
            })  # fmt: skip
        return
    check_macs(built.model.fold().eval())
    source: dict[str, Any] = {}
    if found is not None:
        built, source = replace(built, kind=LEARNED), {"search": found.record}
    if config.source is not None:
        trained = ensure_source(config, out, held.host, execute)
        if trained["status"] == "unreachable":
            if world.first:
                write_json(run_dir / "result.json", _record(config, method, data, started) | {
                    "status": "unreachable", "floor": trained["floor"]
                })  # fmt: skip
            return
        source |= {"source": config.source, "objective": trained["objective"]}
    history: list[dict[str, Any]] = []
    validation: list[dict[str, Any]] = []
    if config.source is not None:
        objective, model = Objective(task.criterion()), built.model.fold()
        carry_over(model, out / "runs" / config.source)
    elif config.recipe is not None:
        loss = task.criterion(config.recipe.label_smoothing)
        training = Training(
            built.model, loss, lambda: make_backbone(config, out, data).to(config.device), config.recipe.epochs
        )
        objective = built.method.objective(training)
        if method.role == "dense" and data.num_val:
            validation.append({"epoch": 0, **_evaluate(config, built.model, data, world, "val").metrics})
        history, model = _train(config, built, objective, data, held)
        validation += [{"epoch": line["epoch"], **line["val"]} for line in history if "val" in line]
    else:
        objective, model = Objective(task.criterion()), built.model
    final = _evaluate(config, model, data, world)
    masks = method.policy is not None and config.source is None  # a mask is of the training
    masked = None if not masks else _evaluate(config, model, data, world, masked=True)
    if not world.first:
        return
    held.check()
    (run_dir / CORRUPTED).unlink(missing_ok=True)  # of the model of an earlier attempt
    write_bytes(run_dir / "predictions.npz", _npz(final.predictions))
    if final.kept:
        write_bytes(run_dir / "kept.npz", _npz(final.kept))
    save(model, run_dir / "model", backbone=config.backbone, data_config=None)
    record = _record(config, method, data, started) | _outcome(config, built, objective, final, masked, history)
    write_json(run_dir / "result.json", record | {
        "validation": validation, "weight_digest": weight_digest(model), "num_processes": world.size,
        "peak_memory_mib": memory.mib(), **source,
    })  # fmt: skip
    (run_dir / "last.safetensors").unlink(missing_ok=True)  # the run is finished: nothing is left to continue


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def _train(
    config: RunConfig, built: Built, objective: Objective, data: Data, held: Held
) -> tuple[list[dict[str, Any]], ReducedViT]:
    def validate(model: ReducedViT) -> dict[str, Any]:
        metrics = _evaluate(config, model, data, held.world, "val").metrics
        held.check()
        return {"val": metrics}

    assert config.recipe is not None
    trainer = Trainer(
        built.model,
        objective,
        data,
        config.recipe,
        held.folder,
        device=config.device,
        seed=config.seed,
        evaluate=validate if data.num_val else None,
        world=held.world,
    )
    return held.run(trainer), trainer.evaluated


def _evaluate(
    config: RunConfig, model: ReducedViT, data: Data, world: World, split: str = "test", masked: bool = False
) -> Score:
    """Scores on a split of the model as it is deployed, or with dropped tokens marked as in training."""
    amp = getattr(torch, config.recipe.amp) if config.recipe and config.recipe.amp else None
    task = load_task(config.task)
    num, batches_of = (data.num_val, data.val_batches) if split == "val" else (data.num_test, data.test_batches)
    size = max(1, min(task.eval_batch(data.image_size), num // world.size))  # a batch for every process
    batches = batches_of(size, world.turns)
    model.masked_eval = masked
    scored = model if masked else model.fold()
    kept = KeptPatches(scored, num) if split == "test" and not masked else None
    with watched(scored.to(config.device), config.device, kept) as decisions:
        scores = task.evaluate(scored, kept.of(batches) if kept else batches, config.device, amp, world)
    model.masked_eval = False
    seen: dict[str, Any]
    if masked:
        seen = {"masked": {"asked": asked_shares(scored), "kept": decisions.kept_share(world)}}
    else:
        seen = {"tied_at_cut": decisions.tied_at_cut(world)}
    live = kept.arrays(world) if kept else {}
    if live:
        live["mirrored"] = kept_of_mirrored(scored, data, live["item"].tolist(), size, config.device, amp)
    return Score(*scores, live, seen)


def _record(config: RunConfig, method: Method, data: Data, started: str) -> dict[str, Any]:
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
        **facts(method),
        "variant": config.variant,
        "method_version": config.method_version,
        "budget_asked": config.budget,
        "split": config.split,
        "own": dict(config.own),
        "lr": config.recipe.lr if config.recipe else None,
        "epochs": config.recipe.epochs if config.recipe else 0,
        "provenance": provenance(
            config.device, dtype=dtype, seeds=seeds, fingerprint=data.fingerprint, started=started
        ),
    }


def _outcome(
    config: RunConfig,
    built: Built,
    objective: Objective,
    final: Score,
    masked: Score | None,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    deployed = built.model.fold()
    macs, dense = count(deployed), dense_macs(deployed.vit, deployed.grid_size, decoder=deployed.dense)
    curriculum = getattr(objective, "curriculum", None)
    return {
        "objective": objective.name if config.recipe else "off the shelf",
        "metrics_declared": declared(config.task, final.metrics),
        "budget_reached": built.reached,
        "schedule": [behind - deployed.num_prefix_tokens for _, _, behind in deployed.token_counts()],
        "schedule_kind": built.kind,
        "native": built.native,
        "metrics": {
            "final": {**final.metrics, "epoch": config.recipe.epochs if config.recipe else 0},
            **({"masked": masked.metrics} if masked is not None else {}),
        },
        "num_items": len(final.predictions["item"]),
        **final.facts,
        **final.decisions,
        **({} if masked is None else masked.decisions),
        "train_loss": [line["train_loss"] for line in history],
        "settles": objective.settles,
        "macs_g": macs.record(dense),
        "params_m": sum(p.numel() for p in deployed.parameters()) / 1e6,
        "tokens_per_block": [entering for entering, _, _ in deployed.token_counts()],
        "train_seconds": history[-1]["train_seconds"] if history else 0.0,
        **({"fusion": deployed.fusion} if isinstance(deployed, DenseViT) else {}),
        **({"detector": detector_costs(deployed)} if TASKS[config.task].detector else {}),
        **({"curriculum": curriculum.record()} if curriculum is not None else {}),
    }
