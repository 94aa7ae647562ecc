"""The module under the real DKMS, in a private mount namespace. DKMS runs as apt runs it for a new kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from vm import store

KERNEL = Path(__file__).parents[2] / "kernel"
# /usr/lib is an overlay, because a container has no /usr/lib/modules to mount on. Arguments: a directory, the kernel's
# release, its modules and its build tree, then one command line for each step.
SCRIPT = """
set -e
scratch=$1 release=$2 modules=$3 build=$4; shift 4
mount -t tmpfs scratch "$scratch"
mkdir "$scratch/upper" "$scratch/work" "$scratch/modules-upper" "$scratch/modules-work"
mount -t overlay -o "lowerdir=/usr/lib,upperdir=$scratch/upper,workdir=$scratch/work" overlay /usr/lib
mkdir -p /usr/lib/modules
mount -t overlay overlay /usr/lib/modules \
    -o "lowerdir=$modules,upperdir=$scratch/modules-upper,workdir=$scratch/modules-work"
ln -sfn "$build" "/usr/lib/modules/$release/build"
mkdir -p /usr/lib/modules/6.6.1-amd64 /usr/lib/modules/6.12.9-rt-amd64/build/include
ln -s "$build" /usr/lib/modules/6.6.1-amd64/build
echo CONFIG_PREEMPT_RT=y > /usr/lib/modules/6.12.9-rt-amd64/build/.config
mount -t tmpfs dkms /var/lib/dkms
mount -t tmpfs sources /usr/src
cp -r "$KERNEL" "/usr/src/mshare-$VERSION"
for step; do
    status=0
    (eval "$step") || status=$?
    echo "status of $step: $status"
done
"""


@pytest.fixture
def kernel() -> store.Kernel:
    if os.geteuid() != 0 or shutil.which("dkms", path="/usr/sbin:/usr/bin") is None:
        pytest.skip("needs root and the package dkms")
    return store.ensure(store.cache_directory(), "6.12", print)


def _run(scratch: Path, kernel: store.Kernel, *steps: str) -> dict[str, int]:
    """The exit status of each command line."""
    version = re.search('PACKAGE_VERSION="(.*)"', (KERNEL / "dkms.conf").read_text())
    assert version
    command = ["unshare", "--mount", "--propagation", "private", "bash", "-c", SCRIPT, "-"]
    done = subprocess.run(
        [*command, scratch, kernel.release, kernel.modules.parent, kernel.build, *steps],
        env={"PATH": "/usr/sbin:/usr/bin", "KERNEL": str(KERNEL), "VERSION": version[1]},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout
    return {step: int(status) for step, status in re.findall("^status of (.*): ([0-9]+)$", done.stdout, re.MULTILINE)}


@pytest.mark.timeout(900)
def test_kernels_of_the_list_get_it_and_others_are_installed_without_it(kernel: store.Kernel, tmp_path: Path) -> None:
    """Failed before with dkms 3.0.10: BUILD_EXCLUSIVE_* was an error, the hook ended with 11, and apt with it."""
    installed = f"test -e /usr/lib/modules/{kernel.release}/updates/dkms/mshare.ko*"
    hook = "/etc/kernel/postinst.d/dkms"
    steps = {
        "dkms add mshare/$VERSION": 0,
        f"{hook} 6.6.1-amd64": 0,
        f"{hook} {kernel.release}": 0,
        installed: 0,
        f"modinfo -k {kernel.release} mshare": 0,
        # From here on DKMS reads dkms.conf for a kernel that has the module.
        f"{hook} 6.12.9-rt-amd64": 0,
        "dkms autoinstall -k 6.6.1-amd64": 0,
        "dkms build mshare/$VERSION -k 6.6.1-amd64": 77,
        "dkms build mshare/$VERSION -k 6.12.9-rt-amd64": 77,
        "find /usr/lib/modules/6.6.1-amd64 /usr/lib/modules/6.12.9-rt-amd64 -name 'mshare*' | grep .": 1,
        "dkms remove mshare/$VERSION --all": 0,
        f"! {installed}": 0,
    }
    assert _run(tmp_path, kernel, *steps) == steps
