"""The debug kernel is built when needed, and has every requested option."""

from __future__ import annotations

from pathlib import Path

import pytest

from vm import debug
from vm.errors import BuildError

CONFIG = Path(debug.__file__).with_name("debug.config")


def test_options_are_what_sets_something_in_any_order() -> None:
    assert debug.options("# why\nCONFIG_B=y\n\n# CONFIG_C is not set\nCONFIG_A=3\n") == ["CONFIG_A=3", "CONFIG_B=y"]


def test_an_option_kconfig_dropped_or_changed_is_missing() -> None:
    made = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_D=y\n"
    assert debug.missing("CONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\n", made) == ["CONFIG_B=y", "CONFIG_C=y"]


@pytest.mark.parametrize("check", ["KASAN", "PROVE_LOCKING", "DEBUG_VM", "PAGE_TABLE_CHECK_ENFORCED", "DEBUG_LIST"])
def test_the_checks_are_asked_for(check: str) -> None:
    assert f"CONFIG_{check}=y" in debug.options(CONFIG.read_text())


@pytest.mark.parametrize(
    "feature",
    ["FAILSLAB", "FAIL_PAGE_ALLOC", "FAULT_INJECTION_DEBUG_FS", "HWPOISON_INJECT", "NUMA_EMU", "KPROBES", "MEMCG"],
)
def test_what_tests_use_in_the_guest_is_asked_for(feature: str) -> None:
    assert f"CONFIG_{feature}=y" in debug.options(CONFIG.read_text())


def test_no_option_is_asked_for_twice() -> None:
    names = [option.partition("=")[0] for option in debug.options(CONFIG.read_text())]
    assert sorted(set(names)) == sorted(names)


def test_a_directory_belongs_to_its_options(tmp_path: Path) -> None:
    first = debug.directory(tmp_path, "CONFIG_A=y\nCONFIG_B=y\n")
    assert first == debug.directory(tmp_path, "# reworded\nCONFIG_B=y\nCONFIG_A=y\n")
    assert first != debug.directory(tmp_path, "CONFIG_A=y\nCONFIG_B=m\n")


def test_it_is_built_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[Path] = []
    monkeypatch.setattr(debug, "_build", lambda root, wanted, progress: built.append(root))
    cache = tmp_path / "new"
    root = debug.directory(cache, CONFIG.read_text())
    for _ in range(2):
        assert debug.ensure(cache, print) == root
    assert built == [root]


def test_what_an_interrupted_build_left_is_cleared_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = debug.directory(tmp_path, CONFIG.read_text())
    root.mkdir()
    (root / "half").touch()
    monkeypatch.setattr(debug, "_build", lambda root, wanted, progress: None)
    debug.ensure(tmp_path, print)
    assert [path.name for path in root.iterdir()] == ["complete"]


def test_a_build_that_failed_is_not_taken_for_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Path] = []

    def fail(root: Path, wanted: str, progress: object) -> None:
        tries.append(root)
        raise BuildError("no compiler")

    monkeypatch.setattr(debug, "_build", fail)
    for _ in range(2):
        with pytest.raises(BuildError):
            debug.ensure(tmp_path, print)
    assert len(tries) == 2


def test_the_selftest_knows_it_by_its_release() -> None:
    assert f'CONFIG_LOCALVERSION="{debug.RELEASE_ENDING}"' in debug.options(CONFIG.read_text())
