"""Settings of the whole test suite."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hypothesis

# Test modules import their helpers (strategies.py) by name, whatever pytest's import mode.
sys.path.insert(0, str(Path(__file__).parent))

# The default profile draws the same examples every time, so that a green run stays green until the code changes.
# "thorough" draws 30 times as many, and others each time: HYPOTHESIS_PROFILE=thorough pytest.
hypothesis.settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    max_examples=40,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "thorough",
    deadline=None,
    derandomize=False,
    max_examples=1000,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
