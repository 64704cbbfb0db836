"""Export of networks to file formats of other programs, with verification. API: `cspdet.export`."""
