"""What an experiment is: arms, each a visible dict of overrides of a profile, seeds, and what is compared."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from asg import AsgError
from asg.config import RunConfig, make_config
from asg_book.policies import REPEATS
from asg_book.profiles import ANY, PROFILES, merged, policy_name


@dataclass(frozen=True)
class Published:
    """A number read in a published table, with its source."""

    value: float
    source: str


@dataclass(frozen=True)
class Experiment:
    """One table or figure: arms as overrides of a profile, seeds, and what is compared with what.

    ``seeds``: profile → seeds, for the profiles that it is run in; the first one is its ``home``, which a chapter
    shows. In ANY other it has as many seeds as there, from 0.

    Under the name of a profile an arm holds what it overrides there alone. ``control.policy`` names one of
    POLICIES; a run takes the one of its own profile (or of POLICIES_OF). Where ``repeated``, an arm whose policy has
    REPEATS runs with each of them. ``metric_of``: arm → metric → what the table shows in its place (None: a dash).
    """

    id: str
    question: str
    arms: Mapping[str, Mapping]
    seeds: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: {"mini": (0, 1, 2, 3, 4)})
    metric: str = "accuracy"
    differences: tuple[tuple[str, str], ...] = ()
    claims: tuple[tuple[str, str], ...] = ()  # further differences, which the page of results alone shows
    common: Mapping[str, Mapping] = field(default_factory=dict)  # profile → overrides of every arm
    published: Mapping[str, Published] = field(default_factory=dict)
    metric_of: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    repeated: bool = False

    @property
    def home(self) -> str:
        """The profile that is shown first."""
        return next(iter(self.seeds))

    def is_run_in(self, profile: str) -> bool:
        """Whether it is run in a profile."""
        return profile in (*self.seeds, *ANY)

    def seeds_of(self, profile: str) -> tuple[int, ...]:
        """The seeds in a profile; raises :class:`AsgError` that lists the profiles it is run in."""
        if not self.is_run_in(profile):
            raise AsgError(
                f"The experiment {self.id!r} is not run in the profile {profile!r}: choose from "
                f"{', '.join((*self.seeds, *ANY))}."
            )
        return self.seeds.get(profile) or tuple(range(len(self.seeds[self.home])))

    @property
    def family(self) -> tuple[tuple[str, str], ...]:
        """Every difference that is shown anywhere, which Holm's correction is over, metric by metric (departure 12)."""
        return (*self.differences, *self.claims)

    def repeats(self, arm: str) -> tuple[str, ...]:
        """The policies that an arm runs with, in turn; none where no learned policy is repeated."""
        control = self.arms[arm].get("control") or {}
        known = self.repeated and control.get("kind") == "learned"
        return REPEATS.get(control["policy"], ()) if known else ()

    def config(
        self, profile: str, arm: str, seed: int, overrides: Mapping | None = None, policy: str | None = None
    ) -> RunConfig:
        """The run of one arm and seed; raises :class:`AsgError` that lists what there is.

        ``policy``: one of POLICIES, in place of the arm's own.
        """
        if profile not in PROFILES:
            raise AsgError(f"There is no profile {profile!r}: choose from {', '.join(PROFILES)}.")
        if arm not in self.arms:
            raise AsgError(f"The experiment {self.id!r} has no arm {arm!r}: choose from {', '.join(self.arms)}.")
        effective = merged(self.arms[arm], profile)
        if (control := effective.get("control")) and control.get("policy"):
            effective["control"] = {**control, "policy": policy_name(profile, policy or control["policy"])}
        return make_config(PROFILES[profile], self.common.get(profile, {}), effective, {"seed": seed}, overrides or {})

    def configs(
        self, profile: str, arm: str, seeds: Sequence[int] = (), overrides: Mapping | None = None
    ) -> list[RunConfig]:
        """Every run of an arm: ``seeds`` (none: the experiment's), with each repeated policy in turn.

        Overrides that bring a control of their own are run with that one.
        """
        if arm not in self.arms:
            raise AsgError(f"The experiment {self.id!r} has no arm {arm!r}: choose from {', '.join(self.arms)}.")
        policies = () if "control" in (overrides or {}) else self.repeats(arm)
        return [
            self.config(profile, arm, seed, overrides, policy)
            for policy in policies or (None,)
            for seed in tuple(seeds) or self.seeds_of(profile)
        ]
