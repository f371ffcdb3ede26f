"""Eq. 2: L = L_DDPM + lambda_rec L_rec + lambda_KL L_KL."""

from __future__ import annotations

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn import functional

from .config import Config
from .guidance import drop_condition
from .models import AdditiveConditioning, IVAEModel, denoise
from .random import BatchRandom
from .schedulers import VPSDEScheduler
from .stages import Phase


def draw_times(uniform: Tensor, beta: float, eps: float) -> Tensor:
    """Times in [eps, 1]: t = eps + (1 - eps) s with s ~ Beta(1, beta), by the inverse of its distribution function 1 - (1 - s)^beta.

    Args:
        uniform: Numbers in [0, 1), `(B,)`.
        beta: 1 is uniform (the paper); below 1 puts more weight on noisy times.
        eps: The smallest time.

    Returns:
        `(B,)`.
    """
    return eps + (1.0 - eps) * (1.0 - (1.0 - uniform) ** (1.0 / beta))


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor, scale: float) -> Tensor:
        ctx.scale = scale  # type: ignore[attr-defined]
        return z.view_as(z)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None  # type: ignore[attr-defined]


class IVAEDiffusionLoss(nn.Module):
    """Owns every trainable part, so that Accelerate prepares one module, and returns every term of Eq. 2.

    Args:
        config: The experiment.
        ivae: The identifiable VAE.
        unet: Stock U-Net, or None where the iVAE is trained alone.
        conditioning: z to the U-Net, or None likewise.
        scheduler: The SDE's marginals.
    """

    def __init__(
        self,
        config: Config,
        ivae: IVAEModel,
        unet: UNet2DModel | None,
        conditioning: AdditiveConditioning | None,
        scheduler: VPSDEScheduler,
    ) -> None:
        super().__init__()
        self.config = config
        self.ivae = ivae
        self.unet = unet
        self.conditioning = conditioning
        self.scheduler = scheduler

    def forward(self, image: Tensor, aux: Tensor, random: BatchRandom, phase: Phase) -> dict[str, Tensor]:
        """Every active term, means over the batch, and their weighted sum `loss`.

        Args:
            image: x_0, `(B, C, H, W)` in [-1, 1].
            aux: u, `(B, A)`.
            random: Keyed draws for these rows.
            phase: What is trained at this step.

        Returns:
            `loss` (a scalar to differentiate) and, detached, the unweighted `rec` (mean squared error over pixels), `kl` (nats, summed
            over latents) and `ddpm` as far as they are in the loss.
        """
        with torch.set_grad_enabled(phase.ivae and torch.is_grad_enabled()):
            posterior = self.ivae.encode(image).latent_dist
            z = posterior.sample(random.normal("posterior", posterior.mean.shape[1:]))
        terms: dict[str, Tensor] = {}
        loss = image.new_zeros(())
        if phase.ivae:
            kl = posterior.kl(self.ivae.prior(aux, phase.released).latent_dist).sum(dim=1).mean()
            terms["kl"] = kl.detach()
            loss = loss + phase.kl_weight * kl
            if self.config.loss.rec > 0:
                rec = functional.mse_loss(self.ivae.decode(z).sample.float(), image)
                terms["rec"] = rec.detach()
                loss = loss + self.config.loss.rec * rec
        if phase.unet:
            ddpm = self._ddpm(image, z, random)
            terms["ddpm"] = ddpm.detach()
            loss = loss + ddpm
        return {"loss": loss, **terms}

    def _ddpm(self, image: Tensor, z: Tensor, random: BatchRandom) -> Tensor:
        """Eq. 3 with lambda(t) = sigma^2(t), for which an eps prediction's loss is its plain squared error.

        For `sample` and `v_prediction` the plain squared error of that quantity is taken: another weighting of the same minimiser.
        """
        assert self.unet is not None and self.conditioning is not None
        eps = self.config.scheduler.sampling_eps
        t = draw_times(random.uniform("timestep", ()), self.config.loss.timestep_beta, eps)
        timestep = self.scheduler.timestep_from_t(t)
        noise = random.normal("noise", image.shape[1:])
        scale = self.config.loss.latent_grad_scale
        z = z.detach() if scale == 0.0 else _ScaleGradient.apply(z, scale)
        z = drop_condition(z, random.uniform("drop", ()), self.config.cfg.drop_prob)
        x_t = self.scheduler.add_noise(image, noise, timestep)
        prediction = denoise(self.unet, x_t, timestep, self.conditioning(z), self.config.unet.patch_size)
        return functional.mse_loss(prediction.float(), self.scheduler.target(image, noise, timestep))
