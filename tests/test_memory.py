import subprocess
import sys

import pytest

COUNT_FAULTS = """
import resource, sys
import numpy as np
from recolam.memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(3):
    blocks = [np.ones(1 << 20, dtype=np.uint8) for _ in range(4)]
    del blocks
begin = faults()
for _ in range(20):
    blocks = [np.ones(1 << 20, dtype=np.uint8) for _ in range(4)]
    del blocks
print(faults() - begin)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's settings")
def test_freed_memory_is_used_again_without_page_faults() -> None:
    def faults(mode: str) -> int:
        return int(subprocess.run([sys.executable, "-c", COUNT_FAULTS, mode], capture_output=True, check=True).stdout)

    assert faults("kept") * 20 < faults("default")
