"""Neural head models, the morphable model that teaches them, and `Track`, the result of fitting one."""
