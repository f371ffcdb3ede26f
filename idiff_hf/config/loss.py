"""Eq. 2, and what varies in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .checks import fraction, positive, require


@dataclass(frozen=True)
class LossConfig:
    """Weights of Eq. 2. Squared errors are means over pixels of images in [-1, 1], the KL is a sum over latents in nats.

    Args:
        rec: lambda_rec. The paper's best: 0.1. 0 leaves the decoder untrained.
        kl: lambda_KL, the weight of KL(q(z|x) || p(z|u)). The paper's best: 1e-4.
        kl_reverse: Weight of KL(p(z|u) || q(z|x)), which is added to it (KL balancing as in Section 2.7 and Table 7); 0 is none. Annealing
            changes both weights alike.
        kl_balance: alpha of the stop-gradient form, alpha KL(sg(q) || p) + (1 - alpha) KL(q || sg(p)): the prior learns with alpha, the
            posterior with 1 - alpha. null is the plain KL.
        free_bits: The KL of a latent of an image that is below this, in nats, is not reduced any further.
        kl_anneal_factor: The KL weight starts at `kl` times this; 1 is no annealing (the paper).
        kl_anneal_hold: Fraction of the iVAE's steps at the starting weight.
        kl_anneal_end: Fraction of the iVAE's steps at which the weight has reached `kl`.
        kl_anneal_shape: How it moves there.
        kl_anneal_cycles: The schedule is repeated so many times.
        kl_before_release: With `model.prior_type=released`: the KL weight, annealed or not, is multiplied by this until
            `model.prior_release`.
        kl_temperature: T of E_q[-log p(z|u)] - T H[q], which is the KL where T is 1, the paper. Below 1 the entropy of q counts less, so
            that what u says of z is held on to as strongly, while q(z|x) is narrower: a cold posterior (Wenzel et al., arXiv 2002.02405).
        kl_temperature_start: Fraction of the iVAE's steps from which on; before, T is 1.
        latent_grad_scale: Scale on the U-Net's gradient to z. 1 is the paper; 0 detaches z.
        weighting: lambda(t) of Eq. 3. `plain`: squared error of whatever the U-Net predicts, for `epsilon` the paper's sigma^2(t);
            `sigma2`: the paper's, whatever is predicted; `likelihood`: g^2(t), the bound on the likelihood; `min_snr`: min(SNR, gamma)
            times the squared error of x_0; `min_snr_plus_one`: min(SNR, gamma) + 1 times it, which does not forget the noisy times, where
            pictures begin, and counts those of little noise, where they are finished.
        min_snr_gamma: With the last two.
        timestep_law: Of t in training: `uniform` (the paper), `beta` for Beta(1, b), `logit_normal` (the paper's first proposal in
            Section 4).
        timestep_beta: With `beta`: b. Below 1 there are more noisy times, where z tells most.
        timestep_mean: With `logit_normal`: mean of log(t / (1 - t)).
        timestep_std: With `logit_normal`: its deviation.
    """

    rec: float = 0.1
    kl: float = 1e-4
    kl_reverse: float = 0.0
    kl_balance: float | None = None
    free_bits: float = 0.0
    kl_anneal_factor: float = 1.0
    kl_anneal_hold: float = 0.17
    kl_anneal_end: float = 0.5
    kl_anneal_shape: Literal["geometric", "linear", "cosine"] = "geometric"
    kl_anneal_cycles: int = 1
    kl_before_release: float = 1.0
    kl_temperature: float = 1.0
    kl_temperature_start: float = 0.0
    latent_grad_scale: float = 0.0
    weighting: Literal["plain", "sigma2", "likelihood", "min_snr", "min_snr_plus_one"] = "plain"
    min_snr_gamma: float = 5.0
    timestep_law: Literal["uniform", "beta", "logit_normal"] = "uniform"
    timestep_beta: float = 1.0
    timestep_mean: float = 0.0
    timestep_std: float = 1.0

    def __post_init__(self) -> None:
        for name in ("rec", "kl", "kl_reverse", "free_bits", "kl_anneal_factor"):
            value = getattr(self, name)
            require(value >= 0, f"loss.{name} must be 0 or more, got {value}")
        require(
            self.kl_anneal_factor > 0 or self.kl_anneal_shape != "geometric",
            "loss.kl_anneal_factor=0 needs loss.kl_anneal_shape=linear or cosine: a geometric schedule never leaves 0",
        )
        positive(
            **{
                "loss.kl_anneal_cycles": self.kl_anneal_cycles,
                "loss.kl_before_release": self.kl_before_release,
                "loss.kl_temperature": self.kl_temperature,
                "loss.min_snr_gamma": self.min_snr_gamma,
                "loss.timestep_beta": self.timestep_beta,
                "loss.timestep_std": self.timestep_std,
            }
        )
        fraction(
            **{
                "loss.kl_anneal_hold": self.kl_anneal_hold,
                "loss.kl_anneal_end": self.kl_anneal_end,
                "loss.kl_temperature_start": self.kl_temperature_start,
                "loss.latent_grad_scale": self.latent_grad_scale,
                "loss.kl_balance": 0.0 if self.kl_balance is None else self.kl_balance,
            }
        )
        require(
            self.kl_anneal_hold <= self.kl_anneal_end,
            f"loss.kl_anneal_hold={self.kl_anneal_hold} must not exceed loss.kl_anneal_end={self.kl_anneal_end}",
        )
        require(
            self.kl_balance is None or self.kl_reverse == 0.0,
            f"loss.kl_balance={self.kl_balance} and loss.kl_reverse={self.kl_reverse} are two ways of KL balancing: give one",
        )
        require(
            self.kl > 0
            or (
                self.kl_reverse == 0.0
                and self.kl_balance is None
                and self.free_bits == 0.0
                and self.kl_temperature == 1.0
            ),
            f"loss.kl=0 leaves the KL out: loss.kl_reverse={self.kl_reverse}, loss.kl_balance={self.kl_balance}, "
            f"loss.free_bits={self.free_bits} and loss.kl_temperature={self.kl_temperature} would have no effect",
        )
        readers = {
            "loss.weighting=min_snr or min_snr_plus_one": (
                self.weighting in ("min_snr", "min_snr_plus_one"),
                ("min_snr_gamma",),
            ),
            "loss.timestep_law=beta": (self.timestep_law == "beta", ("timestep_beta",)),
            "loss.timestep_law=logit_normal": (
                self.timestep_law == "logit_normal",
                ("timestep_mean", "timestep_std"),
            ),
            "loss.kl_anneal_factor other than 1": (
                self.kl_anneal_factor != 1.0,
                ("kl_anneal_shape", "kl_anneal_cycles"),
            ),
            "loss.kl_temperature other than 1": (self.kl_temperature != 1.0, ("kl_temperature_start",)),
        }
        for who, (is_read, names) in readers.items():
            unread = [name for name in names if getattr(self, name) != getattr(LossConfig, name)]
            require(is_read or not unread, f"loss.{', loss.'.join(unread)} needs {who}")
