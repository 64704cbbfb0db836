"""How fast models run on this machine: each engine in a process of its own, all of them in turn."""
