"""Links of the documents lead somewhere, and each decision has a number, a form and a row in DESIGN.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "vm").glob("*.md")]
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))
FORM = ["Facts", "Decision", "Consequences", "Rejected", "Not tried"]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", DOCUMENTS, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_decisions_have_one_form(page: Path) -> None:
    text = page.read_text()
    number = int(page.stem[:4])
    title = re.match(rf"# {number}\. (.+)\n\n\*\*Status:\*\* ", text)
    assert title, "a title with the number, then the status"
    assert f"| [{number}](docs/decisions/{page.name}) | {title[1]} |" in (ROOT / "DESIGN.md").read_text()
    sections = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert sections == [each for each in FORM if each in sections]
    assert {"Facts", "Decision"} <= set(sections)


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(page.stem[:4]) for page in DECISIONS] == [*range(1, len(DECISIONS) + 1)]


def test_the_code_names_pages_that_exist() -> None:
    """A comment or a message that names a page under docs/ names one that is there."""
    tops = ("src", "tests", "benchmarks", "vm", "kernel", "include", "examples")
    for path in (
        path for top in tops for path in (ROOT / top).rglob("*") if path.suffix in {".py", ".c", ".h", ".conf"}
    ):
        for named in re.findall(r"\bdocs/[\w/.-]+\.md\b", path.read_text()):
            assert (ROOT / named).exists(), f"{path}: {named}"


def test_the_glossary_says_where_each_of_its_words_is_used() -> None:
    rows = re.findall(
        r"^\| (?!word|---)(.+?) \| (.+?) \| (.+?) \|$", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE
    )
    assert len(rows) >= 30
    assert all("](" in used and meaning.endswith(".") for _, meaning, used in rows)
