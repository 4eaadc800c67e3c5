"""Everything that can go wrong in the operator, as one tree.

    OperatorError
    ├── StartupError          the operator cannot work here: no CRDs, no rights, no API server
    ├── LeadershipLost        another replica acts now; this one stops
    └── ClusterError          the API server did not do what was asked
        ├── NotFoundError     the object is gone
        ├── ConflictError     the object changed since it was read: look again
        ├── NameTakenError    an object of this name belongs to something else
        ├── RefusedError      the API server will not have it: invalid, forbidden, over quota
        └── UnavailableError  the API server did not answer, or asks to come back later

A reconciler never dies of a `ClusterError`: the key goes back on the queue with a growing delay,
and what a user can act upon (`NameTakenError`, `RefusedError`) is said in the job's status.
"""


class OperatorError(Exception):
    """Base of all errors of the operator."""


class StartupError(OperatorError):
    """The operator cannot work in this cluster; the message says what is missing."""


class LeadershipLost(OperatorError):  # noqa: N818 - it is an event rather than an error
    """The lease could not be renewed in time."""


class ClusterError(OperatorError):
    """A call to the API server failed."""


class NotFoundError(ClusterError):
    """The object does not exist (any more)."""


class ConflictError(ClusterError):
    """The object is newer than what the write was based on."""


class NameTakenError(ClusterError):
    """An object with that name exists and is owned by something else."""


class RefusedError(ClusterError):
    """The request itself is not acceptable; trying again as it is will not help soon."""


class UnavailableError(ClusterError):
    """No answer, overload or a fault of the server: trying again will help."""
