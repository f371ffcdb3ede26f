"""What the documentation names is there: links, anchors, public names, commands, metrics."""

from __future__ import annotations

import inspect
import re
import unicodedata
from importlib import import_module
from pathlib import Path

import pytest

from idiff_hf.cli import COMMANDS
from idiff_hf.metrics import METRICS
from tests.docs.conftest import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
ROOMS = ("pipelines", "models", "schedulers", "data", "metrics", "config")

_FENCED = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def text_of(page: Path) -> str:
    """The page without its blocks of code, in which a hash is a comment."""
    return _FENCED.sub("", page.read_text(encoding="utf-8"))


def slug(heading: str) -> str:
    """The anchor of a heading, as mkdocs makes it."""
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_anchors_lead_somewhere(page: Path) -> None:
    for link in _LINK.findall(text_of(page)):
        if re.match(r"\w+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} in {page.name}"
        assert target.is_relative_to(ROOT), f"{link} in {page.name} leads out of the repository"
        if page.name != "README.md":
            assert target.is_relative_to(ROOT / "docs"), f"{link} in {page.name} leads out of the site"
        if anchor:
            assert anchor in {slug(heading) for heading in _HEADING.findall(text_of(target))}, (
                f"{link} in {page.name}"
            )


def test_slugs_are_those_of_the_site() -> None:
    assert slug("Who can reach it") == "who-can-reach-it"
    assert slug("What is not supported: a model in pieces") == "what-is-not-supported-a-model-in-pieces"


def test_the_reference_has_every_public_name_and_no_other() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "reference").glob("*.md"))
    listed = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    assert len(set(listed)) == len(listed)
    for name in listed:
        module, _, attribute = name.rpartition(".")
        assert inspect.getdoc(getattr(import_module(module), attribute)), f"{name} has no docstring"
    for room in ROOMS:
        package = import_module(f"idiff_hf.{room}")
        public = [getattr(package, name) for name in package.__all__]
        expected = {
            f"{thing.__module__}.{thing.__name__}"
            for thing in public
            if inspect.isclass(thing) or inspect.isfunction(thing)
        }
        assert expected <= set(listed), f"docs/reference/{room}.md lacks {sorted(expected - set(listed))}"


def test_the_reference_of_the_command_line_has_every_command() -> None:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for command in COMMANDS:
        name = f"`idiff {command.__name__.rpartition('.')[2]}"
        assert f"{name}`" in text or f"{name} " in text, f"docs/reference/cli.md lacks {name}`"


def test_metrics_that_others_know_by_another_name_are_there() -> None:
    text = (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8")
    table = text.split("\n## Metrics\n")[1].split("\n| convention")[0]
    rows = [re.findall(r"`(\w+)`", line.split(" | ")[-1]) for line in table.splitlines() if "`" in line]
    named = [row for row in rows if row][1:]
    assert len(named) > 8
    for metric, *keys in named:
        assert set(keys) <= set(METRICS[metric].keys)
    assert {metric for metric, *_ in named} == set(METRICS) - {"infomec"}


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("\nnav:\n")[1]
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r"(\S+\.md)$", navigation, re.MULTILINE)) == pages
