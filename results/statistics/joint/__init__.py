"""What is read off the resampled means of all variants at once: same seeds, same items, in every resample."""
