"""Proof with real peers: firmware in virtual machines, and other people's clients.

README.md in this directory says what is proven and what it needs.
"""
