"""`export`: a saved model as a file for other runtimes."""

from __future__ import annotations

from pathlib import Path

from cropr.nearest import one_of

__all__ = ["export", "format_of"]

# Of what is said of a saved model, what is said of the file.
KEPT = ("backbone", "options", "img_size", "data_config", "reducers", "llf", "fusion", "sha256")


def export(run: Path, out: Path, format: str | None = None) -> tuple[Path, float]:
    """Writes the saved model of `run` (the folder of a run, or its model) to `out`, and returns that path and the
    largest deviation of logits that was seen. `format` None: by the suffix of `out`.

    Raises ValueError and OSError before anything is done, also where `out` exists; NotExported.
    """
    from results.records.files import write_bytes
    from studies.models import deploy
    from studies.models import export as exported

    format = format_of(out, format)
    refuse_existing(out)
    path = run / "model" if run.is_dir() else run
    about = {key: value for key, value in deploy.info(path).items() if key in KEPT}
    found = exported.export(deploy.load(path), format, about)
    refuse_existing(out)  # it took a while
    write_bytes(out, found.data)
    return out, found.deviation


def format_of(out: Path, given: str | None) -> str:
    """onnx or pt2. Raises ValueError for another, and where the suffix says the other of them."""
    from studies.models.export import FORMATS

    suffix = out.suffix.removeprefix(".")
    if given is None:
        if suffix not in FORMATS:
            raise ValueError(f"the suffix of {out} names no format; valid: {', '.join(FORMATS)}, or give --format")
        return suffix
    one_of("format", given, FORMATS)
    if suffix in FORMATS and suffix != given:
        raise ValueError(f"{out} names the format {suffix}, and --format {given}; give one of them")
    return given


def refuse_existing(out: Path) -> None:
    """Raise ValueError where there is something, or no folder to write to."""
    if out.exists():
        raise ValueError(f"{out} exists; remove it, or give another --out")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"{out}: there is no folder {out.absolute().parent}")
