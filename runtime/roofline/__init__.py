"""This room computes the least time that a variant can take, from what it must compute and move.

A variant's cost and a machine's rates come in; a bound goes out, by the roofline model (Williams, Waterman & Patterson
2009), summed over the branches. The room must not know bundles, nor how a variant is run or timed.

cost           holds the operations and bytes of a variant, as the manifest records them
rates          holds how fast a machine computes and moves
probe          measures this machine's rates, with the products of product_graph and the cache sizes of caches
devices        holds the published rates of devices that aren't here
bound          computes the bound that follows, and says what limits it
"""
