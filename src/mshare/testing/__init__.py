"""Tools that test a backend or a program that uses regions; needs `pip install '.[testing]' in its source`.

- `processes`: real processes that execute operations on command, fork, and die by SIGKILL.
- `strategies`: hypothesis strategies for names, sizes, records and /proc text.
- `conformance`: `BackendConformance`, the promises every backend keeps, as a pytest class to inherit.
- `statemachine`: a hypothesis state machine that compares real processes with `mshare.testing.model`.

Nothing else in mshare depends on this package.
"""
