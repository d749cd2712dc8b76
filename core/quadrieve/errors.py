"""What can go wrong, in one family: catch `QuadrieveError` for all of it.

Every message is one sentence that says what was given, what was expected and what to do next.
"""


class QuadrieveError(Exception):
    """Base of every error that quadrieve raises on purpose."""


class InputError(QuadrieveError, ValueError):
    """An argument is not what the call takes: a text that is no string, an unknown role, an empty list."""


class ModelError(QuadrieveError):
    """A model cannot be found, read or trusted."""


class StoreError(QuadrieveError):
    """A location cannot be opened, or what lies there is not what was asked for."""


class FingerprintError(StoreError):
    """A collection was written with other weights or prefixes than the embedder that opens it."""


class ServerError(StoreError):
    """A Chroma server cannot be reached or did not answer."""
