"""The cost of each further process with every mechanism, in one run: `python -m benchmarks` (or `make bench`).

docs/measuring.md says what the numbers mean. `mshare.measure` measures every mechanism with the same code.
"""

# General layout: mechanisms (others' libraries behind the protocol), pool (huge pages, lent), machine (facts about it)
#   ->  run (what is measured)  ->  report (Markdown, ratios, targets)  ->  __main__.
