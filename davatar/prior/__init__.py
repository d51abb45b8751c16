"""Learnt densities of head-model codes: networks, training, sampling, and their pull on a fit."""
