"""The page's pieces, who may reach it, and the Space."""

from __future__ import annotations

import base64
import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from idiff_hf.cli import main
from idiff_hf.demo import html
from idiff_hf.demo.explorer import Drawing, Explorer
from idiff_hf.demo.space import write_space
from tests.pipelines.pipes import one

EVERYWHERE = "0.0.0.0"  # noqa: S104


def test_a_figure_holds_the_pixels_themselves() -> None:
    for channels in (1, 3):
        image = np.random.default_rng(0).integers(0, 256, (4, 4, channels), dtype=np.uint8)
        text = html.figure(image, "a <title>", "x.png")
        assert "a &lt;title&gt;" in text and 'download="x.png"' in text
        found = re.findall(r"base64,([^\"]+)", text)
        with Image.open(BytesIO(base64.b64decode(found[0]))) as picture:
            np.testing.assert_array_equal(np.asarray(picture).reshape(image.shape), image)


def test_the_summary_names_what_was_moved() -> None:
    explorer = Explorer(one("additive"), "<b>tiny</b>")
    before = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
    document = explorer.document(before, Drawing("DDIM"))
    assert "as encoded" in html.moved(explorer, before, before, document)
    assert "moved z0: 0.1 → 2<" in html.moved(explorer, before, [2.0, *before[1:]], document)
    assert "&lt;b&gt;tiny&lt;/b&gt;" in html.head(explorer)


def test_beyond_this_machine_a_user_and_a_password_are_needed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from idiff_hf.demo.app import exposure

    monkeypatch.delenv("IDIFF_DEMO_PASSWORD", raising=False)
    assert exposure("127.0.0.1", None, None) == (("127.0.0.1", "localhost"), None)
    assert main(["demo", "nowhere", "--host", EVERYWHERE]) == 2
    assert capsys.readouterr().err == (
        "error: --host 0.0.0.0 can be reached from outside: give --auth_user, and a password in IDIFF_DEMO_PASSWORD\n"
    )
    assert main(["demo", "nowhere", "--host", EVERYWHERE, "--auth_user", "me"]) == 2
    assert capsys.readouterr().err == (
        "error: --auth_user me needs a password: set it in the environment as IDIFF_DEMO_PASSWORD\n"
    )
    monkeypatch.setenv("IDIFF_DEMO_PASSWORD", "s3cret")
    assert exposure("10.0.0.5", None, "me") == (("127.0.0.1", "localhost", "10.0.0.5"), ("me", "s3cret"))
    assert exposure(EVERYWHERE, "lab.example", "me")[0] == ("127.0.0.1", "localhost", "lab.example")
    assert exposure(EVERYWHERE, None, "me")[0] == ("127.0.0.1", "localhost")


def test_a_space_names_the_model_and_what_it_needs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "space"
    assert main(["demo", "someone/shapes", "--space", str(folder)]) == 0
    assert capsys.readouterr().out.split() == [
        str(folder / name) for name in ("app.py", "requirements.txt", "README.md")
    ]
    code = (folder / "app.py").read_text(encoding="utf-8")
    compile(code, "app.py", "exec")
    assert code.endswith('\nserve_space("someone/shapes")\n')
    assert (folder / "requirements.txt").read_text(encoding="utf-8") == "idiff-hf[demo]==0.1.0\n"
    _, header, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n")
    metadata = yaml.safe_load(header)
    assert metadata == {
        "title": "shapes explorer",
        "sdk": "gradio",
        "sdk_version": "6.31.0",
        "app_file": "app.py",
        "python_version": "3.11",
        "models": ["someone/shapes"],
        "license": "apache-2.0",
    }
    assert isinstance(metadata["sdk_version"], str) and "(https://huggingface.co/someone/shapes)" in text


def test_a_space_for_uploads_alone_from_a_branch_of_the_package(tmp_path: Path) -> None:
    line = "idiff-hf[demo] @ git+https://example.com/idiff.git"
    write_space(tmp_path, "someone/shapes", data=False, requirement=line)
    assert 'serve_space("someone/shapes", data=False)' in (tmp_path / "app.py").read_text(encoding="utf-8")
    assert (tmp_path / "requirements.txt").read_text(encoding="utf-8") == line + "\n"


def test_a_space_that_cannot_be_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"give its name there, user/name, got runs/quick/pipeline"):
        write_space(tmp_path, "runs/quick/pipeline")
    with pytest.raises(ValueError, match="the requirement must be one line"):
        write_space(tmp_path, "someone/shapes", requirement="a\nb")
    (tmp_path / "app.py").write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=r"already has app.py: give another folder"):
        write_space(tmp_path, "someone/shapes")
    assert [path.name for path in tmp_path.iterdir()] == ["app.py"]
    assert main(["demo", "someone/shapes", "--requirement", "x"]) == 2
    assert "--requirement is of a Space: give --space FOLDER too" in capsys.readouterr().err
