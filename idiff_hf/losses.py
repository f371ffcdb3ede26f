"""Eq. 2: L = L_DDPM + lambda_rec L_rec + lambda_KL L_KL."""

from __future__ import annotations

import torch
from diffusers import VQModel
from torch import Tensor, nn
from torch.nn import functional

from .config import Config
from .divergence import kl_divergence
from .guidance import dropped
from .models import Autoencoder, Conditioning, IVAEModel, denoise, encode_latents
from .random import BatchRandom
from .schedulers import VPSDEScheduler
from .stages import Phase
from .timesteps import draw_times, loss_weight


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor, scale: float) -> Tensor:
        ctx.scale = scale  # type: ignore[attr-defined]
        return z.view_as(z)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] * ctx.scale, None  # type: ignore[attr-defined]


ENCODED_AT_A_TIME = 64
"""Images, so that a few thousand of them fit any memory."""


class IVAEDiffusionLoss(nn.Module):
    """Owns every trainable part, so that Accelerate prepares one module, and returns every term of Eq. 2.

    Args:
        config: The experiment.
        ivae: The identifiable VAE, or None where the U-Net is unconditional.
        unet: Stock U-Net, or None where the iVAE is trained alone.
        conditioning: z to the U-Net, or None likewise.
        scheduler: The SDE's marginals.
        vae: Autoencoder in whose latents the diffusion runs, or None where it runs on pixels.

    Attributes:
        scaling_factor: What the latents of `vae` are multiplied by, `()`: 1 until `calibrate` has seen them.
    """

    scaling_factor: Tensor

    def __init__(
        self,
        config: Config,
        ivae: IVAEModel | None,
        unet: nn.Module | None,
        conditioning: Conditioning | None,
        scheduler: VPSDEScheduler,
        vae: Autoencoder | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.ivae = ivae
        self.unet = unet
        self.conditioning = conditioning
        self.scheduler = scheduler
        self.vae = vae
        if vae is not None:
            self.register_buffer("scaling_factor", torch.ones(()))

    def forward(self, image: Tensor, aux: Tensor, random: BatchRandom, phase: Phase) -> dict[str, Tensor]:
        """Every active term, means over the batch, and their weighted sum `loss`.

        Args:
            image: x_0, `(B, C, H, W)` in [-1, 1].
            aux: u, `(B, A)`.
            random: Keyed draws for these rows.
            phase: What is trained at this step.

        Returns:
            `loss` (a scalar to differentiate) and, detached, the unweighted `rec` (mean squared error over pixels), `kl` (nats, summed
            over latents) and `ddpm` (weighted by lambda(t)) as far as they are in the loss; and of an autoencoder `autoencoder_rec` and
            `autoencoder_kl`, likewise, or `autoencoder_commit` (see `_autoencoder`).
        """
        terms: dict[str, Tensor] = {}
        loss = image.new_zeros(())
        z: Tensor | None = None
        shown: Tensor | None = None
        if self.ivae is not None and (phase.ivae or phase.unet):
            if self.ivae.training != (learns := phase.ivae and self.training):
                # a norm over the batch goes on changing while it is in training mode, whether its weights learn or not
                self.ivae.train(learns)
            with torch.set_grad_enabled(phase.ivae and torch.is_grad_enabled()):
                posterior = self.ivae.encode(image).latent_dist
                z = posterior.sample(random.normal("posterior", posterior.noise_shape))
                shown = posterior.mode() if self.config.unet.condition_on == "mean" else z
        if phase.ivae:
            assert self.ivae is not None and z is not None
            weights = self.config.loss
            penalty, kl = kl_divergence(
                posterior,
                self.ivae.prior(aux, phase.released).latent_dist,
                reverse=weights.kl_reverse / weights.kl if weights.kl_reverse else 0.0,
                balance=weights.kl_balance,
                free_bits=weights.free_bits,
                temperature=phase.kl_temperature,
            )
            terms["kl"] = kl.detach()
            loss = loss + phase.kl_weight * penalty
            if weights.rec > 0:
                rec = functional.mse_loss(self.ivae.decode(z).sample.float(), image)
                terms["rec"] = rec.detach()
                loss = loss + weights.rec * rec
        if phase.autoencoder:
            value, of_autoencoder = self._autoencoder(image, random)
            terms |= of_autoencoder
            loss = loss + value
        if phase.unet:
            ddpm = self._ddpm(self.diffused(image), shown, random)
            terms["ddpm"] = ddpm.detach()
            loss = loss + ddpm
        return {"loss": loss, **terms}

    @torch.no_grad()
    def diffused(self, image: Tensor) -> Tensor:
        """What the diffusion runs on, of images `(B, C, H, W)`: they themselves, or latents of standard deviation 1."""
        return image if self.vae is None else self.scaling_factor * encode_latents(self.vae, image)

    @torch.no_grad()
    def calibrate(self, image: Tensor) -> None:
        """Set `scaling_factor` so that the latents of these images `(N, C, H, W)`, all elements together, have standard deviation 1.

        Section 4.3.2 and appendix D.1 of arXiv:2112.10752: the SDE ends in noise of that size.
        """
        assert self.vae is not None
        latents = [encode_latents(self.vae, part) for part in image.split(ENCODED_AT_A_TIME)]
        self.scaling_factor.copy_(1.0 / torch.cat(latents).std())

    def _autoencoder(self, image: Tensor, random: BatchRandom) -> tuple[Tensor, dict[str, Tensor]]:
        """The squared error, a mean over pixels, plus the weighted KL to N(0, I), or the codebook's loss; and these terms, detached.

        The squared error, not the absolute one of arXiv:2112.10752, is what a Gaussian decoder has in the ELBO, so that the KL keeps its
        meaning, and is what every other error here is measured in; that paper's perceptual and adversarial terms would need networks
        that were trained on photographs, or a third one to train. The codebook's loss is diffusers' own: with its default weights, 1 on
        latents that move to codes and 0.25 on codes that move to latents.
        """
        if isinstance(self.vae, VQModel):
            decoded = self.vae(image)
            name, weight, penalty = "commit", 1.0, decoded.commit_loss
        else:
            assert self.vae is not None
            posterior = self.vae.encode(image).latent_dist
            noise = random.normal("autoencoder", posterior.mean.shape[1:])
            decoded = self.vae.decode(posterior.mean + posterior.std * noise)
            name, weight, penalty = "kl", self.config.autoencoder.kl, posterior.kl().mean()
        rec = functional.mse_loss(decoded.sample.float(), image)
        terms = {"autoencoder_rec": rec.detach(), f"autoencoder_{name}": penalty.detach()}
        return rec + weight * penalty, terms

    def _condition(self, z: Tensor | None, random: BatchRandom) -> Tensor | None:
        """What the U-Net is shown of z: part of the samples the null condition, and as much gradient back as is asked for."""
        assert self.conditioning is not None
        if z is None:
            return None
        scale = self.config.loss.latent_grad_scale
        z = z.detach() if scale == 0.0 else _ScaleGradient.apply(z, scale)
        return self.conditioning(z, dropped(random.uniform("drop", ()), self.config.cfg.drop_prob))

    def _ddpm(self, x_0: Tensor, z: Tensor | None, random: BatchRandom) -> Tensor:
        """Eq. 3: the squared error of what the U-Net predicts, a mean over pixels or latents, weighted by `loss_weight`."""
        assert self.unet is not None and self.conditioning is not None
        weights = self.config.loss
        t = draw_times(
            random.uniform("timestep", ()),
            self.config.scheduler.sampling_eps,
            weights.timestep_law,
            beta=weights.timestep_beta,
            mean=weights.timestep_mean,
            std=weights.timestep_std,
        )
        timestep = self.scheduler.timestep_from_t(t)
        noise = random.normal("noise", x_0.shape[1:])
        x_t = self.scheduler.add_noise(x_0, noise, timestep)
        prediction = denoise(self.unet, self.conditioning, x_t, timestep, self._condition(z, random)).float()
        target = self.scheduler.target(x_0, noise, timestep)
        if weights.weighting == "plain":
            return functional.mse_loss(prediction, target)
        weight = loss_weight(self.scheduler, t, weights.weighting, weights.min_snr_gamma)
        return (weight * (prediction - target).square().flatten(1).mean(dim=1)).mean()
