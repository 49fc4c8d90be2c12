"""What came after ASG, as arms: the strengths that were tried, and those that the rule chooses (departure 22)."""

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
# What analysis.best_kept chooses on held-out drawings, from the records of "since_trials"; a test compares.
CHOSEN = {
    "CSG": "0.1", "RandAugment": "5", "PASTA": "default", "TPGM": "mars, 0.01", "FTP": "l2, 0.01", "LP-FT": "0.5",
    "EMA": "0.97", "SWA": "0.5", "WiSE-FT": "0.7",
}  # fmt: skip


def chosen(method: str) -> dict:
    """The overrides of a method at its chosen strength."""
    return TRIED[method][CHOSEN[method]]
