"""The paper's figures: which run each shows, and that it is drawn from that run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from idiff_hf.cli.figure import NUMBERS
from idiff_hf.experiments.paper_figures import FIGURES, best_record, make_figure, rotation_pair
from idiff_hf.experiments.paper_tables import TABLES
from idiff_hf.experiments.records import load_record, record_to_json
from idiff_hf.experiments.tables import plan
from idiff_hf.experiments.trials import run_trials

from .scored import scored
from .test_tables import CONFIGS, TOY


def test_every_figure_of_results_is_there_and_shows_a_column_of_a_table() -> None:
    assert list(FIGURES) == list(NUMBERS) == list(range(3, 19))
    for figure in FIGURES.values():
        assert figure.table is None or figure.column in [
            column.name for column in TABLES[figure.table].columns
        ]


def test_a_figure_of_the_data_needs_no_run(tmp_path: Path) -> None:
    (path,) = make_figure(3, "tiny", tmp_path / "runs", tmp_path)
    assert path == tmp_path / "figure3.png" and Image.open(path).width > 100
    assert json.loads((tmp_path / "figure3.json").read_text())["command"] == "idiff figure 3"
    with pytest.raises(
        ValueError, match=r"^Figure 4 shows no run and takes no --train.seed: see idiff figures data$"
    ):
        make_figure(4, "tiny", tmp_path, tmp_path, flags=["--train.seed", "1"])


def test_the_best_run_is_that_with_the_greatest_mig_among_those_that_are_there(tmp_path: Path) -> None:
    runs = plan(2, "tiny", CONFIGS)[2].configs
    for config, mig in ((runs[1], 0.2), (runs[3], 0.3), (runs[4], 0.1), (runs[5], None)):
        record = scored(config, mig)
        (tmp_path / record.id).mkdir()
        (tmp_path / record.id / "trial.json").write_text(json.dumps(record_to_json(record)))
    assert best_record(10, "tiny", tmp_path, CONFIGS) == scored(runs[3], 0.3)


def test_a_figure_without_its_run_says_what_to_do_first(tmp_path: Path) -> None:
    message = (
        f"Figure 14 shows the best VAE of Table 2, of which {tmp_path} holds no finished run: run idiff table 2 --scale tiny "
        f"--root {tmp_path} --configs {CONFIGS} {' '.join(TOY)} --out FOLDER first, with a folder that has no file of this table, "
        "for runs in it are not run again"
    )
    with pytest.raises(ValueError) as refused:
        make_figure(14, "tiny", tmp_path, tmp_path / "out", configs=CONFIGS, flags=TOY)
    assert str(refused.value) == message
    assert not (tmp_path / "out").exists()


def test_the_two_models_of_figure_5_differ_in_u_alone() -> None:
    told, untold = rotation_pair(CONFIGS)
    assert (told.aux.name, told.model.prior_type) == ("uniform_posterior", "learned")
    assert (untold.aux.name, untold.model.prior_type) == ("none", "standard")
    assert (told.data, told.loss, told.train) == (untold.data, untold.loss, untold.train)
    assert not told.eval.supervision_baseline and not told.eval.supervised_probe


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_figures_of_a_run_are_drawn_from_it(tmp_path: Path) -> None:
    root, out = tmp_path / "runs", tmp_path / "out"
    config = plan(2, "tiny", CONFIGS, TOY)[2].configs[0]
    (record,) = run_trials([config], root)
    for number in (7, 10, 11, 12):
        (path,) = make_figure(number, "tiny", root, out, configs=CONFIGS, flags=TOY)
        assert path == out / f"figure{number}.tiny.png" and np.asarray(Image.open(path)).std() > 0
        written = json.loads((out / f"figure{number}.tiny.json").read_text())
        assert [run["id"] for run in written["runs"]] == [record.id]
        before = path.read_bytes()
        make_figure(number, "tiny", root, out, configs=CONFIGS, flags=TOY)
        assert path.read_bytes() == before
    drawn = root / record.id / "figures"
    assert (out / "figure10.tiny.png").read_bytes() == (drawn / "traversal_ddpm.png").read_bytes()
    assert (out / "figure11.tiny.png").read_bytes() == (drawn / "traversal_ivae.png").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_figure_5_trains_its_two_models_once(tmp_path: Path) -> None:
    flags = ["--train.max_train_steps", "8", "--eval.num_samples", "300"]
    paths = make_figure(5, "tiny", tmp_path / "runs", tmp_path, configs=CONFIGS, flags=flags)
    assert [path.name for path in paths] == ["figure5a.png", "figure5b.png"]
    assert paths[0].read_bytes() != paths[1].read_bytes()
    ids = [run["id"] for run in json.loads((tmp_path / "figure5.json").read_text())["runs"]]
    records = [load_record(tmp_path / "runs", config) for config in rotation_pair(CONFIGS, flags)]
    assert [record.id for record in records if record is not None] == ids
