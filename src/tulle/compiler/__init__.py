"""Mesh → records: pure functions, so the same mesh always gives the same bytes.

`compile` compiles any record by its name; `index` tells which names a change touches, so
that nothing else is compiled again. `service` and what it is made of (`tables`, `matches`,
`rules`, `traffic`), `endpoints` and `workload` (with `mtls`) each make one kind of
record. No await, no clock, no I/O.
"""
