"""bootserve: a PXE/iPXE boot file server (TFTP, HTTP, iPXE scripts)."""

__version__ = "0.1.0"
