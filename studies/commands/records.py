"""`report` and `evaluate`: what is read out of the records of a study."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studies.commands.reading.options import resolve_device

if TYPE_CHECKING:
    from cropr.vit import ReducedViT
    from results.html.content import About
    from results.pages.report import Page
    from studies.data import Data

__all__ = ["evaluate", "page_of", "serve", "write_agreement", "write_report"]

DTYPES = ("bfloat16", "float16")  # of weights that autocast takes beside those in float32


def write_report(
    dirs: list[Path], published: bool = False, page: bool = True, figures: str = "one-column"
) -> tuple[Path, ...]:
    """Write the report, print its table, and return the paths of its files. Raises ValueError."""
    from rich.console import Console

    from cropr.nearest import one_of
    from results.figures.sizes import SIZES
    from results.pages.report import build

    one_of("size of figures", figures, SIZES)
    report = build(dirs, published=published, page=page_of() if page else None, figures=figures)
    Console(width=None if sys.stdout.isatty() else 160).print(report.terminal)
    return report.paths


def serve(
    dirs: list[Path], published: bool, port: int, ready: Callable[[str], None], figures: str = "one-column"
) -> None:
    """Serve the page of `dirs` on this machine until Ctrl-C; `ready` is told where. Raises ValueError, OSError."""
    from cropr.nearest import one_of
    from results.figures.sizes import SIZES
    from results.html.serve import Server
    from results.pages.report import build
    from results.records.store import check_study

    one_of("size of figures", figures, SIZES)
    for directory in dirs:
        check_study(directory)

    def make() -> Path:
        build(dirs, published=published, page=page_of(), figures=figures)
        return dirs[0] / "report" / "index.html"

    with Server(dirs, make, port) as server:
        server.page()  # what is wrong with the records is said before anybody looks
        ready(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def page_of() -> Page:
    """What the page says beside the records: what studies of the catalogue claim, and commands."""
    from results.pages.report import Page
    from studies.runs.command import command_of

    return Page(_about, command_of)


def _about(name: str, said: dict[str, Any]) -> About:
    """What `said`, a study.json, claims itself, or the study of the catalogue that it names."""
    from results.html.content import About
    from studies.catalogue import studies

    known = studies().get(said.get("study", ""))
    claim, source = (said.get(key) or getattr(known, key, "") for key in ("claim", "source"))
    return About(name, str(claim), source=str(source))


def write_agreement(first: Path, second: Path) -> tuple[Path, ...]:
    """What two records of one study agree on, on the terminal and in files. Raises ValueError, OSError."""
    from rich.console import Console
    from rich.markdown import Markdown

    from results.pages.agreement import compare_studies

    page = compare_studies(first, second)
    if sys.stdout.isatty():
        Console().print(Markdown(page.text))
    else:
        print(page.text)
    return page.paths


def evaluate(
    model: Path,
    dataset: str,
    data: str | None,
    device: str,
    ignore: int | None = None,
    quick: bool = False,
    workers: int | None = None,
    corruptions: str | None = None,
) -> dict[str, Any]:
    """Metrics of a saved model on the test split, or what smoke runs see of it. `workers` processes decode; None: one
    for each CPU that does not compute. `corruptions`: of a classifier, those under which it is scored too. Raises
    ValueError, OSError."""
    import torch
    from joblib import cpu_count  # those that affinity and cgroup allow

    from studies.config import RunConfig
    from studies.data.datasets import create_dataset
    from studies.data.workers import num_workers
    from studies.models.deploy import info, load
    from studies.models.methods import reference
    from studies.robustness.corruptions import parse_corruptions
    from studies.robustness.score import predictions_under
    from studies.tasks import TASKS, load_task

    saved, where = info(model), resolve_device(device)
    if saved["dtype"] not in (*DTYPES, "float32"):
        raise ValueError(f"{model} is in {saved['dtype']}; evaluated are models in float32, {' or '.join(DTYPES)}")
    kind = (saved.get("fusion") is not None, bool(saved["options"].get("detector")))
    name = next(name for name, task in TASKS.items() if (task.dense, task.detector) == kind)
    under = () if corruptions is None else parse_corruptions(corruptions)
    if under and TASKS[name].dense:
        raise ValueError(f"--corruptions is of classifiers, and {model} is made for {name}")
    reduced, task = load(model), load_task(name)
    config = RunConfig(
        "", name, dataset, saved["backbone"], reference().name, 1, None, 0, None, data_dir=data,
        ignore=ignore, img_size=reduced.vit.patch_embed.img_size[0], masks=saved["options"].get("masks", True),
        quick=quick,
    )  # fmt: skip
    if workers is None:
        workers = num_workers(cpu_count(), torch.get_num_threads() if where == "cpu" else 1)
    items = create_dataset(config, workers)
    _check_fits(reduced, items, model)
    amp = None if saved["dtype"] == "float32" else getattr(torch, saved["dtype"])
    scores = task.evaluate(reduced.to(where), items.test_batches(task.eval_batch(items.image_size)), where, amp)
    found = scores.metrics | {"num_items": len(scores.predictions["item"])}
    for corruption in under:
        arrays = predictions_under(corruption, name, reduced, items, where, amp)
        hits = arrays[f"under_{corruption}"] == arrays["target"]
        found[f"{TASKS[name].metrics[0].name}_under_{corruption}"] = float(hits.mean())
    return found


def _check_fits(model: ReducedViT, data: Data, path: Path) -> None:
    """Raise ValueError where `model` names other classes than `data` has, or takes images of another size."""
    if model.vit.num_classes != data.num_classes:
        raise ValueError(f"{path} names {model.vit.num_classes} classes, and the data set has {data.num_classes}")
    size = model.img_size or model.vit.patch_embed.img_size
    sides = set(size) if isinstance(size, tuple) else {size}
    if sides != {data.image_size}:
        raise ValueError(f"{path} takes images of {size} px, and those of the data set are {data.image_size} px")
