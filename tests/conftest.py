"""No test reaches the network: huggingface_hub reads this when it is imported."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
