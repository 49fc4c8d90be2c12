"""What came after ASG, at the strengths that the rule chooses of those that were tried (departure 22)."""

from asg import own_recipes
from asg_book.catalogue.published import CSG_TABLE_1, PUBLISHED
from asg_book.experiment import Experiment, Published
from asg_book.profiles import EVERYWHERE, NO_SCHEDULE, PROXY, SMALL, TRIALS, learned

SHARES = tuple(k / 10 for k in range(11))  # WiSE-FT: how far from ImageNet's weights to the trained ones
QUEUE = {"toy": 64, **dict.fromkeys(("mini", "cartoon", "sketch", "cad"), 1024)}  # elsewhere CSG's own length
PASTA = {"default": {}, "renders": {"alpha": 10.0, "k": 1.0, "beta": 0.5}}  # the second is the authors' for VisDA-17


def contrast(strength: float) -> dict:
    """CSG with its augmentation, and with a queue that short trainings can fill."""
    short = {profile: {"regulariser": {"queue": length}} for profile, length in QUEUE.items()}
    return {"regulariser": {"kind": "csg", "strength": strength}, "augment": {"kind": "randaugment"}, **short}


def projection(kind: str) -> dict[str, dict]:
    """Both norms, each with two rates of Adam."""
    return {
        f"{norm}, {rate:g}": {"project": {"kind": kind, "norm": norm, "rate": rate}}
        for norm in ("l2", "mars")
        for rate in (0.001, 0.01)
    }


# Method → strength → overrides, each beside plain training.
TRIED: dict[str, dict[str, dict]] = {
    "CSG": {f"{strength:g}": contrast(strength) for strength in (0.01, 0.03, 0.1)},
    "RandAugment": {f"{m}": {"augment": {"kind": "randaugment", "magnitude": m}} for m in (5, 9, 15)},
    "PASTA": {name: {"augment": {"kind": "pasta", **settings}} for name, settings in PASTA.items()},
    "TPGM": projection("tpgm"),
    "FTP": projection("ftp"),
    "LP-FT": {f"{share:g}": {"head_first": share} for share in (0.25, 0.5, 0.75)},
    "EMA": {f"{decay:g}": {"average": {"kind": "ema", "decay": decay}} for decay in (0.9, 0.97, 0.99)},
    "SWA": {f"{after:g}": {"average": {"kind": "swa", "after": after}} for after in (0.25, 0.5, 0.75)},
    "WiSE-FT": {f"{share:g}": {"interpolate": share} for share in SHARES},
}
# What selection.best_kept chooses on held-out drawings, from the records of "since_trials"; a test compares.
CHOSEN = {
    "CSG": "0.1", "RandAugment": "5", "PASTA": "default", "TPGM": "mars, 0.01", "FTP": "l2, 0.01", "LP-FT": "0.5",
    "EMA": "0.97", "SWA": "0.5", "WiSE-FT": "0.7",
}  # fmt: skip


def chosen(method: str) -> dict:
    """The overrides of a method at its chosen strength."""
    return TRIED[method][CHOSEN[method]]


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

EXPERIMENTS = (
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
            for method, tried in TRIED.items()
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
            for share in SHARES
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
            "CSG": {**SMALL, **chosen("CSG")},
            "Auto-RGN": {**AUTO_RGN},
            "TPGM": {**SMALL, **chosen("TPGM")},
            "FTP": {**SMALL, **chosen("FTP")},
            "LP-FT": {**SMALL, **chosen("LP-FT")},
            "EMA": {**SMALL, **chosen("EMA")},
            "SWA": {**SMALL, **chosen("SWA")},
            "WiSE-FT": {**SMALL, "interpolate": 0.5},  # what its authors advise where nothing can choose
            "WiSE-FT, chosen": {**SMALL, **chosen("WiSE-FT")},
            "RandAugment": {**SMALL, **chosen("RandAugment")},
            "PASTA": {**SMALL, **chosen("PASTA")},
            "Auto-RGN, guided": {**AUTO_RGN, **PROXY},
            "EMA, guided": {**SMALL, **PROXY, **chosen("EMA")},
            "WiSE-FT, guided": {**SMALL, **PROXY, "interpolate": 0.5},
            "RandAugment, guided": {**SMALL, **PROXY, **chosen("RandAugment")},
            "PASTA, guided": {**SMALL, **PROXY, **chosen("PASTA")},
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
)
