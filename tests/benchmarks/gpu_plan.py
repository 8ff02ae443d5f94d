"""What `make gpu` measures, in two parts that end in less than nine minutes together. Estimates are arithmetic, from
MACs and from rates that a data-centre GPU should reach; each part is cut off at its limit whatever they say.
"""

from dataclasses import dataclass

PARTS = (1, 2)
LIMIT_S = 255.0  # of a part; both make 8.5 minutes
TESTS_S = 60.0  # of the tests marked gpu, in part 1
SETTING_S = 20.0  # of one eager setting at most; larger batches are halved until they fit
ROUNDS, WARM = 5, 5  # passes at most in front of the rounds, the one that takes the peak memory included

SMALL, BASE, LARGE = "vit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224"
EVA = "eva02_large_patch14_448"
GMACS = {(SMALL, 224): 4.599, (BASE, 224): 17.564, (LARGE, 224): 61.555, (EVA, 448): 360.9, (BASE, 512): 106.8}
RATES = {"float32": 40e12, "tf32": 200e12, "bfloat16": 350e12}  # FLOP a second, to plan with
PRECISIONS = ("float32", "tf32", "bfloat16")  # float32 without TF32, with it, and bfloat16
SPECS = ("cropr", "random", "tome", "evit", "dynamicvit")
BUDGETS = (0.75, 0.5)
PASS_S, COMPILE_S, BUILD_S = 0.015, 8.0, 0.15  # of a pass of a small batch, of compiling a variant, of making one
CREATE_S = {SMALL: 1.0, BASE: 2.0, LARGE: 5.0, EVA: 5.0}  # of making a backbone, once for all its settings
STEP_SHARE, VARIANT_SHARE = 3.6, 0.7  # a training step, and the mean variant, in forward passes of the dense model


@dataclass(frozen=True)
class Setting:
    """One measurement. `kind`: "speed", "compiled", "graphs" (CUDA graphs, at the lower budget), "queries"
    (Cropr with one for each of 1,024 patches) or "training"."""

    part: int
    kind: str
    backbone: str
    img_size: int
    batch_size: int
    precision: str

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.backbone}-{self.img_size}px-b{self.batch_size}-{self.precision}"

    @property
    def mode(self) -> str:
        """Of `bench`."""
        return self.kind if self.kind in ("compiled", "graphs") else "eager"

    @property
    def budgets(self) -> tuple[float, ...]:
        return BUDGETS[1:] if self.kind == "graphs" else BUDGETS

    @property
    def num_variants(self) -> int:
        if self.kind == "training":
            return len(SPECS) + 2  # dense, and the fused mask
        return 1 + len(SPECS) * len(self.budgets) + (self.kind == "queries")

    @property
    def estimate_s(self) -> float:
        """Seconds, without making the backbone."""
        dense = 2e9 * GMACS[self.backbone, self.img_size] * self.batch_size / RATES[self.precision]
        share = STEP_SHARE if self.kind == "training" else VARIANT_SHARE
        once = max(PASS_S * (2 if self.kind == "training" else 1), share * dense)
        making = BUILD_S if self.mode == "eager" else COMPILE_S
        return self.num_variants * (making + (ROUNDS + WARM) * once)


def largest(part: int, kind: str, backbone: str, img_size: int, precision: str, most: int) -> Setting:
    """With the largest batch, `most` or a half of it and so on, that ends in time."""
    while (found := Setting(part, kind, backbone, img_size, most, precision)).estimate_s > SETTING_S and most > 1:
        most //= 2
    return found


def plan(part: int) -> list[Setting]:
    """In the order of their worth: what does not fit into the time that is left is left out, and said."""
    if part == 1:
        found = [
            largest(1, "speed", backbone, 224, precision, most)
            for backbone in (SMALL, BASE, LARGE)
            for precision in PRECISIONS
            for most in (1, 16, 256)
        ]
    else:
        found = [largest(2, "training", SMALL, 224, precision, 64) for precision in PRECISIONS]
        found += [largest(2, "queries", BASE, 512, "bfloat16", most) for most in (1, 16)]
        found += [
            largest(2, "speed", EVA, 448, precision, most)
            for precision, most in (("bfloat16", 1), ("bfloat16", 64), ("tf32", 16), ("float32", 16))
        ]
        found += [Setting(2, "compiled", SMALL, 224, 256, "bfloat16"), Setting(2, "graphs", SMALL, 224, 1, "bfloat16")]
    return list(dict.fromkeys(found))


def planned_s(part: int) -> float:
    """Seconds of a part, by estimate."""
    settings = plan(part)
    backbones = {setting.backbone for setting in settings}
    return sum(s.estimate_s for s in settings) + sum(CREATE_S[b] for b in backbones) + (TESTS_S if part == 1 else 0)


def lines() -> list[str]:
    """The plan, for a person."""
    found = []
    for part in PARTS:
        found.append(f"part {part}: about {planned_s(part):.0f} s, cut off at {LIMIT_S:.0f} s")
        found += [f"  tests marked gpu, at most {TESTS_S:.0f} s"] if part == 1 else []
        found += [f"  {s.estimate_s:5.1f} s  {s.num_variants:2} variants  {s.name}" for s in plan(part)]
    return found
