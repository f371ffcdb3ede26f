"""How the explorer's page is served: to this machine alone, unless a password is set."""

from __future__ import annotations

# first, for it says what to install where there is no gradio, of which starlette is a part
from .page import build_page

# isort: split
import os
import signal
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from ..arguments import load_data_config
from ..pipelines import IVAEDiffusionPipeline
from . import html
from .explorer import MAX_UPLOAD_BYTES, Explorer

LOOPBACK = ("127.0.0.1", "localhost")
AUTH_VARIABLE = "IDIFF_DEMO_PASSWORD"
_FONT = ("system-ui", "sans-serif")
_MONO = ("ui-monospace", "monospace")


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
