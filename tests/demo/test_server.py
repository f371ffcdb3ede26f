"""The explorer as a browser meets it: `idiff demo` in a process of its own, asked over HTTP and by a headless Chromium.

The model is trained for seconds, so that its pictures can be read back.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from idiff_hf import IVAEDiffusionPipeline
from idiff_hf.arguments import config_to_yaml
from idiff_hf.builders import build_batches, build_dataset, build_objective, build_pipeline
from idiff_hf.data import to_float
from idiff_hf.demo.app import AUTH_VARIABLE
from idiff_hf.random import BatchRandom
from tests.faults.figures import Figure
from tests.tiny import tiny_config

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium")
SETTINGS = [1.0, 3, "DDIM", 0, False]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved model whose first latent says the hue of the floor: Eq. 2 without the U-Net, which stays as it was drawn."""
    config = tiny_config("unused")
    config = replace(
        config,
        model=replace(config.model, prior_type="known", channels=(16, 16, 32, 32), hidden_dim=64),
    )
    dataset = build_dataset(config)
    objective, batches = build_objective(config, dataset), build_batches(config, dataset)
    ivae, source = objective.ivae, torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(ivae.parameters(), 3e-3)
    for step in range(600):
        batch = batches(32, BatchRandom(0, step, 0, 32, torch.device("cpu")))
        posterior, image = ivae.encode(to_float(batch.image)).latent_dist, to_float(batch.image)
        z = posterior.sample(torch.randn(posterior.mean.shape, generator=source))
        error = (ivae.decode(z).sample - image).square().mean()
        loss = error + 3e-3 * posterior.kl(ivae.prior(batch.aux).latent_dist).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for parameter in objective.conditioning.parameters():
        # an untrained projection is too faint to be seen
        torch.nn.init.normal_(parameter, generator=source)
    folder = tmp_path_factory.mktemp("demo") / "small"
    build_pipeline(config, objective.eval()).save_pretrained(folder)
    (folder / "config.yaml").write_text(config_to_yaml(config), encoding="utf-8")
    return folder


class Server:
    """`idiff demo` at a free port of this machine."""

    def __init__(self, model: Path, *arguments: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = model.parent / f"server-{port}.log"
        command = [sys.executable, "-m", "idiff_hf.cli", "demo", str(model), "--port", str(port), *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **environment}
            )
        until = time.monotonic() + 120
        while "Ctrl-C" not in self.printed:
            assert self.process.poll() is None and time.monotonic() < until, self.printed
            time.sleep(0.2)
        self.client = httpx.Client(base_url=self.url, timeout=60)

    @property
    def middle(self) -> list[float]:
        """Of the range of each slider."""
        props = [part["props"] for part in self.client.get("/config").json()["components"]]
        ids = [part for part in props if str(part.get("elem_id")).startswith("latent-")]
        ids.sort(key=lambda part: part["elem_id"])
        return [(part["minimum"] + part["maximum"]) / 2 for part in ids]

    @property
    def printed(self) -> str:
        return self.log.read_text()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def handlers(self, event: str) -> list[dict[str, Any]]:
        """Of the page, those that such an event of a component starts."""
        found = self.client.get("/config").json()["dependencies"]
        return [handler for handler in found if handler["targets"][0][1] == event]

    def join(
        self, handler: dict[str, Any], data: list[Any], session: str, event: Any = None
    ) -> httpx.Response:
        asked = {"fn_index": handler["id"], "data": data, "session_hash": session, "event_data": event}
        return self.client.post("/gradio_api/queue/join", json=asked)

    def ask(self, handler: dict[str, Any], data: list[Any], session: str = "one", event: Any = None) -> Any:
        """What a handler answers: its outputs, or the sentence that is shown, None where there is none. Waits while the queue is full."""
        while (code := self.join(handler, data, session, event).status_code) == 503:
            time.sleep(0.2)
        assert code == 200
        with self.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as lines:
            for line in lines.iter_lines():
                message = json.loads(line.removeprefix("data:")) if line else {"msg": ""}
                if message["msg"] == "process_completed":
                    output = message["output"]
                    return output["data"] if message["success"] else output["error"]
        raise AssertionError("the stream ended without an answer")

    def memory(self) -> float:
        """Resident MiB."""
        return psutil.Process(self.process.pid).memory_info().rss / 2**20


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    running = Server(model, "--num_images", "300")
    yield running
    running.stop()


def picture(html: str) -> np.ndarray:
    """The pixels of a figure, `(H, W, C)` uint8."""
    with Image.open(BytesIO(b64decode(html.partition("base64,")[2].partition('"')[0]))) as image:
        return np.asarray(image)


@pytest.mark.faults
def test_what_comes_from_elsewhere_is_refused(server: Server, figure: Figure) -> None:
    get, post, here = server.client.get, server.client.post, {"origin": server.url}
    answers = {
        "foreign Host": get("/", headers={"host": "evil.example"}),
        "foreign Host, our port": get("/config", headers={"host": f"evil.example:{server.url[-4:]}"}),
        "foreign Origin": post("/gradio_api/queue/join", json={}, headers={"origin": "http://evil.example"}),
        "Origin null, a form": post("/gradio_api/upload", files={"files": b"x"}, headers={"origin": "null"}),
        "no JSON": post(
            "/gradio_api/queue/join", content="{}", headers={"content-type": "text/plain", **here}
        ),
        "20 MB": post("/gradio_api/upload", files={"files": ("a.png", bytes(20 * 2**20))}),
    }
    assert [answer.status_code for answer in answers.values()] == [400, 400, 403, 403, 422, 413], answers
    places = (
        "/etc/passwd",
        "../../etc/passwd",
        "%2e%2e/%2e%2e/etc/passwd",
        str(Path(__file__)),
        "http://evil.example/x",
    )
    for place in places:
        for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/proxy="):
            answer = get(prefix + place)
            assert answer.status_code in (400, 403, 404) and "root:" not in answer.text, (prefix, place)
    assert get("/", headers={"host": server.url.removeprefix("http://")}).status_code == 200
    assert get("/openapi.json").status_code == 404
    figure(
        "F28",
        "foreign Host 400, foreign Origin 403, text for JSON 422, 20 MB 413, files that are not ours 400, 403 or 404",
    )


@pytest.mark.faults
def test_what_does_not_fit_is_refused_in_a_sentence(server: Server, figure: Figure) -> None:
    z = server.middle
    decode, draw, move = server.handlers("success")[:3]
    (upload,), (select,), (load,) = map(server.handlers, ("upload", "select", "load"))
    assert "there is no picture yet" in server.ask(decode, [None, *z, *SETTINGS], "fresh")
    server.ask(load, [])
    sentences = {
        "a value": server.ask(draw, [None, 1e9, *z[1:], *SETTINGS]),
        "steps": server.ask(draw, [None, *z, 1.0, 100000, "DDIM", 0, False]),
        "a solver": server.ask(draw, [None, *z, 1.0, 3, "__import__", 0, False]),
        "a latent": server.ask(move, [99, *z, *SETTINGS]),
        "an example": server.ask(select, [], event={"index": 999, "value": None}),
    }
    for name, sentence in sentences.items():
        assert isinstance(sentence, str) and "\n" not in sentence and "Traceback" not in sentence, name
    assert (
        "1000000000.0 is greater than" in sentences["a value"] and "there are 12" in sentences["an example"]
    )
    (path,) = server.client.post("/gradio_api/upload", files={"files": ("a.png", b"no picture")}).json()
    file = {"path": path, "meta": {"_type": "gradio.FileData"}}
    assert server.ask(upload, [file, True]).startswith("this file is no picture that can be read")
    # what is malformed, or a file of this machine, is answered without a sentence, and so without a path
    others = [
        server.ask(draw, [None, None, *z[1:], *SETTINGS]),
        server.ask(draw, [None]),
        *(
            server.ask(upload, [{**file, "path": place}, True])
            for place in ("/etc/passwd", "http://evil.example/a.png")
        ),
    ]
    assert others == [None] * 4
    figure(
        "F28",
        f"{len(sentences) + 2} of {len(sentences) + 2} values out of range and a file that is no picture: one sentence each",
    )


@pytest.mark.faults
def test_a_hundred_clicks_at_once_leave_it_as_it_was(server: Server, figure: Figure) -> None:
    z = server.middle
    (load,), draw = server.handlers("load"), server.handlers("success")[1]

    def click(number: int) -> int:
        return server.join(draw, [None, *z, 1.0, 50, "DDIM", number, False], f"click-{number}").status_code

    def burst() -> list[int]:
        with ThreadPoolExecutor(100) as many:
            return list(many.map(click, range(100)))

    server.ask(load, [])
    burst()
    before = server.ask(draw, [None, *z, *SETTINGS])  # after all of them
    memory, codes = server.memory(), []
    for _ in range(3):
        codes += burst()
        assert server.ask(draw, [None, *z, *SETTINGS]) == before
    grown = server.memory() / memory - 1.0
    refused = sum(code == 503 for code in codes)
    assert set(codes) == {200, 503} and refused > 150
    assert grown < 0.05, f"resident memory grew by {grown:.1%}"
    figure(
        "F28",
        f"3 times 100 clicks at once: {refused} of 300 refused by 503 (queue full), the rest drawn; memory grown by less than 5 %",
    )


def test_beyond_this_machine_it_asks_who_is_there(model: Path, tmp_path: Path) -> None:
    running = Server(
        model,
        "--no_data",
        "--host",
        "127.0.0.2",
        "--auth_user",
        "me",
        **{AUTH_VARIABLE: "s3cret", "TMPDIR": str(tmp_path)},
    )
    try:
        url = running.url.replace("127.0.0.1", "127.0.0.2")
        with httpx.Client(base_url=url) as client:
            assert client.get("/config").status_code == 401
            assert client.post("/login", data={"username": "me", "password": "wrong"}).status_code == 400
            assert client.post("/login", data={"username": "me", "password": "s3cret"}).status_code == 200
            assert client.get("/config").status_code == 200
            assert client.get("/config", headers={"host": "evil.example"}).status_code == 400
            assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 200
        assert list(tmp_path.glob("idiff_demo_*/*/*"))
        assert "s3cret" not in running.printed
    finally:
        running.stop()
    # what was uploaded goes with it
    assert running.process.returncode == 143 and not list(tmp_path.glob("idiff_demo_*"))


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
def test_a_slider_moves_the_picture_and_is_read_back(server: Server, model: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect, sync_playwright

    pipeline = IVAEDiffusionPipeline.from_pretrained(model)
    asked: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-quic", "--disable-background-networking"],
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.on("request", lambda request: asked.append(request.url))
        page.goto(server.url)
        expect(page.locator("#strip img")).to_have_count(18, timeout=60000)
        expect(page.locator("#summary")).to_contain_text("as encoded")

        def shown(place: str) -> np.ndarray:
            return picture(page.locator(f"{place} img").evaluate("image => image.outerHTML"))

        start, drawn = shown("#ivae"), shown("#ddpm")
        unmoved = page.locator("#ddpm img").evaluate("image => image.outerHTML")
        slider = page.locator("#latent-0 input[type=range]")
        low, high = (float(slider.get_attribute(end) or "") for end in ("min", "max"))
        before = float(page.locator("#latent-0 input[type=number]").input_value())
        # the other half of its range, by the mouse
        box = slider.bounding_box()
        assert box is not None
        share = 0.85 if before < (low + high) / 2 else 0.15
        page.mouse.click(box["x"] + share * box["width"], box["y"] + box["height"] / 2)
        expect(page.locator("#summary")).to_contain_text("moved z0 floor_hue", timeout=30000)
        page.wait_for_function(
            "before => document.querySelector('#ddpm img').outerHTML != before", arg=unmoved
        )
        assert not (shown("#ivae") == start).all() and not (shown("#ddpm") == drawn).all()

        with page.expect_download() as download:
            page.get_by_text("save z as JSON").click()
        download.value.save_as(tmp_path / "z.json")
        saved = json.loads((tmp_path / "z.json").read_text(encoding="utf-8"))["latents"][0]
        value = float(page.locator("#latent-0 input[type=number]").input_value())
        assert saved[0] == value and abs(value - before) > (high - low) / 4
        # the picture itself says it, too: encoded again it is at the new value, and not where it was
        again = float(pipeline.encode(shown("#ivae")[None])[0, 0])
        assert abs(again - value) < 0.25 * abs(value - before)

        page.locator("#reset").click()
        expect(page.locator("#summary")).to_contain_text("as encoded", timeout=30000)
        np.testing.assert_array_equal(shown("#ivae"), start)

        notes = tmp_path / "notes.png"
        notes.write_text("no picture", encoding="utf-8")
        page.locator("input[type=file]").set_input_files(notes)
        expect(page.get_by_text("this file is no picture that can be read")).to_be_visible(timeout=30000)
        assert "Traceback" not in page.content()
        browser.close()
    outside = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert len(asked) > 10 and not outside, outside
