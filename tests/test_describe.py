"""`idiff data describe` and `idiff figures data`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from idiff_hf.cli import main as cli
from idiff_hf.data import RENDERERS


@pytest.mark.parametrize("name", [*RENDERERS, "rotation"])
def test_every_rendered_set_is_described(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    assert (
        cli(["data", "describe", "--data.name", name, "--data.image_size", "16", "--out", str(out), "--json"])
        == 0
    )
    described = json.loads(capsys.readouterr().out)
    assert described["name"] == name and described["source"] == "rendered"
    assert described["complete_grid"] == (name != "rotation") and described["images_per_second"] > 0
    assert Image.open(out).size[0] > 100
    if name == "dsprites":
        assert described["factors"] == {"shape": 3, "scale": 6, "orientation": 40, "posX": 32, "posY": 32}
        assert described["num_images"] == 737280 and described["image_shape"] == [1, 16, 16]
    if name == "rotation":
        assert described["factors"] == {"z0": None, "z1": None, "z2": None}


def test_text_for_a_person(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli(["data", "describe", "--data.image_size", "16"]) == 0
    printed = capsys.readouterr()
    assert (
        "480,000 images, 3 x 16 x 16, rendered" in printed.out
        and "  orientation          15 values" in printed.out
    )
    assert printed.err.strip() == "contact_sheet_shapes3d.png"
    assert (tmp_path / "contact_sheet_shapes3d.png").is_file()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--data.name", "mpi3d_toy"],
            "data.source=rendered is not there for data.name=mpi3d_toy: give file",
        ),
        (["--data.nam", "dsprites"], "unknown key 'data.nam', did you mean 'data.name'?"),
        (["--data.name", "own"], "data.path must name what data.name=own with data.source=rendered reads"),
    ],
)
def test_bad_flags_are_one_line_and_exit_2(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli(["data", "describe", *flags])
    assert caught.value.code == 2
    assert capsys.readouterr().err == f"idiff data describe: error: {message}\n"


def test_figures_of_the_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["figures", "data", "--data.image_size", "16", "--out", str(tmp_path)]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert cli(["figures", "data", "--data.image_size", "16", "--out", str(tmp_path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"figure_{n}.png" for n in (3, 4, 8, 9)]


def test_flags_of_another_command_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli(["evaluate", str(tmp_path), "--data.name", "dsprites"]) == 2
    assert capsys.readouterr().err == "error: unknown argument '--data.name': see idiff --help\n"
