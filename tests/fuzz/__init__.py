"""Fuzzing of everything that a stranger can send to the TFTP door: `make fuzz`."""
