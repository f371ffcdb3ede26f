"""Noise schedules with their samplers, as diffusers schedulers."""

from __future__ import annotations

import logging

from .scheduling_vp_sde import VPSDEScheduler, VPSDESchedulerOutput

__all__ = ["VPSDEScheduler", "VPSDESchedulerOutput"]


def _not_about_our_keys(record: logging.LogRecord) -> bool:
    return "'sampling_eps'" not in record.getMessage()


# A diffusers scheduler made from our config keeps the keys of the SDE, so that the way back is open. It warns that it does not know them,
# at every swap and every load; between two schedulers of diffusers itself there is no such warning.
logging.getLogger("diffusers.configuration_utils").addFilter(_not_about_our_keys)
