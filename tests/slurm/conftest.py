"""Slurm is started here, once without accounting and once with it (slurmdbd). Where it does not start, tests fail."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster


@pytest.fixture(scope="module", params=[False, True], ids=["no_accounting", "accounting"])
def cluster(request) -> Iterator[Cluster]:
    """One at a time, for all tests that want it: the machine is small."""
    cluster = Cluster(request.param)
    cluster.script("up")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(cluster.folder / "c" / "slurm.conf"))
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the jobs': sbatch takes it along
        yield cluster
    cluster.script("down")
    shutil.rmtree(cluster.folder)
