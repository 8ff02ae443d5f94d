"""docs/export.md: what is exported, and from what exporting refuses."""

from __future__ import annotations

from studies.docs.rows import head, line
from studies.models.methods import builtin, parse_one
from studies.tasks import TASKS

__all__ = ["EXPORTED", "export_page"]

EXPORTED = ("classification", "segmentation", "detection")
BUDGET = 0.7


def export_page() -> str:
    """What `export` writes, for every method, task and format, and what it refuses and why."""
    from studies.models.export import FORMATS, TOLERANCE

    reasons: list[str] = []
    rows = []
    for name in builtin():
        cells = [_cell(reason, reasons) for task in EXPORTED for reason in refusals(name, task)]
        rows.append(line(f"`{name}`", *cells))
    columns = [f"{task}, {format}" for task in EXPORTED for format in FORMATS]
    return "\n".join([
        "# Export", "",
        "Made by `make docs`. `cropr-study export out/pareto/runs/ID --out model.onnx` (or `model.pt2`, a program of "
        "torch.export) writes the deployed model of a run; ONNX needs `pip install 'cropr-study[export]'`. One input, "
        "`images` [B, 3, h, w], of any B and of the model's own size, prepared as its `data_config` says; one output, "
        "logits [B, C], of segmentation [B, C, h, w].", "",
        "The file says what it is, in its metadata (ONNX) or as an extra file (pt2), each called `cropr-study`: "
        "backbone, options, reducers, `data_config`. It is run before it is written, by onnxruntime or torch, on "
        f"random images: where its logits are not within {TOLERANCE:g} of the model's, it is not written, and the exit "
        "code is 1. Equal scores are ordered as here.", "",
        *head("reducer", *columns), *rows, "",
        "`rest=` makes no difference to the table, `select=sample` is a reason not to write ONNX, and ONNX is "
        "written of models in float32. Where the table says no:", "",
        *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1)),
    ]) + "\n"  # fmt: skip


def _cell(reason: str | None, reasons: list[str]) -> str:
    """yes, or the number of a reason, which is added to those there are."""
    if reason is None:
        return "yes"
    if reason not in reasons:
        reasons.append(reason)
    return f"no ({reasons.index(reason) + 1})"


def refusals(name: str, task: str) -> list[str | None]:
    """Why a model reduced by the method `name`, as it is by default, cannot be exported, by format; None: it can."""
    import torch

    from studies.models.backbones import create_backbone
    from studies.models.export import FORMATS, refusal
    from studies.models.reducers import build

    method = parse_one(name, TASKS[task].dense)
    with torch.device("meta"):  # the question needs no weights
        vit = create_backbone("scenes_vit", pretrained=False, detector=TASKS[task].detector)
        model = build(vit, method, BUDGET if method.takes_budget else None).model
    return [refusal(model, format) for format in FORMATS]
