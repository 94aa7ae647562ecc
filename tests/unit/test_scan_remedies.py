"""The advice for each program: commands word by word, against made-up servers."""

from __future__ import annotations

from mshare._core.backends import ALL
from mshare._core.geometry import PMD, PUD
from mshare._core.units import GIB, MIB
from mshare._tools.scan.advice import Advice, judge
from mshare._tools.scan.case import Remedy, chosen
from mshare._tools.scan.remedies import COLLAPSE
from mshare._tools.scan.snapshot import Process, Snapshot
from mshare._tools.scan.survey import survey
from tests.helpers.servers import NEVER, Crowd, postgresql, server


def advice(snapshot: Snapshot) -> tuple[Advice, ...]:
    return judge(snapshot, survey(snapshot), ALL).advice


def first(snapshot: Snapshot) -> Remedy:
    (each,) = advice(snapshot)
    return each.remedies[0]


def names(snapshot: Snapshot) -> list[str]:
    return [remedy.name for each in advice(snapshot) for remedy in each.remedies]


def test_postgresql_is_named_and_told_what_to_do() -> None:
    snapshot = server(postgresql(8 * GIB, 412), memory=64 * GIB, total=100, free=20)
    verdict = judge(snapshot, survey(snapshot), ALL)
    assert verdict.sentences == (
        "Page tables take 6.45 GiB, 10 % of memory; 6.45 GiB of it for one object, PostgreSQL's shared memory in 412 "
        "processes. With huge pages it would be 14.4 MiB.",
    )
    assert verdict.advice[0].objects == ("shared anonymous #100",)
    assert first(snapshot).commands == (
        "sudo -u postgres psql -c \"ALTER SYSTEM SET huge_pages = 'on'\"",
        "sudo systemctl stop postgresql@15-main.service",
        "# PostgreSQL 15 and later say how many pages they need, while stopped; if it is more, take that:",
        '#   postgres -D "$PGDATA" -C shared_memory_size_in_huge_pages',
        "sudo sysctl -w vm.nr_hugepages=4217",  # 4096 and 41, less 20 free ones, and the 100 there are
        "grep HugePages_Total /proc/meminfo  # must say 4217, else memory is too fragmented: restart",
        "echo 'vm.nr_hugepages = 4217' | sudo tee /etc/sysctl.d/60-huge-pages.conf",
        "sudo systemctl start postgresql@15-main.service",
    )


def test_postgresql_without_a_service_and_in_sysv_memory() -> None:
    where = postgresql(kind="SysV")._replace(cgroup="/docker/0123", uid=4242)
    commands = first(server(where)).commands
    assert commands[1] == "sudo -u 4242 psql -c \"ALTER SYSTEM SET shared_memory_type = 'mmap'\"  # huge pages need it"
    assert commands[2] == 'sudo -u 4242 pg_ctl -D "$PGDATA" stop'


def test_two_servers_share_one_pool() -> None:
    above, below = advice(server(postgresql(8 * GIB, 200), postgresql(4 * GIB, 200)))
    assert "sudo sysctl -w vm.nr_hugepages=4137" in above.remedies[0].commands
    assert f"sudo sysctl -w vm.nr_hugepages={4137 + 2048 + 21}" in below.remedies[0].commands
    assert "4137 more are for what stands above" in below.remedies[0].condition


def test_pages_that_are_there_and_free_are_enough() -> None:
    remedy = first(server(postgresql(GIB, 400), total=1000, free=900, reserved=300))
    assert not any("sysctl" in line for line in remedy.commands)
    assert any("there are enough" in line for line in remedy.commands)


def test_huge_pages_of_1_gib() -> None:
    remedy = first(server(postgresql(8 * GIB + 1, 400), page=PUD))
    assert "sudo sysctl -w vm.nr_hugepages=11" in remedy.commands
    assert remedy.predicted == 400 * 4096  # one page above the leaves


def test_other_programs_memory_is_not_taken_for_postgresqls() -> None:
    (each,) = advice(server(postgresql()._replace(command="postgres-export")))
    assert each.title == "shared anonymous #100"
    assert "huge pages" not in [remedy.name for remedy in each.remedies]


def test_a_file_that_postgresql_maps_is_a_file() -> None:
    (each,) = advice(server(postgresql()._replace(kind="file", path="/srv/data", deleted=False)))
    assert (each.title, each.remedies[0].name) == ("/srv/data", "a region of mshare")


def test_oracles_segments_are_one_sga() -> None:
    sga = Crowd("/SYSV00000000", 6 * GIB, 100, "ora_lg00_ORCL", "SysV", deleted=True)
    more = Crowd("/SYSV00000000", 31 * MIB, 0, "", "SysV", deleted=True, join=0)
    (each,) = advice(server(sga, more))
    assert each.title == "Oracle's SGA"
    assert each.objects == ("SysV 100 (key 0x00000000)", "SysV 101 (key 0x00000000)")
    assert "sudo sysctl -w vm.nr_hugepages=3119" in each.remedies[0].commands  # 3072 + 16, and 31
    assert "2 objects, Oracle's SGA in 100 processes" in judge_sentence(server(sga, more))


def judge_sentence(snapshot: Snapshot) -> str:
    return judge(snapshot, survey(snapshot), ALL).sentences[0]


def test_java_in_a_memfd() -> None:
    heap = Crowd("/memfd:java_heap", 64 * GIB, 1, "java", "memfd", deleted=True)
    assert names(server(heap, memory=128 * GIB)) == ["transparent huge pages", COLLAPSE, "huge pages"]
    assert names(server(heap, shmem="", memory=128 * GIB)) == ["huge pages", COLLAPSE]
    assert first(server(heap)).commands[-1] == "# start Java with -XX:+UseTransparentHugePages"


def test_memory_of_the_kernels_own_tmpfs() -> None:
    memfd = Crowd("/memfd:cache", GIB, 200, kind="memfd", deleted=True)
    assert first(server(memfd)).commands[0] == (
        "echo within_size | sudo tee /sys/kernel/mm/transparent_hugepage/shmem_enabled  # was never"
    )
    on = first(server(memfd, shmem=NEVER.replace("[never]", "never").replace("within_size", "[within_size]")))
    assert not any(line.startswith(("echo", "sudo")) for line in on.commands)
    module = "page tables shared by mshare's kernel module"
    assert names(server(memfd, shmem="")) == ["a region of mshare", COLLAPSE, module]


def test_a_file_on_tmpfs() -> None:
    commands = first(server(Crowd("/dev/shm/it's", GIB, 200))).commands
    assert commands[0] == "sudo mount -o remount,huge=within_size /dev/shm"
    commands = first(server(Crowd("/run/it's", GIB, 200))).commands
    assert commands[0] == """sudo mount -o remount,huge=within_size "$(findmnt -no TARGET -T '/run/it'"'"'s')\""""
    (each,) = advice(server(Crowd("/run/it's\n", GIB, 200)))
    assert each.remedies[1].commands[0].startswith(r"sudo mshare collapse $'/run/it\x27s\x0a'  # ")
    assert each.remedies[2].commands[0] == r"mshare cp $'/run/it\x27s\x0a' region:it-s --backend thp"


def test_a_region_of_mshare_on_small_pages() -> None:
    (each,) = advice(server(Crowd("/dev/shm/weights", GIB, 200, region="weights")))
    assert each.title == "region weights"
    assert each.remedies[0].commands[0] == "mshare cp region:weights region:weights-2 --backend thp"


def test_what_is_huge_or_shared_already_gets_none() -> None:
    assert advice(server(Crowd("/x", 64 * GIB, 400, kind="hugetlb", page=PMD))) == ()
    assert advice(server(Crowd("/x", 64 * GIB, 400, kind="device"))) == ()


def test_private_memory_is_said_to_be_private() -> None:
    snapshot = server(Crowd("/srv/small", MIB, 100, kind="file", heap=GIB))
    verdict = judge(snapshot, survey(snapshot), ALL)
    assert not verdict.act
    assert "no remedy that fits this machine" in verdict.sentences[0]
    assert "private memory, which cannot be shared" in verdict.sentences[1]


def test_what_could_not_be_read_is_said() -> None:
    snapshot = server(postgresql(), unreadable=GIB)
    assert "1 GiB are of 1 process that could not be read" in judge(snapshot, survey(snapshot), ALL).sentences[-1]


def test_settings_have_their_value_in_brackets() -> None:
    assert (chosen("always [madvise] never"), chosen("1"), chosen("")) == ("madvise", "", "")


def test_chosen_processes_are_judged_by_what_they_have() -> None:
    snapshot = server(Crowd("/srv/data", GIB, 5))
    few = snapshot._replace(partial=True, system=snapshot.system._replace(memory={"PageTables": 9 * GIB}))
    assert judge_sentence(few) == "Page tables of the 5 processes chosen take 10.1 MiB: nothing to do."


def test_memory_that_is_not_there_is_not_reserved() -> None:
    two = postgresql(8 * GIB, 400), postgresql(8 * GIB, 400)
    assert names(server(postgresql(8 * GIB, 400), memory=9 * GIB)) == ["huge pages", COLLAPSE]
    assert names(server(postgresql(8 * GIB, 400), memory=8 * GIB)) == [COLLAPSE]
    assert names(server(*two, memory=10 * GIB)) == ["huge pages", COLLAPSE, COLLAPSE]


def test_collapse_is_offered_where_mappings_are_aligned() -> None:
    remedy = advice(server(postgresql(8 * GIB, 400)))[0].remedies[1]
    assert remedy.name == COLLAPSE
    assert remedy.commands == ("sudo mshare collapse 'shared anonymous #100'  # shows first, and asks",)
    assert "400 of 400 mappings are at addresses aligned to 2 MiB" in remedy.condition
    assert (remedy.huge_pages, remedy.predicted) == (0, first(server(postgresql(8 * GIB, 400))).predicted)
    moved = shifted(server(postgresql(8 * GIB, 400)), 100)
    half = advice(moved)[0].remedies[1]
    assert "300 of 400 mappings" in half.condition
    assert half.predicted > moved.processes[0].vmpte * 99
    assert names(shifted(server(postgresql(8 * GIB, 400)), 400)) == ["huge pages"]
    deny = NEVER.replace("deny", "[deny]").replace("[never]", "never")
    assert names(server(postgresql(8 * GIB, 400), shmem=deny)) == ["huge pages"]


def shifted(snapshot: Snapshot, count: int) -> Snapshot:
    """Return the same with the shared mappings of `count` processes one page higher."""

    def moved(process: Process) -> Process:
        assert process.areas is not None
        areas = (
            area._replace(start=area.start + 4096, end=area.end + 4096) if area.shared else area
            for area in process.areas
        )
        return process._replace(areas=tuple(areas))

    head, tail = snapshot.processes[:count], snapshot.processes[count:]
    return snapshot._replace(processes=(*map(moved, head), *tail))


def test_what_is_mapped_and_perhaps_not_touched_is_said_to_be_uncertain() -> None:
    one, other = Crowd("/dev/shm/one", 64 * GIB, 8), Crowd("/dev/shm/other", 64 * GIB, 0, join=0)
    full = server(one, other)
    half = full._replace(processes=tuple(each._replace(vmpte=each.vmpte // 2) for each in full.processes))
    first, *rest = judge(half, survey(half), ALL).sentences
    assert "; between " in first
    assert " and 1 GiB of it for one object" in first
    assert any("--exact" in sentence for sentence in rest)
    assert not any("--exact" in sentence for sentence in judge(full, survey(full), ALL).sentences)
