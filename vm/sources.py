"""Finds the machine's Debian mirror in apt's source files. Pure: text in, records out. May depend on: errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from .errors import FetchError


class Source(NamedTuple):
    """One enabled archive for binary packages. `signed_by`: a key file, an armoured key (several lines), or empty."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False


def parse(name: str, text: str) -> list[Source]:
    """Return the archives in one of apt's files: deb822 if `name` ends in `.sources`, else one archive a line."""
    return list(_deb822(text) if name.endswith(".sources") else _lines(text))


def _deb822(text: str) -> Iterable[Source]:
    text = re.sub(r"^#.*\n?", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = {
            match[1].lower(): match[2].strip()
            for match in re.finditer(r"^([A-Za-z-]+):((?:.*(?:\n|$)(?:[ \t]+.*(?:\n|$))*))", stanza, re.MULTILINE)
        }
        if fields.get("enabled", "yes").lower() in ("no", "false", "0") or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            yield Source(
                uri,
                tuple(fields.get("suites", "").split()),
                tuple(fields.get("components", "").split()),
                fields.get("signed-by", ""),
                fields.get("trusted", "").lower() in ("yes", "true", "1"),
            )


def _lines(text: str) -> Iterable[Source]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)", line)
        if match is None:
            continue
        options = dict(word.partition("=")[::2] for word in (match[1] or "").split())
        yield Source(
            match[2],
            (match[3],),
            tuple(match[4].split()),
            options.get("signed-by", ""),
            options.get("trusted", "").lower() in ("yes", "true", "1"),
        )


def mirror(sources: list[Source], codename: str) -> Source:
    """Return the archive from which this machine gets Debian itself.

    Other archives can also have a suite of the release's name and a component `main`. An archive with
    `CODENAME-updates` is therefore preferred. Raises FetchError.
    """
    names = _names(codename)
    fitting = [source for source in sources if names & set(source.suites) and "main" in source.components]
    if not fitting:
        raise _no_mirror(codename)
    with_updates = {
        source.uri
        for source in sources
        if any(suite.removesuffix("-updates") in names for suite in source.suites)
        and any(suite.endswith("-updates") for suite in source.suites)
    }
    return next((source for source in fitting if source.uri in with_updates), fitting[0])


def of_release(sources: list[Source], codename: str) -> list[Source]:
    """Return the archives of this release, each with its suites of the release only: also security, updates, and the
    suites that another archive names after the release. Raises FetchError."""
    names = _names(codename)
    fitting = [
        source._replace(suites=suites)
        for source in sources
        if "main" in source.components
        and (suites := tuple(suite for suite in source.suites if re.split("[-/]", suite)[0] in names))
    ]
    if not fitting:
        raise _no_mirror(codename)
    return fitting


def _names(codename: str) -> set[str]:
    return {codename, "stable", "oldstable", "testing", "unstable", "sid"}


def _no_mirror(codename: str) -> FetchError:
    return FetchError(f"apt's sources name no mirror of Debian {codename}; add one to /etc/apt/sources.list")


def stanza(source: Source, suites: Iterable[str], types: str = "deb") -> str:
    """Return a deb822 stanza that offers these suites of the source's archive."""
    lines = [
        f"Types: {types}",
        f"URIs: {source.uri}",
        f"Suites: {' '.join(suites)}",
        "Components: main",
        "Architectures: amd64",
    ]
    if source.signed_by:
        lines.append(
            f"Signed-By: {source.signed_by}" if "\n" not in source.signed_by else f"Signed-By:\n {source.signed_by}"
        )
    if source.trusted:
        lines.append("Trusted: yes")
    return "\n".join(lines) + "\n"
