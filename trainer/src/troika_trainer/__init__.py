"""The trainer of Troika: one loop for every task, started by torchrun, told by one file."""
