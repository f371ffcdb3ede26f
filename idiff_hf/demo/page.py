"""The explorer's page: what lies where, what is computed when something is moved, and which event asks for it.

Gradio is told to send nothing home before it is imported. What a browser sends is checked by gradio, and again by `explorer`.
"""

from __future__ import annotations

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import numpy as np
from PIL import Image

from ..figures import to_pil

try:
    import gradio as gr
except ImportError:
    raise ValueError('the explorer needs gradio: pip install "idiff_hf[demo]"') from None

from ..sampler_curve import SOLVERS
from . import html
from .explorer import DECIMALS, MAX_GUIDANCE, MAX_SEED, MAX_STEPS, Drawing, Explorer
from .latents import Latent

QUEUE = 16
"""Requests that wait, at most; gradio answers others by 503."""
_KEEP_UPLOADS = 600
_EXAMPLE_SIDE = 96


def build_page(explorer: Explorer) -> gr.Blocks:
    """The page of a model; nothing is served yet."""
    with gr.Blocks(
        title=f"{explorer.name}: latent explorer",
        analytics_enabled=False,
        delete_cache=(_KEEP_UPLOADS, _KEEP_UPLOADS),
        fill_width=True,
    ) as page:
        parts = _lay_out(explorer)
        _connect(page, parts, Answers(explorer), explorer)
    page.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=1)
    return page


@dataclass(frozen=True)
class Parts:
    """What of the page is read or written.

    Attributes:
        image: The picture that is encoded, not shown itself.
        gallery: Held-out images to begin from.
        upload: A picture of one's own.
        resize: Whether that is scaled to the model's size.
        sliders: One a latent, in the order of the model.
        reset: Back to the encoded values.
        input_figure: Shows the picture.
        ivae_figure: Shows the iVAE's.
        ddpm_figure: Shows the diffusion model's.
        summary: Says what was moved.
        settings: How the diffusion model draws, in the order of `Drawing`'s sliders; none where there is no such model.
        which: The latent that the strip is of.
        strip: Shows one latent along its range.
    """

    image: Any
    gallery: Any
    upload: Any
    resize: Any
    sliders: list[Any]
    reset: Any
    input_figure: Any
    ivae_figure: Any
    ddpm_figure: Any
    summary: Any
    settings: list[Any]
    which: Any
    strip: Any


def _lay_out(explorer: Explorer) -> Parts:
    gr.HTML(html.head(explorer), padding=False)
    image = gr.State(time_to_live=3600)
    with gr.Row():
        with gr.Column(scale=4, min_width=240):
            gallery = _gallery(explorer)
            upload = gr.UploadButton(
                "Upload a picture", file_types=["image"], type="binary", size="sm", elem_id="upload"
            )
            resize = gr.Checkbox(True, label="scale its centre square to the model's size", container=False)
        with gr.Column(scale=5, min_width=320):
            with gr.Column(elem_id="latents"):
                sliders = _sliders(explorer)
            reset = gr.Button("Back to the encoded values", size="sm", elem_id="reset")
        with gr.Column(scale=8, min_width=420):
            with gr.Row():
                input_figure = gr.HTML(elem_id="input", min_height=120, padding=False)
                ivae_figure = gr.HTML(elem_id="ivae", min_height=120, padding=False)
                ddpm_figure = gr.HTML(
                    html.no_figure("diffusion model", "this model has none"), elem_id="ddpm", min_height=120
                )
            summary = gr.HTML(elem_id="summary", padding=False)
            settings = _settings(explorer)
    which = gr.Dropdown(
        [(latent.label, latent.number) for latent in explorer.latents],
        value=0,
        label="one latent along its range, the others as they are",
        elem_id="which",
    )
    return Parts(
        image=image,
        gallery=gallery,
        upload=upload,
        resize=resize,
        sliders=sliders,
        reset=reset,
        input_figure=input_figure,
        ivae_figure=ivae_figure,
        ddpm_figure=ddpm_figure,
        summary=summary,
        settings=settings,
        which=which,
        strip=gr.HTML(elem_id="strip", min_height=120, padding=False),
    )


class Answers:
    """What the page shows when something on it is chosen or moved.

    `given` is the values of the latents, then the settings, as in `Parts`.

    Args:
        explorer: The model.
    """

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.values = len(explorer.latents)

    def show(self, chosen: np.ndarray) -> list[Any]:
        """A picture, its figure and its latents."""
        shown, outside = self._encoded(chosen)
        if outside:
            names = ", ".join(f"z{latent.number}" for latent in outside)
            gr.Warning(f"{names} of this picture lie outside the range of the data and are put at its end")
        return [chosen, html.figure(chosen, "input"), *shown]

    def pick(self, event: gr.SelectData) -> list[Any]:
        """`show` for a picture of the gallery."""
        return self.show(self.explorer.example(event.index))

    def read(self, content: bytes, resize: bool) -> list[Any]:
        """`show` for an uploaded picture."""
        return self.show(self.explorer.read_image(content, resize))

    def first(self) -> list[Any]:
        """`show` for the first picture of the gallery."""
        return self.show(self.explorer.example(0))

    def decode(self, chosen: np.ndarray, *given: Any) -> tuple[str, str]:
        """The iVAE's picture, and what was moved."""
        now, how = given[: self.values], self._drawing(given)
        before, _ = self._encoded(chosen)
        return html.figure(self.explorer.decode(now), "iVAE decoder", "ivae.png"), html.moved(
            self.explorer, before, now, self.explorer.document(now, how)
        )

    def draw(self, chosen: np.ndarray, *given: Any) -> str:
        """The diffusion model's picture."""
        self._encoded(chosen)
        picture = self.explorer.draw(chosen, given[: self.values], self._drawing(given))
        return html.figure(picture, "diffusion model", "diffusion.png")

    def move(self, number: int, *given: Any) -> str:
        """The strip of one latent."""
        return html.strip(self.explorer.strip(given[: self.values], number, self._drawing(given)))

    def _encoded(self, chosen: np.ndarray | None) -> tuple[list[float], list[Latent]]:
        if chosen is None:
            raise ValueError("there is no picture yet, or it has been forgotten: pick or upload one")
        return self.explorer.within(self.explorer.encode(chosen))

    def _drawing(self, given: tuple[Any, ...]) -> Drawing:
        if not self.explorer.draws:
            return Drawing(self.explorer.default_solver)
        guidance, steps, solver, seed, keep_noise = given[self.values :]
        return Drawing(solver, guidance, steps, seed, keep_noise)


def _connect(page: gr.Blocks, parts: Parts, answers: Answers, explorer: Explorer) -> None:
    """Which event asks for what: a picture for all of it, a moved latent for both drawings, and for the strip when it is let go."""
    state = [*parts.sliders, *parts.settings]
    shown = [parts.image, parts.input_figure, *parts.sliders]
    decoded = {
        "fn": _sentence(answers.decode),
        "inputs": [parts.image, *state],
        "outputs": [parts.ivae_figure, parts.summary],
    }
    drawn = {"fn": _sentence(answers.draw), "inputs": [parts.image, *state], "outputs": [parts.ddpm_figure]}
    moved = {"fn": _sentence(answers.move), "inputs": [parts.which, *state], "outputs": [parts.strip]}
    # the model's own threads share the cores: one drawing at a time, whoever asks
    event: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    costly = {**event, "concurrency_id": "draw", "concurrency_limit": 1}

    starts = [
        parts.gallery.select(_sentence(answers.pick), None, shown, **event),
        parts.upload.upload(_sentence(answers.read), [parts.upload, parts.resize], shown, **event),
        parts.reset.click(_sentence(answers.show), parts.image, shown, **event),
    ]
    if len(explorer.examples):
        starts.append(page.load(_sentence(answers.first), None, shown, **event))
    for start in starts:
        after = start.success(**decoded, **event)
        if explorer.draws:
            after = after.success(**drawn, **costly)
        after.success(**moved, **costly)
    changes = [component.input for component in state]
    gr.on(changes, **decoded, **event, trigger_mode="always_last")
    if explorer.draws:
        gr.on(changes, **drawn, **costly, trigger_mode="always_last")
    settled = [
        component.release if isinstance(component, gr.Slider) else component.input for component in state
    ]
    gr.on([parts.which.input, *settled], **moved, **costly, trigger_mode="always_last")


def _gallery(explorer: Explorer) -> gr.Gallery:
    side = explorer.pipeline.image_size
    scale = max(1, _EXAMPLE_SIDE // side)
    pictures = [
        to_pil(picture).resize((side * scale, side * scale), Image.Resampling.NEAREST)
        for picture in explorer.examples
    ]
    return gr.Gallery(
        pictures,
        label="held-out images",
        show_label=False,
        columns=3,
        height="auto",
        object_fit="contain",
        format="png",
        allow_preview=False,
        interactive=False,
        buttons=[],
        visible=bool(pictures),
        elem_id="examples",
        elem_classes="idiff-examples",
    )


def _sliders(explorer: Explorer) -> list[Any]:
    """A slider, or a choice of class, for each latent, in the order of the model; what is unused is folded away."""
    found: dict[int, Any] = {}
    used = [latent for latent in explorer.latents if latent.used]
    for latent in used:
        found[latent.number] = _slider(latent)
    unused = [latent for latent in explorer.latents if not latent.used]
    if unused:
        with gr.Accordion(f"{len(unused)} latents that carry nothing", open=False):
            for latent in unused:
                found[latent.number] = _slider(latent)
    return [found[number] for number in range(len(found))]


def _slider(latent: Latent) -> Any:
    name = f"latent-{latent.number}"
    if latent.classes:
        choices = [(str(number), float(number)) for number in range(latent.classes)]
        return gr.Dropdown(
            choices,
            value=0.0,
            label=latent.label,
            elem_id=name,
            elem_classes="idiff-latent",
            filterable=False,
        )
    return gr.Slider(
        latent.low,
        latent.high,
        value=min(max(0.0, latent.low), latent.high),
        step=10.0**-DECIMALS,
        label=latent.label,
        elem_id=name,
        elem_classes="idiff-latent",
        buttons=[],
    )


def _settings(explorer: Explorer) -> list[Any]:
    """How the diffusion model draws, in the order of `Answers`; nothing where there is none."""
    if not explorer.draws:
        return []
    with gr.Group():
        with gr.Row():
            guidance = gr.Slider(0.0, MAX_GUIDANCE, value=1.0, step=0.1, label="guidance", buttons=[])
            steps = gr.Slider(1, MAX_STEPS, value=20, step=1, label="steps", buttons=[])
        with gr.Row():
            solver = gr.Dropdown(list(SOLVERS), value=explorer.default_solver, label="solver", scale=2)
            seed = gr.Number(0, precision=0, minimum=0, maximum=MAX_SEED, label="seed", scale=1, min_width=80)
        keep_noise = gr.Checkbox(False, label="keep what z does not say: begin from the picture's own noise")
    return [guidance, steps, solver, seed, keep_noise]


def _sentence(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose refusals are shown as they are; of anything else gradio says only that there was an error."""

    @wraps(function)
    def told(*given: Any) -> Any:
        try:
            return function(*given)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    return told
