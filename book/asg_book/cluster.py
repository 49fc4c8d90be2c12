"""Work on a Ray cluster: each call is a task with its resources, and one whose worker is lost is taken up again."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from filelock import FileLock

from asg import AsgError, memory, places, records
from asg.benchmarks import BENCHMARKS
from asg.config import MetaConfig, RunConfig
from asg.data import data_root, read_domains, sets_of
from asg.interrupts import Stopped
from asg.meta_training import Round, play, prepared_episodes
from asg.recipes import RECIPES
from asg.reinforce import Learner
from asg.trainers.conduct import cpu_threads
from asg_book.workers import QUIET

if TYPE_CHECKING:
    from ray.actor import ActorHandle

RETRIES = 5  # of a task whose worker or node was lost; each goes on after the run's last checkpoint


@dataclass(frozen=True)
class Resources:
    """What a task takes of the node that it runs on; fractions of a GPU are shared with other tasks."""

    cpus: float = 1.0
    gpus: float = 0.0


def import_ray() -> ModuleType:
    """The package, or :class:`AsgError`: it is an optional extra."""
    try:
        import ray
    except ImportError:
        raise AsgError("--on ray needs Ray: pip install 'asg-book[ray]', or leave --on out.") from None
    return ray


@contextmanager
def connected(ray: ModuleType, workers: int, resources: Resources) -> Iterator[None]:
    """The cluster at ``$RAY_ADDRESS``, or one on this machine for ``workers`` tasks, which ends with the block.

    Raises :class:`AsgError` where this machine lacks what a task takes; of a cluster, which may grow, it is said alone.
    """
    address = os.environ.get("RAY_ADDRESS")
    local = {} if address else {"num_cpus": math.ceil(workers * resources.cpus), "include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, **local)
    except Exception as error:  # Ray raises a dozen kinds
        reason = str(error).splitlines()[0]
        raise AsgError(
            f"There is no Ray cluster at {address or 'this machine'} ({reason}): look at `ray status`, or unset "
            "RAY_ADDRESS to start one here."
        ) from None
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= resources.cpus and node.get("GPU", 0) >= resources.gpus for node in nodes):
            lacking = f"No node has the {resources.cpus:g} CPUs and {resources.gpus:g} GPUs that a run asks for"
            if not address:
                raise AsgError(f"{lacking}: give fewer by --cpus-per-run and --gpus-per-run.")
            print(f"{lacking} yet: waiting for one.", file=sys.stderr, flush=True)
        yield
    finally:
        ray.shutdown()


def on_ray(
    call: Callable, arguments: list[tuple], workers: int, resources: Resources = Resources()
) -> Iterator[tuple[tuple, object]]:
    """Each tuple of ``arguments`` with what ``call`` gives for it, as they finish; an :class:`AsgError` if it is lost.

    ``call`` is a function of a module that the nodes have too. Data, runs, their networks and policies lie, on every
    node, where they lie on this machine: on storage that all share, or each node has its own. Nothing is written to
    the results: what ``call`` returns comes back, and a record that came back to nobody stays in ``runs/records``,
    where the next command finds it.
    """
    ray = import_ray()
    with connected(ray, workers, resources) if arguments else nullcontext():
        environment = {"env_vars": environment_of_tasks()}
        task = ray.remote(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_retries=RETRIES, retry_exceptions=[Stopped],
            runtime_env=environment,
        )(perform)  # fmt: skip
        waiting = {task.remote(versions(), call, given): given for given in arguments}
        while waiting:
            (done,), _ = ray.wait(list(waiting))
            given = waiting.pop(done)
            try:
                yield given, ray.get(done)
            except ray.exceptions.RayTaskError as error:
                if (mended := mendable(error)) is error:
                    raise
                yield given, mended
            except ray.exceptions.RayError as error:
                reason = str(error).splitlines()[0]
                yield given, AsgError(f"its worker was lost {RETRIES + 1} times ({reason}): look at `ray status`.")


def mendable(error: Exception) -> Exception:
    """What the user can mend of an error in a task, as the :class:`AsgError` that it was there; else the error."""
    return AsgError(str(error.cause)) if isinstance(error.cause, (AsgError, ModuleNotFoundError)) else error


@contextmanager
def rounds(
    meta: MetaConfig, folder: Path, device: str | None = None, resources: Resources = Resources()
) -> Iterator[Round]:
    """What plays ``meta.parallel`` episodes side by side (:func:`asg.meta_training.train_policy`), each in a worker.

    Their updates are made together: every worker has a copy of the learner, and they exchange what changes it. A round
    in which a worker is lost is played again by new ones.
    """
    ray = import_ray()
    with connected(ray, meta.parallel, resources):
        troupe = Troupe(ray, meta, folder, device, resources)

        def play_round(learner: Learner, numbers: range) -> list[dict]:
            for _ in range(RETRIES + 1):
                try:
                    return troupe.play(learner, numbers)
                except ray.exceptions.RayTaskError as error:
                    if not isinstance(error.cause, Stopped):
                        raise mendable(error) from None
                    reason = str(error.cause)  # its node is about to be taken away
                except ray.exceptions.RayError as error:
                    reason = str(error).splitlines()[0]
                troupe.replace()
            raise AsgError(f"A worker was lost {RETRIES + 1} times ({reason}): look at `ray status`.")

        yield play_round


class Troupe:
    """The workers of a meta-training, and where they meet."""

    def __init__(
        self, ray: ModuleType, meta: MetaConfig, folder: Path, device: str | None, resources: Resources
    ) -> None:
        self.ray, self.meta, self.place = ray, meta, (folder.resolve(), device)
        self.taken = {
            "num_cpus": resources.cpus, "num_gpus": resources.gpus,
            "runtime_env": {"env_vars": environment_of_tasks()},
        }  # fmt: skip
        self.gather_them()

    def gather_them(self) -> None:
        """Start the meeting, and a worker for each episode of a round."""
        self.meeting = self.ray.remote(num_cpus=0)(Meeting).remote()
        player = self.ray.remote(**self.taken)(Player)
        self.players = [
            player.remote(versions(), self.meta, *self.place, self.meeting, k) for k in range(self.meta.parallel)
        ]

    def replace(self) -> None:
        """Another meeting and other workers in place of those that are there, some of which are lost."""
        for actor in (self.meeting, *self.players):
            self.ray.kill(actor)
        self.gather_them()

    def play(self, learner: Learner, numbers: range) -> list[dict]:
        """The episodes ``numbers``, side by side: their points. ``learner`` goes on from what they learned."""
        self.ray.get(self.meeting.begin.remote(len(numbers)))
        state = self.ray.put(learner.state())
        waiting = [player.play.remote(state, number) for player, number in zip(self.players, numbers, strict=False)]
        while waiting:  # an error of one leaves the others waiting for it
            (done,), waiting = self.ray.wait(waiting)
            self.ray.get(done)
        played = self.ray.get([player.last.remote() for player in self.players[: len(numbers)]])
        learner.load(max((after for _, after in played), key=lambda after: after["progress"]["updates"]))
        return [point for point, _ in played]


class Meeting:
    """Where episodes side by side exchange their parts of an update: each waits until all that go on are there."""

    def __init__(self) -> None:
        self.present: set[int] = set()
        self.parts: dict[int, object] = {}
        self.last, self.turn, self.changed = [], 0, asyncio.Condition()

    async def begin(self, members: int) -> None:
        """A round of so many episodes."""
        self.present, self.parts = set(range(members)), {}

    async def exchange(self, member: int, part: object) -> list:
        """The parts of all, in the order of the episodes."""
        async with self.changed:
            self.parts[member], turn = part, self.turn
            self.close()
            await self.changed.wait_for(lambda: self.turn > turn)
            return self.last

    async def leave(self, member: int) -> None:
        """An episode is over: nobody waits for it any more."""
        async with self.changed:
            self.present.discard(member)
            self.close()

    def close(self) -> None:
        """End the turn, if all that go on have given their part."""
        if self.parts and self.parts.keys() >= self.present:
            self.last, self.parts, self.turn = [self.parts[k] for k in sorted(self.parts)], {}, self.turn + 1
            self.changed.notify_all()


class Player:
    """A worker that plays one episode of each round, in a folder of its own."""

    def __init__(
        self,
        expected: dict[str, int],
        meta: MetaConfig,
        folder: Path,
        device: str | None,
        meeting: ActorHandle,
        member: int,
    ) -> None:
        refuse_other_code(expected)
        memory.keep_freed()
        self.meta, self.meeting, self.member = meta, meeting, member
        self.learner = Learner(meta, self.gather)
        with cpu_threads(meta.student.threads):
            self.episodes = prepared_episodes(meta, folder / f"player-{member}", device)

    def gather(self, part: object) -> list:
        """The parts of all episodes that go on."""
        import ray

        return ray.get(self.meeting.exchange.remote(self.member, part))

    def play(self, state: dict, number: int) -> None:
        """The episode ``number`` of a learner in ``state``."""
        import ray

        self.learner.load(state)
        with cpu_threads(self.meta.student.threads):
            self.point = play(self.meta, self.episodes, self.learner, number)
        ray.get(self.meeting.leave.remote(self.member))

    def last(self) -> tuple[dict, dict]:
        """The point of the episode that was played, and the learner after it."""
        return self.point, self.learner.state()


def environment_of_tasks() -> dict[str, str]:
    """What a task finds in its environment: the places of this machine, and no progress bars."""
    places_here = {
        "ASG_DATA": data_root(), "ASG_RUNS": records.runs_root(), "ASG_POLICIES": places.policies(),
        "ASG_RESULTS": records.runs_root() / "records",
    }  # fmt: skip
    tracker = {name: value for name in ("ASG_TRACK",) if (value := os.environ.get(name))}
    return {**QUIET, **tracker, **{name: str(path.resolve()) for name, path in places_here.items()}}


def versions() -> dict[str, int]:
    """Part → version (:data:`asg.recipes.RECIPES`): what nodes must have in common."""
    return {part: len(why) for part, why in RECIPES.items()}


def refuse_other_code(expected: dict[str, int]) -> None:
    """Raise :class:`AsgError` in a worker whose code makes other numbers than the driver's."""
    if (ours := versions()) != expected:
        other = sorted(part for part in expected.keys() | ours.keys() if expected.get(part) != ours.get(part))
        raise AsgError(
            f"{socket.gethostname()} has another version of {', '.join(other)} than the driver: install the same asg "
            "on every node."
        )


def perform(expected: dict[str, int], call: Callable, given: tuple) -> object:
    """One call in a worker, which must have the code of the driver."""
    refuse_other_code(expected)
    memory.keep_freed()
    return call(*given)


def obtain(config: RunConfig) -> None:
    """Have the data of a run on this node: fetched by its script, once a node, where its reader misses them."""
    if not BENCHMARKS[config.data].scripts or is_readable(config):
        return
    if not places.is_checkout():
        raise AsgError(f"The data of {config.data} are not on this node, and only a checkout has the scripts for them.")
    with FileLock(str(places.place("data").with_suffix(".lock"))):  # others of this node wait
        for script in () if is_readable(config) else BENCHMARKS[config.data].scripts:
            command = [sys.executable, str(Path(places.CHECKOUT, "data_scripts", f"{script}.py"))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise AsgError(f"{socket.gethostname()}: {script}.py failed: {done.stderr.strip().splitlines()[-1]}")


def is_readable(config: RunConfig) -> bool:
    """Whether this node has the first and the last file of each set of a run's data: scripts obtain them in order."""
    try:
        for images in sets_of(read_domains(config)).values():
            images.decode(0), images.decode(len(images) - 1)
    except AsgError:
        return False
    return True
