"""bootserve beside its peers over TFTP."""
