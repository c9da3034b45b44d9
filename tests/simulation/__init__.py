"""The data path on machines, clocks, disks and a network that a seed decides: docs/decisions/0015-simulation.md."""
