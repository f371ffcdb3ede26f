"""The KL term of Eq. 2 and its variants (Section 2.7): pure functions of two distributions."""

from __future__ import annotations

from torch import Tensor

from .distributions import LatentDistribution, PosteriorDistribution


def kl_divergence(
    posterior: PosteriorDistribution,
    prior: LatentDistribution,
    *,
    reverse: float = 0.0,
    balance: float | None = None,
    free_bits: float = 0.0,
    temperature: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """What the loss takes as its KL term, and KL(q(z|x) || p(z|u)) itself.

    Both are sums over latents and means over the batch, in nats. Of the two ways to balance how far the posterior follows the prior and the
    prior the posterior, `reverse` and `balance`, at most one is meant to be given.

    Args:
        posterior: q(z|x).
        prior: p(z|u).
        reverse: r in KL(q || p) + r KL(p || q), the ratio of the two weights of Table 7 (Section 2.7), 0 or more.
        balance: alpha in [0, 1] of alpha KL(sg(q) || p) + (1 - alpha) KL(q || sg(p)), where sg stops the gradient: the value of the KL,
            with alpha of its gradient to the prior and 1 - alpha of it to the posterior (Hafner et al., arXiv 2010.02193). None is the
            plain KL.
        free_bits: Least KL in nats, 0 or more, of each latent of each sample and in each direction: below it there is no gradient. A
            bound on the batch's mean (Kingma et al., arXiv 1606.04934) would depend on how the batch is cut up among processes; with
            one for each sample the loss stays a mean over samples.
        temperature: T, above 0, with which the entropy of the posterior counts: the penalty has (1 - T) H[q] more than the KL, so that of
            the plain KL, E_q[-log p] - H[q], it makes E_q[-log p] - T H[q] (Wenzel et al., arXiv 2002.02405).

    Returns:
        The penalty, to be weighted with lambda_KL, and without gradient the plain KL(q || p).
    """
    kl = posterior.kl(prior)

    def total(divergence: Tensor) -> Tensor:
        if free_bits > 0.0:
            divergence = divergence.clamp_min(free_bits)
        return divergence.sum(dim=1).mean()

    if balance is None:
        penalty = total(kl)
    else:
        to_prior, to_posterior = posterior.detach().kl(prior), posterior.kl(prior.detach())
        penalty = balance * total(to_prior) + (1.0 - balance) * total(to_posterior)
    if reverse > 0.0:
        penalty = penalty + reverse * total(prior.kl(posterior))
    if temperature != 1.0:
        penalty = penalty + (1.0 - temperature) * posterior.entropy().sum(dim=1).mean()
    return penalty, kl.detach().sum(dim=1).mean()
