"""Servers of streams on loopback that fail on request, and what reads them."""
