"""What goes wrong with a peer; the others still run."""

from __future__ import annotations

from hybrid_edge.runtime.errors import HybridEdgeError

__all__ = ["PeerError"]


class PeerError(HybridEdgeError):
    """A peer can't be installed, made, started or run; the message is the reason why its row is empty."""
