"""Metrics, baselines, aggregation and the report. Images or meshes in, numbers out; no model is run here."""
