"""Which depth points the neural stage uses: those the linear fit took for skin, eyes or mouth.

A hand, hair or the neck lies off the linear surface or faces another way, so the linear stage's sorting is taken
over as a whole; what that leaves unseen is measured in `hidden`. Camera axes, m.
"""

from __future__ import annotations

import numpy as np

from davatar.tracking.correspondence import pair
from davatar.tracking.linear import LinearFit
from davatar.tracking.neural.gauss_newton import Evidence
from davatar.tracking.neural.hidden import hidden_information
from davatar.tracking.neural.variables import NeuralState
from davatar.tracking.recording import Recording
from davatar.tracking.surface import fit_surface


class EvidenceSource:
    """
    Args:
        starts: per row, where the linear fit left it.
        cut_mm: points farther than this from the linear surface are left out.
        hidden_mm: skin with no such point within this distance is hidden.
    """

    def __init__(
        self, recording: Recording, linear: LinearFit, starts: list[NeuralState], cut_mm: float, hidden_mm: float
    ):
        self.starts = starts
        self.recording, self.linear, self.cut, self.reach = recording, linear, cut_mm / 1000, hidden_mm / 1000
        self.surface = fit_surface(linear.scalp)
        self.shape = self.surface.shape(linear.identity)

    def of(self, row: int, count: int) -> Evidence:
        """At most `count` points of a tracked row; always the same ones."""
        linear = self.linear.rows[row]
        sample = self.recording.sample(row, linear.cut)
        state = linear.state
        posed = self.surface.posed(self.shape, state.expression)
        normals = self.surface.normals(posed) @ state.rotation.T
        pairs = pair(sample.points, sample.normals, state.place(posed), normals)
        near = np.flatnonzero(np.abs(pairs.residual) < self.cut)
        on_head = (sample.points[pairs.point[near]] - state.translation) @ state.rotation
        eye = -state.rotation.T @ state.translation
        hidden = hidden_information(self.surface, posed, eye, on_head, min(count, len(near)), self.reach)
        near = near[:count]
        points, normals = sample.points[pairs.point[near]].astype(np.float64), sample.normals[pairs.point[near]]
        trust = self.surface.confidence[pairs.vertex[near]].astype(np.float64)
        return Evidence(row, self.starts[row], points, normals, trust, hidden)
