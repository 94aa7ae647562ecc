"""The operating system, one kernel noun per module: `libc` (mmap and kin), `locks`, `proc`, `mounts`,
`memory`, `module`, `ioctl` (msharefs').

Nothing above this package makes a system call through ctypes; nothing in it knows what a region is.
May depend on: procfs, geometry, typed (pure).
"""

import sys

if not sys.platform.startswith("linux") or sys.maxsize < 1 << 40:
    raise ImportError("mshare needs Linux on a 64-bit machine")
