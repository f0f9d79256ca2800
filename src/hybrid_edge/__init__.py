"""hybrid-edge: a Keras hybrid image classifier (CNN branch x LSTM branch), taken to an edge device and run there.

The package itself imports nothing; ``hybrid_edge.runtime`` is what goes on a device, ``hybrid_edge.train``,
``hybrid_edge.calib`` and ``hybrid_edge.export`` are what a workstation needs to make a bundle for it.
"""

__version__ = "0.1.0"
