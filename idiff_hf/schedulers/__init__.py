"""Noise schedules with their samplers, as diffusers schedulers."""

from __future__ import annotations

import logging
import re

from .likelihood import bits_per_dim, log_likelihood
from .scheduling_vp_sde import VPSDEScheduler, VPSDESchedulerOutput
from .vp_sde import VPSDE

__all__ = ["VPSDE", "VPSDEScheduler", "VPSDESchedulerOutput", "bits_per_dim", "log_likelihood"]

_SDE_KEYS = {"beta_min", "beta_max", "sampling_eps", "solver", "snr", "time_grid", "final_denoise"}


def _names_other_keys(record: logging.LogRecord) -> bool:
    keys = set(re.findall(r"'(\w+)':", record.getMessage()))
    return not keys or not keys <= _SDE_KEYS


# A diffusers scheduler made from our config keeps the keys of the SDE, so that the way back is open, and warns that it does not know
# them, at every swap and every load. Between two schedulers of diffusers itself there is no such warning.
logging.getLogger("diffusers.configuration_utils").addFilter(_names_other_keys)
