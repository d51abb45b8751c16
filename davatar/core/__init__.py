"""Errors, paths, settings, progress, plugins, runs and files: everything that knows no head and no array."""
