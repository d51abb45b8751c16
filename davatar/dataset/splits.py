"""What trains and what is held out (spec diffusion-avatars 2): sequences, then moments, then cameras are set aside.

The order of the draws is the published one, so a seed gives the published lists. Names and numbers only.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from davatar.core.errors import ConfigError, DataError, UsageError
from davatar.dataset.layout import DataConfig, SampleKey, Stats

SPLITS = ("train", "hold-out-view", "hold-out-expression", "hold-out-sequence", "hold-out-person")
TEST_SEQUENCES: dict[int, tuple[str, str]] = {
    18: ("EXP-5-mouth", "EMO-3-angry+sad"),
    37: ("EMO-1-shout+laugh", "EMO-2-surprise+fear"),
    38: ("EMO-4-disgust+happy", "SEN-08-clothes_and_lodging"),
    55: ("EXP-3-cheeks+nose", "SEN-04-two_plus_seven"),
    74: ("EMO-1-shout+laugh", "EXP-4-lips"),
    124: ("EMO-1-shout+laugh", "EMO-4-disgust+happy"),
    145: ("EMO-1-shout+laugh", "EXP-9-jaw-2"),
    165: ("EMO-2-surprise+fear", "EMO-4-disgust+happy"),
    175: ("EMO-3-angry+sad", "EMO-4-disgust+happy"),
    210: ("EMO-4-disgust+happy", "EXP-3-cheeks+nose"),
    251: ("EMO-1-shout+laugh", "EXP-2-eyes"),
    264: ("EMO-4-disgust+happy", "EXP-2-eyes"),
    304: ("EMO-1-shout+laugh", "EMO-2-surprise+fear"),
}


@dataclass(frozen=True)
class SplitSettings:
    enabled: tuple[str, ...] = ("train", "hold-out-view", "hold-out-sequence")  # which sets are carved out
    ratio: float = 0.9  # share that stays where a set is drawn at random
    seed: int = 181998
    hold_out_cameras: tuple[str, ...] | None = None  # serials; None = drawn
    hold_out_sequences: tuple[str, ...] | None = None  # names; None = drawn, or the published table
    predefined: bool = False  # hold out the sequences of the published table
    exclude_sequences: tuple[str, ...] = ()  # used nowhere
    block: int = 1  # moments are held out in runs of this many neighbours; 1 as published

    def __post_init__(self):
        unknown = set(self.enabled) - set(SPLITS)
        if unknown:
            raise ConfigError(f"no split is called {sorted(unknown)[0]!r}", mend=f"there are {', '.join(SPLITS)}")
        if not 0 < self.ratio <= 1 or self.block < 1:
            raise ConfigError(f"split ratio {self.ratio:g} must lie in 0..1 and block {self.block} be 1 or more")


def carve(config: DataConfig, stats: Stats, settings: SplitSettings) -> dict[str, list[SampleKey]]:
    """Split name -> its samples, for every enabled split (and `train` always).

    Samples are ordered by participant, sequence, timestep, serial as config and stats list them; held-out
    sequences keep the order of the table or setting that names them.

    Raises:
        DataError: a held-out sequence or camera that the data set lacks.
    """
    rng = random.Random(settings.seed)
    people = {int(pid): dict(sequences) for pid, sequences in stats.available_sequences.items()}
    everything = list(people)
    out: dict[str, list[SampleKey]] = {}

    def samples(moments, serials=config.serials):
        return [SampleKey(pid, seq, step, serial) for pid, seq, step in moments for serial in serials]

    def draw(pool: list) -> list:
        return rng.sample(pool, round(len(pool) * (1 - settings.ratio)))

    if "hold-out-person" in settings.enabled:
        gone = {int(pid) for pid in draw(sorted(str(pid) for pid in everything))}
        held_people = [p for p in everything if p in gone]
        out["hold-out-person"] = samples((p, s, t) for p in held_people for s in people[p] for t in people[p][s])
        people = {pid: sequences for pid, sequences in people.items() if pid not in gone}
    people = {p: {s: t for s, t in seqs.items() if s not in settings.exclude_sequences} for p, seqs in people.items()}
    if "hold-out-sequence" in settings.enabled:
        _check_named({seq for sequences in people.values() for seq in sequences}, settings)
        held = {pid: _held_sequences(pid, list(sequences), settings, draw) for pid, sequences in people.items()}
        out["hold-out-sequence"] = samples((p, s, t) for p in people for s in held[p] for t in people[p][s])
        people = {p: {s: t for s, t in seqs.items() if s not in held[p]} for p, seqs in people.items()}
    moments = [(p, s, t) for p, sequences in people.items() for s, steps in sequences.items() for t in steps]
    if "hold-out-expression" in settings.enabled:
        blocks = _blocks(people, settings.block)
        gone = {moment for block in draw(blocks) for moment in block}
        out["hold-out-expression"] = samples(m for m in moments if m in gone)
        moments = [m for m in moments if m not in gone]
    serials = list(config.serials)
    if "hold-out-view" in settings.enabled:
        gone = _held_cameras(serials, settings, draw)
        out["hold-out-view"] = samples(moments, [serial for serial in serials if serial in gone])
        serials = [serial for serial in serials if serial not in gone]
    out["train"] = samples(moments, serials)
    return out


def _blocks(people: dict[int, dict[str, list[int]]], size: int) -> list[list[tuple[int, str, int]]]:
    return [
        [(pid, seq, step) for step in steps[start : start + size]]
        for pid, sequences in people.items()
        for seq, steps in sequences.items()
        for start in range(0, len(steps), size)
    ]


def _check_named(present: set[str], settings: SplitSettings) -> None:
    absent = [seq for seq in settings.hold_out_sequences or () if seq not in present]
    if absent:
        there = ", ".join(sorted(present)) or "none"
        raise DataError(f"no participant has the sequence {absent[0]!r}", mend=f"there are {there}")


def _held_sequences(pid: int, present: list[str], settings: SplitSettings, draw) -> list[str]:
    if settings.hold_out_sequences is not None:
        return [seq for seq in settings.hold_out_sequences if seq in present]
    if not settings.predefined:
        return draw(present)
    if pid not in TEST_SEQUENCES:
        raise UsageError(f"participant {pid} has no published test sequences", mend="name the held-out sequences")
    absent = [seq for seq in TEST_SEQUENCES[pid] if seq not in present]
    if absent:
        raise DataError(f"participant {pid} lacks the test sequence {absent[0]}", mend="name the held-out sequences")
    return list(TEST_SEQUENCES[pid])


def _held_cameras(serials: list[str], settings: SplitSettings, draw) -> list[str]:
    if settings.hold_out_cameras is None:
        return draw(serials)
    absent = [serial for serial in settings.hold_out_cameras if serial not in serials]
    if absent:
        raise DataError(f"no camera has the serial {absent[0]}", mend=f"there are {', '.join(serials)}")
    return list(settings.hold_out_cameras)
