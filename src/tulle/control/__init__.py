"""The control-plane process: the API, the hub's events, and the way from one to the other.

    server      one process on one data directory, from lock to SIGTERM
    plane       wiring: which part hears which event; all state is on one event loop
    settings    what it can be told, and its bounds
    hub         the thread that brings the engine's events; the only importer of the engine
    admission   join and renewal: who gets which certificate
    workloads   registration, status and leases of workloads in the store
    leases      when a silent workload's endpoints leave, as arithmetic on a clock
    conditions  the status of routes and policies, written when it changes
    publisher   store revision -> touched records -> only what sidecars subscribe to
    peers       the connected sidecars and what they hold
    telemetry   their reports as totals; `traffic` makes edges and rows of it
    tap         live requests; `resolve` asks sidecars what they would do
    app         the Starlette application and its table of routes
    objects     the Kubernetes-shaped verbs; `watch` the streams of changes
    calls       the calls under /tulle/v1
    bodies      request bodies within bounds; `failures` errors as Status objects
    openapi     the OpenAPI document, from the models

Nothing here decides routes or policies: that is `compiler`, which knows no clock
and no socket. Records pass through as bytes.
"""
