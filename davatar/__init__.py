"""davatar: from a depth camera, or a multi-view recording, to an animatable, photo-real head."""

__version__ = "0.1.0"
