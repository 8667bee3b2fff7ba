"""The TFTP door."""
