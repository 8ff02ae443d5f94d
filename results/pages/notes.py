"""What stands below the table: what the figures mean, where they come from, and what is missing or not alike."""

from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from results.figures.numbers import macs_unit
from results.html.content import Grid
from results.records.frames import PACKAGE, PROVENANCE
from results.records.store import Records
from results.statistics.compare import largest_families
from results.statistics.curves import mixed_notes, twin_notes
from results.statistics.joint.power import POWER
from results.statistics.metrics.calibration import NUM_BINS
from results.statistics.metrics.replicates import Replicates

__all__ = ["footnotes", "missing_notes", "provenance", "title_of"]

_ALPHA = 0.05
_OTHER_SPEED = 1 / 3  # relative, of the dense model between two timings in one setting
_FEW_SEEDS = (
    "What other seeds would give is drawn as Student's t of how these differ; of few seeds the interval is too wide "
    "where items alone explain that."
)
_NOISY = 0.25  # cores that other processes keep busy


def title_of(variants: pd.DataFrame) -> str:
    """Data set and backbone; smoke runs are marked."""
    what = " and ".join(
        f"{backbone} on {dataset}" for (dataset, backbone), _ in variants.groupby(["dataset", "backbone"])
    )
    smoke = (
        ""
        if not variants["quick"].any()
        else "SMOKE RUN, not a result: "
        if variants["quick"].all()
        else "PARTLY SMOKE RUNS: "
    )
    return smoke + what


def footnotes(runs: pd.DataFrame, variants: pd.DataFrame, speeds: pd.DataFrame, replicates: Replicates) -> list[str]:
    """What every figure is, then how it was made, then what does not fit together."""
    done = variants[variants["status"] == "done"]
    notes = []
    if len(done):
        notes += _accuracy_notes(done, replicates)
        for study, rows in done.groupby("study", sort=False):
            if not rows["is_dense"].any():
                notes.append(f"{study}: no dense model is finished, so there are no differences to it.")
        if done["seeds"].nunique() > 1:
            counts = ", ".join(f"{count} with {seeds}" for seeds, count in done["seeds"].value_counts().items())
            notes.append(f"Not every variant has the same number of seeds: {counts}.")
    unit = macs_unit(variants["macs_g"])
    notes.append(
        f"Budget: share of the dense model's MACs, asked → reached. {unit.name}: multiply-accumulates of one "
        f"image, {unit.power}; scoring is part of them and stands apart in brackets; those of linear layers leave out "
        "scoring and the products of queries, keys and values. Training: seconds of fine-tuning, mean over seeds."
    )
    behind = variants[variants["macs_pyramid_g"].notna()]
    if len(behind):
        notes.append(
            "Pyramid and heads stand behind the encoder and in no budget, the same for all methods; heads at most, of "
            f"{_range(behind['num_proposals'])} proposals and {_range(behind['num_detections'])} detections an image."
        )
    notes += _speed_notes(speeds, done) + _made_with(runs) + _object_notes(runs) + _search_notes(runs)
    return notes + mixed_notes(runs) + twin_notes(runs) + list(replicates.notes)


def provenance(runs: pd.DataFrame) -> Grid:
    """What the runs of each study were made with, one column a study; of several values how many runs had each."""
    studies = runs.groupby("study", sort=False)
    columns = ["data_fingerprint", *PROVENANCE, *(column for column in runs if column.startswith(PACKAGE))]
    rows = []
    for column in columns:
        cells = []
        for _, own in studies:
            counts = own[column].dropna().astype(str).value_counts()
            cells.append(", ".join(f"{value} ({n})" if len(counts) > 1 else value for value, n in counts.items()))
        rows.append([column.removeprefix(PACKAGE).replace("_", " "), *cells])
    return Grid("Provenance", ["", *(str(study) for study, _ in studies)], rows)


def missing_notes(studies: Sequence[Records]) -> list[str]:
    """Failed, unfinished and broken records, by name."""
    notes = []
    for study in studies:
        name = study.directory.name
        if study.unfinished:
            running = sum(status.state == "running" for status in study.unfinished.values())
            pending = len(study.unfinished) - running
            notes.append(f"{name}: not all runs are finished: {running} running, {pending} pending.")
        notes += [f"{name}: {run} failed: {error}" for run, error in study.failures.items()]
        notes += [f"{name}: broken record, left out: {error}" for error in study.broken]
    return notes


def _accuracy_notes(done: pd.DataFrame, replicates: Replicates) -> list[str]:
    resamples = replicates.accuracy.shape[1]
    several = done["seeds"].max() > 1
    drawn = "clusters of test items and what other seeds would add" if several else "clusters of test items"
    items = f"{_range(done['num_items'])} test items in {_range(done['clusters'])} clusters (source digit or image)"
    seeds = f"{_range(done['seeds'])} seed{'s' if several else ''}"
    what = {
        "mean": "Accuracy: final epoch, mean over",
        "mean_iou": "mIoU: final epoch, of the confusion summed over",
    }.get(
        done["metric_statistic"].iat[0],
        "AP: final epoch, COCO's average precision (mean over classes and over overlaps from .5 to .95) on",
    )
    notes = [
        f"{what} {items} × {seeds}; ± is half the width of the 95 % interval, percentiles of "
        f"a bootstrap over {drawn}, {resamples:,} resamples. "
        + (_FEW_SEEDS if several else "Variation between seeds is not in it."),
        "To dense: minus the dense model fine-tuned in the same study, on the same items and seeds; two-sided p of the "
        "paired bootstrap, Holm-corrected over all of them.",
        "To random: minus random pruning that leaves as many tokens at every block and does the same with the rest, so "
        "that the difference is what the choice of patches is worth; corrected as a family of its own.",
    ]
    if "ece" in done:
        notes.append(
            f"ECE: expected calibration error, {NUM_BINS} bins of equal width of the top softmax probability, from the "
            "same resamples. Few items in a bin raise it, and resampling once more: compare, rather than read it alone."
        )
    notes += _size_notes(done)
    chooses = done[done["role"].isin(["method", "control"])]
    if chooses["over_random_points"].isna().any():
        notes.append("Not every method has random pruning at its counts; cropr-study run --random-at-counts adds it.")
    if done["no_method"].any():
        read = ", ".join(done.loc[done["no_method"], "curve"].unique())
        notes.append(f"No method: {read} reads the labels; it is on no front.")
    for what, comparisons in largest_families(done).items():
        if (floor := comparisons * 2 / (resamples + 1)) > _ALPHA:
            notes.append(
                f"Differences {what}: with so many comparisons no corrected p can fall below {min(floor, 1):.2g}."
            )
    return notes


def _size_notes(done: pd.DataFrame) -> list[str]:
    """What the columns of resamples mean, and what a study of this size can see."""
    seen = [
        f"{_range(done[column], '.1f')} points to {what}"
        for column, what in (("detectable_points", "dense"), ("over_random_detectable_points", "random pruning"))
        if done[column].notna().any()
    ]
    notes = [
        "P(front): share of resamples, all variants in the same ones, in which no other beats it in metric and MACs. "
        "P(a run beats one): any seed against any of the other's, on the same resample of items, ties half."
    ]
    if seen:
        notes.append(
            f"Detectable at this size with power {POWER:g} (two-sided alpha {_ALPHA:g}, not corrected): a true "
            f"difference of {', '.join(seen)}; an exact test of signs over {_range(done['seeds'])} seed"
            f"{'s' if done['seeds'].max() > 1 else ''} gives no p below {_range(done['min_p_seeds'], '.2g')}."
        )
    return notes


def _speed_notes(speeds: pd.DataFrame, done: pd.DataFrame) -> list[str]:
    if speeds.empty:
        return []
    notes = []
    for (study, timing), rows in speeds.groupby(["study", "timing"], sort=False):
        first = rows.iloc[0]
        smoke = "smoke run, " if first["quick"] else ""
        setting = (
            f"{smoke}{first['device_name']}, {first['num_threads']} threads, {first['dtype']}, batch "
            f"{first['batch_size']} (latency: 1), {first['img_size']} px, SDPA backend {first['sdpa_backend']}, "
            f"{first['rounds']} interleaved rounds"
        )
        what = "in speed.csv only, another timing is shown"
        if rows["shown"].any():
            what = "median [5th, 95th percentile]"
        if rows["ratio_only"].any():
            lacked = ", ".join(rows.loc[rows["ratio_only"], "variant"])
            what = f"shown only as ratio to its own dense model, of what the other timing lacks: {lacked}"
        notes.append(f"{study}: speed {timing}: {what}; {setting}{_about_whole(rows)}.")
        if first["load_of_others"] > _NOISY:
            load = f"other processes kept {first['load_of_others']:.2g} cores busy meanwhile"
            notes.append(f"{study}: speed {timing} is noisy: {load}.")
        if shared := int((rows["timed_as"] != "").sum()):
            once = "were timed once with a variant that has the same model with other weights (timed_as in speed.csv)"
            notes.append(f"{study}: speed {timing}: {shared} of {len(rows)} variants {once}.")
        flagged = rows[(rows["flags"] != "") & (rows["timed_as"] == "")]
        notes += [f"{study}: speed of {row.variant}: {row.flags}." for row in flagged.itertuples()]
    for study, rows in speeds[speeds["shown"]].groupby("study", sort=False):
        untimed = sorted(set(done.loc[done["study"] == study, "variant"]) - set(rows["variant"]))
        if untimed:
            own = " (a method of one's own is timed where it is given again)" if "#" in "".join(untimed) else ""
            notes.append(f"{study}: no speed, as the timing shown lacks them: {', '.join(untimed)}{own}.")
    return notes + _clock_notes(speeds)


def _about_whole(rows: pd.DataFrame) -> str:
    """How whole detectors were timed beside the encoders of a timing."""
    timed = rows[rows["whole_images_per_s_median"].notna()]
    if timed.empty:
        return ""
    regions = " and ".join(f"{_range(timed[f'whole_num_{what}'])} {what}" for what in ("proposals", "detections"))
    on = "fixed regions, as weights are random" if timed["whole_fixed"].iat[0] else "what the trained models find"
    return (
        f"; whole model: with pyramid, heads and what follows, batch 1, on {timed['whole_num_images'].iat[0]:.0f} "
        f"images, {on}: {regions} of an image"
    )


def _clock_notes(speeds: pd.DataFrame) -> list[str]:
    """Timings whose dense model ran at another speed than in the one before, in the same setting."""
    dense = speeds[(speeds["role"] == "dense") & speeds["images_per_s_median"].notna()]
    notes = []
    for (study, _), rows in dense.groupby(["study", "setting"], sort=False):
        for before, after in pairwise(rows.itertuples()):
            if abs(after.images_per_s_median / before.images_per_s_median - 1) > _OTHER_SPEED:
                notes.append(
                    f"{study}: dense in speed {after.timing}: {after.images_per_s_median:,.0f} images/s, but in the "
                    f"earlier {before.timing}, in the same setting: {before.images_per_s_median:,.0f}."
                )
    return notes


def _made_with(runs: pd.DataFrame) -> list[str]:
    """The usual provenance of each study; what deviates is said by `mixed_notes`."""
    notes = []
    for study, rows in runs[runs["status"] != "timed"].groupby("study", sort=False):
        usual = {column: rows[column].mode().iat[0] for column in [*PROVENANCE, "data_fingerprint", *_shown(rows)]}
        dirty = " with uncommitted changes" if usual["dirty"] == "True" else ""
        packages = "".join(f", {column.removeprefix(PACKAGE)} {usual[column]}" for column in _shown(rows))
        notes.append(
            f"{study}: trained with commit {usual['commit'][:10]}{dirty}{packages}, on {usual['device_name']} "
            f"({usual['device']}), {usual['num_threads']} threads a run, {usual['dtype']}, SDPA backend "
            f"{usual['sdpa_backend']}; data {usual['data_fingerprint'][:12]}."
        )
    return notes


def _object_notes(runs: pd.DataFrame) -> list[str]:
    """What scored objects, and what their sizes are."""
    said = runs[runs["evaluator"].notna()].drop_duplicates(["study", "evaluator", "object_areas"])
    return [
        f"{row.study}: scored by {row.evaluator}; objects are small below {row.object_areas[0]:g} pixels of their mask "
        f"and large above {row.object_areas[1]:g}. What is found but matches no object counts by its own size."
        for row in said.itertuples()
    ]


def _search_notes(runs: pd.DataFrame) -> list[str]:
    """The counts that were learned, and how; searches of other seeds find others."""
    return [
        f"{row.study}: counts of {row.variant}, seed {row.seed}, are learned: {row.search['found']}, after "
        f"{row.search['steps']} steps on {row.search['num_items']:,} training images in {row.search['seconds']:.0f} s "
        f"(loss {row.search['loss_first']:.3f} → {row.search['loss_last']:.3f}), before "
        "training and not in its seconds."
        for row in runs[runs["search"].notna()].itertuples()
    ]


def _shown(runs: pd.DataFrame) -> list[str]:
    return [column for column in (PACKAGE + "torch", PACKAGE + "timm") if column in runs and runs[column].notna().any()]


def _range(values: pd.Series, form: str = ",.0f") -> str:
    low, high = values.min(), values.max()
    if pd.isna(low):
        return "an unknown number of"
    low, high = format(low, form), format(high, form)
    return low if low == high else f"{low} to {high}"
