"""What the files of a study hold: the one boundary that whatever is read passes. Other hands, other versions and a
crash write there too; what does not fit is named with its file and field, and nothing behind here looks twice.

Fields that are not listed pass unseen. A list is a list and a number is a number: nothing is converted.
"""

from __future__ import annotations

import json
import reprlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from annotated_types import Ge
from typing_extensions import TypedDict, is_typeddict  # pydantic takes typing's own from Python 3.12 on

from results.records.files import CorruptRecord, read_json, read_lines

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

__all__ = [
    "SCHEMA", "BackboneResult", "ClaimFile", "Epoch", "Failure", "Finished", "Question", "Result", "Search", "Study",
    "Timing", "check", "read", "read_log",
]  # fmt: skip

SCHEMA = 1
Numbers = dict[str, float | None]


class Provenance(TypedDict):
    """Where a record was made."""

    data_fingerprint: NotRequired[str]
    packages: NotRequired[dict[str, str]]
    finished: NotRequired[str]


class About(TypedDict):
    """A method in a record."""

    summary: str
    paper: NotRequired[str | None]
    no_method: NotRequired[bool]


class Declared(TypedDict):
    """A metric of a task."""

    name: str
    label: str
    statistic: NotRequired[str]
    of: NotRequired[str]


class Masked(TypedDict):
    """Shares of the grid by stage, under the mask of training."""

    asked: NotRequired[list[float] | None]
    kept: NotRequired[list[float] | None]


class Coverage(TypedDict):
    """Objects that have a live token, each list of small, medium and large ones."""

    blocks: list[int]  # behind which there was a reduction
    objects: list[int]
    covered: list[list[int]]  # behind each of `blocks`
    missed_with_token: list[int]  # behind the last of `blocks`
    missed_without_token: list[int]


class Detector(TypedDict):
    """What stands behind the encoder of a detector: its cost, and of how many regions of an image."""

    pyramid_macs_g: float
    heads_macs_g: float
    num_proposals: int
    num_detections: int


class Search(TypedDict):
    """How learned counts were found; losses are means over the first and the last tenth of the steps."""

    found: str  # the method at its counts, as it is typed
    steps: int
    num_items: int
    seed: int
    loss_first: float
    loss_last: float
    seconds: float


class Run(TypedDict):
    """What every run says of itself."""

    schema: int
    status: str
    task: str
    dataset: str
    backbone: str
    reducer: str
    variant: str
    label: str
    seed: int
    provenance: Provenance
    study: NotRequired[str]
    quick: NotRequired[bool | None]
    role: NotRequired[str | None]
    rest: NotRequired[str | None]
    method: NotRequired[About | None]
    method_version: NotRequired[int | None]
    objective: NotRequired[str | None]
    options: NotRequired[dict[str, Any] | None]
    own: NotRequired[dict[str, float]]
    schedule_kind: NotRequired[str | None]
    search: NotRequired[Search]
    split: NotRequired[str]
    lr: NotRequired[float | None]
    epochs: NotRequired[int | None]
    budget_asked: NotRequired[float | None]
    budget_reached: NotRequired[float | None]
    mac_ratio: NotRequired[float | None]
    floor: NotRequired[float | None]
    params_m: NotRequired[float | None]
    num_items: NotRequired[int | None]
    tokens_per_block: NotRequired[list[int] | None]
    metrics_declared: NotRequired[list[Declared]]
    evaluator: NotRequired[str]
    object_areas: NotRequired[list[float]]
    coverage: NotRequired[Coverage]
    tied_at_cut: NotRequired[list[float] | None]
    masked: NotRequired[Masked | None]
    detector: NotRequired[Detector]
    validation: NotRequired[list[dict[str, Any]] | None]
    train_loss: NotRequired[list[float] | None]
    settles: NotRequired[float | None]
    train_seconds: NotRequired[float | None]
    peak_memory_mib: NotRequired[float | None]


class Result(Run):
    """result.json of a run whose budget cannot be reached, or that was only timed."""

    metrics: NotRequired[dict[str, Numbers] | None]
    macs_g: NotRequired[Numbers | None]


class Finished(Run):
    """result.json of a run that was done."""

    metrics: dict[str, Numbers]
    macs_g: Numbers


class TimedWhole(TypedDict):
    """The whole detector of a variant; regions are means over its images."""

    images_per_s: Numbers
    ratio: Numbers
    num_proposals: NotRequired[float]
    num_detections: NotRequired[float]


class Timed(TypedDict):
    """A variant of a timing."""

    variant: str
    label: NotRequired[str]
    role: NotRequired[str | None]
    samples_s: NotRequired[list[float]]
    images_per_s: NotRequired[Numbers | None]
    ratio: NotRequired[Numbers | None]
    latency_ms: NotRequired[Numbers | None]
    macs_g: NotRequired[Numbers | None]
    peak_memory_mib: NotRequired[float | None]
    tokens_per_block: NotRequired[list[int] | None]
    flags: NotRequired[list[str]]
    detector: NotRequired[Detector]
    whole: NotRequired[TimedWhole | None]


class WholeSetting(TypedDict):
    """How whole detectors were timed."""

    num_images: int
    fixed_regions: bool


class Timing(TypedDict):
    """result.json of a timing."""

    schema: int
    variants: list[Timed]
    provenance: NotRequired[Provenance]
    load_of_others: NotRequired[float | None]
    whole: NotRequired[WholeSetting]


class BackboneResult(TypedDict):
    """result.json of a backbone that was trained here."""

    schema: int
    weight_digest: str


class Question(TypedDict):
    """What a study was to decide, and by how much, as it was declared before the study ran."""

    method: str  # all, or how a variant begins: a reducer, with options or a budget
    against: Literal["dense", "random"]  # random pruning at the same counts
    margin_points: Annotated[float, Ge(0)]
    kind: Literal["within", "above"]  # at least -margin, at least +margin
    budget: NotRequired[float | None]  # of all budgets
    metric: NotRequired[str | None]  # the first


class Study(TypedDict):
    """study.json."""

    schema: NotRequired[int]
    study: NotRequired[str]
    task: NotRequired[str]
    dataset: NotRequired[str | None]
    backbone: NotRequired[str]
    data_fingerprint: NotRequired[str]
    question: NotRequired[Question | None]


class Failure(TypedDict):
    """failure.json."""

    type: NotRequired[str]
    message: NotRequired[str]
    where: NotRequired[str | None]
    traceback: NotRequired[str]


class ClaimFile(TypedDict):
    """claim.json."""

    host: str
    pid: int
    start: NotRequired[int | None]
    place: NotRequired[str]
    job_id: NotRequired[str | None]


class Epoch(TypedDict):
    """A line of log.jsonl."""

    epoch: int
    epochs: int
    train_loss: float
    train_seconds: float
    images_per_s: NotRequired[float | None]


def read(path: Path | str, kind: type) -> Any:
    """The content of a JSON file of `kind`. Raises FileNotFoundError; CorruptRecord, which names file and field."""
    return check(path, read_json(path), kind)


def read_log(path: Path, kind: type) -> list[Any]:
    """The lines of a log, each of `kind`, without a torn last one; empty where there is none. Raises CorruptRecord."""
    return [check(path, line, kind) for line in read_lines(path)]


def check(path: Path | str, content: Any, kind: type) -> Any:
    """`content` itself, if it fits `kind` (a TypedDict, or the fields of a dataclass). It is never what pydantic makes
    of it: 6 that has become 6.0 would give a run another id. Raises CorruptRecord, which names `path` and field."""
    from pydantic import ValidationError

    found = content.get("schema", SCHEMA) if isinstance(content, dict) else SCHEMA
    if found != SCHEMA:
        newer = isinstance(found, int) and found > SCHEMA
        hint = "; a newer cropr-study wrote it" if newer else ""
        raise CorruptRecord(path, f"schema {reprlib.repr(found)} found, {SCHEMA} expected{hint}")
    adapter: TypeAdapter = _adapter(kind)
    try:
        if is_typeddict(kind):
            adapter.validate_python(content, strict=True)
        else:  # as JSON, where a list may be a tuple, and an object a dataclass
            adapter.validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise CorruptRecord(path, _first(error)) from None
    return content


@cache
def _adapter(kind: Any) -> TypeAdapter:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _first(error: ValidationError) -> str:
    """The first fault in a line, and how many there are beside."""
    faults = error.errors(include_url=False)
    fault, more = faults[0], f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    where = ".".join(map(str, fault["loc"])) or "the whole"
    if fault["type"] == "missing":
        return f"{where} is missing{more}"
    said = fault["msg"].removeprefix("Input ").removeprefix("Value error, ")
    return f"{where}: {said}, not {reprlib.repr(fault['input'])}{more}"
