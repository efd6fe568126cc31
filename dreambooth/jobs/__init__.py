"""Between people and the work: controls in, events out, one job at a time."""

from dreambooth.jobs.controls import Controls
from dreambooth.jobs.events import Events, latest_log, read_events
from dreambooth.jobs.job import Job, Jobs, jobs

__all__ = ["Controls", "Events", "Job", "Jobs", "jobs", "latest_log", "read_events"]
