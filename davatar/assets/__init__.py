"""Shipped weights, model cards, licence notices, presets and templates; read through importlib.resources."""
