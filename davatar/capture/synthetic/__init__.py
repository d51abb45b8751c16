"""The synthetic recorder: a procedural, detailed head filmed by simulated depth and colour cameras.

`subject` who is filmed, `script` what the face does, `rig` who looks, `view` one picture, `sensor` what a
depth camera makes of it, `record` a whole recording on disk. The recorder never imports the head model: a
`MorphableModel` is handed to `Subject.sample`.

Frames: "head" = the morphable frame (m, x the subject's left, y up, z out of the face); "studio" = the world
in which the head stands upright at the origin and the lights are fixed.
"""
