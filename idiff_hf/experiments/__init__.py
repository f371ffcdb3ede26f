"""Many training runs as one experiment: trials, seeds, sweeps, the paper's tables and figures."""
