"""Everything that knows data, models and files at once: configs, tasks, training, measuring, launching."""
