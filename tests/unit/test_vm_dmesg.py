"""vm.dmesg: complaints found in kernel logs, and nothing found in clean ones."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vm import dmesg

# Lines of clean boots of 6.1 and 6.12 that look worrying and are not.
CLEAN = """\
<6>[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
<4>[    0.996105] mtrr: your CPUs had inconsistent fixed MTRR settings
<6>[    1.655631] amd_pstate: the _CPC object is not present in SBIOS or ACPI disabled
<6>[    2.304220] RAS: Correctable Errors collector initialized.
<6>[    2.762374] x86/mm: Checked W+X mappings: passed, no W+X pages found.
<3>[    3.197586] Invalid ELF header magic: != ELF
<4>[    3.200000] mshare-vm: first user process
<4>[    3.300000] mshare: loading out-of-tree module taints kernel.
<3>[    3.300001] mshare: module verification failed: signature and/or required key missing - tainting kernel
<6>[    4.000000] traps: python3[188] general protection fault ip:7f1 sp:7ffc error:0 in libc.so.6[7f0+1000]
<6>[    4.000001] python3[189]: segfault at 8 ip 00007f1 sp 00007ffc error 4 in libc.so.6[7f0+1000]
<4>[    5.000000] python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0
<4>[    5.000001] CPU: 0 UID: 0 PID: 188 Comm: python3 Tainted: G           OE      6.12.117+deb12-amd64 #1
<4>[    5.000002] Hardware name: QEMU Standard PC (Q35 + ICH9, 2009)
<4>[    5.000003] Call Trace:
<4>[    5.000004]  <TASK>
<4>[    5.000005]  dump_stack_lvl+0x64/0x80
<4>[    5.000006] RIP: 0010:copy_user_generic+0x1/0x2
<4>[    5.000006]  </TASK>
<6>[    5.000007] Out of memory: Killed process 188 (python3) total-vm:9000kB, anon-rss:8000kB
"""

COMPLAINTS = {
    "WARNING: CPU: 0 PID: 191 at /tmp/complain.c:17 complain_init+0x59/0xff0 [complain]": "warning",
    "WARNING: possible circular locking dependency detected": "warning",
    "WARNING: suspicious RCU usage": "warning",
    "kernel BUG at mm/memory.c:1234!": "bug",
    "BUG: kernel NULL pointer dereference, address: 0000000000000008": "bug",
    "BUG: Bad page state in process python3  pfn:12345": "bug",
    "BUG: Bad page map in process python3  pte:8000000012345025 pmd:12345067": "bug",
    "BUG: Bad rss-counter state mm:00000000c0ffee00 type:MM_FILEPAGES val:1": "bug",
    "BUG: non-zero pgtables_bytes on freeing mm: 4096": "bug",
    "BUG: scheduling while atomic: insmod/195/0x00000002": "bug",
    "BUG: sleeping function called from invalid context at mm/slab.h:1": "bug",
    "BUG: KASAN: slab-use-after-free in mshare_fault+0x1/0x2 [mshare]": "bug",
    "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [python3:200]": "bug",
    "Oops: Oops: 0002 [#1] PREEMPT SMP NOPTI": "oops",
    "general protection fault, probably for non-canonical address 0xdead000000000100: 0000 [#1]": "oops",
    "int3: 0000 [#1] PREEMPT SMP NOPTI": "oops",
    "Kernel panic - not syncing: Fatal exception": "panic",
    "INFO: trying to register non-static key.": "lockdep",
    "rcu: INFO: rcu_preempt self-detected stall on CPU": "rcu",
    "INFO: task python3:200 blocked for more than 120 seconds.": "hang",
    "python3: page allocation failure: order:4, mode:0x40cc0(GFP_KERNEL|__GFP_COMP), nodemask=(null)": "allocation",
    "mm/pgtable-generic.c:50: bad pud 0000000012345678(0000000012345067)": "bad page",
    "page: refcount:0 mapcount:-1 mapping:0000000000000000 index:0x0 pfn:0x12345": "page",
    "VFS: Busy inodes after unmount of msharefs (msharefs)": "leak",
    "list_del corruption. prev->next should be ffff, but was dead": "list",
    "refcount_t: underflow; use-after-free.": "list",
    "RIP: 0010:mshare_fault+0x1/0x2 [mshare]": "trace",
}


def test_clean_log_has_no_complaint() -> None:
    assert dmesg.scan(CLEAN) == []


@pytest.mark.parametrize("prefix", ["", "[   12.345678] ", "<4>[   12.345678] ", "<3>[   12.345678][  T200] "])
@pytest.mark.parametrize(("text", "kind"), COMPLAINTS.items())
def test_complaint_is_found_and_named(text: str, kind: str, prefix: str) -> None:
    found = dmesg.scan(f"{CLEAN}{prefix}{text}\n")
    assert [(item.kind, item.text) for item in found] == [(kind, text)]
    assert found[0].number == CLEAN.count("\n") + 1


def test_stack_behind_an_oom_kill_is_excused_but_a_bug_there_is_not() -> None:
    oom = "x invoked oom-killer: order=0\nCall Trace:\n"
    assert dmesg.scan(oom) == []
    assert dmesg.scan(oom + "<4>[ 1098.790792]  ? __page_table_check_ptes_set+0x1e4/0x260\n") == []
    assert [item.kind for item in dmesg.scan(oom + "BUG: x\n")] == ["bug"]
    assert [item.kind for item in dmesg.scan(oom + " </TASK>\nCall Trace:\n")] == ["trace"]
    assert [item.kind for item in dmesg.scan(oom + "clean\n" * 97 + "Call Trace:\n")] == ["trace"]


def test_page_that_keeps_memory_online_is_excused_but_other_dumps_are_not() -> None:
    head = "<4>[   56.318775] page: refcount:1 mapcount:0 mapping:0000000000000000 index:0x0 pfn:0x30600"
    body = "<4>[   56.319724] flags: 0xfffffc0002000(reserved|node=0|zone=1|lastcpupid=0x1fffff)"
    end = "<4>[   56.320717] page dumped because: "
    assert dmesg.scan("\n".join([head, body, end + "unmovable page", head, body, end + "migration failure"])) == []
    other = [head, "<4>[   56.319800] page_table_check: bad", end + "unmovable page"]
    assert [each.number for each in dmesg.scan("\n".join(other))] == [2]
    bad = [head, body, end + "unmovable page", head, body, end + "VM_BUG_ON_PAGE(1)", end + "unmovable page"]
    assert [each.number for each in dmesg.scan("\n".join(bad))] == [4, 6, 7]


def test_stacks_after_the_time_limit_were_asked_for() -> None:
    assert dmesg.scan(f"<4>[ 1.0] {dmesg.TIME_LIMIT}\nCall Trace:\nBUG: x\n") == []
    assert len(dmesg.scan(f"BUG: x\n{dmesg.TIME_LIMIT}\nBUG: y\n")) == 1


@given(st.lists(st.sampled_from([*CLEAN.splitlines(), *COMPLAINTS])))
def test_every_complaint_of_any_mixture_is_found(lines: list[str]) -> None:
    # Between lines of an OOM report a bare stack is allowed, so this mixture has no stacks.
    lines = [
        line for line in lines if "oom-killer" not in line and "Call Trace" not in line and "0010:copy_user" not in line
    ]
    found = {item.number for item in dmesg.scan("\n".join(lines))}
    assert found == {number for number, line in enumerate(lines, start=1) if line in COMPLAINTS}


@given(st.text())
def test_any_text_can_be_scanned(text: str) -> None:
    log = text + "\n"
    complaints = dmesg.scan(log)
    assert all(1 <= item.number <= len(log.splitlines()) for item in complaints)
    assert len(dmesg.excerpt(log, complaints)) <= 120


def test_excerpt_shows_each_line_once_in_order_and_is_bounded() -> None:
    log = "\n".join(f"BUG: {number}" if number % 7 == 0 else str(number) for number in range(1, 500))
    lines = dmesg.excerpt(log, dmesg.scan(log))
    assert lines == log.splitlines()[4:124]


def test_excerpt_keeps_the_text_that_stands_before_a_warning() -> None:
    log = "quiet\nquiet\n------------[ cut here ]------------\nthe reason\nWARNING: CPU: 0 PID: 1 at x.c:1 f+0x1/0x2\n"
    assert dmesg.excerpt(log, dmesg.scan(log)) == log.splitlines()[2:]


def test_taints_of_an_out_of_tree_module_are_fine_and_bad_ones_are_named() -> None:
    assert dmesg.taints(1 << 12 | 1 << 13) == []
    assert dmesg.taints(1 << 5 | 1 << 7 | 1 << 9 | 1 << 12) == ["bad page", "oops", "warning"]
