"""Slurm is started here, once with accounting (slurmdbd) and once without. Where it does not start, tests fail."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from slurm_cluster import Cluster


@pytest.fixture(scope="session")
def start_cluster() -> Iterator[Callable[[bool], Cluster]]:
    """One cluster at a time: the machine is small."""
    running: dict[bool, Cluster] = {}

    def stop() -> None:
        for cluster in running.values():
            cluster.script("down")
            shutil.rmtree(cluster.folder)
        running.clear()

    def start(accounting: bool) -> Cluster:
        if accounting not in running:
            stop()
            cluster = running[accounting] = Cluster(accounting)
            cluster.script("up")
        return running[accounting]

    yield start
    stop()


@pytest.fixture
def with_accounting(start_cluster, monkeypatch) -> Cluster:
    return _entered(start_cluster(True), monkeypatch)


@pytest.fixture
def without_accounting(start_cluster, monkeypatch) -> Cluster:
    return _entered(start_cluster(False), monkeypatch)


def _entered(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("SLURM_CONF", str(cluster.folder / "c" / "slurm.conf"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # the jobs': sbatch takes it along
    return cluster
