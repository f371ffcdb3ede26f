"""No test reaches the network, and a run of the tests repeats itself."""

from __future__ import annotations

import os

from hypothesis import settings

# huggingface_hub reads this when it is imported
os.environ["HF_HUB_OFFLINE"] = "1"

# The examples of the properties are the same in every run; HYPOTHESIS_PROFILE=explore looks for new ones.
settings.register_profile("repeat", derandomize=True, deadline=None)
settings.register_profile("explore", deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeat"))
