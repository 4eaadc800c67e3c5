"""A real Kubernetes on this machine, for tests and demos: `python3 -m cluster up`."""
