"""`socketkeep lab`: what is said of sockets, tried on this kernel.

An experiment (`_modes`, `_waits`, `_handles`, `_ends`, `_loops`) makes real calls in real processes
(`_actor`, driven through `_process`), and states what it expects of what is observed.  The
`_bench` records each call, and what the kernel says of the sockets after it (`_kernel`); whether
the claim holds is computed from that record (`_results`).  Drawing (`_text`, `_svg`) knows nothing
but the record.
"""
