"""The lines from the kernel's log when it kills for lack of memory: text of real kernels, shortened."""

from __future__ import annotations

from mshare._tools.lab.kernel_log import lines_of, oom_excerpt

# Linux 6.12.117, as /dev/kmsg gives it: the machine ran out of memory.
MACHINE = r"""4,901,178369935,-;python invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=1000
 SUBSYSTEM=none
4,902,178370000,-;CPU: 1 UID: 0 PID: 1979 Comm: python Not tainted 6.12.117+deb12-amd64 #1  Debian 6.12.117-1~deb12u1
4,903,178371000,-;Mem-Info:
4,904,178371100,-;active_anon:648848 inactive_anon:562 isolated_anon:0\x0a active_file:17 inactive_file:16\x0a mapped:614846 shmem:614893 pagetables:313762
6,905,178371200,-;[   1978]     0  1978   617958   616264     1252       52   614960  5001216        0          1000 python
6,906,178372000,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=python,pid=1978,uid=0
3,907,178373000,-;Out of memory: Killed process 1978 (python) total-vm:2471832kB, anon-rss:5008kB, file-rss:208kB, shmem-rss:2457616kB, UID:0 pgtables:4884kB oom_score_adj:1000
4,908,178374000,-;python invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE|__GFP_COMP), order=0, oom_score_adj=1000
"""  # noqa: E501 - as it is


def test_a_kill_is_told_in_six_lines_and_ends_with_the_victim() -> None:
    told = oom_excerpt(lines_of(MACHINE))
    assert [line.split()[0] for line in told] == [
        "python",
        "Mem-Info:",
        "mapped:614846",
        "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,task_memcg=/,task=python,pid=1978,uid=0",
        "Out",
    ]
    assert told[2].endswith("pagetables:313762")
    assert "Killed process 1978" in told[-1]


def test_continuation_lines_and_foreign_text_are_no_messages() -> None:
    assert lines_of(" SUBSYSTEM=none\nnonsense;Killed process 1\n") == []


def test_without_a_kill_there_is_nothing_to_tell() -> None:
    asked_only = "\n".join(MACHINE.split("\n")[:5])
    assert oom_excerpt(lines_of(asked_only)) == []
