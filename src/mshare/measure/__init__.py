"""The costs of shared memory for processes, measured in real processes. docs/measuring.md explains the numbers.

>>> from mshare.measure import Mshare, measure
>>> cost = measure(Mshare("shm"), 4 << 20, name="docs-measure", processes=2, runs=1)
>>> cost.minor_faults > 0 and cost.vmpte_bytes > 0
True
"""

# General layout: mechanisms (what is measured: ours and others', one protocol)  ->  probe (the process that pays, and
# its instruments)  ->  cost (starts probes, takes medians)  ->  projection (arithmetic from what was measured).

from .cost import Cost, measure
from .mechanisms import Mechanism, Mshare, Nothing, SharedMemory
from .projection import Slope, measure_slope

__all__ = ["Cost", "Mechanism", "Mshare", "Nothing", "SharedMemory", "Slope", "measure", "measure_slope"]
