"""An option of a method: its default, its meaning and its range, where it is declared. From this come parsing, error
messages, `list reducers NAME`, the docs, and the test that values outside are refused. Standard library only."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from cropr.nearest import did_you_mean

__all__ = ["Option", "option", "options_of"]

KEY = "option"  # of a field's metadata
UNSAID = object()


@dataclasses.dataclass(frozen=True)
class Option:
    """One option. Bounds are for numbers, and for each of a list: `low` and `high` belong to the range, `above` and
    `below` do not."""

    default: Any
    meaning: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    choices: tuple[str, ...] = ()
    sets_cost: bool = False  # a budget solves for it, unless it is given
    dense: Any = UNSAID  # the default in dense tasks, where it is another one
    unset: str = ""  # what None means, in words
    name: str = ""
    kinds: tuple[type, ...] = ()  # of bool, int, float, str, tuple
    element: type = int  # of a tuple
    optional: bool = False  # None is a value
    spelled: Mapping[str, str] = dataclasses.field(default_factory=dict)  # other spellings of choices
    what: str = "option"  # in messages

    def default_for(self, dense: bool) -> Any:
        return self.dense if dense and self.dense is not UNSAID else self.default

    @property
    def shown(self) -> str:
        """The default, in words."""
        if self.default is None:
            return "by budget" if self.sets_cost else self.unset or "none"
        dense = "" if self.dense is UNSAID else f"; dense tasks: {self.write(self.dense)}"
        return self.write(self.default) + dense

    @property
    def valid(self) -> str:
        """What it takes, in words."""
        if self.choices:
            return ", ".join(self.choices)
        if bool in self.kinds:
            return "true, false"
        kind = "a whole number" if int in self.kinds else "a number" if float in self.kinds else "text"
        listed = "whole numbers written 3/6/9" if self.element is int else "numbers written 0.9/0.98"
        words = [kind] if kind != "text" or str in self.kinds else []
        return " or ".join(words + [listed] * (tuple in self.kinds)) + self._range

    @property
    def _range(self) -> str:
        low, high = (self.low, self.above), (self.high, self.below)
        if low == high == (None, None):
            return ""
        left = f"({self.above:g}" if self.above is not None else "(-inf" if self.low is None else f"[{self.low:g}"
        right = f"{self.below:g})" if self.below is not None else "inf)" if self.high is None else f"{self.high:g}]"
        return f" in {left}, {right}"

    def parse(self, text: str) -> Any:
        """The value written as `text`. Raises ValueError naming value, valid ones and the nearest."""
        text = self.spelled.get(text.lower(), text)
        for kind in (bool, int, float, tuple, str):
            if kind in self.kinds:
                try:
                    return self.check(_convert(kind, text, self.element))
                except (ValueError, OverflowError):
                    continue
        raise self._refusal(text)

    def check(self, value: Any) -> Any:
        """`value`, if it is one. Raises ValueError."""
        if value is None and (self.optional or self.default is None):
            return value
        if not self._is_valid(value):
            raise self._refusal(self.write(value))
        return value

    def _is_valid(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, bool) or bool in self.kinds:
            return isinstance(value, bool) and bool in self.kinds
        if isinstance(value, tuple):
            elements = (int,) if self.element is int else (int, float)
            return tuple in self.kinds and bool(value) and all(type(v) in elements and self._within(v) for v in value)
        if isinstance(value, str):
            return str in self.kinds
        numeric = isinstance(value, int) if float not in self.kinds else isinstance(value, int | float)
        return numeric and bool({int, float} & set(self.kinds)) and self._within(value)

    def _within(self, value: float) -> bool:
        bounds = (
            self.low is None or value >= self.low, self.high is None or value <= self.high,
            self.above is None or value > self.above, self.below is None or value < self.below,
        )  # fmt: skip
        return math.isfinite(value) and all(bounds)

    def _refusal(self, text: str) -> ValueError:
        near = did_you_mean(text, self.choices) or ";"
        return ValueError(f"{self.what} {self.name} cannot be {text!r}{near} valid: {self.valid}")

    def write(self, value: Any) -> str:
        """As it is typed."""
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, tuple):
            return "/".join(map(str, value))
        return f"{value:.12g}" if isinstance(value, float) else str(value)

    def bad_texts(self) -> Iterator[str]:
        """Texts outside the range, beyond each of its ends, for tests."""
        if self.choices:
            yield self.choices[0] + "x"
            return
        if str not in self.kinds:
            yield "foo"
        if {int, float} & set(self.kinds):
            yield from ("nan", "inf")
        if bool not in self.kinds:
            yield from (str(int(low - 1)) for low in (self.low, self.above) if low is not None)
            yield from (str(int(high + 1)) for high in (self.high, self.below) if high is not None)
            yield from (f"{end:g}" for end in (self.above, self.below) if end is not None)


def _convert(kind: type, text: str, element: type) -> Any:
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if kind is tuple:
        return tuple(element(part) for part in text.split("/"))
    return kind(text)


def option(default: Any, meaning: str, **rest: Any) -> Any:
    """A dataclass field that is an option; `rest`: further fields of `Option`. Where dense tasks have another default
    the field itself starts as None, and the method fills it in."""
    made = Option(default, meaning, **rest)
    start = default if made.dense is UNSAID else None
    return dataclasses.field(default=start, metadata={KEY: made})


def options_of(cls: type) -> dict[str, Option]:
    """The options of a dataclass by name. Raises TypeError for an annotation that is no kind of option."""
    found = {}
    for field in dataclasses.fields(cls):
        if KEY in field.metadata:
            kinds = _kinds(_annotation(cls, field))
            if not kinds:
                raise TypeError(f"option {field.name} is annotated {field.type}; valid: bool, int, float, str, tuple")
            found[field.name] = dataclasses.replace(
                field.metadata[KEY], name=field.name, kinds=kinds, element=_element(_annotation(cls, field)),
                optional=type(None) in get_args(_annotation(cls, field)),
            )  # fmt: skip
    return found


def _element(hint: Any) -> type:
    """Of the tuples that a hint allows: float where it names them, else int."""
    return float if any(float in get_args(part) for part in (hint, *get_args(hint)) if _is_tuple(part)) else int


def _is_tuple(hint: Any) -> bool:
    return getattr(hint, "__origin__", hint) is tuple


def _annotation(cls: type, field: dataclasses.Field) -> Any:
    """Of one field: those of class variables name what is imported for type checkers alone."""
    if not isinstance(field.type, str):
        return field.type
    owner = next(base for base in cls.__mro__ if field.name in base.__dict__.get("__annotations__", {}))
    return eval(field.type, vars(sys.modules[owner.__module__]))  # as typing.get_type_hints does


def _kinds(hint: Any) -> tuple[type, ...]:
    parts = get_args(hint) if not isinstance(hint, type) and getattr(hint, "__origin__", None) is not tuple else (hint,)
    kinds = [tuple if getattr(part, "__origin__", part) is tuple else part for part in parts]
    return tuple(kind for kind in kinds if kind in (bool, int, float, str, tuple))
