"""What runs show of their models beside the metric: calibration, and which patches they keep."""
