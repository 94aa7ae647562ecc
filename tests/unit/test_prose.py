"""Prose rules, each a pattern with its reason. They hold for the documents and for the words of all sources.

Code, tables of measurements (docs/results) and quotations are not prose.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "mshare"
SOURCES = ("src", "vm", "benchmarks", "tests", "examples", "kernel", "preload", "include")
C_TEXT = re.compile(r'"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|/\*.*?\*/|//[^\n]*', re.DOTALL)
"""A string, a character, or a comment of C: whatever begins first hides the others."""


class Rule(NamedTuple):
    """Words that are not written, the reason, and an example of them."""

    pattern: str
    reason: str
    example: str


RULES = (
    Rule(r"\bmakes? no sense\b", "say what is invalid and what would be valid", "a size of 1X makes no sense"),
    Rule(r"(?<![Tt]here )\bis no (?!longer|more|less|way)\w", "write: is not a", "'1X' is no size"),
    Rule(r"\banew\b", "write: again", "the guest was made anew"),
    Rule(r"\bmeanwhile\b", "write: in the meantime", "processes that ended meanwhile"),
    Rule(r"\btold apart\b", "write: distinguished", "namespaces are told apart"),
    Rule(r"\bfor ever\b", "write: forever", "read-only for ever"),
    Rule(r"\bleave (it|this|them) away\b", "write: omit", "No metric has them: leave it away."),
    Rule(r"\b(by|on) any road\b|\b[Nn]o road\b", "write: in any way, no way", "not writable by any road"),
    Rule(r",? too(?=[.:;)\n])|, too,", "write: also", "JSON has its kind, too."),
    Rule(
        r", (the|its) \w+ neither\b|, \w+ neither(?=[.;,])",
        "write: not even",
        "nobody can write to it, its creator neither",
    ),
    Rule(
        r"(^|[.!?:] )Who (?!is\b|are\b|pays\b)\w+(?![^.\n]*\?)",
        "give the sentence a noun",
        "Who attaches in between waits.",
    ),
    Rule(
        r"[,;:] (and |but )?who (?!is\b|pays\b)\w+s\b", "give the sentence a noun", "one scan runs, and who asks waits"
    ),
    Rule(r"(?i)\bwhoever\b", "name the process or the user", "whoever holds the handle can attach"),
    Rule(r"(^|[.!?:;] )Whatever\b", "name the thing", "Whatever is open can be used."),
    Rule(r"\bone's own\b", "say whose", "no privilege for one's own processes"),
    Rule(
        r"(^|[.!?] )(Leave|Leaves) out what\b",
        "name the thing that is left out",
        "Leave out what has less page tables.",
    ),
    Rule(r"\bsay (how|what) it is\b", "name the thing", "Load the module, or say how it is."),
    Rule(r"\b(in|to) so many words\b", "write: explicitly", "said in so many words"),
    Rule(
        r"\*(Fact|Decision|Rejected|Consequence)s?[.:]\*",
        "write an ordinary sentence",
        "*Fact.* Importing takes 600 ms.",
    ),
)


def documents() -> list[Path]:
    pages = [path for path in (ROOT / "docs").rglob("*.md") if "results" not in path.parts]
    return [*(ROOT / f"{name}.md" for name in ("README", "DESIGN", "CONTRIBUTING", "CHANGELOG", "vm/README")), *pages]


def prose(text: str) -> str:
    """Return a document without its code and with each paragraph on one line."""
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "`code`", text)
    return re.sub(r"(?<=[^\n|])\n *(?=[^\n\s|#*-])", " ", text)


def spoken(path: Path) -> Iterator[str]:
    """Yield the messages and help texts of a module: strings with a space, and the docstrings of commands."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    silent = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    if path.parent.name == "cli" and not path.name.startswith("_"):
        commands = (node.body[0] for node in nodes if isinstance(node, ast.FunctionDef))
        silent -= {id(first.value) for first in commands if isinstance(first, ast.Expr)}
    for node in nodes:
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and " " in node.value
            and id(node) not in silent
        ):
            yield node.value


def faults(text: str) -> list[str]:
    """Return each place where a text breaks a rule, with the reason."""
    return [
        f"{text[max(0, hit.start() - 40) : hit.end() + 20]!r}: {rule.reason}"
        for rule in RULES
        for hit in re.finditer(rule.pattern, text, re.MULTILINE)
    ]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.example)
def test_each_rule_finds_its_example(rule: Rule) -> None:
    assert re.search(rule.pattern, prose(f"A line.\n{rule.example}\n"), re.MULTILINE)
    assert faults(rule.example)


@pytest.mark.parametrize("page", documents(), ids=lambda page: str(page.relative_to(ROOT)))
def test_documents_keep_the_rules(page: Path) -> None:
    assert faults(prose(page.read_text())) == []


def test_messages_and_help_texts_keep_the_rules() -> None:
    texts = {(path.name, text) for path in PACKAGE.rglob("*.py") for text in spoken(path)}
    assert [(name, faults(text)) for name, text in sorted(texts) if faults(text)] == []


def sources() -> list[Path]:
    """Return every Python and C file of the project."""
    files = (path for name in SOURCES for path in (ROOT / name).rglob("*.[pch]*"))
    return sorted(path for path in files if path.suffix in (".py", ".c", ".h"))


def comments_of_c(text: str) -> list[str]:
    """Return the comments, each line without the asterisk at its beginning."""
    found = (hit[0] for hit in C_TEXT.finditer(text))
    return [re.sub(r"\n[ \t]*\*(?!/)", "\n", each) for each in found if each.startswith("/")]


def written(path: Path) -> Iterator[str]:
    """Yield the docstrings and comments of a file."""
    if path.suffix != ".py":
        yield from comments_of_c(path.read_text())
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    with path.open() as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.string


def test_comments_of_c_are_found() -> None:
    text = 'char *s = "/* text */";\n/*\n * One,\n * two.\n */\nchar c = \'"\';\t// three'
    assert [comment.split() for comment in comments_of_c(text)] == [["/*", "One,", "two.", "*/"], ["//", "three"]]


def test_sources_are_found() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in sources()} == set(SOURCES)
    assert len(sources()) > 300


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_comments_keep_the_rules(path: Path) -> None:
    """*Facts* and *Decision* may stand where a lock, a lifetime or the TLB is decided."""
    texts = list(written(path))
    found = [fault for text in texts for fault in faults(prose(text))]
    assert [text for text in texts if re.match(r"(What|Who)\b", text)] == [], "begin a docstring with a noun or a verb"
    assert [each for each in found if not each.endswith("write an ordinary sentence")] == []
