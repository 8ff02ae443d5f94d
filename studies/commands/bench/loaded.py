"""The data set that `bench --end-to-end` loads from, and what a person reads of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cropr.nearest import one_of
from studies.commands.reading.options import backbone_of

if TYPE_CHECKING:
    from torch import nn

    from studies.commands.bench.asked import Bench
    from studies.data import Data
    from studies.measure.end_to_end import Loader

__all__ = ["data_of", "loader_lines", "loader_of", "loader_said"]

OF_LOADER = ("dataset", "data", "workers")  # options that say nothing without --end-to-end


def data_of(
    options: Bench, vits: Sequence[nn.Module], device: str, threads: Sequence[int | None]
) -> tuple[Data | None, Bench]:
    """The data set, and the options with the number of workers; None where nothing is loaded. Raises ValueError,
    OSError: options that do not belong together, images of another size than a model takes."""
    if not options.end_to_end:
        if given := [name for name in OF_LOADER if getattr(options, name) is not None]:
            raise ValueError(
                f"--{given[0]} {getattr(options, given[0])} says what --end-to-end loads; give both or none"
            )
        return None, options
    from studies.config import RunConfig
    from studies.data.datasets import create_dataset, datasets
    from studies.models.methods import reference
    from studies.tasks import TASKS

    if (dataset := options.dataset) is None:
        raise ValueError(f"--end-to-end needs --dataset; valid: {', '.join(datasets())}")
    one_of("data set", dataset, datasets())
    if TASKS[options.task].detector:
        others = " or ".join(name for name, task in TASKS.items() if not task.detector)
        raise ValueError(f"--end-to-end times no detector behind its loader; give --task {others}")
    if not datasets()[dataset].folder and options.workers:
        raise ValueError(
            f"data set {dataset} is embedded and made in the process that asks for it, not by --workers "
            f"{options.workers}; leave it out"
        )
    options = replace(options, workers=workers_of(options, device, threads))
    sizes = [vit.patch_embed.img_size[0] for vit in vits]
    config = RunConfig(
        "", options.task, dataset, backbone_of(options.backbone)[0], reference().name, 1, None, 0, None,
        data_dir=options.data, img_size=sizes[0],
    )  # fmt: skip
    data = create_dataset(config, options.workers or 0)
    if other := [size for size in sizes if size != data.image_size]:
        raise ValueError(
            f"images of {dataset} are of {data.image_size} px, and the model takes {other[0]} px; give "
            f"--img-sizes {data.image_size}"
        )
    return data, options


def workers_of(options: Bench, device: str, threads: Sequence[int | None]) -> int:
    """As asked for, or one for each CPU that does not compute."""
    import torch
    from joblib import cpu_count  # those that affinity and cgroup allow

    from studies.data.datasets import datasets
    from studies.data.workers import num_workers

    if options.workers is not None or not datasets()[options.dataset or ""].folder:
        return options.workers or 0
    computing = max(wanted or torch.get_num_threads() for wanted in threads) if device == "cpu" else 1
    return num_workers(cpu_count(), computing)


def loader_said(options: Bench) -> dict[str, Any]:
    """What all records of a folder say of it."""
    return {"loader": f"{options.dataset}, {options.workers} workers"} if options.end_to_end else {}


def loader_of(data: Data | None, options: Bench, batch_size: int) -> Loader | None:
    """Of the images of `data` as they are tested."""
    if data is None:
        return None
    from studies.measure.end_to_end import Loader

    about = {"dataset": options.dataset, "num_items": data.num_test}
    return Loader(
        lambda num: (batch.images for batch in data.stream(batch_size, num)), options.workers or 0, about
    )  # fmt: skip


def loader_lines(record: dict[str, Any]) -> Iterator[str]:
    """What limits, in words."""
    loader = record["end_to_end"]
    rate = f"the loader makes {loader['images_per_s']['median']:.1f} images/s"
    rows = [(row["variant"], row["end_to_end"]) for row in record["variants"] if row["end_to_end"] is not None]
    found = {what: [name for name, own in rows if own["limited_by"] == what] for what in ("loader", "model")}
    if found["loader"]:
        yield f"loader-bound: {rate}, every variant above that is no faster: {', '.join(found['loader'])}"
    if found["model"]:
        yield f"model-bound: {rate}, and these alone are slower than that: {', '.join(found['model'])}"
    if rest := [name for name, own in rows if own["limited_by"] not in found]:
        yield f"loader or model: {rate}, and these alone are not told apart from it: {', '.join(rest)}"
    if loader["workers"] == 0:
        yield "no workers: images are made in turn with the passes, and each adds its time to the other's"
