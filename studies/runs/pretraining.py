"""The backbone that runs start from: trained by the project on the data set itself, once a seed, or pretrained."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from cropr.dense import DenseViT
from cropr.vit import ReducedViT
from results.records.schema import SCHEMA, BackboneResult, read
from results.records.store import ClaimedElsewhere, last_error, write_bytes, write_json
from studies.config import RunConfig
from studies.data import Data
from studies.data.datasets import create_dataset
from studies.models.backbones import create_backbone, options_of
from studies.models.checkpoints import digest
from studies.models.heads import as_it_comes
from studies.models.methods import reference
from studies.runs.holding import HERE, Held, Host
from studies.runs.provenance import now, provenance, weight_digest
from studies.tasks import TASKS, load_task
from studies.training.distributed import World
from studies.training.trainer import Trainer

__all__ = ["BackboneFailed", "backbone_dir", "ensure_backbone", "make_backbone", "train_backbone"]

POLL_S = 2.0  # between two looks at a backbone that another process trains


class BackboneFailed(RuntimeError):
    """The backbone that a run starts from could not be trained."""


def backbone_dir(config: RunConfig, out: Path) -> Path:
    """Where the backbone of this run is trained and kept, by the hash of all that goes into it."""
    assert config.backbone_recipe is not None
    content = [config.dataset, config.backbone, config.seed, asdict(config.backbone_recipe), config.quick]
    content += [] if config.task == "classification" else [config.task]
    content += config.chosen.values()
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:8]
    return out / "backbones" / f"{config.backbone}-s{config.seed}-{digest}"


def make_backbone(config: RunConfig, out: Path, data: Data) -> nn.Module:
    """The plain pretrained model: the project's own, a checkpoint, or timm's pretrained weights. What these lack, such
    as a classifier of other classes, is drawn under the run's seed, and is the same whenever it is made.

    Raises BackboneFailed where the project's own is not what its record says.
    """
    own = config.backbone_recipe is not None
    if config.checkpoint and config.checkpoint_digest not in (None, found := digest(config.checkpoint)):
        raise BackboneFailed(
            f"{config.checkpoint} is not the file that this run was planned with: {found[:8]}, not "
            f"{str(config.checkpoint_digest)[:8]}; run the command again with the file as it is now, and another --out"
        )
    options = options_of(config, data.image_size)
    pretrained = not own and config.checkpoint is None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        if config.recipe is None and not own:
            known = data if TASKS[config.task].labelled else None
            return as_it_comes(config.backbone, known, pretrained=pretrained, checkpoint=config.checkpoint, **options)
        vit = create_backbone(
            config.backbone, num_classes=data.num_classes, pretrained=pretrained, checkpoint=config.checkpoint,
            drop_path_rate=config.recipe.drop_path if config.recipe else 0.0, **options,
        )  # fmt: skip
    if own:
        folder = backbone_dir(config, out)
        try:
            vit.load_state_dict(load_file(folder / "backbone.safetensors"))
        except (SafetensorError, FileNotFoundError) as error:
            raise BackboneFailed(
                f"{folder / 'backbone.safetensors'} cannot be read ({error}); move {folder} away, and it is trained "
                "again"
            ) from None
        _verify(vit, folder)
    return vit


def _verify(vit: nn.Module, folder: Path) -> None:
    """Raise BackboneFailed unless `vit` is what the record in `folder` says."""
    said, found = read(folder / "result.json", BackboneResult)["weight_digest"], weight_digest(vit)
    if said != found:
        raise BackboneFailed(
            f"{folder / 'backbone.safetensors'} holds other weights than its record says: {found[:8]}, not {said[:8]}; "
            f"move {folder} away, and it is trained again"
        )


def ensure_backbone(config: RunConfig, out: Path, host: Host = HERE) -> None:
    """The backbone of `config` is there when this returns: trained before, by another process meanwhile, or here.

    Raises BackboneFailed where its training failed; it is tried again when it is submitted again.
    """
    folder = backbone_dir(config, out)
    while not (folder / "result.json").exists():
        if (folder / "failure.json").exists():
            raise BackboneFailed(f"its backbone failed: {last_error(folder)}; see {folder / 'failure.json'}")
        try:
            train_backbone(config, out, host)
        except ClaimedElsewhere:
            time.sleep(POLL_S)


def train_backbone(config: RunConfig, out: Path, host: Host = HERE) -> None:
    """Train the backbone of `config` for its task, on the data set itself, unless it is there. One process does it. A
    failure is recorded and raised. Raises ClaimedElsewhere, Stopped."""
    folder = backbone_dir(config, out)
    folder.mkdir(parents=True, exist_ok=True)
    with host.claim(folder) as claim:
        if (folder / "result.json").exists() or host.given_up(folder):
            return
        held = Held(folder, host, World(), claim)
        with held.recording_failures(config):
            torch.set_num_threads(host.num_threads)
            _train_backbone(config, held)


def _train_backbone(config: RunConfig, held: Held) -> None:
    torch.manual_seed(config.seed)
    folder, recipe = held.folder, config.backbone_recipe
    started, data = now(), create_dataset(config, held.host.workers)
    assert recipe is not None
    options = options_of(config, data.image_size)
    vit = create_backbone(config.backbone, num_classes=data.num_classes, pretrained=False, **options)
    write_json(folder / "config.json", replace(config, recipe=recipe, reducer=reference().name, budget=None).to_dict())
    task = load_task(config.task)
    objective = task.BackboneObjective(vit.embed_dim, data.num_classes, recipe.label_smoothing)
    model = DenseViT(vit) if TASKS[config.task].dense else ReducedViT(vit)
    trainer = Trainer(model, objective, data, recipe, folder, device=config.device, seed=config.seed)
    begun = time.monotonic()
    history = held.run(trainer)
    batches = data.val_batches(task.eval_batch(data.image_size))
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
