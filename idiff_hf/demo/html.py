"""Pieces of the page that show pictures. They hold the pictures themselves, so that nothing is written to a file or fetched."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import Any

import numpy as np

from ..figures import to_pil
from .explorer import Explorer, Strip

CSS = """
.gradio-container { max-width: 1280px !important; margin: auto; }
.idiff-head h1 { font-size: 1.35rem; font-weight: 650; margin: 0; overflow-wrap: anywhere; }
.idiff-head p { margin: .15rem 0 0; opacity: .75; }
.idiff img, .idiff-examples img { image-rendering: pixelated; }
.idiff a { font-weight: 400; text-decoration: underline; }
#input .html-container, #ivae .html-container, #ddpm .html-container { padding: 4px 0 !important; }
figure.idiff { margin: 0; }
figure.idiff img { width: 100%; display: block; border-radius: 6px; }
figure.idiff figcaption { display: flex; height: 1.7rem; align-items: center; justify-content: space-between; gap: .5rem;
  padding: 0 0 .3rem; font-size: .85rem; font-weight: 600; line-height: 1.4; white-space: nowrap; }
figure.idiff a { font-size: inherit; line-height: inherit; }
figure.idiff .empty { aspect-ratio: 1; border-radius: 6px; display: flex; align-items: center; justify-content: center;
  background: var(--background-fill-secondary); opacity: .75; font-size: .9rem; text-align: center; }
.idiff-moved { font-size: .9rem; display: flex; justify-content: space-between; gap: 1rem; min-height: 1.4rem; }
.idiff-moved a { white-space: nowrap; }
.idiff-strip { display: grid; gap: 4px; align-items: center; }
.idiff-strip img { width: 100%; display: block; border-radius: 4px; }
.idiff-strip span { font-size: .85rem; text-align: center; font-variant-numeric: tabular-nums; }
.idiff-strip b { font-size: .85rem; font-weight: 600; }
.idiff-latent { padding-top: 5px !important; padding-bottom: 5px !important; }
#latents { max-height: 34rem; overflow-y: auto; flex-wrap: nowrap; }
#examples .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; gap: 6px;
  grid-auto-rows: min-content !important; }
#examples .grid-container button, #examples .grid-container img { width: 100%; min-width: 0; height: auto; aspect-ratio: 1; }
#examples .grid-wrap { max-height: 24rem; min-height: 0; padding: 6px; }
"""


def head(explorer: Explorer) -> str:
    """What model it is."""
    pipeline = explorer.pipeline
    kind = f"{len(explorer.latents)} latents" + (
        f" of {explorer.classes} classes" if explorer.classes else ""
    )
    parts = "iVAE and diffusion model" if explorer.draws else "iVAE alone, without a diffusion model"
    size = f"{pipeline.image_size} x {pipeline.image_size} pixels"
    return f'<div class="idiff-head"><h1>{escape(explorer.name)}</h1><p>{parts}, {kind}, {size}</p></div>'


def figure(image: np.ndarray, title: str, file_name: str | None = None) -> str:
    """A picture `(H, W, C)` uint8 under its title, with a link that saves it in its own size if it has a file name."""
    source = _png(image)
    link = (
        ""
        if file_name is None
        else f'<a download="{escape(file_name)}" href="{source}" title="the picture in its own size">save</a>'
    )
    alt = escape(title)
    return f'<figure class="idiff"><figcaption><span>{alt}</span>{link}</figcaption><img alt="{alt}" src="{source}"></figure>'


def no_figure(title: str, reason: str) -> str:
    """The place of a picture that there is none of."""
    return (
        f'<figure class="idiff"><figcaption><span>{escape(title)}</span></figcaption>'
        f'<div class="empty">{escape(reason)}</div></figure>'
    )


def moved(
    explorer: Explorer, before: Sequence[float], after: Sequence[float], document: dict[str, Any]
) -> str:
    """Which values are no longer those of the image, and a link that saves all of them."""
    changes = [
        f"{latent.label.split(' (')[0]}: {old:g} → {new:g}"
        for latent, old, new in zip(explorer.latents, before, after, strict=True)
        if old != new
    ]
    text = "moved " + ", ".join(changes) if changes else "as encoded"
    content = base64.b64encode(json.dumps(document, indent=2).encode()).decode()
    link = f'<a download="z.json" href="data:application/json;base64,{content}">save z as JSON</a>'
    return f'<div class="idiff idiff-moved"><span>{escape(text)}</span>{link}</div>'


def strip(found: Strip) -> str:
    """The pictures of a strip, a row for each decoder, below the values."""
    cells = ["<b></b>", *(f"<span>{value:g}</span>" for value in found.values)]
    for title, images in (("iVAE", found.ivae), ("diffusion", found.ddpm)):
        if images is not None:
            cells.append(f"<b>{title}</b>")
            cells += [
                f'<img alt="{title}, {escape(found.latent.label)} at {value:g}" src="{_png(image)}">'
                for value, image in zip(found.values, images, strict=True)
            ]
    columns = f"grid-template-columns: 4.5rem repeat({len(found.values)}, minmax(0, 1fr))"
    return f'<div class="idiff idiff-strip" style="{columns}">{"".join(cells)}</div>'


def _png(image: np.ndarray) -> str:
    file = BytesIO()
    to_pil(image).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
