"""This room writes what was made and judged: the bundle, its golden examples, its report, its tar and its engines.

Variants that passed their gates come in; a folder that a device opens goes out. The room must not know how a variant
was made.
"""
