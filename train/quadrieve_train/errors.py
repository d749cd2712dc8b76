"""What goes wrong in training beyond the core's errors."""

from quadrieve.errors import InputError, QuadrieveError


class DivergedError(QuadrieveError):
    """A loss became infinite or no number; the last good weights were saved."""


class StoppedError(QuadrieveError):
    """A monitor that may stop the run did; the weights were saved."""


class LeakError(InputError):
    """What is to be measured on was trained on."""
