"""How a process holds the folder of a run or a backbone while it works there, and what surrounds it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from results.records.store import Claim, ClaimedElsewhere, run_status, write_failure
from studies.config import RunConfig
from studies.models.given import place_of
from studies.training.distributed import World
from studies.training.trainer import Stopped, Trainer

__all__ = ["HERE", "Held", "Host", "claimed"]


@dataclass(frozen=True)
class Host:
    """What surrounds a run: how it claims its directory, the threads of a backbone (a run takes what its config says),
    who is told of each trainer before it starts, whether what has failed is tried again, and how many processes decode
    images for it."""

    claim: Callable[[Path], Claim] = Claim
    num_threads: int = 1
    training: Callable[[Trainer], None] | None = None
    repeat_failed: bool = True
    workers: int = 0

    def given_up(self, folder: Path) -> bool:
        return not self.repeat_failed and (folder / "failure.json").exists()


HERE = Host()


@dataclass(frozen=True)
class Held:
    """A folder that this process, or the first of its world, has claimed."""

    folder: Path
    host: Host
    world: World
    claim: Claim | None  # None in the others

    def check(self) -> None:
        """Raise ClaimedElsewhere where another process took over: this one was thought dead and must write no more."""
        if self.claim is not None and not self.claim.held():
            raise ClaimedElsewhere(f"{self.folder.name} was taken over: this process was thought dead")

    @contextmanager
    def recording_failures(self, config: RunConfig) -> Iterator[None]:
        """Leaves failure.json for what goes wrong; that of an earlier attempt goes as soon as a new one starts."""
        if self.world.first:
            (self.folder / "failure.json").unlink(missing_ok=True)
        try:
            yield
        except (ClaimedElsewhere, Stopped):  # nothing went wrong: it is another's now, or it goes on later
            raise
        except Exception as error:
            if self.world.first:
                write_failure(self.folder, error, config.to_dict(), place_of(error))
            raise

    def run(self, trainer: Trainer) -> list[dict[str, float]]:
        if self.host.training is not None:
            self.host.training(trainer)
        return trainer.run()


@contextmanager
def claimed(run_dir: Path, world: World, host: Host) -> Iterator[Held | None]:
    """Holds the run; None where nothing is to do. The first process finds out for all of them."""
    with ExitStack() as stack:
        to_do, claim = False, None
        try:
            if world.first:
                claim = stack.enter_context(host.claim(run_dir))
                finished = run_status(run_dir).state in ("done", "unreachable")
                to_do = not finished and not host.given_up(run_dir)
        finally:
            (to_do,) = world.any(to_do)
        yield Held(run_dir, host, world, claim) if to_do else None
