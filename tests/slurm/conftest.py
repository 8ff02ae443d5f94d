"""Slurm is started here, once without accounting and once with it (slurmdbd). Where it does not start, tests fail."""

from collections.abc import Iterator

import pytest
from slurm_cluster import Cluster


@pytest.fixture(scope="module", params=[False, True], ids=["no_accounting", "accounting"])
def cluster(request) -> Iterator[Cluster]:
    """One at a time, for all tests that want it: the machine is small."""
    with Cluster.running(request.param) as cluster:
        yield cluster
