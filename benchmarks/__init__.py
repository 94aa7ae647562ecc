"""What each further process pays, against every mechanism, in one run: `python -m benchmarks` (or `make bench`).

What the numbers mean: docs/measuring.md. The measuring itself is `mshare.measure`, the same code for all.
"""

# General layout: mechanisms (others' libraries behind the protocol), pool (huge pages, lent), machine (facts about it)
#   ->  run (what is measured)  ->  report (Markdown, ratios, targets)  ->  __main__.
