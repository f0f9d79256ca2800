"""Other engines on the same model and the same inputs: each in a process of its own, in turn.

``catalogue`` says who runs, ``environments`` and ``artifacts`` make what they need, ``process`` is the parent's side
of a worker and ``worker`` the child's, ``engine_*`` one engine each, ``measure`` the rounds, ``page`` the document.
"""
