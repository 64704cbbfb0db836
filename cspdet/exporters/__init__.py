"""Export formats: write a network in the file format of another program and verify it. API: `cspdet.export`."""
