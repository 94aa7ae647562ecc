"""The systemd unit of `mshare collapse --follow`: systemd takes it, and it starts what there is."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from mshare._tools.collapse.target import RIGHTS


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mshare", "collapse", "--unit"], capture_output=True, text=True, check=True
    )
    unit = tmp_path / "mshare-collapse@.service"
    unit.write_text(done.stdout)
    parsed = ConfigParser(interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(done.stdout)
    service = parsed["Service"]
    assert service["ExecStart"].endswith("mshare collapse --follow --command %i")
    assert set(service["CapabilityBoundingSet"].split()) == {
        word.strip(",") for word in RIGHTS.split() if word.startswith("CAP_")
    }
    if shutil.which("systemd-analyze") and Path(service["ExecStart"].split()[0]).exists():
        checked = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert (checked.returncode, checked.stderr) == (0, "")
