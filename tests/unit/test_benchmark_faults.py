"""The text of a trace of page faults."""

from __future__ import annotations

from benchmarks.faults import by_process

TRACE = b"""# tracer: nop
#
# entries-in-buffer/entries-written: 3/3   #P:2
#
#           TASK-PID     CPU#  |||||  TIMESTAMP  FUNCTION
#              | |         |   |||||     |         |
        postgres-6345    [000] d....  3391.604: page_fault_user: address=0x7f3877bcd000 ip=0x55 error_code=0x7
   mshare [7] x-y-6346    [001] d....  3391.605: page_fault_kernel: address=0x7f3877bcd000 ip=0x55 error_code=0x7
        postgres-6345    [001] d....  3391.606: page_fault_user: address=0x7f3877bce000 ip=0x55 error_code=0x6
"""


def test_the_events_of_a_trace_by_process() -> None:
    assert by_process(TRACE) == {6345: 2, 6346: 1}
