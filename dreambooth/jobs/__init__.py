"""Jobs that run in the background: controls in, events out, one job at a time."""

from dreambooth.jobs.controls import Controls
from dreambooth.jobs.events import Ended, Event, Events, FileSaved, latest_log, read_events
from dreambooth.jobs.job import Job, Jobs, jobs

__all__ = ["Controls", "Ended", "Event", "Events", "FileSaved", "Job", "Jobs", "jobs", "latest_log", "read_events"]
