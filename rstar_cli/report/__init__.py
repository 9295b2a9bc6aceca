"""Reports on a run: `report.json`, the curve by round as a table and as a figure, the paper's claims beside it."""

from rstar_cli.report.collect import CLAIMS, collect, figures_in, write_report
from rstar_cli.report.curve import curve_table
from rstar_cli.report.figure import draw_curve

__all__ = ["CLAIMS", "collect", "curve_table", "draw_curve", "figures_in", "write_report"]
