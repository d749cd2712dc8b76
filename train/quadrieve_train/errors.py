"""What goes wrong in training beyond the core's errors."""

from quadrieve.errors import QuadrieveError


class DivergedError(QuadrieveError):
    """A loss became infinite or no number; the last good weights were saved."""


class StoppedError(QuadrieveError):
    """A monitor that may stop the run did; the weights were saved."""
