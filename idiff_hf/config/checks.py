"""What the classes of the configuration check their values with."""

from __future__ import annotations


def require(condition: bool, message: str) -> None:
    """Raise a ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def positive(**values: float) -> None:
    """Refuse values, given by their names, that are not above 0."""
    for name, value in values.items():
        require(value > 0, f"{name} must be positive, got {value}")


def fraction(**values: float) -> None:
    """Refuse values, given by their names, outside [0, 1]."""
    for name, value in values.items():
        require(0.0 <= value <= 1.0, f"{name} must lie in [0, 1], got {value}")
