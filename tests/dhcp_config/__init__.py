"""The pasted texts, judged by the DHCP servers that they are for."""
