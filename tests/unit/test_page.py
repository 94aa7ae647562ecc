"""The report's page as a document: it refers to nothing, and names stay text. tests/integration has the browser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from mshare._core.backends import ALL
from mshare._core.geometry import PAGE
from mshare._core.units import GIB, format_size
from mshare._tools.page.html import Report, render
from mshare._tools.page.pictures import costs, savings
from mshare._tools.scan.advice import judge
from mshare._tools.scan.series import growth, point
from mshare._tools.scan.snapshot import Snapshot
from mshare._tools.scan.survey import survey
from mshare._tools.table import printable
from tests.helpers.servers import Crowd, postgresql, server

NAMES = (
    "<script>alert(1)</script>",
    "\"><img src=x onerror='alert(1)'>",
    "]]></svg><script>alert(1)</script>",
    "{{ 7 * 7 }}{% for a in b %}&lt;&#60;",
    "$x^2$ $\\frac{1}{0}$ \\$ 100 %",
    "line\nbreak\ttab\x00nul\x1b[2Jclear",
    "right\u202eto left\u2066\u2069 \ufeff",
    "lone \udc80 surrogate \uffff",
    "漢字 🙂 \u0301",
    "x" * 300,
)


class Document(HTMLParser):
    """Tags, attributes, and the text outside of the style sheet."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._style = False
        self.feed(page.decode())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._style &= tag != "style"

    def handle_data(self, data: str) -> None:
        if not self._style:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def hostile(clients: int = 200, taken: float = 1.7e9) -> Snapshot:
    crowds = [Crowd(f"/dev/shm/{name}", GIB, clients + index) for index, name in enumerate(NAMES)]
    return server(postgresql(GIB, clients), *crowds, host=NAMES[0])


def page(*snapshots: Snapshot) -> bytes:
    last = snapshots[-1]
    points = [point(each, survey(each)) for each in snapshots]
    verdict = judge(last, survey(last), ALL)
    return render(Report(last, survey(last), verdict, points, growth(points, verdict.titles)))


@pytest.fixture(scope="module")
def full() -> bytes:
    """Make a page with all parts."""
    return page(hostile(150), hostile(200)._replace(taken=1.7e9 + 600))


def test_it_refers_to_nothing_and_runs_nothing(full: bytes) -> None:
    allowed = {
        *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "article", "h1", "h2", "h3"),
        *("h4", "p", "dl", "div", "dt", "dd", "span", "pre", "code", "details", "summary", "figure", "figcaption"),
        *("table", "thead", "tbody", "tr", "th", "td", "ul", "li"),
        *("svg", "g", "path", "defs", "use", "text", "tspan", "clippath", "rect", "style"),
    }
    document = Document(full)
    assert {tag for tag, _ in document.tags} <= allowed
    for _, attributes in document.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "data", "action", "background", "poster")
            if name.endswith("href"):
                assert (value or "").startswith("#")
    assert re.findall(rb"url\((?!#)|@import|@font-face|javascript:", full) == []
    assert set(re.findall(rb"https?://[^\s\"'<]+", full)) <= {b"http://www.w3.org/2000/svg"}
    assert any("default-src 'none'" in (attributes.get("content") or "") for _, attributes in document.tags)


def test_names_are_text_wherever_they_stand(full: bytes) -> None:
    text = full.decode()
    shown = Document(full).text
    for name in NAMES:
        assert f"/dev/shm/{' '.join(printable(name).split())}" in shown
    for char in text:
        assert char.isprintable() or char == "\n", hex(ord(char))
    assert "49" not in re.findall(r"/dev/shm/(\d+)", shown)


def test_ids_are_unique_and_references_lead_somewhere(full: bytes) -> None:
    tags = Document(full).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = re.findall(rb"(?:href=\"#|url\(#)([^\")]+)", full)
    assert targets
    assert {target.decode() for target in targets} <= set(ids)


def test_pictures_have_words(full: bytes) -> None:
    pictures = [attributes for tag, attributes in Document(full).tags if tag == "svg"]
    assert len(pictures) == 6, "three, each for wide and narrow pages"
    for attributes in pictures:
        assert attributes["role"] == "img"
        assert re.search(r"\d", attributes["aria-label"] or "")


def test_the_same_report_gives_the_same_bytes(full: bytes) -> None:
    assert page(hostile(150), hostile(200)._replace(taken=1.7e9 + 600)) == full


def test_colours_are_the_style_sheets(full: bytes) -> None:
    _, _, body = full.partition(b"</head>")
    assert set(re.findall(rb"#[0-9a-f]{6}\b", body)) <= {b"#000000"}, "matplotlib's default, where nothing is drawn"


def test_a_small_machine_has_a_page_too() -> None:
    shown = Document(page(server(Crowd("/srv/one", GIB, 2)))).text
    assert "nothing to do" in shown
    assert "No picture of growth: this report is of a single moment." in shown
    assert "Nothing: no remedy would save enough" in shown


def test_a_machine_without_anything_has_a_page_too() -> None:
    assert "Page tables take 0 B" in Document(page(server(memory=0))).text


def test_pictures_say_the_surveys_numbers() -> None:
    snapshot = server(postgresql(8 * GIB, 412))
    found = survey(snapshot)
    verdict = judge(snapshot, found, ALL)
    heaps, topmost = 412 * 4 * PAGE, 412 * PAGE
    shared = (8 * 512 + 8 + 412) * PAGE + heaps + topmost
    leaves_2m, leaves_1g = 412 * 9 * PAGE + heaps + topmost, 412 * PAGE + heaps + topmost
    picture = costs(found, verdict)
    assert picture.text == (
        f"now: 6.45 GiB; shared: {format_size(shared)}; 2 MiB leaves: {format_size(leaves_2m)}; "
        f"1 GiB leaves: {format_size(leaves_1g)}"
    )
    assert savings(found, verdict).text == "; ".join(
        f"PostgreSQL's shared memory: {remedy} saves 6.43 GiB" for remedy in ("huge pages", "mshare collapse")
    )
    for drawn in (picture.wide, picture.narrow):
        assert ">PostgreSQL's shared memory</text>" in drawn
