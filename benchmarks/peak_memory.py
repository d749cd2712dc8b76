"""The peak memory of this process alone: `ru_maxrss` begins at what its parent had when it started it."""

import re
from pathlib import Path


def peak_mb() -> float:
    """Megabytes (2**20 bytes) that this process has held at most; Linux only."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
