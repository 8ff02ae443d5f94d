"""Fonts for names in any script: of files, classes and studies."""

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from matplotlib import font_manager

__all__ = ["FAMILIES", "missing_said"]

# Those that have Chinese, Japanese or Korean characters, which matplotlib's own lacks.
_OTHERS = (
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK KR", "Source Han Sans", "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei", "IPAexGothic", "IPAGothic", "Droid Sans Fallback", "Unifont", "PingFang SC",
    "Hiragino Sans GB", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS",
)  # fmt: skip
_installed = {font.name for font in font_manager.fontManager.ttflist}
FAMILIES = ["DejaVu Sans", *(name for name in _OTHERS if name in _installed)]

_logger = logging.getLogger(__name__)
_said: set[str] = set()


@contextmanager
def missing_said() -> Iterator[None]:
    """Characters that no font has are said once in a line of the log, instead of a warning for each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    lacking = set()
    for warning in caught:
        if found := re.match(r"Glyph (\d+) .*missing from", str(warning.message)):
            lacking.add(chr(int(found[1])))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    if new := lacking - _said:
        _said.update(new)
        _logger.warning(
            "no font here has %s: boxes stand for them in the figures; installing Noto Sans CJK helps",
            "".join(sorted(new)[:20]),
        )
