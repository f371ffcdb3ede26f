"""Tables in Markdown."""

from __future__ import annotations

from idiff_hf.markdown import markdown_table


def test_cells_stand_in_rows_and_numbers_to_the_right() -> None:
    assert markdown_table(["", "MIG"], [["a", "0.5"], ["b", "-"]]) == (
        "|  | MIG |\n| --- | ---: |\n| a | 0.5 |\n| b | - |"
    )


def test_a_table_may_have_no_rows() -> None:
    assert markdown_table(["one", "two"], []) == "| one | two |\n| --- | ---: |"
