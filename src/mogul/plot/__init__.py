"""Pictures of mixtures: functions that take a thing and return matplotlib Axes.

They never fit and never show; with ``ax=None`` they make a pyplot figure of their own.
"""

from mogul.plot._convergence import convergence
from mogul.plot._density import density
from mogul.plot._joint import joint
from mogul.plot._pairs import pairs
from mogul.plot._selection import selection

__all__ = ["convergence", "density", "joint", "pairs", "selection"]
