"""The commands of the demos."""


def demo() -> None:
    """The four roles end to end."""
