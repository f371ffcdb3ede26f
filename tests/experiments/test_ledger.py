"""The ledger pairs seeds, and says which file each figure is from."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from idiff_hf.arguments import load_config
from idiff_hf.experiments.ledger import difference, ledger_markdown, main
from idiff_hf.experiments.records import TrialRecord, record_from_json, trial_id
from idiff_hf.experiments.seeds import SCORES, parse_seeds, seed_configs, seeds_table

DOCS = Path(__file__).parents[2] / "docs"


def table(scores: dict[int, float | None], baseline: float | None = None) -> dict[str, Any]:
    """The table of trials whose MIG is given by seed, and that of their supervision baseline."""
    facts = {
        "num_samples": 100,
        "supervision": "not supervised: no auxiliary variable",
        "hardware": {"name": "a machine", "cores": 1},
        "versions": {},
        "supervision_baseline": None if baseline is None else {"mig": baseline},
        "supervised_probe": None,
    }
    return seeds_table(
        [
            TrialRecord(
                f"{seed:012x}",
                seed,
                {},
                {**dict.fromkeys(SCORES), "mig": mig, "mig_per_factor": {"hue": mig, "size": 0.25}},
                None,
                facts,
            )
            for seed, mig in scores.items()
        ]
    )


def write(folder: Path, name: str, scores: dict[int, float | None], baseline: float | None = None) -> None:
    written = {"command": f"idiff seeds {name}", "table": table(scores, baseline), "records": []}
    (folder / name).write_text(json.dumps(written), encoding="utf-8")


def test_differences_are_of_the_seeds_that_both_have():
    one, other = table({0: 0.1, 1: 0.2, 2: 0.3, 3: None}), table({1: 0.25, 2: 0.25, 3: 0.5, 4: 0.9, 0: 0.25})
    found = difference(one, other, "mig")
    # .15, .05 and -.05: mean .05, standard deviation .1
    assert found is not None and found["n"] == 3 and found["above"] == 2
    assert found["mean"] == pytest.approx(0.05) and found["standard_error"] == pytest.approx(0.1 / 3**0.5)


def test_one_pair_has_no_error_and_none_no_difference():
    assert difference(table({0: 0.1}), table({0: 0.4}), "mig")["standard_error"] is None  # type: ignore[index]
    assert difference(table({0: 0.1}), table({1: 0.4}), "mig") is None


def test_the_page_names_question_figures_files_and_verdict(tmp_path: Path):
    folder = tmp_path / "ledger"
    folder.mkdir()
    write(folder, "a.json", {0: 0.5, 1: 0.7})
    write(folder, "b.json", {0: 0.6, 1: 0.8}, baseline=0.25)
    (folder / "ledger.yaml").write_text(
        '- {title: T, question: "Does it help?", runs: {plain: a.json, changed: b.json}, verdict: It does.}',
        encoding="utf-8",
    )
    main([str(folder)])
    page = (tmp_path / "ledger.md").read_text(encoding="utf-8")
    assert "| plain | 0, 1 | 0.600 ± 0.141 | - |" in page
    assert "| changed - plain |  | +0.100 ± 0.000 (2 of 2) | - |" in page
    assert "| supervision baseline of changed | 0, 1 | 0.250 ± 0.000 | - |" in page
    assert "baseline of plain" not in page
    assert "| by factor | hue | size |" in page
    assert "| plain, MIG | 0.600 ± 0.141 | 0.250 ± 0.000 |" in page
    assert "- changed: `idiff seeds b.json`; [b.json](ledger/b.json); 100 held-out images" in page
    assert "Does it help?" in page and "**Verdict.** It does." in page


def test_what_is_missing_is_one_line(tmp_path: Path):
    with pytest.raises(ValueError, match=r"^cannot read .*ledger\.yaml: .*No such file"):
        ledger_markdown(tmp_path)
    (tmp_path / "ledger.yaml").write_text("a: b: c", encoding="utf-8")
    with pytest.raises(ValueError, match=r"ledger\.yaml: not valid YAML in line 1: "):
        ledger_markdown(tmp_path)
    (tmp_path / "ledger.yaml").write_text("- {title: T, question: Q, runs: {a: a.json}}", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"entry 0 has \['question', 'runs', 'title'\]: give question, runs, title, verdict$"
    ):
        ledger_markdown(tmp_path)
    (tmp_path / "ledger.yaml").write_text(
        "- {title: T, question: Q, runs: {a: a.json}, verdict: V}", encoding="utf-8"
    )
    with pytest.raises(ValueError, match=r"a\.json is no file of idiff seeds --out: "):
        ledger_markdown(tmp_path)
    (tmp_path / "a.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.json is no file of idiff seeds --out: "):
        ledger_markdown(tmp_path)


@pytest.mark.parametrize("path", sorted((DOCS / "experiments").glob("*.json")), ids=lambda path: path.stem)
def test_committed_runs_are_those_of_their_command(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(DOCS.parent)
    written = json.loads(path.read_text(encoding="utf-8"))
    program, command, config, _, seeds, *flags = shlex.split(written["command"])
    assert (program, command) == ("idiff", "seeds")
    base, _ = load_config(["--config", config, *flags], "idiff seeds")
    wanted = seed_configs(base, parse_seeds(seeds))
    records = [record_from_json(record) for record in written["records"]]
    if (
        base.model.pretrained_ivae is None
    ):  # of a frozen iVAE the id tells the files, which are not in the repository
        assert [record.id for record in records] == [trial_id(config) for config in wanted]
    assert written["table"] == json.loads(json.dumps(seeds_table(records)))


def test_the_committed_page_is_what_its_files_give():
    assert (DOCS / "experiments.md").read_text(encoding="utf-8") == ledger_markdown(DOCS / "experiments")
