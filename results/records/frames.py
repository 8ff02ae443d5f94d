"""Records to data frames: one row per run, one row per timed variant. Shares in 0..1, costs in G, memory in MiB."""

import json
from collections.abc import Sequence
from math import ceil, nan
from typing import Any

import pandas as pd

from results.records.schema import Declared, Epoch, read_log
from results.records.store import CorruptRecord, Records

__all__ = ["PACKAGE", "PROVENANCE", "declared_metrics", "run_frame", "speed_frame", "study_names"]

# Headlines, shares in 0..1, as records declare them; those of records that were made before they did.
_BEFORE: tuple[Any, ...] = (
    {"name": "top1", "label": "top-1", "statistic": "mean"}, {"name": "miou", "label": "mIoU", "statistic": "mean_iou"},
)  # fmt: skip
_HEADLINE = {"name": "metric_name", "label": "metric_label", "statistic": "metric_statistic"}
PACKAGE = "package "  # prefix of the columns that hold package versions
PROVENANCE = ["commit", "dirty", "python", "device", "device_name", "dtype", "num_threads", "sdpa_backend"]

_COPIED = [
    "status",
    "task",
    "dataset",
    "backbone",
    "seed",
    "reducer",
    "variant",
    "label",
    "method_version",
    "objective",
]
_COPIED_NUMBERS = ["lr", "epochs", "budget_asked", "budget_reached", "floor", "params_m", "num_items"]
_SETTING = [
    "quick", "device", "device_name", "dtype", "batch_size", "img_size", "num_threads", "sdpa_backend", "rounds",
]  # fmt: skip
_CLOCK = ["device_name", "dtype", "batch_size", "img_size", "num_threads", "mode"]  # where alike, speeds should be


def declared_metrics(studies: Sequence[Records]) -> list[Declared]:
    """The metrics that finished runs declare, each once, in their order."""
    declared = [metric for study in studies for record in study.runs.values() for metric in _declared(record)]
    return list({metric["name"]: metric for metric in declared}.values())


def run_frame(studies: Sequence[Records], metric: str | None = None) -> pd.DataFrame:
    """One row per finished or unreachable run, sorted by study, variant and seed. A study that was only timed (`bench`)
    has rows of status `timed`.

    Args:
        metric: of which the `metric` columns are, by its name; None: of the first that records declare.

    Raises:
        ValueError: the studies have different tasks, or a finished run declares no metric.
    """
    rows = []
    for study, name in zip(studies, study_names(studies), strict=True):
        rows += [_run_row(study, name, run, record, metric) for run, record in study.runs.items()]
        if not study.runs:
            rows += _untrained_rows(study, name, metric)
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows)
    tasks = sorted(frame["task"].unique())
    if len(tasks) > 1:
        raise ValueError(f"cannot compare {' and '.join(tasks)} in one report: their metrics differ")
    for key, column in _HEADLINE.items():  # what could not be reached, or was only timed, has none of its own
        said = frame[column].dropna()
        frame[column] = frame[column].fillna(said.iat[0] if len(said) else _BEFORE[0][key])
    return frame.sort_values(["study", "variant", "seed", "id"], ignore_index=True)


def speed_frame(studies: Sequence[Records]) -> pd.DataFrame:
    """One row per variant of every timing, of each study the oldest first.

    shown: the report joins it to the accuracies. Of each study these are the rows of one timing, the newest of those
        that hold most of its variants, since absolute speeds of two records are never compared.
    ratio_only: it is of another timing in the same `setting`, as that one lacks the variant; of it only the ratio to
        the dense model beside it can be shown.
    load_of_others: cores that other processes kept busy; NaN where the record does not say.
    """
    rows: list[dict[str, Any]] = []
    trained = {}
    for study, name in zip(studies, study_names(studies), strict=True):
        if study.runs:
            trained[name] = {record["variant"] for record in study.runs.values()}
        for timing, record in study.speeds.items():
            finished = str(record.get("provenance", {}).get("finished", ""))
            identity = {"study": timed_name(study, name, record), "directory": name, "timing": timing}
            said = record | {"mode": _mode(record)}
            common = identity | {"finished": finished} | {key: record.get(key) for key in _SETTING}
            common["setting"] = ", ".join(str(said.get(key)) for key in _CLOCK)
            common["whole_num_images"] = _number(record.get("whole") or {}, "num_images")
            common["whole_fixed"] = bool((record.get("whole") or {}).get("fixed_regions"))
            common["load_of_others"] = _number(record, "load_of_others")
            rows += [common | _timed_row(variant) for variant in record["variants"]]
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows).sort_values(["study", "finished", "timing"], ignore_index=True)
    frame["shown"] = frame["ratio_only"] = False
    for study, timed in frame.groupby("study", sort=False):
        one = timed["timing"] == _timing_shown(timed, trained.get(str(study), set(timed["variant"])))
        lacking = ~timed["variant"].isin(timed.loc[one, "variant"]) & timed["ratio_to_dense_median"].notna()
        alike = timed["setting"] == timed.loc[one, "setting"].iat[0]
        others = timed[lacking & alike].drop_duplicates("variant", keep="last").index
        frame.loc[timed.index[one].union(others), "shown"] = True
        frame.loc[others, "ratio_only"] = True
    return frame


def _timing_shown(timed: pd.DataFrame, variants: set[str]) -> str:
    """The last timing of those that hold most of `variants`."""
    held = timed["variant"].isin(variants).groupby(timed["timing"], sort=False).sum()
    return str(held[::-1].idxmax())


def study_names(studies: Sequence[Records]) -> list[str]:
    """Names of the folders, or their whole paths where two have the same name."""
    names = [study.directory.resolve().name for study in studies]
    return names if len(set(names)) == len(names) else [str(study.directory) for study in studies]


def timed_name(study: Records, name: str, record: dict[str, Any]) -> str:
    """Where a study was only timed, and in more than one setting, each setting is a study of its own."""
    if study.runs:
        return name
    words = {
        "device_name": "{}", "dtype": "{}", "mode": "{}", "img_size": "{} px", "batch_size": "batch {}",
        "num_threads": "{} threads",
    }  # fmt: skip
    said = [other | {"mode": _mode(other)} for other in study.speeds.values()]
    differ = [key for key in words if len({other.get(key) for other in said}) > 1]
    own = record | {"mode": _mode(record)}
    return ", ".join([name, *(words[key].format(own.get(key)) for key in differ)])


def _mode(record: dict[str, Any]) -> str:
    """How the models of a timing were run; older records say no more than whether they were compiled."""
    return str(record.get("mode") or ("compiled" if record.get("compiled") else "eager"))


def _run_row(study: Records, name: str, run: str, record: dict[str, Any], shown: str | None) -> dict[str, Any]:
    provenance, metrics = record["provenance"], record.get("metrics") or {}
    declared = _declared(record)
    headline: Any = next((metric for metric in declared if shown in (None, metric["name"])), {})
    metric = headline.get("name", "")
    return {
        "study": name,
        "id": run,
        "path": f"{study.directory}/runs/{run}",
        "quick": bool(record.get("quick")),
        **{key: record.get(key) for key in _COPIED},
        **{key: _number(record, key) for key in _COPIED_NUMBERS},
        **{column: headline.get(key) for key, column in _HEADLINE.items()},
        "role": _role(record),
        "rest": record.get("rest"),
        "tokens": json.dumps(record["tokens_per_block"]) if record.get("tokens_per_block") else None,
        **_about(record),
        "options": _options(record),
        "own": None if "own" not in record else ", ".join(f"{k}={v:g}" for k, v in sorted(record["own"].items())),
        "schedule_kind": record.get("schedule_kind"),
        "search": record.get("search"),
        "metric": _number(metrics.get("final", {}), metric),
        **_epochs(record, metric),
        "metric_masked": _number(metrics.get("masked", {}), metric),
        "coverage": record.get("coverage"),
        "evaluator": record.get("evaluator"),
        "object_areas": tuple(record.get("object_areas") or ()),
        "tied_at_cut": record.get("tied_at_cut"),
        **{f"mask_{what}": (record.get("masked") or {}).get(what) for what in ("asked", "kept")},
        "train_loss": _settled(_train_loss(study, run, record), record),
        **_macs(record.get("macs_g") or {}),
        **_behind(record.get("detector") or {}),
        "train_peak_memory_mib": _number(record, "peak_memory_mib"),
        "train_s": _number(record, "train_seconds"),
        "data_fingerprint": provenance.get("data_fingerprint", "unknown"),
        **{key: str(provenance.get(key, "unknown")) for key in PROVENANCE},
        **{PACKAGE + package: version for package, version in provenance.get("packages", {}).items()},
    }


def _epochs(record: dict[str, Any], metric: str) -> dict[str, Any]:
    """The metric behind each epoch that has one, by validation items: before the first (where it is known), best and
    last. Older records chose a best epoch by the test items, and have no other figure to hold it against than that."""
    metrics, seen = record.get("metrics") or {}, record.get("validation") or []
    behind = [_number(line, metric) for line in seen if line["epoch"] > 0]
    before = next((_number(line, metric) for line in seen if line["epoch"] == 0), nan)
    if not seen and "best" in metrics:
        behind = [_number(metrics["best"], metric), _number(metrics["final"], metric)]
    return {
        "metric_before": before,
        "metric_lowest": min(behind, default=nan),
        "metric_best": max(behind, default=nan),
        "metric_last": behind[-1] if behind else nan,
    }


def _train_loss(study: Records, run: str, record: dict[str, Any]) -> list[float] | None:
    """Mean loss of each epoch; out of log.jsonl where an older record does not hold it, None where nothing does."""
    if not run or record.get("train_loss"):
        return record.get("train_loss")
    try:
        lines = read_log(study.directory / "runs" / run / "log.jsonl", Epoch)
    except CorruptRecord:
        return None
    return [line["train_loss"] for line in lines] or None


def _settled(losses: list[float] | None, record: dict[str, Any]) -> list[float] | None:
    """The losses of the epochs in which the model was the one that is deployed, not a milder one on its way there."""
    return losses and losses[ceil((record.get("settles") or 0) * len(losses)) :]


def _declared(record: dict[str, Any]) -> list[Declared]:
    """The metrics that the record declares. Raises ValueError where a finished run has none that is known."""
    if declared := record.get("metrics_declared"):
        return declared
    final = (record.get("metrics") or {}).get("final")
    found = [metric for metric in _BEFORE if final and metric["name"] in final]
    if final and not found:
        raise ValueError(f"no report for task {record['task']!r}: its records declare no metric")
    return found


def _role(record: dict[str, Any]) -> str:
    """dense, random, control or method. Records made before there were roles tell the dense model alone."""
    is_dense = record.get("schedule_kind") == "dense" or (
        record.get("mac_ratio") == 1 and record.get("budget_asked") is None
    )
    return record.get("role") or ("dense" if is_dense else "method")


def _about(record: dict[str, Any]) -> dict[str, Any]:
    about = record.get("method") or {}
    return {
        "about": f"{about['summary']}" + (f" ({about['paper']})" if about.get("paper") else "") if about else None,
        "no_method": bool(about.get("no_method")),
    }


def _untrained_rows(study: Records, name: str, metric: str | None) -> list[dict[str, Any]]:
    """Rows for the variants of a study that was only timed; what they belong to is what study.json says."""
    belongs = {"task": "classification", "dataset": "no data", "backbone": "unknown backbone"} | study.study
    rows = {}
    for record in study.speeds.values():
        named = timed_name(study, name, record)
        made_with = {key: record.get(key) for key in _SETTING} | record.get("provenance", {})
        made_with["data_fingerprint"] = study.study.get("data_fingerprint", "no data")
        identity = belongs | {"status": "timed", "seed": 0, "quick": record.get("quick"), "provenance": made_with}
        for variant in record["variants"]:
            rows[named, variant["variant"]] = _run_row(study, named, "", identity | variant, metric)
    return list(rows.values())


def _timed_row(variant: dict[str, Any]) -> dict[str, Any]:
    whole = variant.get("whole") or {}
    spread = {
        f"{column}_{statistic}": _number(measured.get(key) or {}, statistic)
        for measured, key, column in (
            (variant, "images_per_s", "images_per_s"), (variant, "ratio", "ratio_to_dense"),
            (variant, "latency_ms", "latency_ms"), (whole, "images_per_s", "whole_images_per_s"),
            (whole, "ratio", "ratio_to_dense_whole"),
        )
        for statistic in ("median", "p5", "p95")
    }  # fmt: skip
    return {
        "variant": variant["variant"],
        "role": _role(variant),
        "label": variant.get("label", variant["variant"]),
        **spread,
        **{f"whole_{key}": _number(whole, key) for key in ("num_proposals", "num_detections")},
        "peak_memory_mib": _number(variant, "peak_memory_mib"),
        "macs_g": _number(variant.get("macs_g") or {}, "total"),
        "flags": "; ".join(variant.get("flags", [])),
        "timed_as": variant.get("timed_as", ""),
    }


def _macs(macs: dict[str, float]) -> dict[str, float]:
    parts = {f"macs_{key}_g": _number(macs, key) for key in ("backbone", "scoring", "linear", "decoder", "dense")}
    return {"macs_g": _number(macs, "total")} | parts


def _behind(detector: dict[str, float]) -> dict[str, float]:
    """What stands behind the encoder of a detector."""
    parts = {f"macs_{part}_g": _number(detector, f"{part}_macs_g") for part in ("pyramid", "heads")}
    return parts | {key: _number(detector, key) for key in ("num_proposals", "num_detections")}


def _options(record: dict[str, Any]) -> str:
    return json.dumps(record.get("options") or {}, sort_keys=True)


def _number(record: dict[str, Any], key: str) -> float:
    value = record.get(key)
    return float("nan") if value is None else float(value)
