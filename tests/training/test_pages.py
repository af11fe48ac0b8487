import subprocess
import sys

import pytest

CODE = """
import ctypes, mmap, resource, sys
from bmojo.training.pages import keep_pages

libc, size, rounds = ctypes.CDLL(None), 16 * 2**20, 20
libc.malloc.restype = ctypes.c_void_p
if sys.argv[1] == "keep":
    assert keep_pages()

def use():
    block = libc.malloc(ctypes.c_size_t(size))
    for place in range(0, size, mmap.PAGESIZE):
        ctypes.c_byte.from_address(block + place).value = 1
    libc.free(ctypes.c_void_p(block))

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(rounds):
    use()
faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults * mmap.PAGESIZE / (rounds * size))
"""


def refetched(mode):
    """Share of an array's memory that each allocation fetches from the system again."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, mode],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "MALLOC_MMAP_THRESHOLD_": str(2**20)},
    )
    return float(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets an option of glibc")
def test_freed_memory_is_kept():
    if refetched("leave") < 0.5:
        pytest.skip("this system hands out pages too large to count faults by")
    assert refetched("keep") < 0.05
