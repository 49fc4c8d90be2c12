"""The catalogue: every table and figure of the book is declared here, once.

An arm is a visible dict of overrides, never a branch in the code. A profile is the base that the
arms override; results of two profiles never meet in one table.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from asg import AsgError, own_recipes
from asg.config import MetaConfig, RunConfig, make_config, validated
from asg_book import successors

# What the profiles of photographs on a CPU share: the network of mini, at its size.
LAPTOP = {
    "size": 128, "backbone": "timm:tf_efficientnet_lite0", "weights": "lite0", "steps": 400, "batch": 16, "lr": 0.01,
    "warmup": 40, "evaluations": 2, "threads": 1, "signals": True,
}  # fmt: skip
PROFILES: dict[str, dict] = {
    # Generated shapes and a tiny random network, seconds a run: tests only.
    "toy": {
        "profile": "toy", "data": "toy", "size": 32, "backbone": "timm:test_efficientnet", "weights": "random",
        "head_width": 16, "steps": 8, "batch": 8, "lr": 0.01, "warmup": 2, "evaluations": 2, "threads": 1,
    },
    # The embedded benchmark on a CPU (departure 5). Its composition was decided by the experiment "setting" below, by
    # what happens to plain training. lr is that of the first trials, fixed before and not tuned (data appendix).
    "mini": {
        "profile": "mini", "data": "mini", "size": 128, "backbone": "timm:tf_efficientnet_lite0", "weights": "lite0",
        "steps": 400, "batch": 16, "lr": 0.01, "warmup": 40, "evaluations": 5, "threads": 1,
    },
    # Drawings → photos and CAD renders → photos on a CPU (departure 31): length and base rate are what the rule
    # chooses from the records of "trials" (tests/test_choices.py compares).
    "cartoon": {**LAPTOP, "profile": "cartoon", "data": "pacs-cartoon", "steps": 200, "warmup": 20},
    "sketch": {**LAPTOP, "profile": "sketch", "data": "pacs-sketch", "steps": 200, "warmup": 20},
    "cad": {**LAPTOP, "profile": "cad", "data": "cad"},
    # The paper's VisDA-17 settings (section 4.1) are the defaults of RunConfig.
    "paper": {
        "profile": "paper", "data": "visda17", "backbone": "torchvision:resnet101", "epochs": 30, "evaluations": 30,
        "precision": "no", "teacher": "fp16", "workers": 8,
    },
}  # fmt: skip

BOOK = ("cartoon", "sketch", "cad", "mini")  # profiles whose records the book shows
ANY = ("toy", "paper")  # profiles in which every experiment can be run
# Student seeds of the tables that are made on every benchmark; on drawings and CAD renders no trial has seen them.
EVERYWHERE = {"cartoon": (5, 6, 7, 8, 9), "sketch": (5, 6, 7), "cad": (5, 6, 7), "mini": (0, 1, 2, 3, 4)}

# Seeds of everything that is tried before settings are chosen: other ones than the tables have.
TRIALS = {"cartoon": (0,), "sketch": (0,), "cad": (0,)}
# By the mean and spread of guided less plain in the first trials, ten seeds show it by the corrected test with a chance
# of .99, five with one of .49 (noncentral t at .05 / 8). Decided when two of the ten had been run.
TEN = tuple(range(5, 15))
FIVE, THREE = {"cartoon": (5, 6, 7, 8, 9)}, {"cartoon": (5, 6, 7)}  # of the tables on the main benchmark alone

SMALL = {"backbone_factor": 0.1}
# Where tried, at the base rate that the rule chooses from "trials_large" (tests/test_choices.py compares).
LARGE = {"backbone_factor": 1.0, "cartoon": {"lr": 0.001}, "sketch": {"lr": 0.003}, "cad": {"lr": 0.003}}
PROXY = {"guidance": 0.1}  # the paper's λ for classification
# Ratios multiply the hand-tuned warm-up and decay, as in the reference's segmentation; in its classification, which the
# paper profile follows, they do not (departure 18).
NO_SCHEDULE = {"paper": {"control": {"schedule": False}}}
RANDOM = {"control": {"kind": "random", "schedule": True}, **NO_SCHEDULE}
RANDOM_ONCE = {"control": {"kind": "random once", "schedule": True}, **NO_SCHEDULE}
# Shorter and smaller runs, of most tables; on mini at the base rate of the episodes that its policies come from.
SHORT = {
    "mini": {"size": 80, "steps": 124, "warmup": 12, "lr": 0.002, "evaluations": 2},
    "cartoon": {"size": 112, "evaluations": 1},
}


def learned(policy: str, **settings: object) -> dict:
    """The overrides that put a policy of POLICIES in charge (:func:`policy_name`)."""
    return {"control": {"kind": "learned", "policy": policy, "schedule": True, **settings}, **NO_SCHEDULE}


def learned_on_scenes(policy: str) -> dict:
    """The same in segmentation, where the paper's epochs are 2,000 steps and its windows 20 at least."""
    return {**learned(policy), "paper": {"control": {"epoch": 2000, "shortest": 20}}}


def fixed(ratios: tuple[float, ...] | None = None, policy: str | None = None) -> dict:
    """The overrides that keep ratios for the whole run: given ones, or the best of a search, ``NAME-search``."""
    return {"control": {"kind": "fixed", "ratios": ratios, "policy": policy, "schedule": True}, **NO_SCHEDULE}


# What an episode of the meta-training changes of a profile: shorter, smaller, synthetic images only (departure 15).
EPISODES: dict[str, dict] = {
    "toy": {"steps": 12, "evaluations": 1, "control": {"kind": "learned", "shortest": 3, "schedule": True}},
    "mini": {
        "size": 64, "steps": 30, "batch": 8, "warmup": 24, "lr": 0.002, "evaluations": 1,
        "control": {"kind": "learned", "schedule": True},
    },
    # at the base rate of the runs
    "cartoon": {
        "size": 64, "steps": 30, "batch": 8, "warmup": 24, "evaluations": 1,
        "control": {"kind": "learned", "schedule": True}, "signals": None,
    },
    "paper": {"steps": 2000, "evaluations": 1, "control": {"kind": "learned"}},
}  # fmt: skip
LENGTH = {
    "toy": {"episodes": 3, "groups": 3},
    "mini": {"episodes": 200},
    "cartoon": {"episodes": 200},
    "paper": {"episodes": 500},
}
OURS = {"reward": "held-out", "baseline": True, "gamma": 0.9, "lr": 0.03}
ASG = {**OURS, "student": PROXY}
# Every policy that a table of the book uses; "student" overrides the episode's run.
POLICIES: dict[str, dict] = {
    "asg": ASG,  # with proxy guidance
    "asg-1": {**ASG, "seed": 1},
    "asg-2": {**ASG, "seed": 2},
    "l2o": OURS,  # without
    # other rewards; "reference" has the settings of the reference and the simplest reward
    "improvement": {**ASG, "reward": "improvement"},
    "looks": {**ASG, "reward": "looks"},
    "reference": {"student": PROXY, "loss": "product of means"},
    # other choices
    "two-rates": {**ASG, "groups": 2},
    # one more ratio, of λ; paid for held-out images as they are and in other styles
    "weighing": {**ASG, "reward": "looks", "groups": 8, "student": {**PROXY, "weigh": "policy"}},
}
# Policies that differ in nothing but the seed of their meta-training; arms name the first (departure 12).
REPEATS = {"asg": ("asg", "asg-1", "asg-2")}
SEARCHES = ("asg", "l2o")  # policies beside which a search of the same cost stands


def policy_config(name: str, profile: str, overrides: Mapping | None = None, source: Path | None = None) -> MetaConfig:
    """The meta-training of a declared policy: profile, episode, policy and ``overrides`` in turn.

    ``student`` holds overrides of the episode's run. With a ``source``, the class folders of someone's own renders,
    the episodes of the profile are on these. Raises :class:`AsgError` that names what is wrong.
    """
    if profile not in EPISODES:
        raise AsgError(f"The profile {profile!r} has no episodes: choose from {', '.join(EPISODES)}.")
    if name not in POLICIES:
        raise AsgError(f"There is no policy {name!r}: choose from {', '.join(POLICIES)}.")
    declared, more = POLICIES[name], overrides or {}
    base = PROFILES[profile] if source is None else {**own_recipes.PROFILES["classification"], "source": str(source)}
    student = make_config(base, EPISODES[profile], declared.get("student", {}), more.get("student", {}))
    return validated(MetaConfig, {**LENGTH[profile], **declared, **more, "student": student})


@dataclass(frozen=True)
class Published:
    """A number read in a published table, with its source."""

    value: float
    source: str


POLICIES_OF = {"sketch": "cartoon", "cad": "cartoon"}  # the profile that the policies come from, where not its own


def policy_name(profile: str, declared: str) -> str:
    """The name in ``policies/`` of a declared policy, as runs of a profile use it (departure 33)."""
    return f"{POLICIES_OF.get(profile, profile)}-{declared}"


def merged(overrides: Mapping, profile: str) -> dict:
    """An arm's overrides in a profile: those under its name replace the others, in a mapping (control) one by one."""
    effective = {name: value for name, value in overrides.items() if name not in PROFILES}
    for name, value in overrides.get(profile, {}).items():
        both = isinstance(value, Mapping) and isinstance(effective.get(name), Mapping)
        effective[name] = {**effective[name], **value} if both else value
    return effective


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


CSG_TABLE_5 = "Chen et al. 2021 (CSG), table 5, GTA5 → Cityscapes, mIoU"
CSG_TABLE_1 = "Chen et al. 2021 (CSG), table 1, VisDA-17, ResNet-101"
VISDA17 = {"oracle": 53.3, "vanilla": 49.3, "weight ℓ2": 56.4, "SI": 57.6, "feature ℓ2": 57.1, "ASG": 61.1}
PUBLISHED = {arm: Published(value, CSG_TABLE_1) for arm, value in VISDA17.items()}


def early(share: float) -> dict[str, dict]:
    """The overrides, by profile, that stop the training of "comparison" after a share of its length."""
    lengths = {name: {**PROFILES[name], **SHORT_ON_MINI.get(name, {})} for name in PROFILES}
    return {
        name: {unit: round(share * length[unit]) for unit in ("steps", "epochs") if unit in length}
        for name, length in lengths.items()
    }


SHORT_ON_MINI = {"mini": SHORT["mini"]}  # of tables whose runs have their whole length and size elsewhere
# Other ways to keep ImageNet knowledge, and the strengths that were tried (the experiment "strength"): on mini these,
# and where the base rate is five times as high a fifth of them, since too strong a penalty for the rate diverges.
PENALTIES = {
    "weights": (10.0, 100.0, 1000.0, 10000.0), "features": (0.0001, 0.001, 0.01, 0.1),
    "ewc": (0.1, 1.0, 10.0, 100.0), "si": (0.1, 1.0, 10.0, 100.0),
}  # fmt: skip
GRADES = ("weakest", "weak", "middle", "strong")


def penalty(kind: str, strength: float) -> dict:
    """The overrides, by profile, that add a penalty to the loss."""
    a_fifth = {"regulariser": {"kind": kind, "strength": strength / 5}}
    return {"regulariser": {"kind": kind, "strength": strength}, **dict.fromkeys(("cartoon", "sketch", "cad"), a_fifth)}


STRENGTHS: dict[str, dict[str, dict]] = {
    kind: {grade: penalty(kind, v) for grade, v in zip(GRADES, tried, strict=True)} for kind, tried in PENALTIES.items()
} | {
    "early": {"whole length": early(1), "three quarters": early(0.75), "half": early(0.5)},
    "proxy": {f"{v:g}": {"guidance": v} for v in (0.1, 0.3, 1.0)},
}
# What analysis.best_kept chooses on held-out synthetic images from the records of "strength"; a test compares.
CHOSEN = {
    "mini": {"weights": "strong", "features": "weak", "ewc": "strong", "si": "strong", "early": "three quarters"},
    "cartoon": {"weights": "weakest", "features": "weak", "ewc": "weak", "si": "weak", "early": "whole length"},
}
# Profile → the one whose trials chose for it.
TRIED_ON = {"mini": "mini", **dict.fromkeys(("cartoon", "sketch", "cad"), "cartoon")}


def chosen(kind: str) -> dict:
    """The overrides of a way of keeping knowledge at its chosen strength; where none was chosen, that of mini."""
    tried = STRENGTHS[kind]
    own = {profile: merged(tried[CHOSEN[other][kind]], profile) for profile, other in TRIED_ON.items()}
    return {**tried[CHOSEN["mini"][kind]], **own}


# Lengths and base rates of plain training that were tried on drawings and CAD renders ("trials", "trials_large").
TRIED_STEPS, TRIED_SMALL, TRIED_LARGE = (100, 200, 400), (0.003, 0.01, 0.03), (0.001, 0.003, 0.01)

# Synthetic data of other quantity and quality than {} has: axis → point → overrides.
DATA: dict[str, dict[str, dict]] = {
    "number": {**{f"{n}": {"synthetic": {"per_class": n}} for n in (20, 100)}, "all": {}},
    "look": {
        "outlines alone": {"synthetic": {"look": "edges"}}, "grey": {"synthetic": {"look": "grey"}}, "as drawn": {},
    },
    "detail": {**{f"{n} pixels": {"synthetic": {"detail": n}} for n in (12, 48)}, "as drawn": {}},
    # as many drawings of each
    "style": {
        "sketches": {"synthetic": {"per_class": 100}, "cartoon": {"data": "pacs-sketch"}},
        "outlines of cartoons": {"synthetic": {"per_class": 100, "look": "edges"}},
        "cartoons": {"synthetic": {"per_class": 100}},
    },
}  # fmt: skip
METHODS = {"frozen": {"backbone_factor": 0.0}, "plain": SMALL, "guided": {**SMALL, **PROXY}}

# What a run may have of its own while the policy stays the same: other length, batch, base rate, network.
CHANGES: dict[str, dict] = {
    "half as long": {"steps": 100, "warmup": 10, "toy": {"steps": 4}},
    "Lite1": {"backbone": "timm:tf_efficientnet_lite1", "weights": "lite1"},
}
REWARDED = ("improvement", "looks", "reference")
MAIN = (*REPEATS["asg"], "l2o")
VARIANTS = ("two-rates",)
USES: dict[str, dict] = {
    "likeliest": {**learned("asg", sampled=False), **PROXY},
    "divided windows": {**learned("asg", window="divided"), **PROXY},
    "neither warm-up nor decay": {**learned("asg", schedule=False), **PROXY},
}

# Segmentation: composed scenes in place of GTA5 → Cityscapes; the paper's settings there (departure 23).
SCENES = {
    "toy": {"data": "toy-scenes", "batch": 4, "lr": 0.001},
    "mini": {
        "data": "scenes", "rendering": {"ground": "textures"}, "size": 128, "steps": 250,
        "batch": 8, "lr": 0.02, "warmup": 25, "evaluations": 2, "signals": True,
    },
    "paper": {
        "data": "gta5", "backbone": "torchvision:vgg16", "source_list": "gta5_train.txt", "crop": 512, "batch": 6,
        "steps": 50 * 2000, "lr": 1e-3, "sgd": "torch", "evaluations": 10, "teacher": None,
    },
}  # fmt: skip
DEEPLAB = {"dense_head": "deeplab-v3", "sgd": "reference"}  # what CSG's rows change of these (departure 25)
# The paper's λ for segmentation. On mini, λ is what analysis.best_kept chooses on held-out scenes from the records of
# "segmentation_trials", and the base rate the largest within one standard error of the lowest loss; a test compares.
WHOLE = {"guidance": 75.0, "mini": {"guidance": 0.03}, "toy": {"guidance": 0.1}}
PATCHES = {"guidance": 75.0, "chunks": 8, "mini": {"guidance": 0.03, "chunks": 2}, "toy": {"guidance": 0.1}}
TRIED_RATES, TRIED_WEIGHTS = (0.02, 0.01, 0.005, 0.002), (0.01, 0.03, 0.1, 0.3, 1.0)  # at .05 guided training diverges
CAP = {"cap": 9.0}  # of λ · KL, with a policy only

DIGITS = {
    "mini": {
        "data": "digits", "size": 64, "steps": 180, "warmup": 18, "lr": 0.002, "evaluations": 2, "signals": True,
    },
}  # fmt: skip

# Self-training from several starts; the weights of both regularisers are the papers', the rest is not tuned
# (departure 28).
ADAPTATIONS: dict[str, dict | None] = {
    "none": None, "CBST": {}, "MRKLD": {"mrkld": 0.1}, "LRENT": {"lrent": 0.25},
    "MRKLD + LRENT": {"mrkld": 0.1, "lrent": 0.25},
}  # fmt: skip
MAIN_ADAPTATIONS = ("none", "CBST", "MRKLD + LRENT")  # of whole images; of scenes all
STARTS = {"vanilla": SMALL, "guidance": {**SMALL, **PROXY}, "ASG": {**learned("asg"), **PROXY}}
SCENE_STARTS = {"vanilla": SMALL, "guidance": {**SMALL, **WHOLE}, "ASG": {**learned_on_scenes("asg"), **WHOLE, **CAP}}
# As their own code reports it, from a start without guidance.
CRST = {"none": 33.35, "CBST": 46.47, "MRKLD": 47.39, "LRENT": 46.51}
CRST_README = "Zou et al. 2019 (CRST), README of their code, GTA5 → Cityscapes, mIoU"


def adapted(starts: Mapping[str, Mapping], methods: Sequence[str], **settings: object) -> dict[str, dict]:
    """``START, METHOD`` → overrides: every start under each self-training, all of them with ``settings``."""
    chosen = {method: ADAPTATIONS[method] for method in methods}
    return {
        f"{start}, {method}": {**rates, **({} if given is None else {"adapt": {**given, **settings}})}
        for start, rates in starts.items()
        for method, given in chosen.items()
    }


def ahead(methods: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Differences of each start from the first, under each self-training."""
    first, *others = STARTS
    return tuple((f"{start}, {method}", f"{first}, {method}") for start in others for method in methods)


AUTO_RGN = {"control": {"kind": "auto-rgn", "schedule": True}, **NO_SCHEDULE}
INTERPOLATED = {"plain": SMALL, "guided": {**SMALL, **PROXY}}
SUCCESSORS = (
    "CSG",
    "Auto-RGN",
    "TPGM",
    "FTP",
    "LP-FT",
    "EMA",
    "SWA",
    "WiSE-FT",
    "WiSE-FT, chosen",
    "RandAugment",
    "PASTA",
)
COMBINED = ("Auto-RGN", "EMA", "WiSE-FT", "RandAugment", "PASTA")  # that are also run with guidance
PUBLISHED_SINCE = {arm: PUBLISHED[arm] for arm in ("vanilla", "ASG")} | {"CSG": Published(64.05, CSG_TABLE_1)}

EXPERIMENTS = {
    e.id: e
    for e in (
        Experiment(
            "oracle",
            "What does the ImageNet network know about the photos, with no training at all?",
            {"imagenet": {"steps": 0}},
            seeds={profile: (seeds[0],) for profile, seeds in EVERYWHERE.items()},
            metric="kept",
            published={"imagenet": PUBLISHED["oracle"]},
        ),
        Experiment(
            "guidance",
            "Does proxy guidance keep what the learning rate destroys, and is it worth accuracy on photos?",
            {
                "frozen": {"backbone_factor": 0.0},
                "large": {**LARGE},
                "large_proxy": {**LARGE, **PROXY},
                "small": {**SMALL},
                "small_proxy": {**SMALL, **PROXY},
                "asg": {**learned("asg"), **PROXY},
            },
            seeds={**EVERYWHERE, "cartoon": TEN},
            differences=(
                ("large_proxy", "large"),
                ("small_proxy", "small"),
                ("small", "large"),
                ("small", "frozen"),
                ("small_proxy", "frozen"),
                ("asg", "small_proxy"),
                ("asg", "large_proxy"),
            ),
            claims=(("asg", "small"),),
            published={"small": PUBLISHED["vanilla"], "asg": PUBLISHED["ASG"]},
            repeated=True,
        ),
        Experiment(
            "signals",
            "What do synthetic images say beforehand, where the runs of the tables do not ask them?",
            {"frozen": {"backbone_factor": 0.0}, "small": {**SMALL}, "small_proxy": {**SMALL, **PROXY}},
            seeds={"mini": (0, 1, 2)},
            common={"mini": {"signals": True}},
        ),
        Experiment(
            "trials",
            "How long, and at which base rate, should plain training go on, by held-out synthetic images?",
            {
                f"{rate:g}, {steps} steps": {
                    **SMALL,
                    "lr": rate,
                    "steps": steps,
                    "warmup": steps // 10,
                    "toy": {"steps": steps // 25, "warmup": 1},
                }
                for steps in TRIED_STEPS
                for rate in TRIED_SMALL
            },
            seeds=TRIALS,
            common={profile: {"evaluations": 1} for profile in TRIALS},
        ),
        Experiment(
            "trials_large",
            "And which base rate, where the backbone has the head's?",
            {f"{rate:g}": {"backbone_factor": 1.0, "lr": rate} for rate in TRIED_LARGE},
            seeds=TRIALS,
            common={profile: {"evaluations": 1} for profile in TRIALS},
        ),
        Experiment(
            "trials_short",
            "Does plain training still fall below the frozen backbone in the smaller runs?",
            {"plain": {**SMALL}, "frozen": {"backbone_factor": 0.0}},
            seeds={"cartoon": TRIALS["cartoon"]},
            common=SHORT,
        ),
        Experiment(
            "setting",
            "In which setting does plain synthetic training wear down what the ImageNet network knows?",
            {
                f"{ground}, {backdrop}{', frozen' if frozen else ''}": {
                    "rendering": {"ground": ground, "backdrop": backdrop},
                    "backbone_factor": 0.0 if frozen else 0.1,
                }
                for backdrop in ("white", "scenes")
                for ground in ("patches", "grey")
                for frozen in (False, True)
            }
            | {
                "grey, scenes, lr .003": {**SMALL, "lr": 0.003},
                "grey, scenes, lr .03": {**SMALL, "lr": 0.03},
                "grey, scenes, 96 px": {**SMALL, "size": 96},
            },
            seeds={"mini": (0,)},
        ),
        Experiment(
            "lambda",
            "How much guidance?",
            {f"{weight:g}": {**SMALL, "guidance": weight} for weight in (0.0, 0.03, 0.1, 0.3)},
            seeds={**EVERYWHERE, "mini": (0, 1, 2)},
            differences=(("0.03", "0"), ("0.1", "0"), ("0.3", "0")),
        ),
        Experiment(
            "policies",
            "Does a learned policy set better rates than chance, a hand, and a search that costs the same?",
            {
                "small_proxy": {**SMALL, **PROXY},
                "large_proxy": {**LARGE, **PROXY},
                "random_proxy": {**RANDOM, **PROXY},
                "random_once_proxy": {**RANDOM_ONCE, **PROXY},
                "search_proxy": {**fixed(policy="asg-search"), **PROXY},
                "asg": {**learned("asg"), **PROXY},
                "small": {**SMALL},
                "large": {**LARGE},
                "random": {**RANDOM},
                "random_once": {**RANDOM_ONCE},
                "search": fixed(policy="l2o-search"),
                "l2o": learned("l2o"),
            },
            seeds=FIVE,
            differences=(
                *(("asg", rival) for rival in ("random_proxy", "random_once_proxy", "search_proxy", "small_proxy")),
                *(("l2o", rival) for rival in ("random", "random_once", "search", "small")),
                ("asg", "l2o"),
            ),
            common=SHORT_ON_MINI,
            published={"small": PUBLISHED["vanilla"], "asg": PUBLISHED["ASG"]},
            repeated=True,
        ),
        Experiment(
            "rewards",
            "What should a policy be paid for?",
            {"asg": {**learned("asg"), **PROXY}} | {name: {**learned(name), **PROXY} for name in REWARDED},
            seeds=THREE,
            differences=tuple((name, "asg") for name in REWARDED),
            common=SHORT,
        ),
        Experiment(
            "policy_design",
            "Does a policy need a rate for every layer group?",
            {"asg": {**learned("asg"), **PROXY}} | {name: {**learned(name), **PROXY} for name in VARIANTS},
            seeds=THREE,
            differences=tuple((name, "asg") for name in VARIANTS),
            common=SHORT,
        ),
        Experiment(
            "policy_use",
            "How should a trained policy be used?",
            {"asg": {**learned("asg"), **PROXY}} | USES,
            seeds=THREE,
            differences=tuple((name, "asg") for name in USES),
            common=SHORT,
        ),
        Experiment(
            "transfer",
            "Is a policy of any use in runs unlike its episodes?",
            {
                f"{change}, {who}": {**setting, **rates, **PROXY}
                for change, setting in CHANGES.items()
                for who, rates in (("asg", learned("asg")), ("random", RANDOM))
            },
            seeds=THREE,
            differences=tuple((f"{change}, asg", f"{change}, random") for change in CHANGES),
            common=SHORT,
        ),
        Experiment(
            "strength",
            "How strong may each way of keeping knowledge be before held-out images suffer?",
            {
                f"{kind}, {name}": {**SMALL, **overrides}
                for kind, tried in STRENGTHS.items()
                for name, overrides in tried.items()
            },
            seeds={"cartoon": TRIALS["cartoon"], "mini": (0,)},
            common=SHORT_ON_MINI,
        ),
        Experiment(
            "comparison",
            "Which way of keeping ImageNet knowledge serves best on photos?",
            {
                "oracle": {"steps": 0},
                "vanilla": {**SMALL},
                "frozen": {"backbone_factor": 0.0},
                "early stopping": {**SMALL, **chosen("early")},
                "weight ℓ2": {**SMALL, **chosen("weights")},
                "EWC": {**SMALL, **chosen("ewc")},
                "SI": {**SMALL, **chosen("si")},
                "feature ℓ2": {**SMALL, **chosen("features")},
                "guidance": {**SMALL, **PROXY},
                "ASG": {**learned("asg"), **PROXY},
            },
            seeds=EVERYWHERE,
            differences=tuple(
                (a, b)
                for b in ("vanilla", "guidance")
                for a in ("frozen", "early stopping", "weight ℓ2", "EWC", "SI", "feature ℓ2", "guidance", "ASG")
                if a != b
            ),
            claims=tuple(("ASG", rival) for rival in ("weight ℓ2", "SI", "feature ℓ2")),
            common=SHORT_ON_MINI,
            published=PUBLISHED,
            # its task head is not trained: what is published is the ImageNet classifier, with its classes mapped
            metric_of={"oracle": {"accuracy": "kept", "product": None, "validation_loss": None}},
            repeated=True,
        ),
        Experiment(
            "automatic",
            "Can λ be found without a photograph?",
            {f"{weight:g}": {**SMALL, "guidance": weight} for weight in (0.0, 0.03, 0.1, 0.3)}
            | {
                "gradients": {**SMALL, "guidance": 1.0, "weigh": "gradients"},
                "policy": {**learned("weighing"), **PROXY, "weigh": "policy"},
            },
            seeds={**dict.fromkeys(("cartoon", "sketch", "cad"), (5, 6, 7, 8, 9)), "mini": (0, 1, 2, 3, 4)},
            differences=tuple((rule, weight) for rule in ("gradients", "policy") for weight in ("0", "0.1")),
            common={"mini": {"signals": True}},
        ),
        Experiment(
            "since_trials",
            "How strong may each successor's method be before held-out images suffer?",
            {
                f"{method}, {strength}": {**SMALL, **overrides}
                for method, tried in successors.TRIED.items()
                for strength, overrides in tried.items()
            },
            seeds={"cartoon": TRIALS["cartoon"]},
            common={"cartoon": {"evaluations": 1}},
        ),
        Experiment(
            "interpolation",
            "How far from ImageNet's weights should the trained ones go?",
            {
                f"{start}, {share:g}": {**rates, **({} if share == 1 else {"interpolate": share})}
                for start, rates in INTERPOLATED.items()
                for share in successors.SHARES
            },
            seeds={profile: EVERYWHERE[profile] for profile in ("cartoon", "sketch", "cad")},
            differences=tuple((f"{start}, 0.5", f"{start}, 1") for start in INTERPOLATED),
        ),
        Experiment(
            "since",
            "And what came after?",
            {
                "vanilla": {**SMALL},
                "frozen": {"backbone_factor": 0.0},
                "guidance": {**SMALL, **PROXY},
                "ASG": {**learned("asg"), **PROXY},
                "CSG": {**SMALL, **successors.chosen("CSG")},
                "Auto-RGN": {**AUTO_RGN},
                "TPGM": {**SMALL, **successors.chosen("TPGM")},
                "FTP": {**SMALL, **successors.chosen("FTP")},
                "LP-FT": {**SMALL, **successors.chosen("LP-FT")},
                "EMA": {**SMALL, **successors.chosen("EMA")},
                "SWA": {**SMALL, **successors.chosen("SWA")},
                "WiSE-FT": {**SMALL, "interpolate": 0.5},  # what its authors advise where nothing can choose
                "WiSE-FT, chosen": {**SMALL, **successors.chosen("WiSE-FT")},
                "RandAugment": {**SMALL, **successors.chosen("RandAugment")},
                "PASTA": {**SMALL, **successors.chosen("PASTA")},
                "Auto-RGN, guided": {**AUTO_RGN, **PROXY},
                "EMA, guided": {**SMALL, **PROXY, **successors.chosen("EMA")},
                "WiSE-FT, guided": {**SMALL, **PROXY, "interpolate": 0.5},
                "RandAugment, guided": {**SMALL, **PROXY, **successors.chosen("RandAugment")},
                "PASTA, guided": {**SMALL, **PROXY, **successors.chosen("PASTA")},
            },
            seeds={profile: EVERYWHERE[profile] for profile in ("cartoon", "cad")},
            differences=(
                *((method, "vanilla") for method in ("guidance", "ASG", *SUCCESSORS)),
                *((f"{method}, guided", "guidance") for method in COMBINED),
                ("CSG", "guidance"),
                ("WiSE-FT", "guidance"),
                ("ASG", "Auto-RGN, guided"),
            ),
            published=PUBLISHED_SINCE,
            repeated=True,
        ),
        Experiment(
            "recipes",
            "With which recipe should one begin?",
            {name: {**SMALL, **settings} for name, settings in own_recipes.RECIPES["classification"].items()},
            seeds={profile: EVERYWHERE[profile] for profile in ("cartoon", "sketch", "cad")},
            differences=tuple((name, "plain") for name in own_recipes.RECIPES["classification"] if name != "plain"),
        ),
        *(
            Experiment(
                f"data_{axis}",
                question,
                {
                    f"{point}, {method}": {**synthetic, **rates}
                    for point, synthetic in DATA[axis].items()
                    for method, rates in METHODS.items()
                },
                seeds=THREE,
                differences=tuple((f"{point}, guided", f"{point}, plain") for point in DATA[axis]),
                claims=((f"{list(DATA[axis])[-1]}, guided", f"{next(iter(DATA[axis]))}, guided"),),
                common=SHORT,
            )
            for axis, question in (
                ("number", "How many drawings of a class does synthetic training need?"),
                ("look", "What of a drawing must be there: colour, tones, or its outlines alone?"),
                ("detail", "How fine must drawings be?"),
                ("style", "Which drawings: cartoons, their outlines, or sketches by another hand?"),
            )
        ),
        Experiment(
            "segmentation_trials",
            "Which base rate, and how much guidance, before held-out scenes suffer?",
            {f"rate, {rate:g}": {**SMALL, "lr": rate} for rate in TRIED_RATES}
            | {
                f"{form}, {weight:g}": {**SMALL, **pieces, "guidance": weight}
                for form, pieces in (("whole map", {}), ("patches", {"chunks": 2}))
                for weight in TRIED_WEIGHTS
            },
            seeds={"mini": (0,)},
            metric="miou",
            common=SCENES,
        ),
        Experiment(
            "segmentation",
            "Does guidance by a whole-image classifier help answers at every pixel?",
            {
                "frozen": {"backbone_factor": 0.0},
                "vanilla": {**SMALL},
                "whole map": {**SMALL, **WHOLE},
                "patches": {**SMALL, **PATCHES},
                "l2o": learned_on_scenes("l2o"),
                "asg": {**learned_on_scenes("asg"), **WHOLE, **CAP},
            },
            seeds={"mini": (0, 1, 2)},
            metric="miou",
            differences=(
                ("vanilla", "frozen"),
                ("whole map", "vanilla"),
                ("patches", "vanilla"),
                ("patches", "whole map"),
                ("l2o", "vanilla"),
                ("asg", "whole map"),
                ("asg", "vanilla"),
                ("asg", "l2o"),
            ),
            common=SCENES,
            repeated=True,
        ),
        *(
            Experiment(
                f"segmentation_resnet{depth}",
                f"The same with CSG's DeepLab on ResNet-{depth}, as the follow-up's table has it?",
                {"vanilla": {**SMALL}, "asg": {**learned_on_scenes("asg"), **WHOLE, **CAP}},
                seeds={"mini": (0, 1, 2)},
                metric="miou",
                differences=(("asg", "vanilla"),),
                common={**SCENES, "paper": {**SCENES["paper"], **DEEPLAB, "backbone": f"torchvision:resnet{depth}"}},
                published={"vanilla": Published(before, CSG_TABLE_5), "asg": Published(after, CSG_TABLE_5)},
                repeated=True,  # on mini, which has one network, these runs are those of "segmentation"
            )
            for depth, before, after in ((50, 25.88, 29.65), (101, 29.63, 32.79))
        ),
        Experiment(
            "adaptation",
            "Does the better start stay ahead when a network labels the photos itself?",
            adapted(STARTS, MAIN_ADAPTATIONS),
            seeds=FIVE,
            differences=ahead(MAIN_ADAPTATIONS),
            common=SHORT,
            published={"vanilla, none": PUBLISHED["vanilla"], "ASG, none": PUBLISHED["ASG"]},
        ),
        Experiment(
            "adaptation_half",
            "And on photos that it has not seen, not even without their labels?",
            adapted(STARTS, ("MRKLD + LRENT",), half=True),
            seeds=THREE,
            differences=ahead(("MRKLD + LRENT",)),
            common=SHORT,
        ),
        Experiment(
            "adaptation_scenes",
            "And when every pixel is labelled?",
            adapted(SCENE_STARTS, tuple(ADAPTATIONS), length=0.125),
            seeds={"mini": (0, 1, 2)},
            metric="miou",
            differences=ahead(tuple(ADAPTATIONS)),
            common={**SCENES, "paper": {**SCENES["paper"], **DEEPLAB, "backbone": "torchvision:resnet101"}},
            published={f"vanilla, {method}": Published(value, CRST_README) for method, value in CRST.items()},
        ),
        Experiment(
            "digits",
            "What does ImageNet guidance give where ImageNet has little to say?",
            {
                "frozen": {"backbone_factor": 0.0},
                "small": {**SMALL},
                "small_proxy": {**SMALL, **PROXY},
                "large": {**LARGE},
                "large_proxy": {**LARGE, **PROXY},
            },
            seeds={"mini": (0, 1, 2)},
            differences=(("small_proxy", "small"), ("large_proxy", "large"), ("large", "small"), ("small", "frozen")),
            common=DIGITS,
        ),
    )
}

# The two tables that lead, on another network: no strength and no rate is chosen anew for it.
LITE1 = {
    "cartoon": {"backbone": "timm:tf_efficientnet_lite1", "weights": "lite1"},
    "paper": {"backbone": "torchvision:resnet50"},
}
EXPERIMENTS |= {
    f"{name}_lite1": replace(
        EXPERIMENTS[name], id=f"{name}_lite1", question=question, seeds=FIVE, common=LITE1, published={}
    )
    for name, question in (
        ("guidance", "Does what guidance and rates do hang on one network?"),
        ("comparison", "Is the order of the rivals another one on another network?"),
    )
}


def get(name: str) -> Experiment:
    """The experiment of that name; raises :class:`AsgError` that lists the names."""
    if name not in EXPERIMENTS:
        raise AsgError(f"There is no experiment {name!r}: choose from {', '.join(EXPERIMENTS)}.")
    return EXPERIMENTS[name]
