"""One HTML file from a run folder, for people to look at; it needs no network."""

from isospike.report.page import write_report
from isospike.report.sweep import write_sweep_figures, write_sweep_report

__all__ = ["write_report", "write_sweep_figures", "write_sweep_report"]
