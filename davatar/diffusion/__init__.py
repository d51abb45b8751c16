"""Noise schedules, what a network puts out, loss and samplers: shared by priors and avatars. No heads, no images."""
