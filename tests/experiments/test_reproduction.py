"""Markdown of the tables, by what it says of known documents, and of those that are in the repository."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from idiff_hf.cli import main
from idiff_hf.experiments.records import record_from_json
from idiff_hf.experiments.reproduction import read_document, report, table_markdown
from idiff_hf.experiments.tables import plan, table_document

from .scored import scored

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "docs" / "reproduction").glob("table*.json"))


def known(table: int, *migs: tuple[float, ...]) -> dict[str, Any]:
    """The document of a table whose first columns have runs of these MIG."""
    columns = plan(table, "tiny", ROOT / "configs")
    records = [
        scored(config, mig)
        for column, values in zip(columns, migs, strict=False)
        for config, mig in zip(column.configs, values, strict=False)
    ]
    return table_document(table, "tiny", columns, {record.id: record for record in records})


def test_the_papers_row_stands_above_ours() -> None:
    lines = table_markdown(known(5, (0.1, 0.2, 0.3), (0.2, 0.6))).splitlines()
    paper = next(i for i, line in enumerate(lines) if line.startswith("| Uniform Sampling | paper |"))
    assert lines[0] == "# Table 5, scale tiny"
    assert lines[paper].startswith(
        "| Uniform Sampling | paper |  | 0.26 ± 0.12 / 0.43 | 0.27 ± 0.07 / 0.38 |"
    )
    assert lines[paper + 1] == (
        "|  | ours | 2 of 6 | 0.40 ± 0.28 / 0.60 | 0.50 ± 0.00 / 0.50 | 0.50 ± 0.00 / 0.50 | 0.50 ± 0.00 / 0.50 "
        "| loss.kl 1e-05, loss.rec 1.0 |"
    )
    assert "| u alone, normal | ours | 0 of 1 | - | - | - | - |  |" in lines
    assert (
        "| Discrete MIG: Uniform Sampling > Normal Sampling | +0.17 | +0.200 (standard error 0.208) "
        "| yes, by less than the standard error |" in lines
    )
    assert (
        "| Modularity: Normal Sampling > Uniform Sampling | +0.04 | +0.000 (standard error 0.000) | no |"
        in lines
    )
    assert any(
        line.startswith("- labels, normal; labels, uniform: supervised by u = factors") for line in lines
    )
    assert any("12 s of training on abacus (cpu, 2 cores)" in line for line in lines)


def test_a_single_run_has_no_spread_and_none_no_number() -> None:
    lines = table_markdown(known(9, (0.25,))).splitlines()
    assert "|  | ours | 1 of 1 | 0.25 | 0.50 | 0.50 | 0.50 |  |" in lines
    assert "|  | ours | 0 of 5 | - | - | - | - |  |" in lines
    assert any(line.endswith("|  | not measured |") for line in lines)


def test_the_page_has_every_table_and_figure_of_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    for table, document in ((5, known(5, (0.1, 0.2, 0.3), (0.2, 0.6))), (2, known(2))):
        (folder / f"table{table}.tiny.json").write_text(json.dumps(document))
    picture = {
        **{"schema": 1, "figure": 10, "title": "Latents moved", "files": ["figure10.tiny.png"]},
        **{"command": "idiff figure 10 --scale tiny", "runs": [{"id": "0123456789ab", "mig": 0.25}]},
    }
    (folder / "figure10.tiny.json").write_text(json.dumps(picture))
    for name in ("table2_old.json", "table_notes.json"):
        (folder / name).write_text("{}")  # not ours
    assert main(["table", "--report", "--out", str(folder)]) == 0
    text = (tmp_path / "found.md").read_text()
    assert text == report(folder)
    assert (
        text.index("## Table 2, scale tiny") < text.index("## Table 5, scale tiny") < text.index("## Figures")
    )
    assert "| 2 | tiny | 0 of 20 | 0 | 0 | 7 |" in text and "| 5 | tiny | 5 of 16 | 1 | 3 | 0 |" in text
    assert "[table5.tiny.json](found/table5.tiny.json)" in text
    caption = "Figure 10: Latents moved; run `0123456789ab`, MIG 0.25"
    assert f"![{caption}](found/figure10.tiny.png)" in text
    (folder / "explained.yaml").write_text("all: Little agrees.\ntable5.tiny: It is too short.\n")
    text = report(folder)
    assert text.index("| 5 | tiny |") < text.index("Little agrees.") < text.index("## Table 2, scale tiny")
    assert text.index("## Table 5") < text.index("**In words.** It is too short.") < text.index("## Figures")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("table3.tiny: none", r"table3\.tiny: 'none': give a text for all or .*, table2\.tiny$"),
        ("table2.tiny: 3", r"table2\.tiny: 3: give a text for all or .*, table2\.tiny$"),
        ("- none", r"must be lines of NAME: TEXT, got \['none'\]$"),
        ("a: b: c", "not valid YAML in line 1: mapping values are not allowed here$"),
    ],
)
def test_words_about_no_table_are_refused(line: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "table2.tiny.json").write_text(json.dumps(known(2)))
    (tmp_path / "explained.yaml").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=rf"explained\.yaml:? {message}"):
        report(tmp_path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ({"records": {}}, r"records must be a list, got dict"),
        ({"records": [3]}, r"records\[0\]: not the record of a trial: .*mapping, not int"),
        ({"records": [{"id": None}]}, r"records\[0\]: not the record of a trial: its id must be a text, got None"),
        ({"records": [{"seed": 7}]}, r"records\[0\]: not the record of a trial: its seed is 7, its train\.seed 0"),
        ({"records": [{"scores": {}}]}, r"records\[0\]: scores\.mig must be a number or null, got nothing"),
        ({"records": [{"scores": {"mig": "high"}}]}, r"records\[0\]: scores\.mig must be a number or null, got high"),
    ],
)  # fmt: skip
def test_records_that_are_none_are_one_line(damage: dict[str, Any], words: str, tmp_path: Path) -> None:
    document = known(5, (0.1,))
    if isinstance(damage["records"], list) and isinstance(damage["records"][0], dict):
        damage = {"records": [{**document["records"][0], **damage["records"][0]}]}
    (tmp_path / "table5.tiny.json").write_text(json.dumps({**document, **damage}))
    with pytest.raises(
        ValueError, match=rf"^\S*table5\.tiny\.json is no file of .*: {words}; move it elsewhere$"
    ):
        read_document(tmp_path / "table5.tiny.json")


def test_a_record_without_an_id_is_one_line_and_so_is_deep_nesting(tmp_path: Path) -> None:
    document, path = known(5, (0.1,)), tmp_path / "table5.tiny.json"
    del document["records"][0]["id"]
    for text, words in (
        (json.dumps(document), r"records\[0\]: not the record of a trial: .* argument: 'id'"),
        ("[" * 100_000, "nested too deeply"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"table5\.tiny\.json is no file of .*: {words}; move it"):
            report(tmp_path)


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no table: make one first, idiff table 2 --scale tiny --out"):
        report(tmp_path)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.name)
def test_what_is_committed_follows_from_its_numbers(path: Path) -> None:
    """The file's own means, directions and text from its records, by the definitions as they are now."""
    document = read_document(path)
    columns = plan(document["table"], document["scale"], ROOT / "configs", document["flags"])
    records = {record["id"]: record_from_json(record) for record in document["records"]}
    assert (
        json.loads(
            json.dumps(
                table_document(document["table"], document["scale"], columns, records, document["flags"])
            )
        )
        == document
    )


@pytest.mark.skipif(not COMMITTED, reason="no table has been made")
def test_the_committed_page_follows_from_its_files() -> None:
    folder = ROOT / "docs" / "reproduction"
    assert folder.with_name("reproduction.md").read_text(encoding="utf-8") == report(folder)
