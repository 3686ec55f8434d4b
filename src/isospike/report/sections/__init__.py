"""Sections of the report: each looks at the run folder and says what it has to say, or nothing.

To add one, write a function ``(RunFolder) -> Section | None`` and put it into ``SECTIONS``; the page does the rest.
"""

from collections.abc import Callable

from isospike.report.sections.base import Chart, Section
from isospike.report.sections.confusion import accuracy_over_time, confusion
from isospike.report.sections.conversion import conversion
from isospike.report.sections.curves import curves
from isospike.report.sections.energy import energy
from isospike.report.sections.firing import firing
from isospike.report.sections.isometry import isometry
from isospike.report.sections.recording import recording
from isospike.report.sections.settings import architecture, configuration, environment, model
from isospike.report.sections.summary import summary
from isospike.report.sections.watched import watched
from isospike.run_folder import RunFolder

SECTIONS: tuple[Callable[[RunFolder], Section | None], ...] = (
    summary,
    curves,
    conversion,
    confusion,
    accuracy_over_time,
    recording,
    isometry,
    watched,
    firing,
    energy,
    architecture,
    model,
    configuration,
    environment,
)

__all__ = ["SECTIONS", "Chart", "Section"]
