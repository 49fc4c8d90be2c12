"""Numbers that were read in published tables."""

from asg_book.experiment import Published

CSG_TABLE_5 = "Chen et al. 2021 (CSG), table 5, GTA5 → Cityscapes, mIoU"
CSG_TABLE_1 = "Chen et al. 2021 (CSG), table 1, VisDA-17, ResNet-101"
VISDA17 = {"oracle": 53.3, "vanilla": 49.3, "weight ℓ2": 56.4, "SI": 57.6, "feature ℓ2": 57.1, "ASG": 61.1}
PUBLISHED = {arm: Published(value, CSG_TABLE_1) for arm, value in VISDA17.items()}
# As their own code reports it, from a start without guidance.
CRST = {"none": 33.35, "CBST": 46.47, "MRKLD": 47.39, "LRENT": 46.51}
CRST_README = "Zou et al. 2019 (CRST), README of their code, GTA5 → Cityscapes, mIoU"
