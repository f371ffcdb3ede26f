"""The explorer's page, and how it is served: to this machine alone, unless a password is set.

Gradio is told to send nothing home before it is imported. What a browser sends is checked by gradio, and again by `explorer`.
"""

from __future__ import annotations

import os
import signal
import sys

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from ..figures import to_pil

try:
    import gradio as gr
except ImportError:
    raise ValueError('the explorer needs gradio: pip install "idiff_hf[demo]"') from None
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..arguments import load_data_config
from ..pipelines import IVAEDiffusionPipeline
from ..sampler_curve import SOLVERS
from . import html
from .explorer import (
    DECIMALS,
    MAX_GUIDANCE,
    MAX_SEED,
    MAX_STEPS,
    MAX_UPLOAD_BYTES,
    Drawing,
    Explorer,
)
from .latents import Latent

LOOPBACK = ("127.0.0.1", "localhost")
AUTH_VARIABLE = "IDIFF_DEMO_PASSWORD"
QUEUE = 16
"""Requests that wait, at most; gradio answers others by 503."""
_KEEP_UPLOADS = 600
_EXAMPLE_SIDE = 96
_FONT = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")


def build_page(explorer: Explorer) -> gr.Blocks:
    """The page of a model; nothing is served yet."""
    with gr.Blocks(
        title=f"{explorer.name}: latent explorer",
        analytics_enabled=False,
        delete_cache=(_KEEP_UPLOADS, _KEEP_UPLOADS),
        fill_width=True,
    ) as page:
        gr.HTML(html.head(explorer), padding=False)
        image = gr.State(time_to_live=3600)
        with gr.Row():
            with gr.Column(scale=4, min_width=240):
                gallery = _gallery(explorer)
                upload = gr.UploadButton(
                    "Upload a picture", file_types=["image"], type="binary", size="sm", elem_id="upload"
                )
                resize = gr.Checkbox(
                    True, label="scale its centre square to the model's size", container=False
                )
            with gr.Column(scale=5, min_width=320):
                with gr.Column(elem_id="latents"):
                    sliders = _sliders(explorer)
                reset = gr.Button("Back to the encoded values", size="sm", elem_id="reset")
            with gr.Column(scale=8, min_width=420):
                with gr.Row():
                    input_figure = gr.HTML(elem_id="input", min_height=120, padding=False)
                    ivae_figure = gr.HTML(elem_id="ivae", min_height=120, padding=False)
                    ddpm_figure = gr.HTML(
                        html.no_figure("diffusion model", "this model has none"),
                        elem_id="ddpm",
                        min_height=120,
                    )
                summary = gr.HTML(elem_id="summary", padding=False)
                settings = _settings(explorer)
        which = gr.Dropdown(
            [(latent.label, latent.number) for latent in explorer.latents],
            value=0,
            label="one latent along its range, the others as they are",
            elem_id="which",
        )
        strip_rows = gr.HTML(elem_id="strip", min_height=120, padding=False)

        values = len(sliders)

        def encoded(chosen: np.ndarray | None) -> tuple[list[float], list[Latent]]:
            if chosen is None:
                raise ValueError("there is no picture yet, or it has been forgotten: pick or upload one")
            return explorer.within(explorer.encode(chosen))

        def show(chosen: np.ndarray) -> list[Any]:
            shown, outside = encoded(chosen)
            if outside:
                names = ", ".join(f"z{latent.number}" for latent in outside)
                gr.Warning(
                    f"{names} of this picture lie outside the range of the data and are put at its end"
                )
            return [chosen, html.figure(chosen, "input"), *shown]

        def drawing(rest: tuple[Any, ...]) -> Drawing:
            if not explorer.draws:
                return Drawing(explorer.default_solver)
            guidance, steps, solver, seed, keep_noise = rest
            return Drawing(solver, guidance, steps, seed, keep_noise)

        def decode(chosen: np.ndarray, *given: Any) -> tuple[str, str]:
            now, how = given[:values], drawing(given[values:])
            before, _ = encoded(chosen)
            return html.figure(explorer.decode(now), "iVAE decoder", "ivae.png"), html.moved(
                explorer, before, now, explorer.document(now, how)
            )

        def draw(chosen: np.ndarray, *given: Any) -> str:
            encoded(chosen)
            picture = explorer.draw(chosen, given[:values], drawing(given[values:]))
            return html.figure(picture, "diffusion model", "diffusion.png")

        def move(number: int, *given: Any) -> str:
            return html.strip(explorer.strip(given[:values], number, drawing(given[values:])))

        def pick(event: gr.SelectData) -> list[Any]:
            return show(explorer.example(event.index))

        state = [*sliders, *settings]
        shown = [image, input_figure, *sliders]
        decoded = {"fn": _sentence(decode), "inputs": [image, *state], "outputs": [ivae_figure, summary]}
        drawn = {"fn": _sentence(draw), "inputs": [image, *state], "outputs": [ddpm_figure]}
        moved = {"fn": _sentence(move), "inputs": [which, *state], "outputs": [strip_rows]}
        # the model's own threads share the cores: one drawing at a time, whoever asks
        event: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        costly = {**event, "concurrency_id": "draw", "concurrency_limit": 1}

        starts = [
            gallery.select(_sentence(pick), None, shown, **event),
            upload.upload(
                _sentence(lambda content, wanted: show(explorer.read_image(content, wanted))),
                [upload, resize],
                shown,
                **event,
            ),
            reset.click(_sentence(show), image, shown, **event),
        ]
        if len(explorer.examples):
            starts.append(page.load(_sentence(lambda: show(explorer.example(0))), None, shown, **event))
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
            which.input,
            *[
                component.release if isinstance(component, gr.Slider) else component.input
                for component in state
            ],
        ]
        gr.on(settled, **moved, **costly, trigger_mode="always_last")
    page.queue(max_size=QUEUE, api_open=False, default_concurrency_limit=1)
    return page


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
    """How the diffusion model draws, in the order of `drawing`; nothing where there is none."""
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


class SameOrigin:
    """Refuses what a page of another site sends, by 403: a browser names that site, and a form needs no permission to upload.

    Args:
        app: What is asked where nothing is refused.
        hosts: Names, without port, of which pages are ours.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse."""
        origin = Headers(scope=scope).get("origin") if scope["type"] == "http" else None
        if origin is not None and urlsplit(origin).hostname not in self.hosts:
            await PlainTextResponse("Foreign origin", status_code=403)(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def exposure(host: str, hostname: str | None, auth_user: str | None) -> tuple[tuple[str, ...], Any]:
    """The names by which browsers may call, and user and password, of a server at `host`.

    Raises:
        ValueError: One line: an address beyond this machine without a user, or without a password in IDIFF_DEMO_PASSWORD.
    """
    hosts = (*LOOPBACK, *([hostname] if hostname else [] if host in (*LOOPBACK, "0.0.0.0") else [host]))  # noqa: S104
    password = os.environ.get(AUTH_VARIABLE)
    if auth_user is None and host not in LOOPBACK:
        raise ValueError(
            f"--host {host} can be reached from outside: give --auth_user, and a password in {AUTH_VARIABLE}"
        )
    if auth_user is not None and not password:
        raise ValueError(
            f"--auth_user {auth_user} needs a password: set it in the environment as {AUTH_VARIABLE}"
        )
    return hosts, None if auth_user is None else (auth_user, password)


def serve(
    explorer: Explorer,
    *,
    host: str = LOOPBACK[0],
    port: int | None = None,
    hostname: str | None = None,
    auth_user: str | None = None,
) -> None:
    """Show the page until Ctrl-C or SIGTERM, from the main thread, at the address that is printed.

    Args:
        explorer: The model.
        host: Address to listen at.
        port: By default the first free one from 7860.
        hostname: By which browsers reach it; by default `host`.
        auth_user: Who may log in, with the password in IDIFF_DEMO_PASSWORD.

    Raises:
        ValueError: One line, as `exposure` says, or where the port is taken.
    """
    hosts, auth = exposure(host, hostname, auth_user)
    middleware = [
        Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)),
        Middleware(SameOrigin, hosts=hosts),
    ]
    with TemporaryDirectory(prefix="idiff_demo_") as folder:
        # of pictures that are uploaded; nothing of them stays
        os.environ["GRADIO_TEMP_DIR"] = folder
        page = build_page(explorer)
        try:
            _launch(
                page,
                server_name=host,
                server_port=port,
                auth=auth,
                app_kwargs={"middleware": middleware, "openapi_url": None},
            )
        except OSError as error:
            raise ValueError(f"the explorer can't listen at {host}: {' '.join(str(error).split())}") from None
        # by default SIGTERM would end the process at once, and leave the folder
        signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
        print(f"{page.local_url} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def serve_space(repo_id: str, *, data: bool = True) -> None:
    """Show a model of the Hub in a Space, whose address and access are the Hub's matter.

    Args:
        repo_id: `user/name`.
        data: Whether to have held-out images of the dataset that the model was trained on.

    Raises:
        ValueError: As `Explorer.open`.
    """
    folder: Path = IVAEDiffusionPipeline.download(repo_id)
    config = load_data_config(["--config", str(folder / "config.yaml")], "idiff demo") if data else None
    page = build_page(Explorer.open(folder, config))
    _launch(page)
    page.block_thread()


def _launch(page: gr.Blocks, **where: Any) -> None:
    page.launch(
        **where,
        share=False,
        show_error=False,
        quiet=True,
        prevent_thread_lock=True,
        max_threads=8,
        max_file_size=MAX_UPLOAD_BYTES,
        state_session_capacity=100,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        run_history=False,
        footer_links=[],
        theme=gr.themes.Default(font=_FONT, font_mono=_MONO),
        css=html.CSS,
    )
