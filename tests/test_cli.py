"""`idiff` itself: help without torch, refusals."""

from __future__ import annotations

import subprocess
import sys

import pytest

from idiff_hf.cli import COMMANDS, EXAMPLES, main

HEAVY = {"torch", "diffusers", "transformers", "sklearn", "matplotlib", "numpy"}


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom idiff_hf.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n    print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, modules = done.stdout.partition("MODULES")
    assert not HEAVY & set(modules.split())
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        assert f"\n    {name} " in text and f"idiff {name} " in EXAMPLES


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command.__name__ != "idiff_hf.cli.train"]
)
def test_each_command_has_help(command: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([command.__name__.rpartition(".")[2], "--help"])  # type: ignore[attr-defined]
    assert "usage: idiff" in capsys.readouterr().out


def test_a_command_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["trian"])
    assert "invalid choice: 'trian'" in capsys.readouterr().err


def test_public_names_come_from_the_package() -> None:
    import idiff_hf

    assert all(getattr(idiff_hf, name).__name__ == name for name in idiff_hf.__all__)
    assert set(idiff_hf.__all__) <= set(dir(idiff_hf))
    with pytest.raises(AttributeError, match="module 'idiff_hf' has no attribute 'IVAEDifusionPipeline'"):
        idiff_hf.IVAEDifusionPipeline  # noqa: B018
