"""Triangles -> maps. The contract, and the embree backend."""
