"""`davatar verify`: recomputes golden fixtures found in a folder and compares."""
