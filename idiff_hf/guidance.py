"""Classifier-free guidance (Section 2.5): dropping the condition in training, guiding the prediction in sampling."""

from __future__ import annotations

from torch import Tensor


def dropped(uniform: Tensor, drop_prob: float) -> Tensor:
    """Which samples are shown the null condition.

    Each sample is dropped by itself (not the whole batch), and only what the U-Net sees: reconstruction and KL keep their z.

    Args:
        uniform: Numbers in [0, 1), `(B,)`; a sample is dropped where its number lies below `drop_prob`. Zeros force the drop.
        drop_prob: Between 0 and 1; the paper: 0.2.

    Returns:
        Booleans `(B,)`.
    """
    return uniform < drop_prob


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Eq. 10: `unconditional + gamma * (conditional - unconditional)`.

    The score is affine in each of eps, v and x0 at a given x_t, with coefficients that sum alike in both terms, so that guiding any of
    these predictions guides the score.

    Args:
        unconditional: Prediction for the null condition, any shape.
        conditional: Prediction for z, same shape.
        guidance_scale: gamma: 1 is the conditional model, 0 the unconditional one, the paper uses 4.
    """
    return unconditional + guidance_scale * (conditional - unconditional)
