"""Export formats: a network written as a file of another program, and verified. The API function is `cspdet.export`."""
