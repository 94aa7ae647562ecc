"""vm.sources: the machine's mirror, for every format of apt's sources."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import sources
from vm.errors import FetchError

DEB822 = """\
# A comment
Types: deb
# between the fields
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb-src
URIs: http://source.example/debian
Suites: bookworm
Components: main
"""
LINES = """\
# deb http://off.example/debian bookworm main
deb-src http://source.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/apt/foreign.gpg] https://foreign.example/debian bookworm main # a comment
deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://mirror.example/debian bookworm main contrib
deb http://mirror.example/debian bookworm-updates main
deb http://mirror.example/debian-security bookworm-security main
"""


@pytest.mark.parametrize(("name", "text"), [("debian.sources", DEB822), ("sources.list", LINES)])
def test_the_mirror_of_debian_itself_is_found(name: str, text: str) -> None:
    found = sources.mirror(sources.parse(name, text), "bookworm")
    assert found.uri == "http://mirror.example/debian"
    assert found.signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert found.components == ("main", "contrib")


def test_what_is_off_or_has_no_programs_is_left_out() -> None:
    for name, text in (("x.sources", DEB822), ("x.list", LINES)):
        assert not {"off.example", "source.example"} & {item.uri.split("/")[2] for item in sources.parse(name, text)}


def test_a_machine_without_a_mirror_hears_what_to_do() -> None:
    with pytest.raises(FetchError, match=r"/etc/apt/sources\.list"):
        sources.mirror(sources.parse("x.list", "deb https://foreign.example/node nodistro main\n"), "bookworm")


@pytest.mark.parametrize(("name", "text"), [("debian.sources", DEB822), ("sources.list", LINES)])
def test_the_archives_of_a_release_can_offer_its_sources(name: str, text: str) -> None:
    archives = [*sources.parse(name, text), sources.Source("https://foreign.example/node", ("nodistro",), ("main",))]
    found = sources.of_release(archives, "bookworm")
    assert {suite for each in found for suite in each.suites} == {"bookworm", "bookworm-updates", "bookworm-security"}
    assert sources.stanza(found[0], ["bookworm"], "deb deb-src").startswith("Types: deb deb-src\n")
    with pytest.raises(FetchError):
        sources.of_release(archives, "trixie")


def test_an_only_archive_is_taken_and_its_trust_kept() -> None:
    (only,) = sources.parse("x.list", "deb [trusted=yes] file:/srv/debian stable main\n")
    assert sources.mirror([only], "bookworm") == only
    assert "Trusted: yes" in sources.stanza(only, ["sid"])


def test_what_is_written_can_be_read() -> None:
    key = "-----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----"
    for signed_by in ("", "/usr/share/keyrings/debian.gpg", key):
        source = sources.Source("http://mirror.example/debian", ("bookworm",), ("main",), signed_by)
        (read,) = sources.parse("x.sources", sources.stanza(source, ["trixie", "sid"]))
        assert (read.uri, read.suites, read.signed_by) == (source.uri, ("trixie", "sid"), signed_by)


@given(st.text(), st.sampled_from(["x.list", "x.sources"]))
def test_any_text_can_be_read(text: str, name: str) -> None:
    sources.parse(name, text)
