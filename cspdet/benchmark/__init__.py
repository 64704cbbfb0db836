"""Speed measurements: each engine runs in a separate process, and the runs are interleaved."""
