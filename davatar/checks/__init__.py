"""Examinations of an installation; the only domain folder that may use every other one."""
