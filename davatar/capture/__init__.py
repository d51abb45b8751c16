"""Any recording -> frames: readers of foreign layouts and the synthetic recorder."""
