"""What every test runs under: one thread per linear-algebra call, and in CI the same hypothesis examples."""

import os
import sys
from pathlib import Path

# Set before numpy or torch is imported. The matrices are small: threads would only make times and sums vary.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "agg")

# Processes that a test starts import its module as `tests.<...>`. At the end of the path, so that the packages of the
# project still come from where they are installed.
sys.path.append(str(Path(__file__).resolve().parents[1]))

from hypothesis import settings  # noqa: E402

# Compiling and first calls make single examples slow, so no deadline.
settings.register_profile("dlrt", deadline=None)
settings.register_profile("dlrt-ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("dlrt-ci" if os.environ.get("CI") else "dlrt")


def pytest_report_header() -> str:
    """Say which copy of the project is under test."""
    import integrators

    return f"testing the copy in {os.path.dirname(os.path.dirname(integrators.__file__))}"
