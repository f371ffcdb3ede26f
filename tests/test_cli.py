"""`idiff` itself: help without torch, refusals."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from idiff_hf.cli import COMMANDS, CTRL_C, EXAMPLES, EXIT_CODES, main

HEAVY = {"torch", "diffusers", "transformers", "sklearn", "matplotlib", "numpy"}


def light_help(*arguments: str) -> str:
    """What `idiff ARGUMENTS --help` prints, in a process of its own that imports nothing heavy."""
    code = (
        "import sys\nfrom idiff_hf.cli import main\n"
        f"try:\n    main([*{arguments!r}, '--help'])\nfinally:\n    print('MODULES', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text, _, modules = done.stdout.partition("MODULES")
    assert not HEAVY & set(modules.split())
    return text


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    text = light_help()
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        assert f"\n    {name} " in text and f"idiff {name} " in EXAMPLES


def test_the_help_of_training_imports_nothing_heavy_either() -> None:
    assert light_help("train").startswith("usage: idiff train [--config FILE.yaml]")


CONFIGS = str(Path(__file__).parents[1] / "configs")
NAMES = [command.__name__.rpartition(".")[2] for command in COMMANDS]

# What each needs to get as far as its unknown arguments; a list of its own for each action of a command.
CALLS = {
    "train": [["train"]],
    "replay": [["replay", "."]],
    "evaluate": [["evaluate", "."]],
    "publish": [["publish", ".", "--repo", "user/name"]],
    "sample": [["sample", "."]],
    "traverse": [["traverse", "."]],
    "demo": [["demo", "."]],
    "sensitivity": [["sensitivity", "."]],
    "metrics": [["metrics", "codes.npz"]],
    "data": [["data", "describe"]],
    "figures": [["figures", "data"]],
    "bench": [["bench", "samplers", "."], ["bench", "guidance", "."], ["bench", "precision", "."]],
    "table": [["table", "2", "--configs", CONFIGS]],
    "figure": [["figure", "10", "--configs", CONFIGS]],
    "sweep": [["sweep", f"{CONFIGS}/sweeps/table1.yaml"]],
    "seeds": [["seeds", "config.yaml"]],
}
EVERY = [call for name in NAMES for call in CALLS[name]]


def finished(arguments: list[str]) -> int:
    """The exit code."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize("call", EVERY, ids=lambda call: " ".join(call[:2]))
def test_every_command_says_what_it_does_with_examples_and_refuses_what_it_does_not_know(
    call: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    # as far as arguments go, a pipeline
    (tmp_path / "model_index.json").touch()
    name = " ".join(
        part for part in call if part in NAMES or part in ("describe", "samplers", "guidance", "precision")
    )
    assert finished([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    if name != "train":  # its help is that of the training program
        usage, _, described = text.partition("\n\n")
        assert usage.startswith(f"usage: idiff {name} ") and re.match(r"[A-Z][^\n]{20,}", described), (
            described
        )
        _, _, examples = text.partition("\nexamples:\n")
        shown = [line for line in examples.splitlines() if line.startswith("  idiff ")]
        assert shown and all(line.startswith(f"  idiff {name} ") for line in shown)
        assert examples.endswith(f"\n\n{EXIT_CODES}")
        # the explorer prints its address, and nothing to be read by a program
        assert name == "demo" or "--json" in usage
    for unknown in (["--nonsense", "1"], ["--nonsense=1"]):
        assert finished([*call, *unknown]) == 2
        output = capsys.readouterr()
        assert output.out == "" and output.err.count("\n") == 1
        assert re.match(r"((\S+|idiff [a-z ]+): )?error: .*nonsense", output.err), output.err
    assert [path.name for path in tmp_path.iterdir()] == ["model_index.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "argument command: invalid choice: 'trian'"),
        ([], "the following arguments are required: command: see idiff --help"),
        (["publish", "x"], "the following arguments are required: --repo: see idiff publish --help"),
        (["bench"], "the following arguments are required: action: see idiff bench --help"),
        (
            ["sample", "x", "--seed", "one"],
            "argument --seed: invalid int value: 'one': see idiff sample --help",
        ),
    ],
)
def test_what_is_no_command_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finished(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1


def test_ctrl_c_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    # imported already, so that it is the command that is stopped and no import
    import idiff_hf.data_figures
    import idiff_hf.describe  # noqa: F401

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        # which looks at the speed of rendering for a second
        assert main(["data", "describe", "--data.name", "shapes3d"]) == CTRL_C == 128 + signal.SIGINT
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
    assert capsys.readouterr().err == "stopped by Ctrl-C\n"


def test_public_names_come_from_the_package() -> None:
    import idiff_hf

    assert all(getattr(idiff_hf, name).__name__ == name for name in idiff_hf.__all__)
    assert set(idiff_hf.__all__) <= set(dir(idiff_hf))
    with pytest.raises(AttributeError, match="module 'idiff_hf' has no attribute 'IVAEDifusionPipeline'"):
        idiff_hf.IVAEDifusionPipeline  # noqa: B018
