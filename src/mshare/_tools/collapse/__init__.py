"""Makes 2 MiB pages of the shared memory of programs that run. May depend on: geometry, errors, units, procfs, linux,
scan, table, collect.

- `plan`: which objects, and why not (pure)
- `target`: an object and the processes that map it, held open
- `tally`: blocks counted (pure)
- `room`: whether the machine and the control group have memory for it
- `probe`: whether this kernel frees the page tables of all processes by one call
- `work`: block by block
- `follow`: again and again, in the background
- `show`: what is planned and what was done, for people and programs (pure)
"""
