"""A study that is killed ends as one that was left alone."""

from kill_study import survives


def test_three_kills(tmp_path):
    assert len(survives(tmp_path, kills=3, seed=0)) == 3
