# Two commands do all set-up: `make demo` runs the main job on real data, `make test` runs lint, types and the tests,
# here and in a guest. Those that end in -vm boot stock kernels in QEMU, with the kernel module (vm/README.md). With
# CI=true `make test` boots 6.12 and one other kernel. `make test-kernels` boots all of them.
PYTHON ?= python3
BIN := .venv/bin
VM := $(BIN)/python -m vm
# The other kernel of a CI run depends on the commit's hash, so that a failure repeats. The number of commits would take
# turns more evenly, but is always 1 in a shallow clone. VM_OTHER=7.2 chooses.
VM_COMMIT ?= $(shell git rev-parse HEAD 2> /dev/null)
VM_OTHERS := 6.1 7.2 7.3
VM_OTHER ?= $(word $(shell echo $$(( 0x0$$(echo $(VM_COMMIT) | cut -c 1-7) % 3 + 1 ))),$(VM_OTHERS))
VM_KERNELS = 6.12 $(if $(filter true,$(CI)),$(VM_OTHER))
LINT_PACKAGES := sparse perl xz-utils kmod make gcc-12 gcc libc6-dev libelf1 pahole
VM_PACKAGES := qemu-system-x86 $(LINT_PACKAGES)
TEST_PACKAGES := postgresql-15 chromium prometheus dkms clang php8.2-fpm nginx stress-ng

.PHONY: venv demo test test-host lint lint-python lint-kernel lint-deps stress bench bench-scan bench-top bench-start bench-first-use bench-dask bench-run bench-disturb bench-gpu bench-locks bench-segments bench-postgres bench-postgres-vm bench-huge-pages bench-kernel compare prove test-cpython test-torch test-postgres-regress clean vm-deps test-deps test-vm test-lab-vm test-numa-vm test-kernels test-debug-kernel demo-vm vm-shell
venv: .venv/.ready

.venv/bin/mshare:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[demo]'

.venv/.ready: pyproject.toml | .venv/bin/mshare
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: .venv/bin/mshare
	$(BIN)/mshare demo

# The packages first: who lacks them and is not root hears it at once. `make test-host` installs none, and skips what
# needs one that is missing.
test: vm-deps test-deps lint-kernel test-host test-vm

# Two workers took 60 % of the time of one on two cores. Those tests that count or change what the machine has one of run
# in one of them (tests/conftest.py).
test-host: venv lint-python
	$(BIN)/python -m pytest -n 2 --dist loadgroup

lint: lint-python lint-kernel

lint-python: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/unit/test_prose.py

# checkpatch --strict and sparse (vm/lint.py). The first run fetches a kernel's headers and checkpatch.
lint-kernel: venv lint-deps
	$(VM) lint

# CPython's own tests of shared memory, with mshare.shared_memory in the place of multiprocessing's. `make test` runs those
# of its own interpreter. A version that is not found is named. CPYTHONS="PATH PATH" chooses other interpreters.
CPYTHON_VERSIONS := 3.12 3.13
CPYTHONS = $(shell for v in $(CPYTHON_VERSIONS); do for p in python$$v $$HOME/.pyenv/versions/$$v.*/bin/python$$v; do \
	"$$p" -c 'import sys, test._test_multiprocessing; print(sys.executable)' 2> /dev/null && break; done; done)
test-cpython: venv
	@for v in $(CPYTHON_VERSIONS); do case "$(CPYTHONS)" in *python$$v*) ;; \
		*) echo "test-cpython: no Python $$v with its own tests is installed, so those tests do not run";; esac; done
	MSHARE_CPYTHONS="$(CPYTHONS)" $(BIN)/python -m pytest tests/integration/test_shared_memory_cpython.py

# The tests of mshare.torch, in an environment of their own. torch as built for PyPI brings CUDA: 5.4 GB. A build for the
# CPU that pip finds (PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS) takes 0.9 GB. Of silero-vad the tests use the model's files, and
# not the program, which needs more packages.
TORCH ?= torch==2.13.0
test-torch: .venv-torch/.ready
	.venv-torch/bin/python -m pytest tests/torch

.venv-torch/.ready: pyproject.toml
	$(PYTHON) -m venv .venv-torch
	.venv-torch/bin/python -m pip install --quiet --editable '.[dev-torch]' '$(TORCH)'
	.venv-torch/bin/python -m pip install --quiet --no-deps silero-vad==6.2.3
	touch $@

stress: venv
	$(BIN)/python -m pytest -m stress tests/stress

bench: venv
	$(BIN)/python -m benchmarks --json docs/results/benchmarks-host.json --markdown docs/results/benchmarks-host.md

bench-scan: venv
	$(BIN)/python -m benchmarks.scan docs/results/benchmarks-scan.json

bench-top: venv
	$(BIN)/python -m benchmarks.top

# 8 workers and a table of 2 GiB: some minutes, and memory for 9 copies of the table, or 12 with pickling. SIZE=256M is a
# quick run. torch and Ray take part where they are installed (the extra `compare`).
bench-first-use: venv
	$(BIN)/python -m benchmarks.first_use $(if $(SIZE),--size $(SIZE)) \
		--json docs/results/first-use.json --markdown docs/results/first-use.md

# 8 GiB of weights to a GPU, by 1 and by 4 processes: four minutes at the most, on a machine with an NVIDIA GPU.
bench-gpu: .venv-torch/.ready
	.venv-torch/bin/python -m benchmarks.gpu $(if $(SIZE),--size $(SIZE)) \
		--json docs/results/gpu.json --markdown docs/results/gpu.md

# One copy per host of a Dask cluster beside scatter: 4 workers and a table of 1 GiB, which needs memory for 7 copies.
bench-dask: venv
	$(BIN)/python -m benchmarks.replicas $(if $(SIZE),--size $(SIZE)) \
		--json docs/results/dask.json --markdown docs/results/dask.md

# A lock of mshare beside multiprocessing.Lock and filelock, alone and with 8 and 64 processes: two minutes.
bench-locks: venv
	$(BIN)/python -m benchmarks.locks --json docs/results/locks.json --markdown docs/results/locks.md

bench-start: venv
	$(BIN)/python -m benchmarks.start --json docs/results/start.json --markdown docs/results/start.md

bench-segments: venv
	$(BIN)/python -m benchmarks.segments --json docs/results/segments.json --markdown docs/results/segments.md

# What the preload library of `mshare run` adds to a start: a minute. With valgrind, which counts instructions.
bench-run: venv
	$(call install,valgrind)
	$(BIN)/python -m benchmarks.preloaded --count --json docs/results/preloaded.json --markdown docs/results/preloaded.md

# What disturbs a program less while its memory is collapsed, `--fill later` or `mshare collapse --follow`: five minutes.
# As root.
bench-disturb: venv
	$(BIN)/python -m benchmarks.disturb --json docs/results/disturb.json --markdown docs/results/disturb.md

# Every mechanism, the heavy ones too: gigabytes to install, 20 minutes, 9 GiB of memory at the most. As root, or no huge pages.
COMPARE_TORCH ?= torch
compare: venv
	$(BIN)/python -m pip install --quiet '$(COMPARE_TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[compare]'
	$(BIN)/python -m benchmarks.compare --json docs/results/compare.json --markdown docs/results/compare.md

# PostgreSQL as it is, with `mshare run`, `mshare collapse` and huge pages: 16 minutes, 6 GiB of memory at the most. As
# root, or neither huge pages nor `mshare collapse`. The exit status says whether the targets held.
bench-postgres: venv
	$(BIN)/python -m benchmarks.postgres --json docs/results/postgres.json --markdown docs/results/postgres.md

# The same in a guest, where msharefs is: 15 minutes, 4 GiB of memory. Times are not real there.
bench-postgres-vm: venv vm-deps
	$(BIN)/python -m vm run --kernel 6.12 --module --memory 4096M --timeout 1800 -- \
		'chmod 1777 /sys/fs/mshare && $(BIN)/python -m benchmarks.postgres --shared-buffers 256M --clients 50,200 \
		--rounds 1 --seconds 30 --json docs/results/postgres-vm.json --markdown docs/results/postgres-vm.md'

# PostgreSQL's own regression tests without and with `mshare run`, logs in build/regress: three runs of some minutes. The
# first run fetches Debian's source package (benchmarks/regress_source.py). Not part of `make test`.
REGRESS_PACKAGES := postgresql-15 dpkg-dev bzip2 xz-utils gcc libc6-dev
test-postgres-regress: venv
	$(call install,$(REGRESS_PACKAGES))
	$(BIN)/python -m benchmarks.regress

# What the module costs in instructions and interrupts, in two guests of 4 GiB and 2 GiB. BEFORE=COMMIT also measures the
# module of that commit.
bench-kernel: venv vm-deps
	$(BIN)/python -m benchmarks.costs $(if $(BEFORE),--before $(BEFORE)) \
		--json docs/results/kernel-costs.json --markdown docs/results/kernel-costs.md

# Pages of 2 MiB in regions, against pages of 4 KiB, tmpfs and hugetlb in the same guest: instructions, faults, bytes.
bench-huge-pages: venv vm-deps
	$(BIN)/python -m benchmarks.huge_pages --json docs/results/huge-pages.json --markdown docs/results/huge-pages.md

vm-deps:
	$(call install,$(VM_PACKAGES))

lint-deps:
	$(call install,$(LINT_PACKAGES))

test-deps:
	$(call install,$(TEST_PACKAGES))

# Programs, not services: while it installs, none of them is started.
define install
@missing="$$(for package in $(1); do \
	dpkg-query -W -f '$${Status}' $$package 2>/dev/null | grep -q ' installed$$' || echo $$package; done)"; \
if [ -z "$$missing" ]; then exit 0; fi; \
if [ "$$(id -u)" = 0 ]; then \
	policy=/usr/sbin/policy-rc.d; \
	if ! [ -e $$policy ]; then trap "rm -f $$policy" EXIT; printf '#!/bin/sh\nexit 101\n' > $$policy; chmod 755 $$policy; fi; \
	apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends $$missing; \
else echo "install these first: sudo apt-get install --no-install-recommends" $$missing >&2; exit 1; fi
endef

# A guest keeps one core busy: two kernels side by side took 12 minutes on two cores, one alone 7.5. Each is
# shown when it is done.
test-vm: venv vm-deps
	$(if $(filter true,$(CI)),@echo "vm: kernels $(VM_KERNELS): the commit's hash chose $(VM_OTHER); VM_OTHER=6.1 chooses another")
	$(MAKE) --no-print-directory $(if $(word 2,$(VM_KERNELS)),-j2 --output-sync=target) $(addprefix test-vm-,$(VM_KERNELS))

test-vm-%: venv vm-deps
	$(VM) test --kernel $*

# Not part of `make test`, but of CI: the lab's tests where control groups are of version 2, as users have them. Those of
# this machine may be of version 1.
test-lab-vm: venv vm-deps
	$(VM) run --timeout 900 --env MSHARE_NO_SKIPS=1 -- \
		$(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider -o timeout=600 tests/integration/test_lab.py

# Not part of `make test`, but of CI: what needs several memory nodes.
test-numa-vm: venv vm-deps
	$(VM) run --module --numa 2 --timeout 900 --env MSHARE_NO_SKIPS=1 -- $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider \
		-o timeout=600 tests/kernel/test_placement.py tests/kernel/test_numa.py

# Not part of `make test`: every supported kernel one after the other, up to an hour of one core, and docs/results/kernels.*.
test-kernels: venv vm-deps
	$(VM) test $(addprefix --kernel ,6.1 6.12 7.2 7.3) --page docs/results/kernels

# Not part of `make test`: a kernel with KASAN, lockdep and the page tables' own checks, built once (vm/debug.py).
test-debug-kernel: VM_PACKAGES += flex bison bc libelf-dev xz-utils
test-debug-kernel: venv vm-deps
	$(VM) test --kernel debug --timeout 7200 --env MSHARE_STRESS_SECONDS=60 --env MSHARE_KILLS=50 \
		--env MSHARE_FUZZ_ROUNDS=500 -- -o timeout=1800

# The demo with backend msharefs in its table, in a guest of 2 GiB: smaller than `make demo`, and no projection.
demo-vm: venv vm-deps
	@echo "The processor is emulated: memory, page tables and faults are real, times are not."
	$(VM) run --module --timeout 1800 -- $(CURDIR)/$(BIN)/mshare demo --size 16M --processes 4 --no-projection

# The proposal's server in guests of a 128th of its size, and docs/results/prove.*: an hour of two cores. A guest
# that takes longer than half an hour is ended, and with it the run; `python -m benchmarks.prove --only GUEST` goes on.
# FACTOR=512 is for CI: one guest of 1 GiB, 257 clients, build/prove/512/prove.*, about four minutes; without
# multiprocessing.shared_memory, which ends as tmpfs does. It fails if what is to be shown is not; times never decide.
FACTOR ?= 128
prove: venv vm-deps
	$(BIN)/python -m benchmarks.prove --factor $(FACTOR)

vm-shell: venv vm-deps
	$(VM) shell

clean:
	rm -rf .venv .venv-torch build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
