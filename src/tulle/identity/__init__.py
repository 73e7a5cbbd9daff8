"""Who is who: SPIFFE ids, the certificate authority, signing requests and join tokens.

`spiffe` is the name of a workload, `csr` what is accepted from one, `certificates` what
it gets, `authority` the keys that sign, `keyfile` how they lie on disk, `tokens` how a
new workload proves what it may become. Imports nothing of tulle but errors.
"""
