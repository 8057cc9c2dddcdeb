"""Freed memory stays with the process, so that taking it again costs no page; a user's own settings of the allocator stand."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hone.kernels.heap import TOLD, keep_freed

TAKEN_TWICE = """
import resource, sys
from hone.kernels.heap import keep_freed
told = sys.argv[1] == "kept" and keep_freed()

def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def take():
    return [bytearray(2**22) for _ in range(24)]

for _ in range(3):
    take()
before = pages()
take()
print(int(told or sys.argv[1] != "kept"), pages() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_what_was_freed_is_taken_again_without_a_new_page():
    environment = {name: value for name, value in os.environ.items() if name not in TOLD}

    def run(kind):
        done = subprocess.run([sys.executable, "-c", TAKEN_TWICE, kind], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return map(int, done.stdout.split())

    told, kept = run("kept")
    if not told:
        pytest.skip("another allocator")
    _, plain = run("plain")
    assert kept < 100 < 24 * 2**22 // 2**16 < plain  # of 24,576 pages of 4 KiB, or 1,536 of 64


def test_what_the_user_has_set_stands(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed()
