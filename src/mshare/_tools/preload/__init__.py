"""`mshare run`: programs that have never heard of mshare, on cheap page tables.

The preload library in C (directory preload/ of the repository) does the work inside the program. This package builds
the library, looks at a program before it starts, and looks at a process afterwards: `library`, `program`, `options`,
`host`, `status`.

May depend on: cache, collect, findings, scan, backends, linux, errors, units, geometry, elftools.
"""
