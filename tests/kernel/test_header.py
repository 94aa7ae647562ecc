"""include/mshare.h: the proposal's two calls, through the examples and a program of refusals."""

import os
import pathlib
import subprocess

import pytest

from . import mfs

TOP = pathlib.Path(__file__).parents[2]

REFUSALS = r"""
#define _GNU_SOURCE
#include "mshare.h"
#include <assert.h>
#define FAILS(code, call) do { errno = 0; assert((call) == -1); \
	if (errno != code) { printf("line %d errno %d\n", __LINE__, errno); return 1; } } while (0)
int main(void)
{
	char long_name[300];
	char *p;

	memset(long_name, 'x', 299);
	long_name[299] = 0;
	FAILS(EINVAL, mshare("", 0, 1 << 20, O_CREAT | O_RDWR, 0600));
	FAILS(EINVAL, mshare("../x", 0, 1 << 20, O_CREAT | O_RDWR, 0600));
	FAILS(EINVAL, mshare(".x", 0, 1 << 20, O_CREAT | O_RDWR, 0600));
	FAILS(ENAMETOOLONG, mshare(long_name, 0, 1 << 20, O_CREAT | O_RDWR, 0600));
	FAILS(EINVAL, mshare("x", (void *)4096, 1 << 20, O_CREAT | O_RDWR, 0600));
	FAILS(EINVAL, mshare("x", 0, 0, O_CREAT | O_RDWR, 0600));
	FAILS(EINVAL, mshare("x", 0, 1 << 20, O_CREAT | O_WRONLY, 0600));
	FAILS(EINVAL, mshare("x", 0, 1 << 20, O_CREAT | O_TRUNC | O_RDWR, 0600));
	FAILS(ENOENT, mshare("x", 0, 1 << 20, O_RDWR, 0600));
	FAILS(ENOENT, mshare_unlink("x"));
	FAILS(ENOSPC, mshare("x", 0, 1L << 40, O_CREAT | O_RDWR, 0600));
	FAILS(ENOENT, mshare("x", 0, 0, O_RDWR, 0600));
	assert(!mshare("x", 0, 1 << 20, O_CREAT | O_EXCL | O_RDWR, 0600));
	FAILS(EEXIST, mshare("x", 0, 1 << 20, O_CREAT | O_EXCL | O_RDWR, 0600));
	FAILS(EEXIST, mshare("x", 0, 0, O_RDWR, 0600));
	p = mshare_address("x");
	assert(p && !((uintptr_t)p & (MSHARE_UNIT_BYTES - 1)));
	p[12345] = 7;
	if (!fork()) {
		mshare_attachments = NULL;	/* as a stranger would be */
		FAILS(EBUSY, mshare_unlink("x"));
		FAILS(EINVAL, mshare("x", 0, 4096, O_RDONLY, 0600));
		_exit(p[12345] == 7 ? 0 : 2);
	}
	int status;
	wait(&status);
	assert(!status);
	assert(!mshare_unlink("x"));
	FAILS(ENOENT, mshare_unlink("x"));
	return 0;
}
"""


class Build:
    """Compiles a program against include/mshare.h: build(source, name) is its path."""

    def __init__(self, directory: pathlib.Path) -> None:
        self.directory = directory

    def __call__(self, source: pathlib.Path, name: str) -> str:
        program = str(self.directory / name)
        subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", "-I", TOP / "include", "-o", program, source], check=True)
        return program


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    return Build(tmp_path_factory.mktemp("header"))


def test_donor_and_consumer(build: Build, mounted: str) -> None:
    donor = build(TOP / "examples/c/donor.c", "donor")
    consumer = build(TOP / "examples/c/consumer.c", "consumer")
    giving = subprocess.Popen([donor, "cover"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert giving.stdout is not None
    assert f"{48 << 40:#x}" in giving.stdout.readline()
    text = subprocess.run([consumer, "cover"], check=True, capture_output=True, text=True).stdout
    assert f"{48 << 40:#x}" in text
    assert "Some random data shared by the donor" in text
    assert "cover" in os.listdir(mounted), "the donor is attached still"
    out, _ = giving.communicate("\n")
    assert "An answer by the consumer" in out
    assert giving.returncode == 0
    assert "cover" not in os.listdir(mounted)


def test_dead_donor_leaves_a_region(build: Build, mounted: str) -> None:
    donor = build(TOP / "examples/c/donor.c", "donor")
    giving = subprocess.Popen([donor, "left"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert giving.stdout is not None
    giving.stdout.readline()
    giving.kill()
    giving.communicate()
    fd = os.open(f"{mounted}/left", os.O_RDONLY)
    assert mfs.info(fd)["processes"] == 0
    os.close(fd)
    consumer = build(TOP / "examples/c/consumer.c", "consumer")
    assert "Some random data" in subprocess.run([consumer, "left"], check=True, capture_output=True, text=True).stdout
    assert "left" not in os.listdir(mounted), "the last one removed it"


def test_refusals(build: Build) -> None:
    source = build.directory / "refusals.c"
    source.write_text(REFUSALS.replace("#include <assert.h>", "#include <assert.h>\n#include <sys/wait.h>"))
    done = subprocess.run([build(source, "refusals")], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
