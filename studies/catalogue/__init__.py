"""Named studies: functions that return the runs of an experiment."""
