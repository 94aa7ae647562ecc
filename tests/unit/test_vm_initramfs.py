"""vm.initramfs: archives that another tool can read, and modules in an order in which they can be inserted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vm import initramfs

DEP = """\
kernel/fs/9p/9p.ko.xz: kernel/net/9p/9pnet.ko.xz kernel/fs/netfs/netfs.ko.xz
kernel/net/9p/9pnet.ko.xz:
kernel/net/9p/9pnet_virtio.ko.xz: kernel/net/9p/9pnet.ko.xz
kernel/fs/netfs/netfs.ko.xz:
kernel/fs/overlayfs/overlay.ko:
kernel/drivers/char/hw_random/virtio-rng.ko.zst:
"""


def test_dependencies_come_first_and_once() -> None:
    assert initramfs.load_order(DEP, ("virtio_pci", "9p", "9pnet_virtio", "overlay", "virtio_rng")) == [
        "kernel/fs/netfs/netfs.ko.xz",
        "kernel/net/9p/9pnet.ko.xz",
        "kernel/fs/9p/9p.ko.xz",
        "kernel/net/9p/9pnet_virtio.ko.xz",
        "kernel/fs/overlayfs/overlay.ko",
        "kernel/drivers/char/hw_random/virtio-rng.ko.zst",
    ]


def read_newc(archive: bytes) -> list[tuple[str, int, bytes]]:
    """Read the newc format independently: name, mode, body."""
    members: list[tuple[str, int, bytes]] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        name = archive[at + 110 : at + 110 + fields[11] - 1].decode()
        body_at = (at + 110 + fields[11] + 3) // 4 * 4
        if name == "TRAILER!!!":
            return members
        members.append((name, fields[1], archive[body_at : body_at + fields[6]]))
        at = (body_at + fields[6] + 3) // 4 * 4


NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)


@given(
    st.lists(
        st.tuples(
            NAMES.filter(lambda name: name != "TRAILER!!!"), st.binary(max_size=50), st.sampled_from([0o755, 0o644])
        )
    )
)
def test_what_goes_in_comes_out(files: list[tuple[str, bytes, int]]) -> None:
    archive = initramfs.cpio([initramfs.file(name, body, mode) for name, body, mode in files])
    assert read_newc(archive) == [(name, 0o100000 | mode, body) for name, body, mode in files]
    assert len(archive) % 4 == 0
