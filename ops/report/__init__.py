"""A run summed up: how right, how long, how dear."""

from ops.report.figures import Figures, figures_of

__all__ = ["Figures", "figures_of"]
