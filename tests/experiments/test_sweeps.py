"""Sweeps: files and what is wrong with them, each sampler, workers that share a study, that are killed, that prune."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from idiff_hf.arguments import config_to_yaml, load_config, with_values
from idiff_hf.cli import main
from idiff_hf.config.sweep import SweepConfig
from idiff_hf.experiments.records import load_record
from idiff_hf.experiments.studies import (
    ask,
    counted,
    fail,
    open_study,
    put_back,
    put_back_abandoned,
    put_back_failed,
    to_retry,
)
from idiff_hf.experiments.sweeps import _watch, read_sweep, run_sweep, sweep_rows
from idiff_hf.run_log import RunLog
from tests.experiments.stand_in import program, that_copies, toy_config

ROOT = Path(__file__).parents[2]
SWEEPS = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))
GRID = {"loss.kl": {"values": [1e-4, 1e-3]}, "loss.rec": {"values": [0.1, 0.5]}}
SPACE = {"loss.kl": {"low": 1e-5, "high": 0.1, "log": True}, "model.latent_dim": {"low": 6, "high": 9}}
FAILS = "print('error: no luck'); sys.exit(2)"


def grid(**values: Any) -> SweepConfig:
    return SweepConfig(
        **{"name": "toy", "config": "toy.yaml", "sampler": "grid", "parameters": GRID, **values}
    )


def at_random(**values: Any) -> SweepConfig:
    return grid(**{"sampler": "random", "parameters": SPACE, "num_trials": 3, **values})


def params(study: optuna.Study) -> list[dict[str, Any]]:
    return [trial.params for trial in counted(study.trials)]


def points(sweep: SweepConfig) -> list[dict[str, Any]]:
    return [sweep.point(rank) for rank in range(sweep.size)]


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_each_sweep_that_is_shipped_builds_with_every_value(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    sweep = read_sweep(path)
    base, _ = load_config(["--config", sweep.config])
    for name, choice in sweep.choices.items():
        for value in choice.get("values", [choice.get("low"), choice.get("high")]):
            group, _, field = name.partition(".")
            assert with_values(base, {name: value}).to_dict()[group][field] == value


def test_table_1_is_the_papers() -> None:
    sweep = read_sweep(ROOT / "configs" / "sweeps" / "table1.yaml")
    assert sweep.parameters == {
        "loss.kl": {"low": 1e-5, "high": 0.1, "log": True},
        "loss.rec": {"low": 0.01, "high": 5.0},
        "aux.modulate_mean": "bool",
    }
    assert (sweep.sampler, sweep.objective) == ("tpe", "mig")
    assert read_sweep(ROOT / "configs" / "sweeps" / "table7_grid.yaml").size == 36


def test_a_file_is_read_as_yaml_1_2_and_named_by_its_stem(tmp_path: Path) -> None:
    path = written(
        tmp_path / "mine.yaml", "config: c.yaml\nsampler: grid\nparameters: {loss.kl: {values: [1e-4, 1]}}\n"
    )
    sweep = read_sweep(path, storage="sqlite:///x")
    assert (sweep.name, sweep.storage, sweep.size) == ("mine", "sqlite:///x", 2)
    assert points(sweep) == [{"loss.kl": 1e-4}, {"loss.kl": 1}]


def test_a_grid_of_more_points_than_memory_holds_is_asked_point_by_point() -> None:
    keys = ["loss.kl", "loss.rec", "loss.free_bits", "loss.kl_reverse", "optim_ivae.learning_rate"]
    sweep = grid(parameters={key: {"values": [n / 1000 for n in range(1, 1001)]} for key in keys})
    assert sweep.size == 1000**5
    assert list(sweep.point(1002).values()) == [0.001, 0.001, 0.001, 0.002, 0.003]
    assert list(sweep.point(sweep.size - 1).values()) == [1.0] * 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "expected config, parameters and any of name, config, .*, got list"),
        ("config: c", "expected config, parameters and any of .*, got config"),
        ("config: c\nparameters: {a.b: bool}\nbudget: 3", "got config, parameters, budget"),
        ("config: c\nparameters: {a.b: bool}\nconfig: d", "key 'config' is given twice"),
        ("config: [", r"not valid YAML in line 1: expected the node content, but found '<stream end>'$"),
        ("config: c\nparameters: {a.b: bool}", "num_trials must be a whole number of 1 or more, got None"),
        ("config: c\nparameters: {}\nnum_trials: 1", "parameters must name one or more keys"),
        ("config: c\nparameters: {a.b: 3}\nnum_trials: 1", r"parameters.a.b must be bool, \{values"),
        ("config: c\nparameters: {a.b: {low: 3}}\nnum_trials: 1", r"parameters.a.b must be bool, \{values"),
        ("config: c\nparameters: {a.b: {values: []}}\nnum_trials: 1", "parameters.a.b.values must be a list"),
        ("config: c\nparameters: {a.b: {values: [[1]]}}\nnum_trials: 1", "parameters.a.b.values must be a list"),
        ("config: c\nparameters: {a.b: {low: 2, high: 1}}\nnum_trials: 1", "low the smaller one, got 2 and 1"),
        ("config: c\nparameters: {a.b: {low: 0, high: 1, log: true}}\nnum_trials: 1", "log=true needs low above 0"),
        ("config: c\nparameters: {a.b: {low: 1, high: 2, log: 1}}\nnum_trials: 1", "log must be true or false"),
        ("config: c\nsampler: grid\nparameters: {a.b: {low: 1, high: 2}}", "parameters.a.b of a grid must be bool"),
        ("config: c\nsampler: grid\nparameters: {a.b: bool}\nnum_trials: 3", "num_trials=3 has no effect"),
        ("config: c\nsampler: ray\nparameters: {a.b: bool}", "sampler must be one of grid, random, tpe, got 'ray'"),
        ("config: c\npruner: asha\nparameters: {a.b: bool}", "pruner must be one of none, median, got 'asha'"),
        ("config: c\npruner_term: kl\nparameters: {a.b: bool}", "pruner_term=kl has no effect with pruner=none"),
        ("config: c\npruner: median\npruner_term: 3\nparameters: {a.b: bool}", "pruner_term must be a text, got 3"),
        ("config: c\nparameters: {a.b: {values: [.nan]}}\nnum_trials: 1", r"a\.b\.values must be finite, got \[nan\]"),
        ("config: c\nparameters: {a.b: {low: 1, high: .inf}}\nnum_trials: 1", "low and high must be finite, got 1 and inf"),
        ("config: c\nparameters: {a.b: bool}\nnum_trials: true", "num_trials must be a whole number .*, got True"),
        ("config: c\nseed: true\nparameters: {a.b: bool}", "seed must be a whole number of 0 or more, got True"),
        ("config: c\nseed: -1\nparameters: {a.b: bool}", "seed must be a whole number of 0 or more, got -1"),
        ("config: c\nstorage: 3\nparameters: {a.b: bool}", "storage must be the URL of a database, or null"),
        ("config: c\nobjective: 3\nparameters: {a.b: bool}", "objective must be a text, got 3"),
    ],
)  # fmt: skip
def test_a_file_with_a_mistake_is_one_line(text: str, words: str, tmp_path: Path) -> None:
    path = written(tmp_path / "sweep.yaml", text)
    with pytest.raises(ValueError, match=words) as error:
        read_sweep(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


def test_a_key_that_is_none_is_refused_before_anything_is_there(tmp_path: Path) -> None:
    for name, words in (
        ("loss.kll", r"^unknown key 'loss\.kll', did you mean 'loss\.kl'\?$"),
        ("loss", r"^'loss' is a group, give its keys one by one: loss\."),
        (1, r"^unknown key '1', did you mean '"),
        (
            "train.output_dir",
            r"^parameters\.train\.output_dir does not change what a trial comes to: leave it out$",
        ),
        ("hub.hub_private_repo", r"^parameters\.hub\.hub_private_repo does not change what a trial comes to"),
        ("train.logging_steps", r"^parameters\.train\.logging_steps does not change what a trial comes to"),
    ):
        sweep = grid(parameters={name: {"values": [1.0]}})
        with pytest.raises(ValueError, match=words):
            run_sweep(sweep, toy_config(), tmp_path / "root", progress=False)
    for values, words in (
        ({"objective": "MIG"}, r"^objective must be one of mig, modularity, .*, elbo, got 'MIG'$"),
        ({"objective": "mig_per_factor"}, r"^objective must be one of .*, got 'mig_per_factor'$"),
        (
            {"objective": "elbo"},
            r"^objective=elbo cannot compare .* weights: take loss\.kl, loss\.rec out of parameters$",
        ),
        (
            {"objective": "elbo", "parameters": {"data.image_size": {"values": [16, 32]}}},
            r"^objective=elbo cannot compare trials of different images: take data\.image_size out of parameters$",
        ),
        (
            {"pruner": "median", "pruner_term": "mse"},
            r"^pruner_term must be one of rec, kl, ddpm, .*, got 'mse'$",
        ),
        (
            {"parameters": {"loss.kl": {"values": [1e-4, 1e-3, 1e-4]}}},
            r"^parameters\.loss\.kl\.values must name each value once, got \[0\.0001, 0\.001, 0\.0001\]$",
        ),
        (
            {"parameters": {"loss.kl": {"values": [1e-4, "abc"]}}},
            r"^loss\.kl must be a finite number, got abc$",
        ),
        (
            {"parameters": {"model.latent_dim": {"values": [6, 6.5]}}},
            r"^model\.latent_dim must be an integer, got 6\.5$",
        ),
        (
            {"parameters": {"model.backbone": {"values": ["cnn", "cnnn"]}}},
            r"^model\.backbone must be one of cnn, .*, got cnnn$",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            run_sweep(grid(**values), toy_config(), tmp_path / "root", progress=False)
    for name, low, words in (
        (
            "model.latent_dim",
            6.5,
            r"^parameters\.model\.latent_dim: low and high must be whole numbers, got 6\.5 and 12$",
        ),
        ("aux.modulate_mean", 0, r"^aux\.modulate_mean must be true or false, got 0$"),
    ):
        with pytest.raises(ValueError, match=words):
            run_sweep(
                at_random(parameters={name: {"low": low, "high": 12}}),
                toy_config(),
                tmp_path / "root",
                progress=False,
            )
    with pytest.raises(ValueError, match=r"^jobs must be 1 or more, got 0$"):
        run_sweep(grid(), toy_config(), tmp_path / "root", jobs=0, progress=False)
    assert not (tmp_path / "root").exists()


def test_a_grid_is_run_once_each_and_not_again(finished: Path, tmp_path: Path) -> None:
    launcher = that_copies(finished, tmp_path / "program.py")
    sweep, root = grid(), tmp_path / "root"
    study = run_sweep(sweep, toy_config(), root, launcher=launcher, jobs=2, progress=False)
    assert sorted(map(str, params(study))) == sorted(map(str, points(sweep)))
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    for point in points(sweep):
        record = load_record(root, with_values(toy_config(), point))
        assert record is not None
        [trial] = [trial for trial in study.trials if trial.params == point]
        assert trial.value == record.scores["mig"]
        assert trial.user_attrs["id"] == record.id
        assert trial.user_attrs["scores"]["dci_disentanglement"] == record.scores["dci_disentanglement"]
    again = run_sweep(sweep, toy_config(), root, launcher=("none",), progress=False)
    assert len(again.trials) == sweep.size
    # without its journal a study is made again from what is in the root
    (root / "study.jsonl").unlink()
    anew = run_sweep(sweep, toy_config(), root, launcher=("none",), progress=False)
    assert sorted(trial.value for trial in anew.trials) == sorted(trial.value for trial in study.trials)


def asked(sweep: SweepConfig, study: optuna.Study) -> None:
    while ask(sweep, toy_config(), study) is not None:
        pass


@pytest.mark.parametrize("storage", [None, "sqlite"])
@pytest.mark.parametrize("sampler", ["grid", "random"])
def test_workers_that_ask_at_once_draw_each_trial_once(
    sampler: str, storage: str | None, tmp_path: Path
) -> None:
    url = storage and f"sqlite:///{tmp_path}/study.db"
    space = {"loss.kl": {"values": [1e-4, 1e-3, 1e-2]}, "loss.rec": {"values": [0.1, 0.5]}}
    sweep = grid(parameters=space, storage=url) if sampler == "grid" else at_random(num_trials=6, storage=url)
    studies = [open_study(sweep, toy_config(), tmp_path) for _ in range(4)]
    together = threading.Barrier(len(studies))

    def work(study: optuna.Study) -> None:
        together.wait()
        asked(sweep, study)

    threads = [threading.Thread(target=work, args=(study,)) for study in studies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alone = open_study(replace(sweep, storage=None), toy_config(), tmp_path / "alone")
    asked(sweep, alone)
    found = params(studies[0])
    assert len(found) == sweep.size == 6
    assert sorted(map(str, found)) == sorted(map(str, params(alone)))
    if sampler == "grid":
        assert params(alone) == points(sweep)


def test_a_trial_that_is_put_back_keeps_its_point(tmp_path: Path) -> None:
    sweep = grid()
    study = open_study(sweep, toy_config(), tmp_path)
    first, second = ask(sweep, toy_config(), study), ask(sweep, toy_config(), study)
    assert first is not None and second is not None
    put_back(study, first[0])
    again = ask(sweep, toy_config(), study)
    assert again is not None and again[0].params == first[0].params == points(sweep)[0]
    put_back(study, again[0])
    # one that nobody had drawn yet when another, of a lower number, was put back
    undrawn = study.ask()
    again = ask(sweep, toy_config(), study)
    assert again is not None
    put_back(study, second[0])
    put_back(study, undrawn)
    asked(sweep, study)
    assert sorted(map(str, params(study))) == sorted(map(str, points(sweep)))


def test_a_trial_that_was_lost_before_it_was_drawn_is_begun_once_more(tmp_path: Path) -> None:
    """By kill -9 of its worker; in a database it may be a worker's elsewhere."""
    for storage in (None, f"sqlite:///{tmp_path}/study.db"):
        sweep = grid(storage=storage)
        study = open_study(sweep, toy_config(), tmp_path)
        assert ask(sweep, toy_config(), study) is not None
        study.ask()
        put_back_abandoned(sweep, study, tmp_path)
        asked(sweep, study)
        drawn = [point for point in params(study) if point]
        assert sorted(map(str, drawn)) == sorted(
            map(str, points(sweep) if storage is None else [points(sweep)[0], *points(sweep)[2:]])
        )


def test_a_worker_that_is_stopped_while_it_asks_loses_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = grid(storage=f"sqlite:///{tmp_path}/study.db")
    study = open_study(sweep, toy_config(), tmp_path)

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(optuna.Trial, "suggest_categorical", stopped)
        with pytest.raises(KeyboardInterrupt):
            ask(sweep, toy_config(), study)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    asked(sweep, study)
    assert params(study) == points(sweep)


def test_trials_at_random_lie_in_the_space_and_depend_on_the_seed_and_their_number(tmp_path: Path) -> None:
    """A program that fails at once is enough to see what is drawn."""
    launcher = program(tmp_path / "program.py", FAILS)

    def drawn(name: str, sweep: SweepConfig) -> list[dict[str, Any]]:
        with pytest.raises(ValueError, match=r"trials failed, the first: .*no luck"):
            run_sweep(sweep, toy_config(), tmp_path / name, launcher=launcher, progress=False)
        return params(open_study(sweep, toy_config(), tmp_path / name))

    found = drawn("whole", at_random(num_trials=6))
    assert all(1e-5 <= one["loss.kl"] <= 0.1 and one["model.latent_dim"] in range(6, 10) for one in found)
    assert len({one["loss.kl"] for one in found}) == 6
    assert len({one["model.latent_dim"] for one in found}) > 1
    # uniform in the logarithm: about half of them lie below the middle of the decades
    assert 1 <= sum(one["loss.kl"] < 1e-3 for one in found) <= 5
    # one that is begun with fewer and gone on with draws the same
    assert drawn("parts", at_random(num_trials=3)) == found[:3]
    assert drawn("parts", at_random(num_trials=6)) == found
    assert drawn("other", at_random(num_trials=1, seed=1)) != found[:1]


def test_a_range_is_of_whole_numbers_where_its_key_is(tmp_path: Path) -> None:
    """However its ends are written."""
    space = {"loss.rec": {"low": 0, "high": 2}, "model.latent_dim": {"low": 6.0, "high": 12.0}}
    sweep = at_random(parameters=space, num_trials=6)
    study = open_study(sweep, toy_config(), tmp_path)
    asked(sweep, study)
    found = params(study)
    assert len({one["loss.rec"] for one in found} - {0, 1, 2}) == 6
    assert all(type(one["model.latent_dim"]) is int and 6 <= one["model.latent_dim"] <= 12 for one in found)


def test_tpe_moves_to_where_the_objective_is_large(tmp_path: Path) -> None:
    """Told of an objective that is largest at eight latents."""
    sweep = at_random(sampler="tpe", num_trials=24)
    study = open_study(sweep, toy_config(), tmp_path)
    for _ in range(24):
        asked = ask(sweep, toy_config(), study)
        assert asked is not None
        trial, config = asked
        assert config.model.latent_dim == trial.params["model.latent_dim"]
        study.tell(trial, -abs(trial.params["model.latent_dim"] - 8))
    assert ask(sweep, toy_config(), study) is None
    early, late = study.trials[:8], study.trials[-8:]

    def hits(trials: list[FrozenTrial]) -> int:
        return sum(trial.params["model.latent_dim"] == 8 for trial in trials)

    assert hits(late) > hits(early)


def test_a_trial_that_fails_is_marked_with_its_line_and_the_sweep_goes_on(
    finished: Path, tmp_path: Path
) -> None:
    copies = that_copies(finished, tmp_path / "copies.py")
    body = (
        f"if 'kl: 0.0001' in (folder / 'config.yaml').read_text():\n    {FAILS}\n"
        + Path(copies[1]).read_text()
    )
    sweep = grid(
        parameters={"loss.kl": {"values": [1e-4, 1e-3]}, "train.train_batch_size": {"values": [16, 3]}}
    )
    root = tmp_path / "root"
    study = run_sweep(
        sweep, toy_config(), root, launcher=program(tmp_path / "program.py", body), progress=False
    )
    rows = sweep_rows(sweep, study.trials)
    assert [row["state"] for row in rows] == ["complete", "fail", "fail", "fail"]
    assert rows[0]["loss.kl"] == 1e-3 and rows[0]["mig"] == study.best_value
    errors = Counter(row["error"] and row["error"].partition(" (see")[0] for row in rows[1:])
    failed = root / next(row["id"] for row in rows if row["id"] and row["state"] == "fail")
    assert errors == {
        f"{failed}: no luck": 1,
        "train.train_batch_size must be a positive multiple of 8, got 3": 2,
    }


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in counted(study.trials)]


def test_a_run_that_failed_is_tried_again_by_the_next_call(finished: Path, tmp_path: Path) -> None:
    copies = Path(that_copies(finished, tmp_path / "copies.py")[1]).read_text()
    full = "if 'rec: 0.1' in (folder / 'config.yaml').read_text():\n    (folder / 'tried').open('a').write('.')\n"
    fails = program(tmp_path / "fails.py", f"{full}    {FAILS}\n{copies}")
    killed = program(tmp_path / "killed.py", "import os; os.kill(os.getpid(), 9)")
    sweep, root, base = grid(), tmp_path / "root", toy_config()
    study = run_sweep(sweep, base, root, launcher=fails, progress=False)
    # once in a call, and shown as failed until there is another
    assert sorted(states(study)) == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert [path.read_text() for path in root.glob("*/tried")] == [".", "."]
    study = run_sweep(sweep, base, root, launcher=killed, progress=False)
    errors = [row["error"] for row in sweep_rows(sweep, study.trials) if row["error"]]
    assert len(errors) == 2 and all("ended by SIGKILL" in error for error in errors)
    done = that_copies(finished, tmp_path / "done.py")
    study = run_sweep(sweep, base, root, launcher=done, progress=False)
    assert states(study) == ["COMPLETE"] * 4
    assert sorted(map(str, params(study))) == sorted(map(str, points(sweep)))
    assert len(run_sweep(sweep, base, root, launcher=("none",), progress=False).trials) == len(study.trials)


def test_the_line_says_which_trials_are_tried_again(tmp_path: Path) -> None:
    launcher = program(tmp_path / "program.py", FAILS)
    for sizes, words in (([16], "them"), ([3, 16], "1 of them")):
        sweep = grid(parameters={"train.train_batch_size": {"values": sizes}}, name=f"toy{len(sizes)}")
        with pytest.raises(
            ValueError, match=rf"^all \d trials failed, the first: .*: the same command tries {words} again$"
        ):
            run_sweep(sweep, toy_config(), tmp_path / "root", launcher=launcher, progress=False)
    # a config that is refused is refused again
    sweep = grid(parameters={"train.train_batch_size": {"values": [3]}}, name="none")
    with pytest.raises(ValueError, match=r"^all 1 trials failed, the first: .* multiple of 8, got 3$"):
        run_sweep(sweep, toy_config(), tmp_path / "root", launcher=launcher, progress=False)


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_launcher_that_cannot_start_ends_the_sweep_and_fails_no_trial(
    jobs: int, finished: Path, tmp_path: Path
) -> None:
    sweep, root = grid(), tmp_path / "root"
    with pytest.raises(ValueError, match=r"^cannot start no-such-program: No such file or directory$"):
        run_sweep(sweep, toy_config(), root, launcher=("no-such-program",), jobs=jobs, progress=False)
    study = open_study(sweep, toy_config(), root)
    assert states(study) == [] and len(study.trials) <= 2 * jobs + 1
    launcher = that_copies(finished, tmp_path / "program.py")
    study = run_sweep(sweep, toy_config(), root, launcher=launcher, jobs=jobs, progress=False)
    assert states(study) == ["COMPLETE"] * 4
    assert sorted(map(str, params(study))) == sorted(map(str, points(sweep)))


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_two_workers_that_put_back_one_failed_trial_try_it_once(storage: str | None, tmp_path: Path) -> None:
    sweep = grid(storage=storage and f"sqlite:///{tmp_path}/study.db")
    study = open_study(sweep, toy_config(), tmp_path)
    begun = ask(sweep, toy_config(), study)
    assert begun is not None
    fail(study, begun[0], ValueError("no luck"), retry=True)
    [failed] = to_retry(study)
    put_back_failed(sweep, study, tmp_path)
    put_back_failed(sweep, study, tmp_path)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    # the other worker had looked before
    put_back(study, failed)
    asked(sweep, study)
    assert params(study) == points(sweep)


def test_an_objective_that_is_undefined_fails_the_trial(finished: Path, tmp_path: Path) -> None:
    # u of the toy states the sign
    sweep = grid(parameters={"loss.kl": {"values": [1e-4]}}, objective="mcc_spearman_unsigned")
    with pytest.raises(
        ValueError,
        match=r"all 1 trials failed, the first: mcc_spearman_unsigned is undefined: there is no such score",
    ):
        run_sweep(
            sweep,
            toy_config(),
            tmp_path / "root",
            launcher=that_copies(finished, tmp_path / "program.py"),
            progress=False,
        )


def test_a_study_of_another_sweep_is_refused(tmp_path: Path) -> None:
    open_study(grid(), toy_config(), tmp_path)
    open_study(grid(), toy_config(), tmp_path, create=False)
    other = replace(toy_config(), loss=replace(toy_config().loss, kl_anneal_hold=0.1))
    for sweep, base in ((grid(), other), (grid(seed=1), toy_config()), (at_random(), toy_config())):
        with pytest.raises(
            ValueError, match=r"^the study toy is of another sweep: give another name, or another --root$"
        ):
            open_study(sweep, base, tmp_path)
    # the n-th trial is the n-th combination, in the order of the file
    turned = grid(parameters=dict(reversed(GRID.items())))
    with pytest.raises(ValueError, match=r"^the study toy is of another sweep: "):
        open_study(turned, toy_config(), tmp_path)
    # more trials of the same one are welcome
    open_study(at_random(name="second"), toy_config(), tmp_path)
    open_study(at_random(name="second", num_trials=9), toy_config(), tmp_path)


def test_a_storage_that_cannot_be_opened_is_one_line_without_its_password(tmp_path: Path) -> None:
    for url in (
        "nonsense",
        "postgresql://me:secret@nowhere.invalid/study",
        f"sqlite:///{tmp_path}/no/folder.db",
    ):
        with pytest.raises(
            ValueError, match=r"^the storage of toy cannot be opened: [A-Za-z]+: give a URL as in sqlite:///"
        ) as error:
            open_study(grid(storage=url), toy_config(), tmp_path)
        assert "secret" not in str(error.value)


def test_what_is_not_there_is_not_created_by_a_look(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none holds no study: run idiff sweep first, or give --root$"):
        open_study(grid(), toy_config(), tmp_path / "none", create=False)
    assert not (tmp_path / "none").exists()
    with pytest.raises(ValueError, match=r"^the storage holds no study toy: run idiff sweep first$"):
        open_study(grid(storage=f"sqlite:///{tmp_path}/study.db"), toy_config(), tmp_path, create=False)
    assert not (tmp_path / "study.db").exists()
    assert open_study(grid(storage=f"sqlite:///{tmp_path}/study.db"), toy_config(), tmp_path).trials == []
    with pytest.raises(ValueError, match=r"^the storage holds no study other: run idiff sweep first$"):
        other = grid(storage=f"sqlite:///{tmp_path}/study.db", name="other")
        open_study(other, toy_config(), tmp_path, create=False)


def test_nothing_in_a_journal_is_executed(tmp_path: Path) -> None:
    """It is JSON, line by line, and stays text where it says something else."""
    run = open_study(grid(), toy_config(), tmp_path)
    run.ask()
    lines = (tmp_path / "study.jsonl").read_text().splitlines()
    assert len(lines) > 2 and all(isinstance(json.loads(line), dict) for line in lines)
    (tmp_path / "study.jsonl").write_bytes(b"\x80\x04cos\nsystem\n(S'touch pwned'\ntR.\n")
    with pytest.raises(
        ValueError, match=r"study\.jsonl is damaged or no journal of a study: move it elsewhere, "
    ):
        open_study(grid(), toy_config(), tmp_path)


@pytest.mark.parametrize(
    "text", ['{"a": 1}\n', "[1]\n", "1\n", '{"op_code": 99, "worker_id": "a"}\n', "[" * 100_000 + "\n"]
)
def test_a_journal_of_something_else_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "study.jsonl").write_text(text)
    for create in (True, False):
        with pytest.raises(ValueError, match=r"^\S*study\.jsonl is damaged or no journal of a study: "):
            open_study(grid(), toy_config(), tmp_path, create=create)


def test_a_journal_that_was_cut_short_goes_on_without_its_last_line(tmp_path: Path) -> None:
    study = open_study(grid(), toy_config(), tmp_path)
    first = ask(grid(), toy_config(), study)
    assert first is not None
    path = tmp_path / "study.jsonl"
    whole = path.read_bytes()
    study.tell(first[0], 0.5)
    path.write_bytes(path.read_bytes()[: len(whole) + 9])
    again = open_study(grid(), toy_config(), tmp_path)
    assert path.read_bytes().startswith(whole)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert [trial.state for trial in again.trials] == [TrialState.RUNNING]
    assert ask(grid(), toy_config(), again) is not None
    assert len(open_study(grid(), toy_config(), tmp_path, create=False).trials) == 2


def test_a_root_that_is_no_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(ValueError, match=r"^cannot write .*root/study\.jsonl: .*File exists"):
        open_study(grid(), toy_config(), tmp_path / "root")


@pytest.mark.slow
def test_two_workers_share_a_database_and_leave_nothing_out(finished: Path, tmp_path: Path) -> None:
    """Each with a root of its own, as on two machines."""
    launcher = that_copies(finished, tmp_path / "program.py")
    sweep = at_random(num_trials=3, storage=f"sqlite:///{tmp_path}/study.db")
    roots = [tmp_path / "one", tmp_path / "two"]
    workers = [
        threading.Thread(
            target=run_sweep,
            args=(sweep, toy_config(), root),
            kwargs={"launcher": launcher, "progress": False},
        )
        for root in roots
    ]
    open_study(sweep, toy_config(), tmp_path)
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    study = open_study(sweep, toy_config(), tmp_path, create=False)
    found = counted(study.trials)
    assert len(found) == 3 and {trial.state for trial in found} == {TrialState.COMPLETE}
    ran = [folder.name for root in roots for folder in root.iterdir()]
    assert sorted(ran) == sorted(trial.user_attrs["id"] for trial in found)


WAITS = """
import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
if not (folder / 'ready').exists():
    (folder / 'ready').touch()
    time.sleep(60)
"""


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """SIGINT raises, even where the tests were started in the background of a shell, which has it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_a_sweep_that_is_stopped_puts_its_trials_back(finished: Path, tmp_path: Path) -> None:
    copies = that_copies(finished, tmp_path / "copies.py")
    launcher = program(tmp_path / "program.py", WAITS + Path(copies[1]).read_text())
    sweep, root = at_random(num_trials=2), tmp_path / "root"

    def stop() -> None:
        while not list(root.glob("*/ready")):
            pass
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_sweep(sweep, toy_config(), root, launcher=launcher, progress=False)
    study = open_study(sweep, toy_config(), root)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.WAITING]
    assert counted(study.trials) == []
    for folder in list(root.glob("*/ready")):
        assert folder.parent.name == study.trials[0].user_attrs["id"]
    done = program(tmp_path / "done.py", Path(copies[1]).read_text())
    study = run_sweep(sweep, toy_config(), root, launcher=done, progress=False)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.trials[1].params == study.trials[0].params
    assert len(counted(study.trials)) == 2


@pytest.mark.parametrize("storage", [None, "sqlite"])
def test_a_trial_of_a_worker_that_was_killed_is_put_back(
    storage: str | None, finished: Path, tmp_path: Path
) -> None:
    sweep = at_random(num_trials=1, storage=storage and f"sqlite:///{tmp_path}/study.db")
    root = tmp_path / "root"
    study = open_study(sweep, toy_config(), root)
    begun = ask(sweep, toy_config(), study)
    assert begun is not None
    lost, _ = begun
    launcher = that_copies(finished, tmp_path / "program.py")
    if storage is not None:
        # of another machine, whose folder is not here: it may be running
        assert len(run_sweep(sweep, toy_config(), root, launcher=launcher, progress=False).trials) == 1
        (root / lost.user_attrs["id"]).mkdir(parents=True)
    study = run_sweep(sweep, toy_config(), root, launcher=launcher, progress=False)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].params == lost.params and len(counted(study.trials)) == 1


def test_a_trial_that_another_worker_has_put_back_is_left_to_it(finished: Path, tmp_path: Path) -> None:
    """While nobody held its folder for a moment: the worker that ran it goes on, and the record is found."""
    copies = that_copies(finished, tmp_path / "copies.py")
    waits = "import time\n(folder / 'ready').touch()\nwhile not (folder / 'go').exists(): time.sleep(0.05)\n"
    launcher = program(tmp_path / "program.py", waits + Path(copies[1]).read_text())
    sweep, root = at_random(num_trials=1), tmp_path / "root"

    def other() -> None:
        while not (ready := list(root.glob("*/ready"))):
            time.sleep(0.05)
        study = open_study(sweep, toy_config(), root)
        put_back(study, study.trials[0])
        (ready[0].parent / "go").touch()

    worker = threading.Thread(target=other)
    worker.start()
    seen: list[FrozenTrial] = []
    study = run_sweep(sweep, toy_config(), root, launcher=launcher, progress=False, done=seen.append)
    worker.join()
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert [trial.number for trial in seen] == [1]
    assert (root / study.trials[1].user_attrs["id"] / "begun").read_text() == "once\n"


def test_a_trial_whose_program_alone_was_signalled_is_put_back(finished: Path, tmp_path: Path) -> None:
    copies = that_copies(finished, tmp_path / "copies.py")
    once = "if not list(folder.parent.glob('*/signalled')):\n    (folder / 'signalled').touch()\n    sys.exit(143)\n"
    launcher = program(tmp_path / "program.py", once + Path(copies[1]).read_text())
    sweep, root = at_random(num_trials=2), tmp_path / "root"
    with pytest.raises(
        ValueError, match=r"was stopped by a signal and saved: the same command goes on with it$"
    ):
        run_sweep(sweep, toy_config(), root, launcher=launcher, progress=False)
    states = [trial.state for trial in open_study(sweep, toy_config(), root).trials]
    # the other one was run all the same
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.WAITING]
    study = run_sweep(sweep, toy_config(), root, launcher=launcher, progress=False)
    assert [trial.state for trial in counted(study.trials)] == [TrialState.COMPLETE] * 2
    assert study.trials[2].params == study.trials[0].params


def test_a_storage_that_fails_in_the_middle_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    body = f"import sqlite3\nsqlite3.connect({str(path)!r}).execute('drop table trials')\n"
    sweep = at_random(storage=f"sqlite:///{path}")
    with pytest.raises(
        ValueError, match=r"^the storage of toy failed: [A-Za-z]+: the same command goes on with"
    ):
        run_sweep(
            sweep,
            toy_config(),
            tmp_path / "root",
            launcher=program(tmp_path / "program.py", body),
            progress=False,
        )


def test_losses_are_read_when_there_are_more_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = grid(pruner="median")
    trial = open_study(sweep, toy_config(), tmp_path).ask()
    reads: list[Path] = []
    read = RunLog.read
    monkeypatch.setattr(RunLog, "read", lambda log: (reads.append(log.path), read(log))[1])
    watch, log = _watch(sweep, trial), RunLog(tmp_path / "metrics.jsonl")
    for step in (0, 1, 2):
        if step:
            log.append({"step": step, "rec": 1.0})
        for _ in range(3):
            watch(tmp_path)
    assert len(reads) == 2
    assert trial.study.trials[0].intermediate_values == {1: -1.0, 2: -1.0}


LOSSES = """
import json, os, signal, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(143))
worse = 'rec: 5.0' in (folder / 'config.yaml').read_text()
(folder / 'metrics.jsonl').write_text('{"step": 1, "re')
time.sleep(0.5)
(folder / 'metrics.jsonl').unlink()
for step in range(1, 9):
    with (folder / 'metrics.jsonl').open('a') as log:
        log.write(json.dumps({'step': step, 'rec': 1.0 + worse - 0.01 * step}) + '\\n')
if worse:
    (folder / 'waits').touch()
    time.sleep(60)
time.sleep(0.5)
"""


@pytest.mark.slow
def test_the_median_ends_a_trial_whose_loss_is_worse_than_those_before(
    finished: Path, tmp_path: Path
) -> None:
    copies = that_copies(finished, tmp_path / "copies.py")
    launcher = program(tmp_path / "program.py", LOSSES + Path(copies[1]).read_text())
    values = [0.1, 0.2, 0.3, 0.4, 0.5, 5.0]
    sweep = grid(parameters={"loss.rec": {"values": values}}, pruner="median")
    root = tmp_path / "root"
    study = run_sweep(sweep, toy_config(), root, launcher=launcher, progress=False)
    states = {trial.params["loss.rec"]: trial.state for trial in study.trials}
    assert states.pop(5.0) == TrialState.PRUNED
    assert set(states.values()) == {TrialState.COMPLETE}
    [pruned] = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert (root / pruned.user_attrs["id"] / "waits").exists()
    # not in the first third of the steps, and compared at the same step
    assert max(pruned.intermediate_values) >= 8 // 3 and pruned.intermediate_values[1] == -1.99
    assert sweep_rows(sweep, study.trials)[-1]["state"] == "pruned"


def test_the_command_shows_rows_as_they_come_then_all_the_best_first(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "toy.yaml", config_to_yaml(toy_config()))
    path = written(
        tmp_path / "mine.yaml",
        "config: toy.yaml\nsampler: grid\nparameters: {loss.kl: {values: [1.0e-4, 1.0e-3]}}\n",
    )
    launcher = " ".join(that_copies(finished, tmp_path / "program.py"))
    assert main(["sweep", "status", str(path)]) == 2
    assert "error: runs/sweeps/mine holds no study" in capsys.readouterr().err
    assert main(["sweep", str(path), "--launcher", launcher, "--train.seed", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| trial | id | state | mig | loss.kl | seconds | error |"
    assert lines[2].startswith("| 0 | ") and lines[3].startswith("| 1 | ")
    assert "mine: 2 of 2 trials ended, the best first" in lines
    assert main(["sweep", "status", str(path), "--json", "--train.seed", "3"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["complete", "complete"]
    assert rows[0]["mig"] >= rows[1]["mig"]
    assert main(["sweep", "status", str(path)]) == 2
    assert "error: the study mine is of another sweep" in capsys.readouterr().err
    for flag, words in (
        ("--loss.kl=1", f"--loss.kl is what the trials of {path} differ in: leave it out"),
        ("--hub.push_to_hub=true", "--hub.push_to_hub does nothing here: trials lie in the root"),
    ):
        assert main(["sweep", str(path), flag]) == 2
        assert f"error: {words}" in capsys.readouterr().err
    assert main(["sweep", "state", str(path)]) == 2
    assert f"error: give one SWEEP.yaml, or status and one, got state {path}" in capsys.readouterr().err


def test_without_optuna_the_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(["sweep", "none.yaml"]) == 2
    assert capsys.readouterr().err == 'error: idiff sweep needs Optuna: pip install "idiff_hf[sweep]"\n'


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_real_sweep_by_the_shell(tmp_path: Path) -> None:
    """Two trials of the training program, one of which is interrupted by SIGTERM and gone on with."""
    written(tmp_path / "toy.yaml", config_to_yaml(toy_config()))
    path = written(
        tmp_path / "real.yaml",
        "config: toy.yaml\nnum_trials: 2\nparameters:\n"
        "  loss.kl: {low: 1.0e-5, high: 0.1, log: true}\n  loss.rec: {low: 0.01, high: 5.0}\n",
    )
    command = [sys.executable, "-m", "idiff_hf.cli", "sweep", path.name]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    root = tmp_path / "runs" / "sweeps" / "real"
    while not list(root.glob("*/metrics.jsonl")):
        assert process.poll() is None
    process.terminate()
    _, words = process.communicate(timeout=120)
    assert process.returncode == 143
    assert "stopped by SIGTERM: the trials that were running are saved, go on with the same command" in words
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "real: 2 of 2 trials ended, the best first" in done.stdout
    assert len(list(root.glob("*/trial.json"))) == 2
