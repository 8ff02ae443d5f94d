"""docs/methods.md and docs/export.md, made from the declarations and from what exporting refuses: `make docs` writes
them, and a test holds that they are true."""

from __future__ import annotations

from studies.commands.names import described, reads
from studies.models.methods import builtin, parse_one
from studies.tasks import TASKS

__all__ = ["PAGES", "export_page", "methods_page"]

EXPORTED = ("classification", "segmentation", "detection")
BUDGET = 0.7

ROLES = {
    "dense": "The reference", "random": "Chance", "method": "Methods",
    "control": "Controls: what a method's choice is worth",
}  # fmt: skip


def methods_page() -> str:
    """Every method with its paper, needs and options."""
    lines = [
        "# Methods", "",
        "Made by `make docs` from the declarations that end the methods' files. `cropr-study list reducers NAME` says "
        "the same, also of a file of your own.",
    ]  # fmt: skip
    for role, title in ROLES.items():
        lines += ["", f"## {title}"]
        for name, cls in builtin().items():
            if cls.role == role:
                lines += _section(name, described(cls))
    return "\n".join(lines) + "\n"


def _section(name: str, entry: dict) -> list[str]:
    paper = f" {entry['paper']} (release: {entry['licence']})." if entry["paper"] else ""
    facts = [
        f"{'Inside' if entry['inside_block'] else 'Behind'} a block; reads {reads(entry)}; "
        f"learns {entry['learns'] or 'nothing'}; needs {', '.join(entry['needs']) or 'any supported model'}; attention "
        f"{'stays fused' if entry['fused_attention'] else 'leaves the fused kernel in training'}."
    ]
    if entry["reads_labels"]:
        facts.append("No method: it reads what it is to predict, and is on no front.")
    lines = ["", f"### {name}", "", f"{entry['summary']}.{paper}"] + (["", *facts] if entry["role"] != "dense" else [])
    if not entry["options"]:
        return lines
    rows = [
        f"| `{option}` | {value['type']} | {value['shown']} | {value['meaning']} |"
        for option, value in entry["options"].items()
    ]
    return [*lines, "", "| option | values | default | meaning |", "|---|---|---|---|", *rows]


def export_page() -> str:
    """What `export` writes, for every method, task and format, and what it refuses and why."""
    from studies.models.export import FORMATS, TOLERANCE

    reasons: list[str] = []
    rows = []
    for name in builtin():
        cells = [_cell(reason, reasons) for task in EXPORTED for reason in refusals(name, task)]
        rows.append(f"| `{name}` | {' | '.join(cells)} |")
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
        f"| reducer | {' | '.join(columns)} |",
        f"|---|{'---|' * len(columns)}", *rows, "",
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


PAGES = {"methods.md": methods_page, "export.md": export_page}  # of docs/
