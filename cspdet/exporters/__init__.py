"""Export of networks to the file formats of other programs, with verification of the files. API: `cspdet.export`."""
