"""Writes the benchmarks' figures: a report on stdout, and files on request. May depend on: nothing."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--json FILE` and `--markdown FILE`."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything there")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there, too")


def save(options: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """Write the report `text` and the raw `document` into the files that `options` name."""
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(text)


def write(options: argparse.Namespace, document: dict[str, Any], text: str) -> None:
    """Save as `save` does, and print the report."""
    save(options, document, text)
    sys.stdout.write(text)
