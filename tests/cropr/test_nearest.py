"""Messages about unknown names."""

from cropr.nearest import did_you_mean, nearest


def test_message_names_the_bad_value_the_nearest_and_the_valid_ones():
    assert (
        nearest("reducer", "evti", ["tome", "evit"]) == "unknown reducer 'evti'; did you mean evit? Valid: evit, tome"
    )
    assert nearest("reducer", "xyz", ["tome", "evit"]) == "unknown reducer 'xyz'. Valid: evit, tome"
    assert nearest("tag", "xyz", []) == "unknown tag 'xyz'. Valid: none"


def test_several_near_ones():
    names = ["vit_small_patch16_224", "vit_small_patch32_224", "deit_tiny"]
    assert did_you_mean("vit_smal_patch16_224", names, 2) == f"; did you mean {' or '.join(names[:2])}?"
    assert did_you_mean("resnet", names) == ""
