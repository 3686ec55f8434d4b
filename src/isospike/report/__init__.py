"""One HTML file from a run folder, or from several, for people to look at; it needs no network."""

from isospike.report.comparison import comparison_sections, write_comparison
from isospike.report.figures import write_figures
from isospike.report.page import run_sections, write_recording, write_report
from isospike.report.sweep import write_sweep_figures, write_sweep_report

__all__ = [
    "comparison_sections",
    "run_sections",
    "write_comparison",
    "write_figures",
    "write_recording",
    "write_report",
    "write_sweep_figures",
    "write_sweep_report",
]
