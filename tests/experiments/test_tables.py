"""The paper's tables: what they say, which runs are behind them, and what the runs come to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from idiff_hf.arguments import config_from_yaml
from idiff_hf.cli import main
from idiff_hf.experiments.paper_tables import TABLES
from idiff_hf.experiments.records import load_record, record_to_json
from idiff_hf.experiments.reported import PAPER_METRICS, REPORTED
from idiff_hf.experiments.reproduction import table_markdown
from idiff_hf.experiments.scales import SCALES
from idiff_hf.experiments.tables import PlannedColumn, finished, make_table, plan, table_document

from .scored import HARDWARE, scored

CONFIGS = Path(__file__).parents[2] / "configs"
TOY = (
    *("--train.max_train_steps", "4", "--data.image_size", "16", "--eval.num_samples", "300"),
    *("--eval.num_generated", "8", "--eval.num_inference_steps", "2"),
)
"""Flags that make a run of seconds of one that takes minutes."""


@cache
def planned(table: int, scale: str) -> dict[str, PlannedColumn]:
    """The columns of a table by their names."""
    return {column.name: column for column in plan(table, scale, CONFIGS)}


def ignore(document: dict[str, Any]) -> None:
    """For a table that nobody looks at."""


def made(table: int, root: Path, out: Path, flags: Sequence[str] = (), **options: Any) -> dict[str, Any]:
    """What `make_table` shows at the end."""
    shown: list[dict[str, Any]] = []
    make_table(table, "tiny", root, out, configs=CONFIGS, flags=flags, show=shown.append, **options)
    (document,) = shown
    return document


def test_a_spread_is_written_as_in_the_paper() -> None:
    assert REPORTED[2]["VAE"]["mig"].text() == "0.06 ± 0.04 / 0.14"
    assert REPORTED[9]["Best qualitative iVAE+DDPM"]["modularity"].text() == "0.39"


@pytest.mark.parametrize("table", TABLES)
def test_the_numbers_are_those_in_the_headers_of_the_configs(table: int) -> None:
    assert list(REPORTED[table]) == [column.name for column in TABLES[table].columns]
    for column in TABLES[table].columns:
        first, second = (CONFIGS / "paper" / f"{column.config}.yaml").read_text().splitlines()[:2]
        figures = REPORTED[table][column.name]
        texts = [f"{title} {figures[score].text()}" for score, title in PAPER_METRICS.items()]
        assert first.startswith(f"# Table {table}, ") and column.name in first
        assert second == f"# {'; '.join(texts)}."


@pytest.mark.parametrize("table", TABLES)
def test_the_paper_shows_the_directions_that_are_said_to_be_its_own(table: int) -> None:
    for direction in TABLES[table].directions:
        greater, less = (
            REPORTED[table][name][direction.score] for name in (direction.greater, direction.less)
        )
        assert greater.mean > less.mean, direction


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("table", TABLES)
def test_each_column_has_its_runs(table: int, scale: str) -> None:
    columns = planned(table, scale)
    for column in TABLES[table].columns:
        base = columns[column.name].configs[0]
        sizes = {
            "weights": {"tiny": 2 if base.model.backbone != "cnn" else 6, "full": 20}[scale]
            * (2 if scale == "full" and base.aux.name == "normal" else 1),
            "kl_reverse": {"tiny": 3, "full": 6}[scale],
            "seeds": 5,
            "nothing": 1,
        }
        assert len(set(columns[column.name].ids)) == sizes[column.over]
    baselines = list(columns.values())[len(TABLES[table].columns) :]
    assert len(baselines) == 2 * len(TABLES[table].supervised_as)
    for column in baselines:
        (config,) = column.configs
        assert (config.loss.rec, config.model.prior_type, config.model.diffusion) == (0.0, "known", False)
        u = {other.configs[0].aux.name for other in columns.values()} - {"none", "factors"}
        assert config.aux.name in (u if column.name.startswith("u alone") else {"factors"})


@pytest.mark.parametrize("scale", SCALES)
def test_equal_experiments_of_two_tables_run_once(scale: str) -> None:
    ids = {(table, name): column.ids for table in TABLES for name, column in planned(table, scale).items()}
    for one, other in (
        ((2, "iVAE"), (5, "Normal Sampling")),
        ((3, "iVAE"), (4, "iVAE ResNet-50")),
        ((4, "iVAE ResNet-18"), (6, "iVAE")),
        ((2, "u alone"), (9, "u alone")),
        ((5, "u alone, uniform"), (7, "u alone")),
        ((5, "labels, normal"), (2, "labels")),
    ):
        assert ids[one] == ids[other]
    assert ids[9, "Best qualitative iVAE+DDPM"][0] in ids[2, "iVAE + DDPM"]
    assert not set(ids[2, "VAE"]) & set(ids[2, "iVAE"])


def test_full_is_the_config_as_it_stands_without_what_is_trained_beside_it() -> None:
    stands = config_from_yaml((CONFIGS / "paper" / "table3_ivae_ddpm.yaml").read_text())
    config = next(
        c for c in planned(3, "full")["iVAE + DDPM"].configs if (c.loss.kl, c.loss.rec) == (1e-4, 0.1)
    )
    changed = {
        f"{group}.{name}"
        for group, values in stands.to_dict().items()
        for name, value in values.items()
        if config.to_dict()[group][name] != value
    }
    assert changed == {"eval.supervision_baseline", "eval.supervised_probe", "train.report_to"}


def test_tiny_is_a_hundredth_of_the_steps_at_a_greater_rate() -> None:
    for table, steps, rate in ((2, 1000, 2e-3), (3, 200, 1e-3)):
        for column in planned(table, "tiny").values():
            config = column.configs[0]
            assert (config.data.image_size, config.train.max_train_steps) == (32, steps)
            assert config.optim_ivae.learning_rate == rate


def test_the_grid_of_a_column_goes_over_table_1() -> None:
    values = {(c.loss.kl, c.loss.rec, c.aux.modulate_mean) for c in planned(2, "full")["iVAE + DDPM"].configs}
    assert {(1e-5, 0.01, False), (1e-1, 5.0, True), (1e-4, 0.1, False)} <= values and len(values) == 40


def test_flags_of_training_go_on_top_of_the_scale() -> None:
    config = plan(2, "tiny", CONFIGS, TOY)[2].configs[0]
    assert (config.train.max_train_steps, config.data.image_size) == (4, 16)
    assert config.optim_ivae.learning_rate == 2e-3


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--loss.kl", "1"], "--loss.kl is what the runs of 'VAE' in Table 2 differ in: leave it out"),
        (["--loss.kl=1"], "--loss.kl is what the runs of 'VAE' in Table 2 differ in: leave it out"),
    ],
)
def test_a_flag_that_the_runs_differ_in_is_refused(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        plan(2, "tiny", CONFIGS, flags)


def test_a_folder_without_configs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"table2_vae.yaml is missing: run this where configs/ is, or name"):
        plan(2, "tiny", tmp_path)


def test_a_score_that_a_run_leaves_undefined_is_left_out_of_its_spread() -> None:
    columns = planned(5, "tiny")
    configs = columns["Normal Sampling"].configs
    records = [scored(config, mig) for config, mig in zip(configs, (0.1, None, 0.4), strict=False)]
    document = table_document(5, "tiny", list(columns.values()), {record.id: record for record in records})
    spreads = document["columns"][0]["ours"]
    assert spreads["mig"] == pytest.approx({"mean": 0.25, "std": 0.045**0.5, "max": 0.4, "n": 2})
    assert spreads["modularity"] == {"mean": 0.5, "std": 0.0, "max": 0.5, "n": 3}


def test_a_table_is_what_its_records_come_to() -> None:
    columns = planned(5, "tiny")
    normal, uniform = (columns[name] for name in ("Normal Sampling", "Uniform Sampling"))
    records = [
        *(scored(config, mig) for config, mig in zip(normal.configs, (0.1, 0.2, 0.3), strict=False)),
        *(scored(config, mig) for config, mig in zip(uniform.configs, (0.2, 0.6), strict=False)),
    ]
    document = table_document(5, "tiny", list(columns.values()), {record.id: record for record in records})
    assert (document["done"], document["runs"], document["seconds"]) == (5, 16, 12)
    assert document["hardware"] == [HARDWARE]
    first, second = document["columns"][:2]
    assert (first["done"], len(first["runs"])) == (3, 6)
    assert first["ours"]["mig"] == pytest.approx({"mean": 0.2, "std": 0.1, "max": 0.3, "n": 3})
    assert first["paper"]["mig"] == {"mean": 0.09, "std": 0.03, "max": 0.13}
    assert second["runs"][second["greatest_mig"]] == {"loss.kl": 1e-5, "loss.rec": 1.0}
    mig, mcc, *_ = document["directions"]
    # standard errors squared: .01 / 3 and .08 / 2
    assert mig["ours"] == pytest.approx(0.2) and mig["standard_error"] == pytest.approx((0.13 / 3) ** 0.5)
    assert mig["paper"] == pytest.approx(0.17) and mig["agrees"] is True
    assert mcc["agrees"] is False
    assert document["columns"][2]["ours"]["mig"] is None


def test_a_direction_without_runs_is_not_judged() -> None:
    document = table_document(5, "tiny", list(planned(5, "tiny").values()), {})
    assert {claim["agrees"] for claim in document["directions"]} == {None}


def test_finished_runs_are_picked_up_from_the_root_and_from_files_of_other_tables(tmp_path: Path) -> None:
    columns = list(planned(2, "tiny").values())
    elsewhere, here = (scored(columns[1].configs[i], 0.1 * (i + 1)) for i in range(2))
    of_table_5 = table_document(5, "tiny", list(planned(5, "tiny").values()), {elsewhere.id: elsewhere})
    (tmp_path / "table5.tiny.json").write_text(json.dumps(of_table_5))
    (tmp_path / here.id).mkdir()
    (tmp_path / here.id / "trial.json").write_text(json.dumps(record_to_json(here)))
    assert finished(columns, tmp_path, [tmp_path]) == {elsewhere.id: elsewhere, here.id: here}
    assert finished(list(planned(8, "tiny").values()), tmp_path, [tmp_path]) == {}


def test_what_is_there_is_shown_and_written_without_a_run(tmp_path: Path) -> None:
    document = made(8, tmp_path / "runs", tmp_path / "out", limit=0)
    assert (document["done"], document["runs"]) == (0, 4)
    assert json.loads((tmp_path / "out" / "table8.tiny.json").read_text()) == document
    assert "0 of 4 runs done" in table_markdown(document)


def test_a_file_that_was_made_with_other_flags_is_not_replaced(tmp_path: Path) -> None:
    made(2, tmp_path, tmp_path, TOY, limit=0)
    before = (tmp_path / "table2.tiny.json").read_bytes()
    with pytest.raises(
        ValueError, match=r"was made with flags \['--train.*, not \[\]: give another --out, or move it"
    ):
        make_table(2, "tiny", tmp_path, tmp_path, configs=CONFIGS, limit=0, show=ignore)
    assert (tmp_path / "table2.tiny.json").read_bytes() == before


def test_runs_of_other_configs_are_not_replaced(tmp_path: Path) -> None:
    """A key that is new to the configuration changes every id."""
    made(8, tmp_path, tmp_path, limit=0)
    path = tmp_path / "table8.tiny.json"
    document = json.loads(path.read_text())
    kept = scored(planned(2, "tiny")["VAE"].configs[0], 0.5)
    path.write_text(json.dumps({**document, "records": [record_to_json(kept)]}))
    before = path.read_bytes()
    with pytest.raises(
        ValueError, match=rf"table8\.tiny\.json has 1 runs of other configs, {kept.id} among them: "
    ):
        made(8, tmp_path, tmp_path, limit=0)
    assert path.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_refused_before_a_run(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match=r"^cannot write (\S*/out): \1 is no folder$"):
        made(8, tmp_path / "root", tmp_path / "out")
    assert not (tmp_path / "root").exists()


@pytest.mark.parametrize(
    ("made_here", "arguments", "words"),
    [
        (
            "out/table8.tiny.json",
            ["--out", "out"],
            "cannot write out/table8.tiny.json: it is a folder, give the name of a file",
        ),
        (
            "out.md",
            ["--out", "out", "--report"],
            "cannot write out.md: it is a folder, give the name of a file",
        ),
        ("x", ["--report", "--out", "."], "--out . has no name that its report could have: name the folder"),
    ],
)
def test_a_file_that_cannot_be_written_is_refused_before_a_run(
    made_here: str,
    arguments: list[str],
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / made_here).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert main(["table", "8", "--configs", str(CONFIGS), "--root", "root", *arguments]) == 2
    assert capsys.readouterr().err == f"error: {words}\n"
    assert not (tmp_path / "root").exists()


def test_an_empty_name_of_a_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["table", "2"], ["figure", "10"]):
        with pytest.raises(SystemExit, match=r"^2$"):
            main([*command, "--out", ""])
        words = "error: argument --out: the name is empty, give that of a folder: see idiff"
        assert capsys.readouterr().err == f"{words} {command[0]} --help\n"


def test_a_folder_of_records_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^--records .*/gone is no folder: name one that holds files of idiff table$"
    ):
        made(2, tmp_path, tmp_path, records=tmp_path / "gone")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "table2.tiny.json").write_text("{")
    with pytest.raises(ValueError, match=r"table2.tiny.json is no file of idiff table or idiff figure: "):
        make_table(2, "tiny", tmp_path, tmp_path, configs=CONFIGS, show=ignore)
    (tmp_path / "table2.tiny.json").write_text('{"schema": 1, "table": 2}')
    with pytest.raises(
        ValueError, match=r"idiff figure: columns, flags, records is missing; move it elsewhere$"
    ):
        make_table(2, "tiny", tmp_path, tmp_path, configs=CONFIGS, show=ignore)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table"], "error: give the number of a table, 2 to 9, or --report\n"),
        (
            ["table", "--report", "--x.y"],
            "error: unknown argument '--x.y': --report reads what is in --out\n",
        ),
        (
            ["table", "2", "--steps", "3"],
            "error: unknown argument '--steps': give keys of the configuration, as in --train.seed 1\n",
        ),
        (["table", "2", "--limit", "-1"], "error: --limit must be 0 or more, got -1\n"),
    ],
)
def test_the_command_refuses_in_a_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert capsys.readouterr().err == message


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_table_from_the_command_line_to_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A toy budget: a run, then one more on another machine, which has the file and not the first run's folder."""
    here, there, out = tmp_path / "here", tmp_path / "there", tmp_path / "out"
    command = ["table", "2", "--scale", "tiny", "--configs", str(CONFIGS), "--out", str(out), *TOY]
    assert main([*command, "--root", str(here), "--limit", "1"]) == 0
    assert "1 of 20 runs done" in capsys.readouterr().out
    assert main([*command, "--root", str(there), "--limit", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document == json.loads((out / "table2.tiny.json").read_text())

    first, second, *others = plan(2, "tiny", CONFIGS, TOY)[0].configs
    found = [load_record(here, first), load_record(there, second)]
    assert [load_record(here, second), load_record(there, first)] == [None, None]
    assert document["records"] == [record_to_json(record) for record in found if record is not None]
    vae = document["columns"][0]
    migs = [record["scores"]["mig"] for record in document["records"]]
    assert (vae["done"], vae["ours"]["mig"]["n"]) == (2, 2)
    assert vae["ours"]["mig"]["mean"] == pytest.approx(sum(migs) / 2)
    assert len(others) == 4 and [column["done"] for column in document["columns"][1:]] == [0] * 4
