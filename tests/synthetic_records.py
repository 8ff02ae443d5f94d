"""Record directories as the studies write them, with made-up but plausible figures. Needs no torch."""

import json
from pathlib import Path

import numpy as np

from results.statistics.metrics.average_precision import Matches, average_precision, average_recall
from results.statistics.metrics.calibration import calibration_error
from results.statistics.metrics.statistic import PLACES
from studies.tasks import TASKS, declared

DENSE_MACS_G = 0.0503
MARKUP = "<script>alert('&amp;')</script>"  # a name that must stay text
SKILL = {"none": 0.0, "random": 6.0, "cropr": 0.6, "tome": 1.2, "evit": 0.9, "dynamicvit": 1.6}  # points lost at 0.5
LABEL = {
    "none": "Dense",
    "random": "Random",
    "cropr": "Cropr",
    "tome": "ToMe",
    "evit": "EViT",
    "dynamicvit": "DynamicViT",
}


def write_study(
    directory: Path,
    methods: tuple[str, ...] = tuple(SKILL),
    budgets: tuple[float, ...] = (0.8, 0.65, 0.5),
    seeds: int = 1,
    num_items: int = 2250,
    quick: bool = False,
    speed: bool = True,
    dataset: str = "scenes",
    backbone: str = "scenes_vit",
    dense_macs_g: float = DENSE_MACS_G,
    confident: bool = False,
) -> None:
    """A whole study: runs, predictions and one timing. The same arguments give the same bytes. `confident`: with the
    confidences that runs of classification write today."""
    rng = np.random.default_rng(0)
    (directory / "runs").mkdir(parents=True)
    study = {"schema": 1, "study": "pareto", "task": "classification", "dataset": dataset, "backbone": backbone}
    (directory / "study.json").write_text(json.dumps(study))
    hard = rng.normal(size=num_items // 5)[np.arange(num_items) // 5] + rng.normal(
        size=num_items
    )  # items of a cluster alike
    points = [("none", None)] + [(m, b) for m in methods if m != "none" for b in budgets]
    for reducer, budget in points:
        for seed in range(seeds):
            share = 0.92 - (0.0 if budget is None else SKILL.get(reducer, 1.0) * (1 - budget) / 50)
            noisy = hard + 0.35 * rng.normal(size=num_items)
            hit = noisy < np.quantile(noisy, share + 0.002 * rng.normal())
            macs = _macs(budget, dense_macs_g)
            run_dir = write_run(
                directory, reducer, budget, seed, hit, quick=quick, dataset=dataset, backbone=backbone, macs_g=macs
            )
            if confident:
                write_confidence(run_dir, np.where(hit, 1 - 0.9 * rng.random(num_items) ** 1.5, rng.random(num_items)))
    if speed:
        write_speed(directory, points, quick)


def write_run(directory: Path, reducer: str, budget: float | None, seed: int, hit: np.ndarray, **changes) -> Path:
    """One finished run whose test items were hit or missed as `hit` [n] says; five items make a cluster."""
    run_id = f"{reducer}-{budget}-s{seed}"
    record = run_record(run_id, reducer, budget, seed, float(hit.mean()), len(hit)) | changes
    run_dir = directory / "runs" / run_id
    run_dir.mkdir(parents=True)
    (run_dir / "result.json").write_text(json.dumps(record))
    target = np.arange(len(hit)) % 10
    np.savez(
        run_dir / "predictions.npz",
        item=np.arange(len(hit)), cluster=np.arange(len(hit)) // 5, prediction=np.where(hit, target, -1), target=target,
    )  # fmt: skip
    return run_dir


def write_confidence(run_dir: Path, confidence: np.ndarray) -> None:
    """Gives a run the confidence [n] of each item, and the ECE that they make."""
    arrays = dict(np.load(run_dir / "predictions.npz"))
    confidence = confidence.astype(np.float16)
    np.savez_compressed(run_dir / "predictions.npz", **arrays, confidence=confidence)
    record = json.loads((run_dir / "result.json").read_text())
    ece = calibration_error(arrays["prediction"] == arrays["target"], confidence)
    record["metrics"]["final"]["ece"] = ece
    record["metrics_declared"] = declared("classification", record["metrics"]["final"])
    (run_dir / "result.json").write_text(json.dumps(record))


def run_record(run_id: str, reducer: str, budget: float | None, seed: int, top1: float, num_items: int) -> dict:
    """The result.json of a finished run."""
    reached = 1.0 if budget is None else budget - 0.003
    role = {"none": "dense", "random": "random"}.get(reducer, "method")
    label = LABEL.get(reducer, reducer)
    return {
        "schema": 1, "id": run_id, "status": "done", "task": "classification", "dataset": "scenes",
        "backbone": "scenes_vit", "seed": seed, "quick": False, "reducer": reducer, "options": {},
        "variant": reducer if budget is None else f"{reducer}@{budget}", "label": label,
        "role": role, "rest": None if role == "dense" else "drop",
        "method": {"label": label, "summary": f"what {label} is", "paper": "arXiv 1", "no_method": False},
        "metrics_declared": [{"name": "top1", "label": "top-1", "unit": "%", "statistic": "mean"}],
        "method_version": 1, "objective": "CE", "lr": 0.0003, "epochs": 6, "budget_asked": budget,
        "budget_reached": reached, "schedule": [52, 40, 28, 16, 4, 4], "schedule_kind": "constant",
        "native": {"rate": 12.0},
        "metrics": {"final": {"top1": top1, "loss": 0.45, "epoch": 6}},
        "validation": [{"epoch": epoch, "top1": top1 + more} for epoch, more in ((0, -0.002), (5, 0.003), (6, 0.0))],
        "own": {},
        "num_items": num_items,
        "macs_g": _macs(budget),
        "params_m": 0.68, "tokens_per_block": [65, 53, 41, 29, 17, 5], "peak_memory_mib": 512.0, "train_seconds": 48.1,
        "provenance": {
            "commit": "0a1b2c3", "dirty": False, "packages": {"torch": "2.14.1", "timm": "1.0.31"}, "python": "3.11.7",
            "device": "cpu", "device_name": "AMD EPYC", "dtype": "float32", "num_threads": 1, "sdpa_backend": "math",
            "data_fingerprint": "f00dcafe0123", "seeds": {"seed": seed}, "started": "2026-11-23T03:00:00Z",
            "finished": "2026-11-23T03:01:00Z", "host": "node1",
        },
    }  # fmt: skip


def _macs(budget: float | None, dense: float = DENSE_MACS_G) -> dict[str, float]:
    total = dense if budget is None else dense * (budget - 0.003)
    scoring = 0.0 if budget is None else 0.01 * total
    return {"total": total, "backbone": total - scoring, "scoring": scoring, "dense": dense}


def write_speed(directory: Path, points: list[tuple[str, float | None]], quick: bool = False) -> None:
    """One timing of all variants: throughput somewhat below the MAC ratio, as overheads have it."""
    (directory / "speed" / "cpu-b64").mkdir(parents=True)
    overhead = {"random": 0.97, "cropr": 0.955, "tome": 0.84, "evit": 0.945, "dynamicvit": 0.9}
    variants = []
    for reducer, budget in points:
        ratio = 1.0 if budget is None else overhead.get(reducer, 0.9) / budget
        record = run_record("", reducer, budget, 0, 0.9, 1)
        variants.append(
            {key: record[key] for key in ("variant", "reducer", "role", "label", "budget_asked", "macs_g")}
            | {
                "samples_s": [64 / (2500 * ratio)] * 20,
                "images_per_s": {"median": 2500 * ratio, "p5": 2450 * ratio, "p95": 2540 * ratio},
                "ratio": {"median": ratio, "p5": 0.985 * ratio, "p95": 1.012 * ratio},
                "latency_ms": {"median": 2.1 / ratio**0.6, "p5": 2.0 / ratio**0.6, "p95": 2.4 / ratio**0.6},
                "peak_memory_mib": 88.0 / ratio**0.5,
                "flags": [],
            }
        )
    record = {
        "schema": 1, "id": "cpu-b64", "status": "done", "quick": quick, "device": "cpu", "device_name": "AMD EPYC",
        "dtype": "float32", "batch_size": 64, "img_size": 32, "num_threads": 2, "sdpa_backend": "math", "rounds": 20,
        "provenance": {"finished": "2026-11-23T04:00:00Z", "commit": "0a1b2c3"}, "variants": variants,
    }  # fmt: skip
    (directory / "speed" / "cpu-b64" / "result.json").write_text(json.dumps(record))


def write_live(directory: Path, items: np.ndarray, blocks: tuple[int, ...] = (1, 3), side: int = 4) -> None:
    """kept.npz of every run that reduces: random patches, always fewer behind each of `blocks`."""
    for run_dir in sorted((directory / "runs").iterdir()):
        if run_dir.name.startswith("none"):
            continue
        rng = np.random.default_rng(sum(map(ord, run_dir.name)))
        rank = rng.random((len(items), side**2)).argsort(axis=1).argsort(axis=1)
        keep = [side**2 * (len(blocks) + 1 - number) // (len(blocks) + 2) for number in range(len(blocks))]
        np.savez(
            run_dir / "kept.npz", item=items, cluster=items // 5, blocks=np.array(blocks),
            level=sum((rank < number).astype(np.uint8) for number in keep),
            foreground=np.packbits(np.zeros((len(items), side**2), bool), axis=1),
            consistency=np.full((len(items), len(blocks) - 1), np.nan, np.float16),
        )  # fmt: skip


AREAS = ("all", "small", "medium", "large")
FOUND = {"none": (0.7, 0.85, 0.9), "random": (0.2, 0.5, 0.7), "cropr": (0.6, 0.8, 0.9)}  # of small, medium, large


def write_detection(directory: Path, seeds: int = 1, num_items: int = 16) -> None:
    """A study of detection: made-up matches, the numbers that they give, and coverage."""
    rng = np.random.default_rng(0)
    study = {"schema": 1, "study": "detection", "task": "detection", "dataset": "scenes", "backbone": "scenes_vit"}
    (directory / "runs").mkdir(parents=True)
    (directory / "study.json").write_text(json.dumps(study))
    objects = [(image, rng.integers(2), rng.integers(3)) for image in range(num_items) for _ in range(4)]
    for reducer, shares in FOUND.items():
        for seed in range(seeds):
            arrays, metrics = {}, {}
            for kind in ("box", "mask"):
                matches = made_up_matches(rng, objects, shares, num_items)
                arrays |= matches.to_arrays(f"{kind}_")
                metrics |= metrics_of(matches, kind)
            there = rng.integers(1, 4, (num_items, 3))
            arrays["found_by_place"] = np.stack([rng.binomial(there, shares), there], axis=-1)
            hits, all_there = arrays["found_by_place"].sum(axis=0).T
            metrics |= {f"box_recall_{place}": hits[at] / all_there[at] for at, place in enumerate(PLACES)}
            budget = None if reducer == "none" else 0.65
            run_id = f"{reducer}-s{seed}"
            record = run_record(run_id, reducer, budget, seed, 0.0, num_items) | {
                "task": "detection", "macs_g": _macs(budget), "validation": [], "evaluator": "pycocotools 2.0.11",
                "object_areas": [69.5, 79.5], "metrics": {"final": metrics | {"epoch": 6}},
                "metrics_declared": [metric._asdict() for metric in TASKS["detection"].metrics],
            }  # fmt: skip
            if budget is not None:
                record["coverage"] = made_up_coverage(rng, objects, shares)
            run_dir = directory / "runs" / run_id
            run_dir.mkdir()
            (run_dir / "result.json").write_text(json.dumps(record))
            item = np.arange(num_items)
            np.savez(run_dir / "predictions.npz", item=item, cluster=item // 2, **arrays)


def made_up_matches(rng, objects, shares, num_items: int) -> Matches:
    """Each object (image, class, size) is found by a share of its size, up to some overlap; every third image has a
    false detection."""
    truths = np.zeros((4, num_items, 2), dtype=np.int64)
    rows = []  # class, image, -score, size, thresholds passed
    for image, label, size in objects:
        truths[[0, 1 + size], image, label] += 1
        if rng.random() < shares[size]:
            rows.append((label, image, -rng.random(), size, rng.integers(11)))
    rows += [(rng.integers(2), image, -rng.random(), rng.integers(3), 0) for image in range(0, num_items, 3)]
    category, image, score, size, passed = (np.array(column) for column in zip(*sorted(rows), strict=True))
    matched = np.arange(10)[:, None] < passed
    elsewhere = np.stack([np.zeros(len(size), bool), *(size != own for own in range(3))])
    ignored = np.broadcast_to(elsewhere[:, None], (4, 10, len(size)))
    return Matches(image, category, -score, np.broadcast_to(matched, ignored.shape), ignored, truths)


def metrics_of(matches: Matches, kind: str) -> dict[str, float]:
    sized = {f"{kind}_ap_{area}": average_precision(matches, area=area) for area in AREAS[1:]}
    at = {f"{kind}_ap{number}": average_precision(matches, thresholds=slice(number // 5 - 10, number // 5 - 9))
          for number in (50, 75)}  # fmt: skip
    return {f"{kind}_ap": average_precision(matches), f"{kind}_ar_100": average_recall(matches), **sized, **at}


def made_up_coverage(rng, objects, shares) -> dict:
    number = np.bincount([size for *_, size in objects], minlength=3)
    behind = [(number * (1 + np.array(shares)) / 2).astype(int), (number * np.array(shares)).astype(int)]
    return {
        "blocks": [1, 3], "objects": number.tolist(), "covered": [covered.tolist() for covered in behind],
        "missed_with_token": rng.integers(0, behind[1] + 1).tolist(),
        "missed_without_token": rng.integers(0, number - behind[1] + 1).tolist(),
    }  # fmt: skip
