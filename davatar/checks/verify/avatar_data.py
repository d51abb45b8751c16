"""Section C of the published avatar: quantisers, crops, splits, configs, cameras, meshes, maps and target pictures."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from davatar.avatar.published_configs import parse_model_config
from davatar.avatar.trajectories import alignment, inverse, move_x, shake
from davatar.checks.verify.avatar_fixtures import archive_config, below, companion, holding, names_in, near
from davatar.checks.verify.comparison import Check, Comparison
from davatar.checks.verify.fixture import read_arrays, read_json
from davatar.core.errors import DataError
from davatar.core.files import write_json
from davatar.dataset import quantisers
from davatar.dataset.conditions import NAMES, condition
from davatar.dataset.crop import Crop, choose_crop, crop_and_resize
from davatar.dataset.layout import SampleKey, parse_config, parse_mesh_config
from davatar.dataset.nersemble import RawParticipant
from davatar.dataset.published_meshes import angle_normals, cut_throat
from davatar.dataset.rendering_data import RenderingData
from davatar.dataset.smoothing import smoothed
from davatar.dataset.splits import SplitSettings
from davatar.dataset.torso import read_segmentation, torso_mask
from davatar.geometry.camera import Camera
from davatar.geometry.mesh import Mesh
from davatar.raster.embree import EmbreeRasterizer

DECODED = 5e-7  # float32 arithmetic, trigonometry among it, on equal codes
POSE = 2e-6  # published poses are float32
GEOMETRY = 1e-9  # m or head-model units, float64
MAPS = 1e-4  # float32 barycentrics of another rasteriser, in attributes of about 1
QUANTISERS = {
    "fn": quantisers.NORMALS,
    "nn": quantisers.RAW_NORMALS,
    "dp": quantisers.DEPTH,
    "uv": quantisers.UV16,
    "uv8": quantisers.UV8,
    "cc": quantisers.CANONICAL,
}
SPLITS = {
    "TRAIN": "train",
    "VALID_HOLD_OUT_VIEW": "hold-out-view",
    "VALID_HOLD_OUT_EXP": "hold-out-expression",
    "VALID_HOLD_OUT_SEQ": "hold-out-sequence",
    "VALID_HOLD_OUT_PERSON": "hold-out-person",
}


def data_of(folder: Path) -> RenderingData:
    """The published renderings below a folder of fixtures, with the raw recording."""
    calibration = below(folder, "calibration_result.json")
    return RenderingData(below(folder, "stats.json").parent, raw=calibration.parents[2])


def participant_of(folder: Path) -> RawParticipant:
    return RawParticipant(below(folder, "calibration_result.json").parents[1])


def splits_of(folder: Path) -> dict[str, list[SampleKey]]:
    """Samples by published split name, carved as the archive's config says."""
    config = archive_config(folder, "dataset_config")
    cameras, sequences = config.get("hold_out_cameras"), config.get("hold_out_sequences")
    settings = SplitSettings(
        enabled=tuple(SPLITS[name] for name in config["supported_splits"]),
        ratio=config["split_ratio"],
        seed=config["seed"],
        hold_out_cameras=None if cameras is None else tuple(cameras),
        hold_out_sequences=None if sequences is None else tuple(sequences),
        predefined=config["use_predefined_test_split"] and sequences is None,
        exclude_sequences=tuple(config.get("exclude_sequences") or ()),
    )
    found = data_of(folder).splits(settings)
    return {published: found[own] for published, own in SPLITS.items() if own in found}


def check_splits(path: Path) -> Iterator[Comparison]:
    """Number of places where a list of samples differs."""
    found = splits_of(path.parent)
    for name, wanted in read_json(path).items():
        own = [list(key) for key in found.get(name, [])]
        differing = sum(a != b for a, b in zip(own, wanted, strict=False)) + abs(len(own) - len(wanted))
        yield near(path, f"samples of {name}", differing, 0, 0)


def check_quantisers(path: Path) -> Iterator[Comparison]:
    wanted = read_arrays(path)
    for name in sorted(key.removesuffix("_enc") for key in wanted if key.endswith("_enc")):
        if f"{name}_min" in wanted:
            ends = (tuple(wanted[f"{name}_{end}"].tolist()) for end in ("min", "max"))
            bits = 8 * wanted[f"{name}_enc"].dtype.itemsize
            quantiser = quantisers.Quantiser(*ends, bits)
        else:
            quantiser = QUANTISERS[name]
        codes, decoded = wanted[f"{name}_enc"], wanted[f"{name}_dec"]
        yield near(path, f"{name}: codes", quantiser.encode(wanted[f"{name}_in"]), codes, 0)
        yield near(path, f"{name}: decoded", quantiser.decode(codes.reshape(decoded.shape)), decoded, DECODED)


def check_samples(path: Path) -> Iterator[Comparison]:
    """Crops of training and evaluation, then whole samples in a crop that the fixture gives."""
    wanted, folder = read_arrays(path), path.parent
    splits, data, person = splits_of(folder), data_of(folder), participant_of(folder)
    config = archive_config(folder, "dataset_config")
    factor = data.config.downscale_factor

    def crop_of(key: SampleKey, rng: random.Random, **limits: float) -> Crop:
        raw = person.camera(key.serial, downscale=1)
        box = person.box(key.sequence, key.timestep, key.serial)
        return choose_crop(raw.width / factor, raw.height / factor, box, rng, **limits)

    rows = wanted["train_crops_seed_idx_xywh"].tolist()
    limits = {"smallest": config["min_crop_size"], "aspect": config["crop_selection_aspect_ratio"]}
    drawn = [crop_of(splits["TRAIN"][index], random.Random(seed), **limits) for seed, index, *_ in rows]
    yield near(path, "training crops", drawn, [row[2:] for row in rows], 0)
    rows = wanted["eval_crops_idx_xywh"].tolist()
    held = splits["VALID_HOLD_OUT_SEQ"]
    fixed = [crop_of(held[index], random.Random(0), smallest=1, aspect=1) for index, *_ in rows]
    yield near(path, "evaluation crops", fixed, [row[1:] for row in rows], 0)
    for name in sorted(key.removesuffix("_crop_xywh") for key in wanted if key.endswith("_crop_xywh")):
        split = splits["TRAIN" if name.startswith("train") else "VALID_HOLD_OUT_SEQ"]
        key = split[int("".join(filter(str.isdigit, name)) or 0)]
        yield from _check_sample(path, name, key, data, person, config, wanted)


def _check_sample(
    path: Path,
    name: str,
    key: SampleKey,
    data: RenderingData,
    person: RawParticipant,
    config: dict[str, Any],
    wanted: dict[str, np.ndarray],
) -> Iterator[Comparison]:
    crop, size = Crop(*wanted[f"{name}_crop_xywh"].tolist()), config["resolution"]
    smooth = config["interpolate_target_images"]
    for channel in (*NAMES, "mask"):
        found = condition(data.channel(key, channel), channel, crop, size, smooth=smooth)
        yield near(path, f"{name}: {channel}", found, wanted[f"{name}_{channel}"], DECODED)
    tracker = data.config.mesh_provider_config.nphm_tracking
    code = person.expression(key.sequence, key.timestep, tracker)
    yield near(path, f"{name}: expression code", code, wanted[f"{name}_expression_code"], DECODED)
    picture, matte, torso, _ = target_of(person, key, config["segmentation_type"])
    target = crop_and_resize(picture, crop, size, smooth=smooth).astype(np.float32) / 255 * 2 - 1
    yield near(path, f"{name}: target picture", np.moveaxis(target, -1, 0), wanted[f"{name}_target_image"], DECODED)
    if f"{name}_foreground_mask" in wanted:
        mask = crop_and_resize(np.where(torso, 0, matte).astype(np.uint8), crop, size, smooth=smooth)
        yield near(path, f"{name}: foreground mask", mask, wanted[f"{name}_foreground_mask"], 0)


def target_of(
    person: RawParticipant, key: SampleKey, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Picture without its torso [H, W, 3] uint8, matte [H, W] uint8, torso [H, W] bool, labels [H, W]."""
    picture, matte = person.image(key.sequence, key.timestep, key.serial)
    picture, matte = (np.round(x * 255).astype(np.uint8) for x in (picture, matte))
    found = read_segmentation(person, key.sequence, key.timestep, key.serial, matte.shape[::-1], kind)
    torso = torso_mask(found, picture, matte)
    return np.where(torso[..., None], 255, picture).astype(np.uint8), matte, torso, found.labels


def check_targets(path: Path) -> Iterator[Comparison]:
    """Target pictures of the first training samples, and where their torso is."""
    wanted, person = read_arrays(path), participant_of(path.parent)
    train = splits_of(path.parent)["TRAIN"]
    facer = bool(wanted.get("is_facer", True))
    for name in sorted(key for key in wanted if key.startswith("target_") and key[7:].isdigit()):
        index = int(name[7:])
        picture, matte, torso, _ = target_of(person, train[index], "facer" if facer else "bisenet")
        yield near(path, f"sample {index}: picture without torso", picture, wanted[name], 0)
        label = 3 if facer else 16
        yield near(path, f"sample {index}: torso", torso, wanted[f"seg_{index}"] == label, 0)
        if index == 0 and "img_cc_matte" in wanted:
            plain, _ = person.image(*train[0][1:])
            yield near(path, "sample 0: matted picture", np.round(plain * 255), wanted["img_cc_matte"], 0)
            yield near(path, "sample 0: matte", matte, wanted["alpha_half"], 0)


def check_configs(path: Path) -> Iterator[Comparison]:
    """Old configs and what became of them: number of keys that differ."""
    parsers = {
        "RenderingDataConfig": lambda values: asdict(parse_config(values)),
        "MeshProviderConfig": lambda values: asdict(parse_mesh_config(values)),
        "DiffusionAvatarsModelConfig": lambda values: asdict(parse_model_config(values)),
    }
    for case in read_json(path):
        label = f"config {case['case']}: keys that differ"
        if case["cls"] == "CalibrationResult":
            yield near(path, label, _calibration_differs(case), 0, 0)
        elif case["cls"] in parsers:
            try:
                found, failed = parsers[case["cls"]](case["input"]), False
            except DataError:
                found, failed = {}, True
            wanted = _plain(case.get("output") or {})
            found = _plain(found)
            differing = sum(found.get(key) != wanted.get(key) for key in found.keys() | wanted.keys())
            yield near(path, label, differing + (failed != bool(case.get("error"))), 0, 0)


def _plain(value: Any) -> Any:
    """As JSON holds it: tuples are lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _calibration_differs(case: dict[str, Any]) -> int:
    """Whether our reader of calibrations sees other intrinsics in the old file than in the migrated one."""
    seen = []
    for values in (case["input"], case["output"]):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "calibration"
            write_json(place / "config.json", {"serials": ["0"], "image_size": {"w": 2200, "h": 3208}})
            write_json(place / "calibration_result.json", values)
            camera = RawParticipant(folder).camera("0")
            seen.append((camera.K, camera.world_to_camera))
    return sum(not np.array_equal(a, b) for a, b in zip(*seen, strict=True))


def _is_configs(path: Path) -> bool:
    if not path.name.startswith("C_") or path.suffix != ".json":
        return False
    try:
        found = read_json(path)
    except DataError:
        return False
    return isinstance(found, list) and bool(found) and all(isinstance(x, dict) and "cls" in x for x in found)


def _is_splits(path: Path) -> bool:
    return path.suffix == ".json" and holding("C", "TRAIN")(path)


def check_cameras(path: Path) -> Iterator[Comparison]:
    """Calibration poses, the rig's alignment and the paths of the render script."""
    wanted = read_arrays(path)
    close = partial(near, path, tolerance=POSE)
    poses = [_from_rodrigues(*pair) for pair in zip(wanted["rodrigues"], wanted["translations"], strict=True)]
    yield close("world to camera", np.stack(poses), wanted["w2c_cv"])
    gl = np.diag([1.0, -1.0, -1.0, 1.0]) @ poses[int(wanted["cam_index"])]
    yield close("world to camera, graphics axes", gl, wanted["w2c_gl_cam"])
    rig = np.stack([inverse(pose) for pose in poses])
    aligned = alignment(rig)
    yield close("alignment of the rig", aligned, wanted["align_T"])
    yield close("aligned cameras", aligned @ rig, wanted["aligned_c2w"])
    circle = move_x(int(wanted["moveX_index"].max()) + int(np.diff(wanted["moveX_index"])[0]))[wanted["moveX_index"]]
    yield close("camera_moveX", circle, wanted["moveX_aligned"])
    yield close("camera_moveX in the world", inverse(aligned) @ circle, wanted["moveX_c2w_world"])
    swing = shake(len(wanted["shake_c2w_local"]))
    yield close("camera_shake", swing, wanted["shake_c2w_local"])
    # The published code takes a transpose for an inverse, so its pose holds the fit's scale (11.20).
    head = np.linalg.inv(wanted["world_2_nphm"].astype(np.float64))
    yield close("camera_shake in the world", head @ swing, wanted["shake_c2w_world"])


def _from_rodrigues(turn: np.ndarray, place: np.ndarray) -> np.ndarray:
    import cv2

    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = cv2.Rodrigues(turn)[0], place
    return pose


def check_second_calibration(path: Path) -> Iterator[Comparison]:
    """The other form of a calibration holds the cameras that we read from the first form."""
    wanted, person = read_json(path), participant_of(path.parent)
    for serial, pose in wanted["world_2_cam"].items():
        if serial in person.serials:
            found = person.camera(serial, downscale=1).world_to_camera
            yield near(path, f"camera {serial}", found, np.asarray(pose), POSE)


def check_mesh(path: Path) -> Iterator[Comparison]:
    """A stored mesh cut at the throat, brought to the world, with its normals."""
    wanted = read_arrays(path)
    a, b, c = wanted["flame_plane_vertices"]
    normal = np.cross(b - a, c - a)
    mesh = Mesh(wanted["raw_vertices"], wanted["raw_faces"].astype(np.int32), wanted["raw_canonical"])
    margin = data_of(path.parent).config.mesh_provider_config.cut_throat_margin
    cut = cut_throat(mesh, a, normal / np.linalg.norm(normal), margin)
    yield near(path, "cut at the throat: triangles", cut.triangles, wanted["cut_faces"], 0)
    yield near(path, "cut at the throat: vertices", cut.vertices, wanted["cut_vertices_local"], GEOMETRY)
    yield near(path, "cut at the throat: canonical", cut.canonical, wanted["cut_canonical"], 0)
    world = wanted["flame_2_world"].astype(np.float64)
    placed = cut.vertices / 4 @ world[:3, :3].T + world[:3, 3]
    yield near(path, "world vertices", placed, wanted["world_vertices"], POSE)
    normals = angle_normals(wanted["world_vertices"], cut.triangles)
    yield near(path, "world normals", normals, wanted["world_normals"], GEOMETRY)


def check_render(path: Path) -> Iterator[Comparison]:
    """The renderer's maps of one mesh; canonical coordinates are those of the mesh fixture beside it."""
    wanted = read_arrays(path)
    width, height = wanted["render_size_wh"].tolist()
    K = wanted["intrinsics"].astype(np.float64)
    camera = Camera.pinhole(K[0, 0], K[1, 1], K[0, 2] - 0.5, K[1, 2] - 0.5, width, height, wanted["pose_w2c_cv"])
    canonical = read_arrays(companion(path, "cut_canonical", "world_vertices"))["cut_canonical"]
    mesh = Mesh(wanted["mesh_vertices"], wanted["faces"].astype(np.int32), canonical)
    maps = EmbreeRasterizer().rasterize(mesh, camera)
    inside = maps.mask[..., None]
    corners = angle_normals(mesh.vertices, mesh.triangles)[mesh.triangles[maps.triangle]]
    normal = np.where(inside, (corners * maps.barycentric[..., None]).sum(-2), 0)
    normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-12)
    share = np.where(inside, quantisers.normalise_canonical(maps.canonical), 0)
    depth = np.where(maps.mask, quantisers.clip_depth(maps.depth), 0)[..., None]
    found = {"depths": depth, "uv": share[..., :3], "uv_ambient": share[..., 3:], "normals": normal}
    yield near(path, "mask", maps.mask, wanted["mask"], 0)
    yield near(path, "triangles", np.where(maps.mask, maps.triangle + 1, 0), wanted["rast"][..., 3], 0)
    for name, values in found.items():
        yield near(path, name, values, wanted[name], MAPS)


def check_raster(path: Path) -> Iterator[Comparison]:
    """Triangles in clip space: which one a pixel shows, unless an edge runs through it, and attributes there.

    Clip-space depth of these sets is no function of the distance, so each triangle is rasterised alone and the one
    with the smallest z / w is taken.
    """
    wanted = read_arrays(path)
    for name in sorted(key.removesuffix("_rast") for key in wanted if key.endswith("_rast")):
        rast, clip, faces = (wanted[f"{name}_{part}"] for part in ("rast", "clip", "faces"))
        height, width, _ = rast.shape
        camera = Camera.pinhole(width / 2, height / 2, width / 2 - 0.5, height / 2 - 0.5, width, height)
        shown, nearest = np.zeros((height, width)), np.full((height, width), np.inf)
        values = np.zeros(wanted[f"{name}_interp"].shape)
        for index, face in enumerate(faces.astype(np.int32)):
            maps = EmbreeRasterizer().rasterize(
                Mesh(clip[face][:, [0, 1, 3]], np.arange(3, dtype=np.int32)[None]), camera
            )
            z, w = np.moveaxis(maps.barycentric @ clip[face][:, 2:], -1, 0)
            depth = np.divide(z, w, out=np.full_like(z, np.inf), where=maps.mask)
            front = (depth < nearest) & (np.abs(depth) <= 1)  # beyond 1 lies what the clip planes cut off
            shown[front], nearest[front] = index + 1, depth[front]
            values[front] = (maps.barycentric @ wanted[f"{name}_attr"][face])[front]
        clear = ~wanted[f"{name}_ambiguous"]
        yield near(path, f"{name}: triangles", shown[clear], rast[..., 3][clear], 0)
        yield near(path, f"{name}: attributes", values[clear], wanted[f"{name}_interp"][clear], MAPS)


def _is_smoothing(path: Path) -> bool:
    others = names_in(path) - {"x"}
    known = all(name.rstrip("0123456789") in ("box", "gauss") for name in others)
    return holding("C", "x")(path) and bool(others) and known


def check_smoothing(path: Path) -> Iterator[Comparison]:
    """Smoothing over time; an array's name ends in its width: `box2`, `gauss3`."""
    wanted = read_arrays(path)
    for name in sorted(wanted.keys() - {"x"}):
        width = int("".join(filter(str.isdigit, name)))
        found = smoothed(wanted["x"], width, gaussian=name.startswith("gauss"))
        yield near(path, f"smoothed, {name}", found, wanted[name], DECODED)


CHECKS: tuple[Check, ...] = (
    Check("diffusion-avatars C", holding("C", "fn_enc", "cc_enc"), check_quantisers),
    Check("diffusion-avatars C", _is_splits, check_splits),
    Check("diffusion-avatars C", holding("C", "train_crops_seed_idx_xywh"), check_samples),
    Check("diffusion-avatars C", holding("C", "target_0", "seg_0"), check_targets),
    Check("diffusion-avatars C", _is_configs, check_configs),
    Check("diffusion-avatars C", holding("C", "rodrigues", "align_T"), check_cameras),
    Check("diffusion-avatars C", holding("C", "world_2_cam", "intrinsics"), check_second_calibration),
    Check("diffusion-avatars C", holding("C", "raw_vertices", "cut_vertices_local"), check_mesh),
    Check("diffusion-avatars C", holding("C", "mesh_vertices", "rast", "uv_ambient"), check_render),
    Check("diffusion-avatars C", holding("C", "s0_clip", "s0_rast"), check_raster),
    Check("diffusion-avatars C", _is_smoothing, check_smoothing),
)
