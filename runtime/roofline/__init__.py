"""hybrid_edge.runtime.roofline: the least time a variant can take, from what it must compute and move.

The roofline model (Williams, Waterman & Patterson 2009), summed over the branches.

cost           operations and bytes of a variant, as the manifest records them
rates          how fast a machine computes and moves
probe          those of this machine, measured; product_graph: the products it measures with; caches: their sizes
devices        those of devices that aren't here, as published
bound          the bound that follows, and what it is bound by
"""
