"""Trials: named by what decides them, run once, resumed, and one line where they fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from idiff_hf.arguments import config_to_yaml
from idiff_hf.cli import main
from idiff_hf.config import Config, HubConfig
from idiff_hf.experiments.records import (
    TrialRecord,
    load_record,
    record_from_json,
    record_to_json,
    trial_id,
)
from idiff_hf.experiments.scoring import METRICS, NUMBERS
from idiff_hf.experiments.trials import (
    TrialInUseError,
    TrialSignalledError,
    TrialStoppedError,
    claimed,
    refuse_taken,
    run_trial,
    run_trials,
)
from idiff_hf.pipeline_scores.evaluation import evaluate_pipeline
from tests.experiments.stand_in import program, that_copies, toy_config
from tests.faults.processes import until
from tests.faults.runs import assert_same_end


@pytest.fixture
def one_core() -> Iterator[None]:
    """Sums over another number of threads differ in the last bit."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    yield
    os.sched_setaffinity(0, cores)


def with_seed(config: Config, seed: int) -> Config:
    return replace(config, train=replace(config.train, seed=seed))


def test_a_finished_trial_is_scored_and_not_run_again(finished: Path, tmp_path: Path) -> None:
    config, root = toy_config(), tmp_path / "root"
    launcher = that_copies(finished, tmp_path / "program.py")
    assert load_record(root, config) is None
    record = run_trial(config, root, launcher=launcher)
    folder = root / record.id
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert run_trial(config, root, launcher=("none",)) == record
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert (
        load_record(root, config)
        == record
        == record_from_json(json.loads(json.dumps(record_to_json(record))))
    )
    assert (folder / "begun").read_text() == "once\n"


@pytest.mark.slow
def test_scores_are_those_of_idiff_evaluate(finished: Path, tmp_path: Path) -> None:
    config = toy_config()
    record = run_trial(config, tmp_path, launcher=that_copies(finished, tmp_path / "program.py"))
    scores = evaluate_pipeline(
        finished / "pipeline",
        config.data,
        tmp_path / "scores",
        num_samples=config.eval.num_samples,
        metrics=METRICS,
        dci_regressor="presorted_boosting",
    )
    assert scores is not None
    values = {key: value for key, value in scores["values"].items() if not isinstance(value, list)}
    assert {"mig", "modularity", "mcc_spearman", "mcc_pearson", "dci_disentanglement"} < values.keys()
    by_factor = ("mig_per_factor", "mcc_spearman_per_factor", "matched_latent")
    assert {k: v for k, v in record.scores.items() if k not in (*by_factor, "elbo")} == values
    assert {*values, "elbo", "mcc_spearman_unsigned"} == set(NUMBERS)  # u of the toy tells the sign
    results = json.loads((finished / "results.json").read_text())
    for name in by_factor:
        assert record.scores[name] == results["model"]["metrics"][name]
    assert record.facts["num_samples"] == config.eval.num_samples
    assert record.facts["supervision"] == results["supervision"]["statement"]
    assert record.facts["supervision_baseline"] is record.facts["supervised_probe"] is None
    assert record.generation == results["generation"]
    assert str(tmp_path) not in record.facts["command"].partition(" -m ")[2]
    assert record.config["train"]["output_dir"] == record.id


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("print('train: 5%', end='\\r'); print('error: the loss is not finite'); sys.exit(2)", "the loss is not finite"),
        ("print('train: error: data.image_size is 3'); sys.exit(2)", "data.image_size is 3"),
        ("print('a warning'); raise MemoryError('no room')", "exit code 1, MemoryError: no room"),
        ("import os; os.kill(os.getpid(), 9)", "ended by SIGKILL, nothing printed"),
    ],
)  # fmt: skip
def test_what_a_program_dies_of_is_one_line(body: str, words: str, tmp_path: Path) -> None:
    config = toy_config()
    folder = tmp_path / "root" / trial_id(config)
    with pytest.raises(ValueError) as error:
        run_trial(config, tmp_path / "root", launcher=program(tmp_path / "program.py", body))
    assert str(error.value) == f"{folder}: {words} (see {folder / 'log.txt'})"
    assert not (folder / "trial.json").exists()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("", r"No such file or directory: '.*results\.json'"),
        (
            "(folder / 'results.json').write_text('{\"model\": {\"metrics\": {}}}')",
            r"holds no finished run",
        ),
    ],
)
def test_a_program_that_leaves_nothing_to_score_is_one_line(body: str, words: str, tmp_path: Path) -> None:
    config = toy_config()
    folder = tmp_path / "root" / trial_id(config)
    with pytest.raises(ValueError, match=words) as error:
        run_trial(config, tmp_path / "root", launcher=program(tmp_path / "program.py", body))
    assert str(folder) in str(error.value) and "\n" not in str(error.value)
    assert not (folder / "trial.json").exists()


def test_the_line_is_of_this_attempt(tmp_path: Path) -> None:
    config = toy_config()
    for body, words in (
        ("print('error: first'); sys.exit(2)", "first"),
        ("sys.exit(3)", "exit code 3, nothing printed"),
    ):
        with pytest.raises(ValueError, match=words):
            run_trial(config, tmp_path, launcher=program(tmp_path / "program.py", body))


def test_a_launcher_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^cannot start no-such-program: No such file or directory$"):
        run_trial(toy_config(), tmp_path, launcher=("no-such-program",))


SAVES = """
import os, signal, time
def save(*_):
    (folder / 'saved').touch()
    os._exit(143)
signal.signal(signal.SIGTERM, save)
(folder / 'ready').touch()
time.sleep(60)
"""


def test_a_trial_that_is_stopped_saves_first(tmp_path: Path) -> None:
    config, stop = toy_config(), threading.Event()
    folder = tmp_path / trial_id(config)

    def watch(seen: Path) -> None:
        assert seen == folder
        if (folder / "ready").exists():
            stop.set()

    with pytest.raises(TrialStoppedError):
        run_trial(config, tmp_path, launcher=program(tmp_path / "program.py", SAVES), watch=watch, stop=stop)
    assert (folder / "saved").exists() and not (folder / "trial.json").exists()


def test_a_launcher_that_fails_while_all_is_stopped_was_stopped(tmp_path: Path) -> None:
    """`accelerate launch` ends with 1 where its processes were told to end."""
    stop = threading.Event()

    def watch(folder: Path) -> None:
        until(lambda: (folder / "told").exists(), 30)
        time.sleep(0.5)
        stop.set()

    body = "(folder / 'told').touch()\nsys.exit(1)\n"
    with pytest.raises(TrialStoppedError):
        run_trial(
            toy_config(), tmp_path, launcher=program(tmp_path / "program.py", body), watch=watch, stop=stop
        )


def test_a_trial_is_not_published(tmp_path: Path) -> None:
    config = replace(toy_config(), hub=HubConfig(push_to_hub=True, hub_model_id="user/name"))
    with pytest.raises(ValueError, match=r"exit code 3"):
        run_trial(config, tmp_path, launcher=program(tmp_path / "program.py", "sys.exit(3)"))
    assert "push_to_hub: false" in (tmp_path / trial_id(config) / "config.yaml").read_text()


def test_what_watch_raises_ends_the_program(tmp_path: Path) -> None:
    def watch(folder: Path) -> None:
        if (folder / "ready").exists():
            raise KeyError("enough")

    with pytest.raises(KeyError, match=r"enough"):
        run_trial(toy_config(), tmp_path, launcher=program(tmp_path / "program.py", SAVES), watch=watch)
    assert (tmp_path / trial_id(toy_config()) / "saved").exists()


def test_a_program_that_was_stopped_by_someone_else_is_said_to_have_saved(tmp_path: Path) -> None:
    with pytest.raises(
        TrialSignalledError, match=r"was stopped by a signal and saved: the same command goes on with it$"
    ):
        run_trial(toy_config(), tmp_path, launcher=program(tmp_path / "program.py", "sys.exit(143)"))


def test_two_processes_do_not_run_one_trial(finished: Path, tmp_path: Path) -> None:
    config = toy_config()
    launcher = that_copies(finished, tmp_path / "program.py")
    with (
        claimed(tmp_path / trial_id(config)),
        pytest.raises(TrialInUseError, match=r"is being run by another process$"),
    ):
        run_trial(config, tmp_path, launcher=launcher)
    assert run_trial(config, tmp_path, launcher=launcher).id == trial_id(config)


def test_a_trial_that_another_process_runs_is_waited_for(finished: Path, tmp_path: Path) -> None:
    config = toy_config()
    launcher = that_copies(finished, tmp_path / "program.py")
    released = threading.Event()
    holder = claimed(tmp_path / trial_id(config))
    holder.__enter__()

    def release() -> None:
        released.set()
        holder.__exit__(None, None, None)

    threading.Timer(0.5, release).start()
    assert len(run_trials([config], tmp_path, launcher=launcher, progress=False)) == 1
    assert released.is_set()


def test_equal_configs_run_once_and_records_keep_the_order(finished: Path, tmp_path: Path) -> None:
    one, two = toy_config(), with_seed(toy_config(), 1)
    seen: list[TrialRecord] = []
    records = run_trials(
        [two, one, two],
        tmp_path,
        launcher=that_copies(finished, tmp_path / "program.py"),
        jobs=2,
        progress=False,
        done=seen.append,
    )
    assert [record.id for record in records] == [trial_id(two), trial_id(one), trial_id(two)]
    assert sorted(record.seed for record in seen) == [0, 1]
    assert all((tmp_path / record.id / "begun").read_text() == "once\n" for record in records)


def test_one_that_fails_does_not_keep_the_others_from_being_run(finished: Path, tmp_path: Path) -> None:
    copies = that_copies(finished, tmp_path / "copies.py")
    fails = (
        f"print('error: no luck')\nif folder.name != {trial_id(with_seed(toy_config(), 2))!r}: sys.exit(2)\n"
    )
    launcher = program(tmp_path / "program.py", fails + Path(copies[1]).read_text())
    configs = [with_seed(toy_config(), seed) for seed in range(3)]
    with pytest.raises(ValueError, match=r": no luck \(see .*log.txt\) \(2 of 3 trials failed\)$"):
        run_trials(configs, tmp_path, launcher=launcher, progress=False)
    assert [load_record(tmp_path, config) is not None for config in configs] == [False, False, True]


def test_trials_at_once_share_out_the_cores(tmp_path: Path) -> None:
    body = "import os, time; print('error:', sorted(os.sched_getaffinity(0))); time.sleep(1); sys.exit(2)"
    configs = [with_seed(toy_config(), seed) for seed in range(2)]
    with pytest.raises(ValueError, match=r"2 of 2 trials failed"):
        run_trials(configs, tmp_path, launcher=program(tmp_path / "program.py", body), jobs=2, progress=False)
    cores = sorted(os.sched_getaffinity(0))
    shares = [cores[0::2], cores[1::2] or cores]
    told = {(tmp_path / trial_id(config) / "log.txt").read_text() for config in configs}
    assert told == {f"error: {share}\n" for share in shares}


def test_threads_are_set_where_nobody_else_sets_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "import os; print('error:', os.environ.get('OMP_NUM_THREADS')); sys.exit(2)"
    launcher = program(tmp_path / "program.py", body)
    python = tmp_path / "python"
    python.write_text(f"#!{launcher[0]}\n{Path(launcher[1]).read_text()}")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    cores = len(os.sched_getaffinity(0))
    for given, behind, words in (
        (None, (), str(cores)),
        ("7", (), "7"),
        (None, launcher, "None"),
        ("7", launcher, "7"),
    ):
        if given is None:
            monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        else:
            monkeypatch.setenv("OMP_NUM_THREADS", given)
        with pytest.raises(ValueError, match=rf": {words} \(see"):
            run_trial(toy_config(), tmp_path / "root", launcher=behind)


def test_flags_that_would_do_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refuse_taken(["--loss.kl", "1", "--train.seeds", "--x"], {"train.seed"}, "is varied")
    for flags, words in (
        (["--loss.kl", "1", "--train.seed=7"], r"^--train\.seed is varied: leave it out$"),
        (["--train.output_dir", "runs/x"], r"^--train\.output_dir does nothing here: trials lie in the root"),
        (["--hub.push_to_hub=true"], r"^--hub\.push_to_hub does nothing here"),
    ):
        with pytest.raises(ValueError, match=words):
            refuse_taken(flags, {"train.seed"}, "is varied")
    path = tmp_path / "toy.yaml"
    path.write_text(config_to_yaml(toy_config()))
    assert main(["seeds", str(path), "--root", str(tmp_path), "--train.seed", "7"]) == 2
    assert capsys.readouterr().err == "error: --train.seed is what --seeds gives: leave it out\n"


def test_no_jobs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^jobs must be 1 or more, got 0$"):
        run_trials([], tmp_path, jobs=0)


@pytest.mark.slow
def test_two_at_once_equal_one_at_a_time(tmp_path: Path, one_core: None) -> None:
    configs = [with_seed(toy_config(), seed) for seed in range(2)]
    apart = run_trials(configs, tmp_path / "apart", progress=False)
    together = run_trials(configs, tmp_path / "together", jobs=2, progress=False)
    for one, other in zip(apart, together, strict=True):
        assert one.scores == other.scores
        assert_same_end(tmp_path / "apart" / one.id, tmp_path / "together" / other.id, 8)
    assert apart[0].scores != apart[1].scores


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_trial_resumes_and_ends_like_one_that_was_not(
    number: signal.Signals, tmp_path: Path, one_core: None
) -> None:
    """The signal goes to whoever runs the trials; by SIGKILL it dies itself and its program goes on."""
    config = toy_config(max_train_steps=300, checkpoints_total_limit=2, checkpointing_steps=20)
    code = (
        # a shell's background job ignores SIGINT
        "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from pathlib import Path\nfrom idiff_hf.arguments import load_config\n"
        "from idiff_hf.experiments.trials import run_trials\nfrom idiff_hf.interruption import Interrupted\n"
        "config, _ = load_config(['--config', sys.argv[1]])\n"
        "try:\n    run_trials([config], Path(sys.argv[2]))\nexcept Interrupted as stop:\n    sys.exit(str(stop))\n"
    )
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    folder = tmp_path / "killed" / trial_id(config)
    with (tmp_path / "stderr").open("w") as stderr:
        process = subprocess.Popen([sys.executable, "-c", code, path, tmp_path / "killed"], stderr=stderr)
    until(lambda: any((folder / "checkpoints").glob("step-*")), 120)
    process.send_signal(number)
    process.wait(60)
    words = (tmp_path / "stderr").read_text()
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM: the trials that were running are saved" in words
    assert not (folder / "trial.json").exists()
    # which waits for the program, where that goes on
    [record] = run_trials([config], tmp_path / "killed", progress=False)
    if number != signal.SIGKILL:
        assert "resumed from" in (folder / "log.txt").read_text()
    whole = run_trial(config, tmp_path / "whole")
    assert record.scores == whole.scores
    assert_same_end(folder, tmp_path / "whole" / whole.id, 300)
