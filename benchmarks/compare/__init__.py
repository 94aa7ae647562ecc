"""Every mechanism side by side, in one run: `python -m benchmarks.compare` (or `make compare`).

What the columns mean: docs/measuring.md, "Side by side".
"""

# General layout: specs (which mechanisms are measured)  ->  actor (a process that does as it is told)  ->  figures,
# fates, crowd (the columns, each a function of a mechanism), world (what a trial finds around it)  ->  inside (one
# trial)  ->  trial (starts that, with a time limit)  ->  report (Markdown, pure)  ->  __main__.
