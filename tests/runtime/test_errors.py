from __future__ import annotations

import re

from hybrid_edge.runtime import errors


def test_every_error_is_exported_and_drawn_in_the_tree() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert set(errors.__all__) == defined
    assert set(re.findall(r"\w+Error\b", errors.__doc__ or "")) == defined


def test_every_error_belongs_to_the_family_with_a_documented_exit_code() -> None:
    for name in errors.__all__:
        kind = getattr(errors, name)
        assert issubclass(kind, errors.HybridEdgeError)
        expected = 2 if issubclass(kind, errors.UsageError) else 3 if issubclass(kind, errors.GateError) else 1
        assert kind.exit_code == expected
