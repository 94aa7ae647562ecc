"""The proposal's server, made smaller: many processes share one region until all are there or memory has run out.
Needs root: processes get killed for lack of memory, and only root keeps itself out of that.
"""

# General layout: scale, run, kernel_log (pure)  ->  zygote (forks the clients)  ->  mechanisms, creator (the
# region)  ->  limit (where memory ends)  ->  fleet (clients, counted)  ->  sga (the load).
