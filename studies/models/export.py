"""A deployed model as a file that runs without this project: ONNX, or a program of torch.export (pt2).

The batch is of any size, the image of the model's own. What is written was run before, and has the model's outputs.
Both files hold `about` as JSON: onnx in its metadata, pt2 as an extra file, each under the name ABOUT.

Letters: B images, h and w sides in pixels, C classes.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from cropr.dense import reads_maps
from cropr.nearest import one_of
from cropr.vit import ReducedViT

__all__ = [
    "ABOUT", "FORMATS", "Exported", "NotExported", "export", "file_of", "missing_packages", "refusal", "runner",
    "verify",
]  # fmt: skip

FORMATS = {"onnx": ("onnx", "onnxruntime", "onnxscript"), "pt2": ()}  # and the packages each of them needs
ABOUT = "cropr-study"
TOLERANCE = 1e-4  # of outputs, absolute and relative
TRACED, TRIED = 2, (1, 3)  # images at once: of the pass that is recorded, and of those that are compared
LARGEST = 2**31  # bytes of an ONNX file, as protobuf has it


class Exported(NamedTuple):
    """A file, and the largest deviation of its logits from the model's that was seen."""

    data: bytes
    deviation: float


class NotExported(Exception):
    """The exporter failed, or what it made does not do what the model does."""


def refusal(model: ReducedViT, format: str) -> str | None:
    """Why `model` cannot be written in `format` at all; None: there is no reason known. Raises ValueError for a format
    that there is not."""
    one_of("format", format, FORMATS)
    if reads_maps(model.vit):
        return "a detector's heads loop in Python over images and over as many regions as they find in each"
    if model.reads_truth:
        return "a reducer reads the labels, which whoever runs the file does not have"
    if format != "onnx":
        return None
    if any(reducer.seeded for reducer in model.reducers.values()):
        return "a reducer draws at random from the bits of the image, which the exporter's operators do not read"
    if others := {str(p.dtype) for p in model.parameters()} - {"torch.float32"}:
        return f"weights are {min(others).removeprefix('torch.')}, and onnxruntime computes all of it in float32 only"
    if sum(p.nbytes for p in model.parameters()) >= LARGEST:
        return "weights are larger than the 2 GiB that one ONNX file holds"
    return None


def export(model: ReducedViT, format: str, about: dict[str, Any]) -> Exported:
    """The file of `model`, folded and in evaluation mode: images [B, 3, h, w] -> logits, B free. `about`: what to say
    of it, plain values.

    Raises ValueError for what cannot be exported (see `refusal`) and for packages that are not installed; NotExported.
    """
    if reason := refusal(model, format):
        raise ValueError(f"cannot be exported as {format}: {reason}")
    if missing := missing_packages(format):
        raise ValueError(f"{format} needs {', '.join(missing)}: pip install 'cropr-study[export]'")
    folded = model.fold().eval()
    data = file_of(folded, format, images_for(model, TRACED), json.dumps(about))
    return Exported(data, verify(folded, format, data))


def missing_packages(format: str) -> list[str]:
    """What must be installed to write and run `format`, and is not."""
    return [name for name in FORMATS[format] if find_spec(name) is None]


@torch.no_grad()
def file_of(module: nn.Module, format: str, images: Tensor, about: str = "{}") -> bytes:
    """`module` as it runs on `images`, for any number of them. Raises NotExported."""
    with quiet(), named_errors(format):
        program = torch.export.export(module, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        return (onnx_file if format == "onnx" else pt2_file)(program, about)


def pt2_file(program: torch.export.ExportedProgram, about: str) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: about})
    return file.getvalue()


def onnx_file(program: torch.export.ExportedProgram, about: str) -> bytes:
    found = torch.onnx.export(
        program, dynamo=True, verbose=False, input_names=["images"],
        custom_translation_table={torch.ops.aten.sort.stable: stable_sort()},
    )  # fmt: skip
    assert found is not None
    found.model.graph.outputs[0].name = "logits"
    found.model.metadata_props[ABOUT] = about
    return found.model_proto.SerializeToString()


def stable_sort() -> Callable[..., Any]:
    """torch's stable sort for ONNX: TopK of all, which puts equal values in their order whichever way it sorts."""
    from onnxscript import opset18

    op: Any = opset18  # its types do not take the plain numbers that it takes

    def sort(self: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:
        size = op.Reshape(op.Gather(op.Shape(self), dim, axis=0), [1])
        return op.TopK(self, size, axis=dim, largest=descending)

    return sort


def runner(format: str, data: bytes, num_threads: int = 0) -> Callable[[Tensor], list[Tensor]]:
    """Images -> outputs of an exported file, by onnxruntime on a CPU or by torch. `num_threads`: of onnxruntime; 0: as
    it chooses."""
    if format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        # Its threads spin for a while when they have nothing to do, and whoever computes next would wait for them.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: [torch.from_numpy(out) for out in session.run(None, {name: images.numpy()})]
    module = torch.export.load(io.BytesIO(data)).module()

    def by_torch(images: Tensor) -> list[Tensor]:
        out = module(images)
        return [out] if torch.is_tensor(out) else list(out)

    return by_torch


@torch.no_grad()
def verify(model: nn.Module, format: str, data: bytes) -> float:
    """The largest deviation of the file's logits from the model's, of random images. Raises NotExported where it is
    beyond TOLERANCE."""
    largest = 0.0
    with quiet(), named_errors(format):
        call = runner(format, data)
        for size in TRIED:
            images = images_for(model, size)
            seen, expected = call(images)[0], model(images)
            away = (seen - expected).abs()
            largest = max(largest, away.max().item())
            if not (away <= TOLERANCE + TOLERANCE * expected.abs()).all():
                raise NotExported(f"{format}: logits of {size} images are {largest:.2g} away from the model's")
    return largest


def images_for(model: Any, size: int) -> Tensor:
    """[size, 3, h, w] random images that the model takes, always the same."""
    sides = model.img_size or model.vit.patch_embed.img_size
    sides = sides if isinstance(sides, tuple) else (sides, sides)
    images = torch.randn(size, 3, *sides, generator=torch.Generator().manual_seed(0))
    return images.to(model.vit.patch_embed.proj.weight.dtype)


@contextmanager
def named_errors(format: str) -> Iterator[None]:
    """Exporters and runtimes raise what they like, on many lines; the cause is told by its last exception."""
    try:
        yield
    except NotExported:
        raise
    except Exception as error:
        cause = error
        while cause.__cause__ is not None and isinstance(cause.__cause__, Exception):
            cause = cause.__cause__
        said = next((line for line in str(cause).splitlines() if line.strip()), "")
        raise NotExported(f"{format}: {type(cause).__name__}: {said}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters say of their own insides."""
    logger = logging.getLogger("onnxscript")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
