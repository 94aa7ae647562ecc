"""Every mechanism side by side, in one run: `python -m benchmarks.compare` (or `make compare`).

docs/measuring.md, "Side by side", says what the columns mean.
"""

# General layout: specs (the mechanisms)  ->  actor (a process that serves requests)  ->  figures, fates, crowd (the
# columns, each a function of a mechanism), world (the file systems of a trial)  ->  inside (one trial)  ->  trial
# (starts a trial, with a time limit)  ->  report (Markdown, pure)  ->  __main__.
