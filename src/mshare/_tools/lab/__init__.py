"""The proposal's server, made smaller: many processes share one region until all are there or memory has run out.
The lab needs root: the kernel kills processes for lack of memory, and only root can protect its own.
"""

# General layout: scale, run, kernel_log (pure)  ->  zygote (forks the clients)  ->  mechanisms, creator (the
# region)  ->  limit (where memory ends)  ->  fleet (clients, counted)  ->  sga (the load).
