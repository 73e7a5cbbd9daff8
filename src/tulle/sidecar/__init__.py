"""The process beside a workload: it joins the mesh and hosts the engine that carries traffic."""
