"""What a model is, in the paper's words, read from its config as `results.json` holds it.

A key that a config of an earlier version does not have is read as what that version did.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def is_categorical(config: Mapping[str, Any]) -> bool:
    """Whether each latent is one of several classes (Section 2.6)."""
    return config["model"].get("latent_type", "gaussian") == "categorical"


def has_ivae(config: Mapping[str, Any]) -> bool:
    """Whether there are latents; without, the U-Net is unconditional."""
    return bool(config["model"].get("ivae", True))


def learns_decoder(config: Mapping[str, Any]) -> bool:
    """Whether the iVAE's decoder is a model of images: with lambda_rec = 0 it is left as it was drawn."""
    return has_ivae(config) and config["loss"]["rec"] > 0


def model_type(config: Mapping[str, Any]) -> str:
    """VAE, iVAE, CatVAE, each with or without +DDPM, or DDPM alone: the paper's names."""
    parts = ["DDPM"] if config["model"]["diffusion"] else []
    if has_ivae(config):
        plain = "VAE" if config["aux"]["name"] == "none" else "iVAE"
        parts.insert(0, "CatVAE" if is_categorical(config) else plain)
    return "+".join(parts)


def model_sentence(config: Mapping[str, Any]) -> str:
    """The same in a sentence, with the number of latents."""
    model = config["model"]
    if not has_ivae(config):
        return (
            "A variance-preserving diffusion model, unconditional (DDPM): it draws images and has no latents."
        )
    categorical, identifiable = is_categorical(config), config["aux"]["name"] != "none"
    adjectives = f"{'categorical ' if categorical else ''}{'identifiable ' if identifiable else ''}"
    article = "An" if adjectives.startswith("i") else "A"
    short = "CatVAE" if categorical else "iVAE" if identifiable else "VAE"
    text = f"{article} {adjectives}variational autoencoder ({short}) with {model['latent_dim']} latents"
    if categorical:
        text += f" of {model['num_categories']} classes each"
    if model["diffusion"]:
        text += ", and a variance-preserving diffusion model (DDPM) that draws images from these latents"
    return f"{text}."


def training_sentence(config: Mapping[str, Any]) -> str | None:
    """Where an iVAE came from, or by what it learned, where this is not Eq. 2 from the start; None where it is."""
    model, loss = config["model"], config["loss"]
    if not has_ivae(config):
        return None
    sentences = []
    if folder := model.get("pretrained_ivae"):
        sentences.append(
            f"The iVAE is that of `{folder}`, frozen: it was not trained here."
            if model["freeze_ivae"]
            else f"The iVAE was trained on from that of `{folder}`."
        )
    if not learns_decoder(config):
        if not model.get("freeze_ivae", False):
            signal = " and ".join(
                name
                for name, weight in (
                    ("the U-Net's gradient", loss["latent_grad_scale"] if model["diffusion"] else 0.0),
                    ("the KL to the prior", loss["kl"]),
                )
                if weight > 0
            )
            sentences.append(f"The encoder was trained by {signal or 'nothing'} alone (lambda_rec = 0).")
        sentences.append("The iVAE's decoder is untrained, and nothing below is drawn by it.")
    return " ".join(sentences) or None


def settings(config: Mapping[str, Any]) -> list[str]:
    """What a reader has to know of the architecture and the loss, short texts: only what is not plain is named."""
    model, unet, loss = config["model"], config["unet"], config["loss"]
    texts = []
    if has_ivae(config):
        texts.append(f"backbone `{model['backbone']}`")
        family = model.get("prior_family", "gaussian")
        texts.append(
            f"prior `{model['prior_type']}`{'' if family == 'gaussian' else f' of family `{family}`'}"
        )
    if has_ivae(config) and model["diffusion"]:
        null = config["cfg"].get("null_condition", "zeros")
        texts.append(
            f"condition `{unet.get('conditioning', 'additive')}`{'' if null == 'zeros' else f', null condition `{null}`'}"
        )
    if has_ivae(config) and not model.get("freeze_ivae", False):
        texts += _kl_form(loss)
    autoencoder = config.get("autoencoder", {"type": "none"})
    if autoencoder["type"] != "none":
        texts.append(
            f"diffusion in the {autoencoder['latent_channels']}-channel latents of a `{autoencoder['type']}` autoencoder"
        )
    if model["diffusion"]:
        texts.append(f"the U-Net predicts `{unet['prediction_type']}`")
        texts += _score_loss(loss)
    return texts


def _kl_form(loss: Mapping[str, Any]) -> list[str]:
    if loss["kl"] == 0:
        return ["no KL term"]
    texts = []
    if reverse := loss.get("kl_reverse", 0.0):
        texts.append(f"KL in both directions, weights {loss['kl']:g} and {reverse:g}")
    if (balance := loss.get("kl_balance")) is not None:
        texts.append(f"KL balanced by stop-gradients, {balance:g} of its gradient to the prior")
    if free := loss.get("free_bits", 0.0):
        texts.append(f"{free:g} free nats a latent")
    if (factor := loss["kl_anneal_factor"]) != 1:
        cycles = loss.get("kl_anneal_cycles", 1)
        texts.append(
            f"KL weight annealed from {factor:g} times its value, {loss.get('kl_anneal_shape', 'geometric')}"
            f"{'' if cycles == 1 else f', {cycles} times'}"
        )
    if (before := loss.get("kl_before_release", 1.0)) != 1:
        texts.append(f"KL weight times {before:g} until the prior is released")
    if (temperature := loss.get("kl_temperature", 1.0)) != 1:
        start = loss["kl_temperature_start"]
        when = f" from {100 * start:g} % of the steps on" if start else ""
        texts.append(f"entropy of q in the KL times {temperature:g}{when}")
    return texts


def _score_loss(loss: Mapping[str, Any]) -> list[str]:
    texts = []
    if (weighting := loss.get("weighting", "plain")) != "plain":
        gamma = f" ({loss['min_snr_gamma']:g})" if weighting.startswith("min_snr") else ""
        texts.append(f"weighting `{weighting}`{gamma}")
    # before the law had a name, Beta(1, b) with b = 1 was the uniform one
    law = loss.get("timestep_law", "uniform" if loss["timestep_beta"] == 1 else "beta")
    if law == "beta":
        texts.append(f"time steps of Beta(1, {loss['timestep_beta']:g})")
    elif law == "logit_normal":
        texts.append(
            f"time steps logit-normal, mean {loss['timestep_mean']:g}, deviation {loss['timestep_std']:g}"
        )
    return texts
