"""Freed memory stays with the process, where the C library can be told so."""

import platform

import pytest

KEPT = """
import resource
import torch
from asg import memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        torch.empty(2**22).zero_()  # 16 MB, above glibc's own threshold
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
print(memory.keep_freed(), given_back, (faults(), faults())[1])
"""


@pytest.mark.slow
def test_blocks_of_a_step_are_not_asked_for_again(spawn):
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("another C library")
    out, err = spawn(KEPT).communicate(timeout=60)
    supported, before, after = out.split()
    assert supported == "True", err
    assert int(after) < int(before) / 10, out
