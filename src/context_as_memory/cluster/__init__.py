"""Several machines, by Ray: parts of `cam encode` and `cam evaluate` as tasks, walks of `cam explore` as replicas.

Ray places the work, starts it again where it died, and brings visitors to it. Here it is only told what to run. Ray
comes with the extra `cluster` and is imported by these functions alone. Commands and limits: docs/cluster.md.
"""
