"""YAML and command line to `Config`: every refusal is one line and exit code 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from idiff_hf.arguments import config_from_yaml, config_to_yaml, load_config
from idiff_hf.config import Config, LossConfig, ModelConfig, TrainConfig
from tests.faults.figures import Figure

KEYS = [
    f"{group.name}.{item.name}" for group in fields(Config) for item in fields(getattr(Config(), group.name))
]
Refusal = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """The one line with which these arguments are refused, without the program's name."""

    def refuse(*argv: str) -> str:
        with pytest.raises(SystemExit) as caught:
            load_config(argv, prog="train")
        output = capsys.readouterr()
        assert caught.value.code == 2
        assert output.out == ""
        assert output.err.startswith("train: error: ")
        assert output.err.endswith("\n")
        assert output.err.count("\n") == 1
        return output.err.removeprefix("train: error: ").rstrip("\n")

    return refuse


def write(folder: Path, text: str) -> str:
    path = folder / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def swapped(key: str) -> str:
    """The typo of two swapped letters in the middle of the last word, or a doubled one where they are equal."""
    middle = (key.rindex(".") + 1 + len(key)) // 2
    first, second = key[middle - 1], key[middle]
    return (
        key[: middle - 1]
        + (second + first if first != second else first + second + second)
        + key[middle + 1 :]
    )


@pytest.mark.faults
@pytest.mark.parametrize("key", KEYS)
def test_a_mistyped_key_names_the_nearest(key: str, refusal: Refusal, tmp_path: Path, figure: Figure) -> None:
    typo = swapped(key)
    expected = f"unknown key '{typo}', did you mean '{key}'?"
    assert refusal(f"--{typo}", "1") == expected
    assert refusal(f"--{typo}=1") == expected
    group, _, leaf = typo.partition(".")
    path = write(tmp_path, f"{group}: {{{leaf}: 1}}")
    assert refusal("--config", path) == f"{path}: {expected}"
    figure("F16", "mistyped keys, as a flag and in a file: exit code 2, one line, the nearest key named")


@pytest.mark.parametrize(
    ("given_key", "nearest"),
    [
        ("model.latent_dmi", "model.latent_dim"),
        ("seed", "train.seed"),
        ("mixed_precision", "train.mixed_precision"),
        ("max_train_steps", "train.max_train_steps"),
        ("modle.norm", "model.norm"),
        ("optim_unt.learning_rate", "optim_unet.learning_rate"),
        ("train.max-train-steps", "train.max_train_steps"),
        ("dryrun", "dry_run"),
        ("print-config", "print_config"),
        ("train.see", "train.seed"),
        ("model.latent", "model.latent_dim"),
        ("dry", "dry_run"),
        ("conf", "config"),
    ],
)
def test_flat_and_abbreviated_flags_are_refused(given_key: str, nearest: str, refusal: Refusal) -> None:
    assert refusal(f"--{given_key}", "1") == f"unknown key '{given_key}', did you mean '{nearest}'?"


@pytest.mark.faults
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model.latent_dim", "ten", "model.latent_dim must be an integer, got ten"),
        ("model.latent_dim", "1.5", "model.latent_dim must be an integer, got 1.5"),
        ("model.latent_dim", "true", "model.latent_dim must be an integer, got True"),
        ("train.max_train_steps", "1e4", "train.max_train_steps must be an integer, got 10000.0"),
        ("optim_ivae.stop_step", "soon", "optim_ivae.stop_step must be an integer or null, got soon"),
        ("loss.kl", "small", "loss.kl must be a finite number, got small"),
        ("loss.kl", ".inf", "loss.kl must be a finite number, got inf"),
        ("model.diffusion", "maybe", "model.diffusion must be true or false, got maybe"),
        ("model.channels", "8", "model.channels must be a list of integers as in [1,2], got 8"),
        ("model.channels", "[8,8,8,x]", "model.channels must be a list of integers as in [1,2], got x"),
        (
            "eval.guidance_scales",
            "[x]",
            "eval.guidance_scales must be a list of finite numbers as in [1,2], got x",
        ),
        ("model.norm", "layer", "model.norm must be one of group, batch, none, got layer"),
        ("data.source", "torrent", "data.source must be one of rendered, file, hub, got torrent"),
        ("data.aux_columns", "3", "data.aux_columns must be a list of texts as in [a,b], got 3"),
        (
            "aux.name",
            "labels",
            "aux.name must be one of interval, uniform_posterior, normal, observed, bounds, factors, none, got labels",
        ),
        ("train.mixed_precision", "fp8", "train.mixed_precision must be one of no, bf16, fp16, got fp8"),
        (
            "scheduler.solver",
            "ddim",
            "scheduler.solver must be one of dpm_solver, euler_maruyama, predictor_corrector, heun_ode, got ddim",
        ),
    ],
)
def test_a_wrong_type_or_choice_says_what_is_taken(
    key: str, value: str, message: str, refusal: Refusal, tmp_path: Path, figure: Figure
) -> None:
    assert refusal(f"--{key}", value) == message
    group, _, leaf = key.partition(".")
    assert refusal("--config", write(tmp_path, f"{group}:\n  {leaf}: {value}\n")) == message
    figure(
        "F16", "wrong types and choices, as a flag and in a file: exit code 2, one line, what is taken named"
    )


@pytest.mark.parametrize("key", ["model.norm", "train.seed", "loss.kl", "model.channels", "train.output_dir"])
def test_null_is_refused_where_it_means_nothing(key: str, refusal: Refusal, tmp_path: Path) -> None:
    group, _, leaf = key.partition(".")
    message = refusal("--config", write(tmp_path, f"{group}: {{{leaf}: null}}"))
    assert message.startswith(f"{key} must be ")
    assert message.endswith(", got null")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--train.seed", "-1"], "train.seed must lie in [0, 2^63), got -1"),
        (["--train.output_dir="], "train.output_dir must not be empty"),
        (["--optim_ivae.start_step", "-1"], "optim_ivae.start_step must be 0 or more, got -1"),
        (
            ["--optim_unet.start_step", "5", "--optim_unet.stop_step", "5"],
            "optim_unet.stop_step must exceed start_step=5, got 5",
        ),
        (["--optim_unet.learning_rate", "0"], "optim_unet.learning_rate must be positive, got 0.0"),
        (["--optim_ivae.adam_beta2", "2"], "optim_ivae.adam_beta2 must lie in [0, 1], got 2.0"),
        (
            ["--optim_ivae.stop_step", "9000"],
            "optim_ivae: steps 0 to 9000 do not fit train.max_train_steps=1000",
        ),
        (
            ["--data.image_size", "24"],
            "data.image_size must be a multiple of 16 for model.backbone=cnn, got 24",
        ),
        (
            ["--aux.name", "none"],
            "model.prior_type=learned does not go with aux.name=none: use prior_type=standard with aux.name=none (VAE), "
            "another prior with an auxiliary variable (iVAE)",
        ),
        (
            ["--unet.patch_size", "32"],
            "data.image_size=64 must be divisible by unet.patch_size=32 times 4 (unet.block_out_channels has 3 resolutions)",
        ),
        (
            ["--optim_ivae.stop_step", "5", "--optim_unet.start_step", "5", "--loss.latent_grad_scale", "1"],
            "loss.latent_grad_scale=1.0 has no effect: the iVAE does not learn while the U-Net does "
            "(model.ivae=false, model.freeze_ivae=true, or optim_ivae.stop_step <= optim_unet.start_step)",
        ),
        (["extra"], "unrecognized arguments: extra"),
        (["--train.seed"], "argument --train.seed: expected one argument"),
        (["--dry_run=1"], "argument --dry_run: ignored explicit argument '1'"),
    ],
)
def test_an_impossible_value_or_combination_is_refused(
    argv: list[str], message: str, refusal: Refusal
) -> None:
    assert refusal(*argv) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected groups of keys as in 'train: {seed: 1}', got None"),
        ("- 1\n", "expected groups of keys as in 'train: {seed: 1}', got [1]"),
        ("train: {seed: 1", "not valid YAML in line 1: expected ',' or '}', but got '<stream end>'"),
        ("train:\n  a: b: c", "not valid YAML in line 2: mapping values are not allowed here"),
        ("train: {seed: 1}\ntrain: {seed: 2}", "not valid YAML in line 1: key 'train' is given twice"),
        ("train: {seed: 1}\ntrain.seed: 2", "key 'train.seed' is given twice"),
        ("cfg:", "'cfg' is a group, give its keys one by one: cfg.drop_prob, cfg.null_condition"),
        ("cfg: 3", "'cfg' is a group, give its keys one by one: cfg.drop_prob, cfg.null_condition"),
        ("train: {seed: {a: 1}}", "unknown key 'train.seed.a', did you mean 'train.seed'?"),
        ("train: {seed: !!int one}", "not valid YAML: a value does not fit its tag"),
        ("&a {train: *a}", "not a config: nested too deeply"),
    ],
)
def test_a_file_that_is_no_config_is_refused(
    text: str, message: str, refusal: Refusal, tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    assert refusal("--config", path) == f"{path}: {message}"
    with pytest.raises(ValueError) as caught:
        config_from_yaml(text)
    assert str(caught.value) == message


def test_a_file_that_cannot_be_read_is_refused(refusal: Refusal, tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    assert refusal("--config", str(missing)) == f"cannot read {missing}: No such file or directory"
    assert refusal("--config", str(tmp_path)) == f"cannot read {tmp_path}: Is a directory"
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\xfa")
    assert refusal("--config", str(tmp_path / "b.yaml")).startswith(
        f"{tmp_path / 'b.yaml'}: 'utf-8' codec can't decode"
    )


def test_a_yaml_tag_runs_no_code(refusal: Refusal, tmp_path: Path) -> None:
    path = write(tmp_path, "train: {seed: !!python/object/apply:os.getpid []}")
    assert "could not determine a constructor" in refusal("--config", path)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("train: seed{}[]&*!<>|-?#'\"\n\t,1e.~%@`"), max_size=40))
def test_any_text_is_a_config_or_one_value_error(text: str) -> None:
    try:
        config_from_yaml(text)
    except ValueError as error:
        assert str(error)


@pytest.mark.faults
def test_numbers_and_words_are_read_as_in_yaml_1_2(figure: Figure) -> None:
    config = config_from_yaml(
        "loss: {kl: 1e-4, rec: 1E+2}\ntrain: {mixed_precision: no}\noptim_ivae: {stop_step: ~}"
    )
    assert config.loss.kl == 0.0001
    assert config.loss.rec == 100.0
    assert config.train.mixed_precision == "no"
    assert config.optim_ivae.stop_step is None
    figure("F16", "`1e-4` is a number")


def test_lists_become_tuples_and_integers_floats(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {channels: [8, 8, 16, 16]}\nloss: {kl: 1}")
    config, _ = load_config(["--config", path, "--eval.guidance_scales", "[1,2]"])
    assert config.model.channels == (8, 8, 16, 16)
    assert config.eval.guidance_scales == (1.0, 2.0)
    assert [type(value) for value in (*config.eval.guidance_scales, config.loss.kl)] == [float] * 3


def test_flags_go_before_files_in_any_order_and_later_files_before_earlier(tmp_path: Path) -> None:
    first = tmp_path / "first.yaml"
    first.write_text("train: {seed: 1, logging_steps: 7}")
    second = tmp_path / "second.yaml"
    second.write_text("train.seed: 2")
    files = ["--config", str(first), f"--config={second}"]
    for argv in (["--train.max_train_steps", "9", *files], [*files, "--train.max_train_steps", "9"]):
        config, dry_run = load_config(argv)
        assert config == replace(Config(), train=TrainConfig(seed=2, logging_steps=7, max_train_steps=9))
        assert not dry_run
    for argv in (["--train.seed", "3", *files], [*files, "--train.seed", "3"]):
        assert load_config(argv)[0].train.seed == 3


def test_no_arguments_are_the_defaults_and_dry_run_is_returned() -> None:
    assert load_config([]) == (Config(), False)
    assert load_config(["--dry_run"]) == (Config(), True)


def test_print_config_prints_a_file_that_gives_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    flags = ["--train.seed", "5", "--loss.kl", "1e-7", "--dry_run"]
    with pytest.raises(SystemExit) as caught:
        load_config(["--print_config", *flags])
    assert caught.value.code == 0
    path = write(tmp_path, capsys.readouterr().out)
    assert load_config(["--config", path])[0] == load_config(flags)[0]


def test_help_prints_what_each_field_means(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        load_config(["--help"], prog="train")
    text = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert "D. The paper: 10. (type: int, default: 10)" in text
    assert all(f"--{key} " in text for key in KEYS)


@given(
    loss=st.builds(
        LossConfig,
        rec=st.floats(0, allow_infinity=False, allow_nan=False),
        kl=st.floats(0, allow_infinity=False, allow_nan=False),
    ),
    output_dir=st.text(st.characters(codec="utf-8"), min_size=1)
    | st.sampled_from(
        ["1e3", "no", "null", "12:30", "0x1f", "1_0", "2001-01-01", ".5", "~", "=", "<<", "010"]
    ),
    resume=st.none() | st.just("null"),
    channels=st.tuples(*[st.integers(1, 9).map(lambda n: 8 * n)] * 4),
)
@settings(max_examples=30, deadline=None)
def test_yaml_round_trip_is_exact(
    loss: LossConfig, output_dir: str, resume: str | None, channels: tuple[int, ...]
) -> None:
    train = TrainConfig(output_dir=output_dir, resume_from_checkpoint=resume)
    config = Config(loss=loss, train=train, model=ModelConfig(channels=channels))
    assert config_from_yaml(config_to_yaml(config)) == config


def test_another_yaml_reader_reads_the_same() -> None:
    config = Config(loss=LossConfig(kl=1e-9), train=TrainConfig(output_dir="no"))
    assert yaml.safe_load(config_to_yaml(config)) == config.to_dict()


def test_reading_arguments_does_not_load_torch() -> None:
    # The package itself imports diffusers; the module is loaded here beside an empty one of its name.
    folder = Path(__file__).parents[1] / "idiff_hf"
    code = (
        "import sys, types; package = types.ModuleType('idiff_hf'); package.__path__ = [sys.argv[1]]; "
        "sys.modules['idiff_hf'] = package; from idiff_hf.arguments import load_config; load_config([]); "
        "print(sorted({'torch', 'numpy', 'diffusers'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
