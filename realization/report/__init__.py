"""Reports in one HTML file: the page itself, and the page about an identified model."""

from realization.report.baselines import autoregression, persistence
from realization.report.model import model_report
from realization.report.page import Picture, Section, Table, figure_png, page

__all__ = [
    "Picture",
    "Section",
    "Table",
    "autoregression",
    "figure_png",
    "model_report",
    "page",
    "persistence",
]
