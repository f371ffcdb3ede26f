"""Classifier-free guidance (Section 2.5): dropping the condition in training, guiding the prediction in sampling."""

from __future__ import annotations

from torch import Tensor


def drop_condition(latents: Tensor, uniform: Tensor, drop_prob: float) -> Tensor:
    """Set z to zero, the null condition, for a random part of the samples.

    Each sample is dropped by itself (not the whole batch), and only what the U-Net sees: reconstruction and KL keep their z.

    Args:
        latents: z, `(B, D)`.
        uniform: Numbers in [0, 1), `(B,)`; a sample is dropped where its number lies below `drop_prob`. Zeros force the drop.
        drop_prob: Between 0 and 1; the paper: 0.2.

    Returns:
        `(B, D)`.
    """
    return latents * (uniform >= drop_prob).to(latents.dtype).unsqueeze(-1)


def guide(unconditional: Tensor, conditional: Tensor, guidance_scale: float) -> Tensor:
    """Eq. 10: `unconditional + gamma * (conditional - unconditional)`.

    The score is affine in each of eps, v and x0 at a given x_t, with coefficients that sum alike in both terms, so that guiding any of
    these predictions guides the score.

    Args:
        unconditional: Prediction for z = 0, any shape.
        conditional: Prediction for z, same shape.
        guidance_scale: gamma: 1 is the conditional model, 0 the unconditional one, the paper uses 4.
    """
    return unconditional + guidance_scale * (conditional - unconditional)
