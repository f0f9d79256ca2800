"""Several bundles on the same images: accuracy, agreement, latency and size side by side, and where they differ."""
