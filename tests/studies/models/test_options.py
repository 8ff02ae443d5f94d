"""Options as they are typed: ranges, defaults, canonical specs, and older spellings."""

import pytest
from timm.models.vision_transformer import VisionTransformer

from cropr.dropping import IN_IMAGES, IN_PIXELS
from studies.models.methods import builtin, parse_one
from studies.models.reducers import build

EVERY = [
    (name, option, dense) for name, cls in builtin().items() for option in cls.options() for dense in (False, True)
]
DROPPERS = tuple(name for name, cls in builtin().items() if "rest" in cls.options())
SCHEDULED = tuple(name for name, cls in builtin().items() if "schedule" in cls.options())
TEXT = tuple((name, "like") for name, cls in builtin().items() if "like" in cls.options())  # names another method


def tiny(**options):
    return VisionTransformer(img_size=32, patch_size=4, embed_dim=48, depth=6, num_heads=3, num_classes=10, **options)


def test_there_is_something_to_test():
    assert {name for name, *_ in EVERY} >= {"random", "cropr", "tome", "evit", "dynamicvit"} and len(EVERY) > 100
    assert len(DROPPERS) >= 11 and "tome" not in DROPPERS
    assert all(list(builtin()[name].options()[key].bad_texts()) for name, key, _ in EVERY if (name, key) not in TEXT)


@pytest.mark.parametrize(("name", "key", "dense"), [row for row in EVERY if row[:2] not in TEXT])
def test_what_is_out_of_range_is_refused_by_name_value_and_range(name, key, dense):
    cls = builtin()[name]
    option = cls.options()[key]
    for text in [*option.bad_texts(), "", "3//6", "1,5", "None"]:
        with pytest.raises(ValueError) as error:
            cls.parse({key: text}, dense)
        said = str(error.value)
        assert name in said and key in said and repr(text) in said and option.valid in said, said


@pytest.mark.parametrize(("name", "key", "dense"), EVERY)
def test_the_default_is_accepted_and_not_written_again(name, key, dense):
    cls = builtin()[name]
    option, default = cls.options()[key], cls.options()[key].default_for(dense)
    assert getattr(cls(dense=dense), key) == default
    if default is not None:
        method = cls.parse({key: option.write(default)}, dense)
        assert method == cls(dense=dense) and str(method) == name


# Choices that make no sense by themselves, by what they need or where they belong.
REFUSED = (
    {(name, "rest", rest, False) for name in DROPPERS for rest in ("concat", "mask", "nearest", "logits")}
    | {(name, "rest", "fuse", True) for name in DROPPERS}
    | {("dynamicvit", "rest", "fuse", False), ("diffrate", "rest", "fuse", False)}
    | {("diffrate", "rest", "squeeze", dense) for dense in (False, True)}
    | {(name, "schedule", "explicit", dense) for name in SCHEDULED for dense in (False, True)}
    | {(name, "schedule", "learned", True) for name in builtin()}
    | {(name, "curriculum", "true", False) for name in DROPPERS}
    | {(name, "aux", aux, False) for name in DROPPERS for aux in ("dense", "presence", "grid")}
)


@pytest.mark.parametrize(("name", "key", "dense"), EVERY)
def test_every_choice_is_accepted_where_it_makes_sense(name, key, dense):
    cls = builtin()[name]
    option = cls.options()[key]
    for text in option.choices or (("true", "false") if bool in option.kinds else ()):
        if (name, key, text, dense) in REFUSED:
            with pytest.raises(ValueError, match=name):
                cls.parse({key: text}, dense)
            continue
        method = cls.parse({key: text}, dense)
        assert option.write(getattr(method, key)) == text
        assert str(method) == (name if text == option.write(option.default_for(dense)) else f"{name}:{key}={text}")
        assert parse_one(str(method), dense) == method


@pytest.mark.parametrize(("name", "key", "dense"), EVERY)
def test_the_ends_of_a_range_that_belong_to_it_are_accepted(name, key, dense):
    cls = builtin()[name]
    option = cls.options()[key]
    for end in (option.low, option.high):
        if end is not None:
            beside = {"schedule": "constant"} if key == "first_extra" else {}  # it is of that schedule alone
            value = getattr(cls.parse({key: f"{end:g}", **beside}, dense), key)
            assert value == ((int(end),) if option.kinds[0] is tuple else end)


@pytest.mark.parametrize(
    ("typed", "canonical"),
    [
        ("cropr:queries=4,heads=2", "cropr:heads=2,queries=4"),
        ("cropr:rate=8.0", "cropr:rate=8"),
        ("cropr:mlp=TRUE,detach=False", "cropr:detach=false"),
        ("tome:r=8/0/8", "tome:r=8/0/8"),
        ("tome:inflect=-1.0,r=6", "tome:inflect=-1,r=6"),
        ("evit:keep=.70", "evit:keep=0.7"),
        ("evit:at=3/6/9,start=0.10", "evit:at=3/6/9,start=0.1"),
    ],
)
def test_a_spec_is_written_in_one_way(typed, canonical):
    method = parse_one(typed)
    assert str(method) == canonical and parse_one(canonical) == method


# ---- older spellings

OLD = [  # typed long ago, what it is now, in dense tasks
    ("cropr:llf=true", "cropr:rest=llf", False),
    ("random:fusion=llf", "random:rest=llf", False),
    ("cropr:llf=false", "cropr", False),
    ("cropr:fusion=none", "cropr", False),
    ("dynamicvit:llf=true", "dynamicvit:rest=llf", False),
    ("dynamicvit:policy=sdpa", "dynamicvit:attention=sdpa", False),
    ("dynamicvit:blocks=2/4,ratio=0.6", "dynamicvit:at=2/4,ratio=0.6", False),
    ("evit:fuse=true", "evit", False),
    ("evit:fuse=false", "evit:rest=drop", False),
    ("evit:llf=false", "evit", False),  # nothing comes back: as published, fused
    ("evit:fusion=none", "evit", False),
    ("evit:fuse=true,llf=false", "evit", False),
    ("evit:fuse=true,fusion=none", "evit", False),
    ("evit:fuse=false,llf=true", "evit:rest=llf", False),
    ("evit:blocks=1/3,keep=0.5", "evit:at=1/3,keep=0.5", False),
    ("cropr:llf=true", "cropr", True),
    ("cropr:llf=false", "cropr:rest=drop", True),
    ("random:fusion=none", "random:rest=drop", True),
    ("evit:fuse=false", "evit", True),
    ("evit:fuse=false,fusion=none", "evit:rest=drop", True),
    ("evit:llf=false", "evit:rest=drop", True),
    ("evit:blocks=1/3,fuse=false", "evit:at=1/3", True),
    ("dynamicvit:policy=sdpa,fusion=mask", "dynamicvit:attention=sdpa,rest=mask", True),
    *((f"{name}:fusion={mode}", f"{name}:rest={mode}", True)
      for name in DROPPERS for mode in ("concat", "mask", "nearest", "logits")),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "dense"), OLD)
def test_older_spellings_are_the_same_method(old, new, dense):
    ours, theirs = parse_one(old, dense), parse_one(new, dense)
    assert ours == theirs and str(ours) == str(theirs) == new
    counts = []
    for method in (ours, theirs):
        built = build(tiny(), method, 0.7 if method.takes_budget else None)
        counts.append((built.model.token_counts(), built.native, built.model.policy, built.model.llf))
    assert counts[0] == counts[1] and counts[0][0][-2][0] < 65
    last = counts[0][0][-1][0]
    assert (last == 65) == (ours.rest in ("llf", "mask"))


@pytest.mark.parametrize(
    ("text", "dense", "words"),
    [
        ("random:fusion=none,llf=true", True, ["drop and llf", "give only rest="]),
        ("random:fusion=llf,llf=false", True, ["drop and llf", "give only rest="]),
        ("random:fusion=llf,llf=false", False, ["drop and llf", "give only rest="]),
        ("evit:fuse=true,llf=true", False, ["fuse and llf", "give only rest="]),
        ("evit:rest=drop,fuse=true", False, ["drop and fuse", "give only rest="]),
        ("evit:rest=fuse,fuse=false", False, ["drop and fuse", "give only rest="]),
        ("cropr:rest=llf,llf=false", False, ["drop and llf", "give only rest="]),
        ("cropr:rest=concat,fusion=mask", True, ["concat and mask", "give only rest="]),
        ("evit:fuse=true", True, ["rest=fuse", "stands for no place"]),
        ("cropr:fusion=concat", False, ["rest=concat", "dense tasks"]),
        ("evit:fuse=maybe", False, ["fuse", "'maybe'", "true, false"]),
        ("evit:at=1/3,blocks=2/4", False, ["blocks=", "at="]),
        ("evit:blocks=1/3,at=1/3", False, ["blocks=", "at="]),
        ("dynamicvit:policy=sdpa,attention=exact", False, ["policy=", "attention="]),
        ("tome:llf=true", False, ["unknown option of tome", "'llf'"]),
    ],
)
def test_contradictions_are_refused(text, dense, words):
    with pytest.raises(ValueError) as error:
        parse_one(text, dense)
    assert all(word in str(error.value) for word in words), error.value


def test_what_each_task_has_for_the_rest():
    for name in DROPPERS:
        for dense, valid in ((False, IN_IMAGES), (True, IN_PIXELS)):
            taken = [rest for rest in valid if (name, "rest", rest, dense) not in REFUSED]
            assert all(parse_one(f"{name}:rest={rest}", dense).rest == rest for rest in taken)


@pytest.mark.parametrize("text", ["cropr:", "cropr:,rate=4", "cropr:rate=4,,heads=3"])
def test_an_empty_option_is_refused(text):
    with pytest.raises(ValueError, match="has an empty option; options are written cropr:key=value"):
        parse_one(text)
