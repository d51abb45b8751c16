"""Cameras, rigid transforms, meshes and surfaces. Arrays in, arrays out; metres unless a name says otherwise."""
