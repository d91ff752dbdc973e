"""How many descriptors a process may have open, in a process of its own."""

import subprocess
import sys

_RAISED = """
import resource
from warpfleet.net import descriptors
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
assert descriptors.limit() == 200
descriptors.raise_limit()
assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
assert descriptors.limit() == hard
print("raised")
"""


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    done = subprocess.run([sys.executable, "-c", _RAISED], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "raised\n"
