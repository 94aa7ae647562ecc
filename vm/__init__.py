"""Boots stock Debian kernels in QEMU and runs commands and tests in them; `python3 -m vm --help`.

General layout, dependencies running downwards:

    cli          the command line                selftest     proves the verdicts
    suite        builds, loads and tests the module in a guest
    lint         checkpatch and sparse
    machine      one boot: QEMU, its channels, its time limits
    initramfs    what the guest starts from      store        kernels in the cache, through apt
    verdict      what a boot proved (pure)       dmesg        complaints in a kernel log (pure)
    toolchain    compilers of other suites       apt          package tools, also for other suites
    versions     kernels in apt's output (pure)  junit        skips and failures in a report (pure)
    sources      apt's source files (pure)       page         the last result of each kernel
    errors       what can go wrong on the host   markdown     tables (pure)
    guest/       two shell scripts that run inside

`vm` imports only `mshare._tools.kbuild` of mshare, so that one builder of modules serves both. `python3 -m vm` finds
that module in `src/` of the same tree and works without an installed mshare.

The Python in this package runs on the host. The guest has busybox, a job and the host's files. `dmesg` also serves the
guest's tests, which look at the kernel's log after each test.
"""
