"""Items that only one of two models gets right."""

import numpy as np
import pytest
import synthetic_records

from results.records.frames import run_frame
from results.records.store import load_records
from results.statistics.analysis import analyse


def test_lost_and_won_are_counted_item_by_item_on_common_seeds(tmp_path):
    rng = np.random.default_rng(0)
    hits = {(name, seed): rng.random(203) < 0.8 for name in ("none", "cropr", "evit") for seed in range(3)}
    (tmp_path / "runs").mkdir()
    for (name, seed), hit in hits.items():
        if (name, seed) != ("cropr", 1):
            synthetic_records.write_run(tmp_path, name, None if name == "none" else 0.5, seed, hit)
    rows = analyse(run_frame([load_records(tmp_path)])).variants.set_index("variant")
    for name, seeds in (("cropr", (0, 2)), ("evit", (0, 1, 2))):
        pairs = [(hits["none", seed], hits[name, seed]) for seed in seeds]
        lost = np.mean([[d and not m for d, m in zip(*pair, strict=True)] for pair in pairs])
        won = np.mean([[m and not d for d, m in zip(*pair, strict=True)] for pair in pairs])
        found = rows.loc[f"{name}@0.5"]
        assert (found["lost_percent"], found["won_percent"]) == pytest.approx((100 * lost, 100 * won))
        assert found["won_percent"] - found["lost_percent"] == pytest.approx(found["difference_points"])
    assert rows.loc["none", ["lost_percent", "won_percent"]].isna().all()
