"""What can go wrong, in one tree. Every message says what failed, for what, and what to do.

ClusterError
├── MachineError     the machine lacks something: root, a package, a kernel feature, a free port
├── CommandError     a program that ran to its end failed
└── ComponentError   a component died, or never became ready
"""


class ClusterError(Exception):
    """Anything that keeps the test cluster from doing what it was asked."""


class MachineError(ClusterError):
    """The machine cannot run a cluster; the message names what is missing."""


class CommandError(ClusterError):
    """A command failed; the message holds the command and the end of its output."""


class ComponentError(ClusterError):
    """A component died or never became ready; the message holds the end of its log."""
