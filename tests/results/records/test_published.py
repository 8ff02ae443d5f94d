"""Published numbers: matched to the dense row of the same source, or not shown as relative at all."""

from pathlib import Path

import pandas as pd
import pytest

from results.records.published import PUBLISHED_CSV, comparable, load_published, published_backbone

HEADER = "method,backbone,task,dataset,setting,metric,value,gflops,throughput_img_s,hardware,source\n"


def _load(tmp_path: Path, *rows: str) -> pd.DataFrame:
    (tmp_path / "p.csv").write_text(HEADER + "\n".join(rows))
    return load_published(tmp_path / "p.csv")


def test_a_throughput_is_relative_to_the_same_source_backbone_and_hardware(tmp_path: Path) -> None:
    table = _load(
        tmp_path,
        "unpruned,S,classification,I,,top1,80.0,4.0,1000,V100,paper A",
        "X,S,classification,I,,top1,79.0,2.0,1500,V100,paper A",
        "Y,S,classification,I,,top1,79.0,3.0,1500,A100,paper A",
        "Z,S,classification,I,,top1,79.0,2.0,1500,V100,paper B",
        "W,B,classification,I,,top1,79.0,2.0,1500,V100,secondary: paper A",
    )
    rows = table.set_index("method")
    assert tuple(rows.loc["X", ["throughput_ratio", "macs_share", "difference"]]) == (1.5, 0.5, -1.0)
    assert pd.isna(rows.loc["Y", "throughput_ratio"]) and rows.loc["Y", "macs_share"] == 0.75
    assert rows.loc[["unpruned", "Z", "W"], ["throughput_ratio", "macs_share", "difference"]].isna().all(axis=None)
    assert list(table["secondary"]) == [False, False, False, False, True]


def test_dense_rows_of_one_source_are_told_apart_by_their_setting() -> None:
    # ToMe's README has MAE ViT-L twice: fine-tuned (85.66) and off the shelf (85.96).
    table = load_published()
    tome = table[(table["method"] == "ToMe") & (table["backbone"] == "MAE ViT-L/16@224")]
    differences = dict(zip(tome["setting"], tome["difference"].round(2), strict=True))
    assert differences == {"r=8 const; trained; MAE fine-tune": -0.57, "r=8 const; off-the-shelf; MAE": -1.74}


def test_no_guess_where_two_dense_rows_fit(tmp_path: Path) -> None:
    dense = "unpruned,S,classification,I,baseline,top1,{},4.0,1000,V100,paper A"
    table = _load(
        tmp_path, dense.format(80), dense.format(81), "X,S,classification,I,baseline,top1,79,2,1,V100,paper A"
    )
    assert table["difference"].isna().all()


def test_every_row_keeps_its_source() -> None:
    table = load_published()
    assert len(table) == len(PUBLISHED_CSV.read_text().splitlines()) - 1
    assert table["source"].notna().all() and table["secondary"].sum() == 31


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("deit_small_patch16_224.fb_in1k", "DeiT-S/16@224"),
        ("vit_large_patch16_224.mae", "MAE ViT-L/16@224"),
        ("vit_base_patch16_384", "ViT-B/16@384"),
        ("scenes_vit", None),
    ],
)
def test_names_of_backbones(ours: str, theirs: str | None) -> None:
    assert published_backbone(ours) == theirs


def test_absolute_numbers_only_for_the_same_data_and_backbone() -> None:
    table = load_published()
    assert set(comparable(table, "imagenet", "deit_small_patch16_224")["backbone"]) == {"DeiT-S/16@224"}
    assert comparable(table, "scenes", "deit_small_patch16_224").empty
    assert comparable(table, "imagenet", "scenes_vit").empty


def test_a_file_without_its_columns_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("method,backbone\n")
    with pytest.raises(ValueError, match="lacks the columns task"):
        load_published(tmp_path / "p.csv")
