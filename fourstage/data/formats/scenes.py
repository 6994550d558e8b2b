"""Driving scenes for the demo dataset: what a scene holds, and how a frame of it is drawn.

Numpy only, no photo-realism: road, bends, vehicles, people, signs, day and night, and a board over the road on which
lamps run to one side. The words for a scene are in `questions.py`.

Some facts can be seen in the events alone, others in the video alone:

- The lamps on the board move by one period (slow) or two (fast) in `STROBE_S`, which is the time between two frames at
  20 frames per second: each frame shows them at the same place. The events, drawn every 5 ms, show how they run.
- The events are drawn in neutral light with grey vehicles (`Renderer(…, neutral=True)`): they hold neither colours nor
  the time of day.

Kinds, counts and the road's bend are in both.

    scene = draw_scene(seed=0, index=3)
    scene.attributes["road"]                # "left", and what else the answers are made of
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Colour = tuple[float, float, float]  # RGB, 0 to 1
Box = tuple[float, float, float, float]  # m to the right and up from a place: left, bottom, right, top

VEHICLE_COLOURS: dict[str, Colour] = {
    "red": (0.80, 0.10, 0.10),
    "blue": (0.12, 0.28, 0.78),
    "white": (0.92, 0.92, 0.90),
    "yellow": (0.92, 0.80, 0.15),
    "green": (0.12, 0.52, 0.24),
    "orange": (0.93, 0.48, 0.10),
}
VEHICLE_SIZES = {"car": (1.8, 1.45, 4.0), "van": (2.0, 2.1, 4.8), "truck": (2.4, 3.1, 7.0)}  # m: width, height, length
COATS: tuple[Colour, ...] = ((0.95, 0.9, 0.2), (1.0, 0.6, 0.15), (0.75, 0.95, 0.3), (0.95, 0.95, 0.9))
SIGNS = ("stop sign", "speed limit sign", "warning sign", "red traffic light", "green traffic light")
BENDS = {"left": -0.008, "straight": 0.0, "right": 0.008}  # curvature, 1/m
DIRECTIONS = ("left", "right")  # in which the lamps of the board run
SPEEDS = {"slow": 1, "fast": 2}  # periods of the lamps in STROBE_S
STROBE_S = 0.05
LANES = (-3.0, 0.0, 3.0)  # m; one vehicle each at most, so that none hides another. The first is the oncoming one

SPLITS = ("test", "train", "validation", "held_out")
# Combinations that no training and no validation scene has. `held_out` scenes have one of each sort.
# Each value stays as frequent as the others of its attribute, so that no prior gives it away.
HELD_OUT_VEHICLES = frozenset({("car", "green", "oncoming"), ("van", "blue", "ahead"), ("truck", "red", "oncoming")})
HELD_OUT_MOTIONS = frozenset({(0, "left", "fast"), (0, "right", "slow")})  # people, direction, speed


@dataclass(frozen=True)
class Thing:
    """Something that stands or moves beside or on the road; lengths in metres, in the viewer's frame."""

    kind: str
    x: float  # to the right of the viewer's lane
    z: float  # ahead of the viewer, when the clip starts
    speed: float  # m/s towards the viewer
    colour: Colour
    phase: float = 0.0
    ahead: bool = False  # a vehicle that drives the viewer's way

    def place(self, t: float) -> tuple[float, float]:
        """x and z after t seconds. What passes the viewer comes again from afar: the scene keeps its numbers."""
        if self.ahead:
            return self.x + 0.2 * math.sin(8 * t + self.phase), self.z + 1.5 * math.sin(1.4 * t + self.phase)
        near, far = (6.0, 66.0) if self.kind in VEHICLE_SIZES else (6.0, 46.0)
        return self.x, near + (self.z - near - self.speed * t) % (far - near)

    def bounce(self, t: float) -> float:
        """How far the road lifts a vehicle, in m: what shows one that drives ahead to an event camera."""
        return 0.08 * math.sin(40 * t + self.phase) if self.kind in VEHICLE_SIZES else 0.0


@dataclass(frozen=True)
class Scene:
    """What a drawn clip shows."""

    time: str  # "day" or "night"
    road: str  # "left", "straight" or "right"
    sign: str
    speed: float  # m/s of the viewer
    things: tuple[Thing, ...]
    attributes: dict[str, Any]  # as written to the JSON
    seed: tuple[int, ...]


def draw_scene(seed: int, index: int, split: str = "test") -> Scene:
    """Draw scene `index` of a seed and a split. Day and night alternate, so that a small dataset has both.

    The splits share no random stream, whatever the seeds. Raises ValueError for an unknown split.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    stream = [seed, index] if split == "test" else [seed, index, SPLITS.index(split), 1]
    rng = np.random.default_rng(stream)
    while True:
        scene = _draw(rng, index, tuple(stream))
        vehicles, motion = held_out(scene.attributes)
        if (vehicles and motion) if split == "held_out" else not (vehicles or motion):
            return scene


def held_out(attributes: dict[str, Any]) -> tuple[bool, bool]:
    """Does a scene have a vehicle, and a motion, of the combinations that no training scene has?"""
    light = attributes["light"]
    return (
        any(
            (vehicle["kind"], vehicle["colour"], vehicle["direction"]) in HELD_OUT_VEHICLES
            for vehicle in attributes["vehicles"]
        ),
        (attributes["people"], light["direction"], light["speed"]) in HELD_OUT_MOTIONS,
    )


def _draw(rng: np.random.Generator, index: int, seed: tuple[int, ...]) -> Scene:
    when = ("day", "night")[index % 2]
    road = str(rng.choice(list(BENDS)))
    sign = str(rng.choice(SIGNS))
    speed = float(rng.uniform(3, 4))
    light = {"direction": str(rng.choice(DIRECTIONS)), "speed": str(rng.choice(list(SPEEDS)))}
    things = [Thing("sign", 5.4, float(rng.uniform(20, 25)), speed, (0.55, 0.55, 0.57))]
    things.append(Thing("board", 0.0, float(rng.uniform(18, 22)), speed, (0.16, 0.16, 0.18), float(rng.uniform(0, 1))))

    vehicles = []
    for lane in sorted(rng.permutation(LANES)[: int(rng.integers(0, 4))]):
        kind, colour = str(rng.choice(list(VEHICLE_SIZES))), str(rng.choice(list(VEHICLE_COLOURS)))
        ahead, phase = lane != LANES[0], float(rng.uniform(0, 6.28))
        if ahead:
            z, closing = (10.0 if lane == 0 else 12.5) + float(rng.uniform(0, 3)), 0.0
        else:
            z, closing = float(rng.uniform(18, 22)), float(rng.uniform(7, 9))
        things.append(Thing(kind, float(lane), z, closing, VEHICLE_COLOURS[colour], phase, ahead))
        vehicles.append({"kind": kind, "colour": colour, "direction": "ahead" if ahead else "oncoming"})

    people = int(rng.integers(0, 4))
    for place in rng.permutation(4)[:people]:  # near or far, on the left or the right: none hides another
        side, far = (-1.0, 1.0)[place % 2], place // 2
        coat = COATS[int(rng.integers(len(COATS)))]
        z, walk = 15.2 + 4.4 * far + float(rng.uniform(0, 0.8)), float(rng.choice([-1.0, 1.0]))
        x, phase = side * float(rng.uniform(4.7, 4.9)), float(rng.uniform(0, 6.28))
        things.append(Thing("person", x, z, speed + walk, coat, phase))
    for side in (-1.0, 1.0):
        for number in range(2):
            green: Colour = (float(rng.uniform(0.1, 0.25)), float(rng.uniform(0.33, 0.5)), 0.14)
            things.append(Thing("tree", side * 8.2, 10 + 18 * number + float(rng.uniform(0, 10)), speed, green))
        for number in range(2):
            things.append(Thing("lamp", side * 6.9, 6 + 20 * number + 5 * (side + 1), speed, (0.42, 0.43, 0.45)))
    attributes = {"time": when, "road": road, "vehicles": vehicles, "people": people, "sign": sign, "light": light}
    return Scene(when, road, sign, speed, tuple(things), attributes, seed)


# ---- drawing ----

CAMERA = 1.4  # m above the road
WALL = 9.0  # m from the viewer to the houses at either side
PERIOD = 3.5  # m between two lamps of the board
GREY: Colour = (0.12, 0.12, 0.12)  # of every vehicle, where the events are drawn
BLOCK = 12.0  # m, the width of a house
CROWN = ((-0.7, 2.5, 1.0, 0.8), (0.75, 2.6, 1.0, 0.9), (0.0, 3.3, 1.25, 1.0), (-0.3, 3.7, 0.7, 1.2))  # m; shade
LIGHTS = ((3.4, "red", (1.0, 0.1, 0.08)), (2.9, "yellow", (1.0, 0.8, 0.1)), (2.4, "green", (0.1, 0.95, 0.4)))
FAR = 46.0  # m; nothing but the ground and the hills is drawn beyond


def _overlap(u: Floats, half: float, pixel: Floats | float) -> Floats:
    """Share of a pixel at u, `pixel` wide, that lies within ±half: edges without steps, in space and in time."""
    shared: Floats = np.clip(np.minimum(u + pixel / 2, half) - np.maximum(u - pixel / 2, -half), 0, None)
    return shared / pixel


def _every(u: Floats, period: float) -> Floats:
    """Distance from the nearest multiple of the period."""
    distance: Floats = (u + period / 2) % period - period / 2
    return distance


class Renderer:
    """Draws one scene at any time. What does not move is worked out once; a frame is float32 RGB, 0 to 1.

    `neutral`: by day and with grey vehicles, whatever the scene's, as the events are drawn.
    """

    def __init__(self, scene: Scene, width: int, height: int, neutral: bool = False) -> None:
        self.scene, self.width, self.height, self.neutral = scene, width, height, neutral
        self.night = scene.time == "night" and not neutral
        self.focal, self.centre, self.horizon = 0.9 * width, width / 2, 0.42 * height
        self.curve = BENDS[scene.road]
        self.haze = np.array((0.035, 0.04, 0.07) if self.night else (0.76, 0.81, 0.86), np.float32)
        self.rows = np.arange(height, dtype=np.float32)[:, None] + 0.5
        self.columns = np.arange(width, dtype=np.float32) + 0.5
        rng = np.random.default_rng([*scene.seed, 0, 2])
        self.hills = rng.uniform(0, 6.28, 4)
        self._prepare_sky()
        self._prepare_ground(rng)
        self.walls = [self._prepare_wall(side, rng) for side in (-1, 1)]

    def frame(self, t: float) -> Floats:
        """The scene t seconds after the start of the clip: [height, width, 3]."""
        canvas = np.empty((self.height, self.width, 3), np.float32)
        self._sky(canvas, t)
        self._ground(canvas, t)
        for wall in self.walls:
            self._wall(canvas, wall, t)
        draws = {
            "tree": self._tree, "lamp": self._lamp, "sign": self._sign, "person": self._person, "board": self._board,
        }  # fmt: skip
        placed = [(*thing.place(t), thing) for thing in self.scene.things]
        for x, z, thing in sorted(placed, key=lambda item: -item[1]):
            draws.get(thing.kind, self._vehicle)(canvas, thing, x, z, t)
        return canvas

    # -- the backdrop: sky, hills, ground, houses --

    def _prepare_sky(self) -> None:
        top = np.array((0.01, 0.015, 0.05) if self.night else (0.32, 0.55, 0.88), np.float32)
        up = np.clip(1 - self.rows / self.horizon, 0, 1)[:, :, None]  # 1 at the top
        self.sky = (self.haze + (top - self.haze) * np.sqrt(up)).astype(np.float32)  # [height, 1, 3]

    def _sky(self, canvas: Floats, t: float) -> None:
        canvas[:] = self.sky
        turned = self.scene.speed * self.curve * t * self.focal  # pixels that the viewer turned in the bend
        angle = (self.columns - self.centre + turned) / self.focal
        waves = [np.sin(f * angle + phase) / f for f, phase in zip((3, 7, 17, 41), self.hills, strict=True)]
        ridge = self.horizon - self.focal * (0.05 + 0.06 * np.sum(waves, axis=0)).astype(np.float32)
        first, last = max(int(ridge.min()) - 1, 0), int(self.horizon) + 1
        cover = np.clip(self.rows[first:last] - ridge + 0.5, 0, 1)[:, :, None]
        hill = self.haze * np.array((0.62, 0.72, 0.74), np.float32)
        canvas[first:last] += cover * (hill - canvas[first:last])

    def _light(self, x: Any, z: Any) -> Any:
        """Share of the light at a place: all by day; by night the viewer's own headlights and a little more."""
        return 0.18 + 0.75 * np.exp(-((x / 6.5) ** 2) - z / 22) if self.night else np.ones_like(x + z)

    def _prepare_ground(self, rng: np.random.Generator) -> None:
        self.first = int(self.horizon) + 1  # first row of the ground
        z = self.focal * CAMERA / (self.rows[self.first :] - self.horizon)  # [rows, 1] m
        x = (self.columns - self.centre) * z / self.focal - self.curve * z * z / 2  # [rows, width] m
        side, deep = z / self.focal, z * z / (self.focal * CAMERA)  # m that a pixel covers, across and along
        self.ground_z, self.ground_deep = z, deep
        walk = _overlap(np.abs(x) - 5.75, 1.1, side)[:, :, None]
        road = _overlap(x, 4.65, side)[:, :, None]
        base = np.array((0.36, 0.47, 0.24), np.float32)
        base = base + walk * (np.array((0.62, 0.60, 0.58), np.float32) - base)
        base = base + road * (np.array((0.33, 0.34, 0.36), np.float32) - base)
        lines = _overlap(np.abs(x) - 4.3, 0.07, side) + _overlap(x + 1.5, 0.07, side)
        base = base + lines[:, :, None] * (np.array((0.9, 0.9, 0.86), np.float32) - base)
        light = np.broadcast_to(self._light(x, z), x.shape)[:, :, None]
        far = np.exp(-z / 70)[:, :, None]
        self.base = (self.haze + far * (base * light - self.haze)).astype(np.float32)
        self.paint = (0.92 * light - self.base) * far  # what a white mark adds
        self.dashes = _overlap(x - 1.5, 0.08, side).astype(np.float32)
        self.joints = -0.3 * walk[:, :, 0]
        # The grain of the surface is a sum of products of waves across (fixed) and along (moving with the viewer).
        self.grain_along = rng.uniform(0.8, 5.0, 6)  # rad/m
        self.grain_phase = rng.uniform(0, 6.28, 6)
        across = rng.uniform(0.8, 5.0, 6)
        strength = 0.075 - 0.045 * road[:, :, 0] - 0.03 * walk[:, :, 0]
        waves = [np.sin(k * x + 2 * k) * np.exp(-((k * side) ** 2)) * strength for k in across]
        self.grain_across = np.stack(waves).astype(np.float32)  # [6, rows, width]

    def _ground(self, canvas: Floats, t: float) -> None:
        s = self.ground_z + np.float32(self.scene.speed * t)  # [rows, 1] m along the road
        shade = self.joints * _overlap(_every(s, 1.5), 0.04, self.ground_deep) + 1
        for wave, k, phase in zip(self.grain_across, self.grain_along, self.grain_phase, strict=True):
            shade += wave * (np.sin(k * s + phase) * np.exp(-((k * self.ground_deep) ** 2) / 8)).astype(np.float32)
        dashes = self.dashes * _overlap(_every(s, 6.0), 1.5, self.ground_deep)
        canvas[self.first :] = self.base * shade[:, :, None] + self.paint * dashes[:, :, None]

    def _prepare_wall(self, side: int, rng: np.random.Generator) -> dict[str, Any]:
        depth = np.geomspace(2.0, FAR, 600)
        column = self.focal * (side * WALL / depth + self.curve * depth / 2) + self.centre
        inside = (self.columns - column[-1]) * side > 0
        columns = np.flatnonzero(inside)
        order = np.argsort(column)
        z = np.interp(self.columns[columns], column[order], depth[order]).astype(np.float32)
        size = z / self.focal
        bottom = min(int((self.horizon + self.focal * CAMERA / z).max(initial=self.horizon)) + 2, self.height)
        h = CAMERA + (self.horizon - self.rows[:bottom]) * size  # [rows, columns] m above the ground
        height = np.where(rng.random(64) < 0.2, 0.2, rng.uniform(4.5, 8.5, 64))  # 0.2: a gap between houses
        shades = np.array(((0.68, 0.55, 0.44), (0.60, 0.34, 0.28), (0.72, 0.70, 0.64), (0.50, 0.52, 0.56)))
        return {
            "columns": slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 0),
            "z": z,
            "deep": np.abs(np.gradient(z)) if len(z) > 1 else z,  # m of wall that a column covers
            "h": h,
            "size": size,
            "floor": np.clip((h / 2.8).astype(np.int64), 0, 7),
            "band": _overlap(_every(h - 1.6, 2.8), 0.65, size),
            "height": height.astype(np.float32),
            "colour": (shades[rng.integers(0, 4, 64)] * rng.uniform(0.85, 1.1, (64, 1))).astype(np.float32),
            "lit": (rng.random((256, 8)) < (0.35 if self.night else 0.0)).astype(np.float32),
            "light": np.asarray(self._light(np.float32(6.0), z), np.float32),
            "fade": np.clip((FAR - z) / 12, 0, 1),
        }

    def _wall(self, canvas: Floats, wall: dict[str, Any], t: float) -> None:
        z, h, size, columns = wall["z"], wall["h"], wall["size"], wall["columns"]
        if not len(z):
            return
        s = z + np.float32(self.scene.speed * t)  # [columns] m along the road
        house = np.floor(s / BLOCK).astype(np.int64)
        new = np.clip((s - house * BLOCK) / wall["deep"], 0, 1)  # blends a house into its neighbour over one column
        height, colour = (
            (table[(house - 1) % 64].T * (1 - new) + table[house % 64].T * new).T
            for table in (wall["height"], wall["colour"])
        )
        cover = np.clip((height - h) / size + 0.5, 0, 1) * np.clip(h / size + 0.5, 0, 1) * wall["fade"]
        glass = wall["band"] * _overlap(_every(s - 1.5, 3.0), 0.6, wall["deep"]) * (h < height - 0.6)
        lit = wall["lit"][(s / 3).astype(np.int64) % 256, wall["floor"]] * 0.9
        light, far = wall["light"][:, None], np.exp(-z / 90)[:, None]
        facade = self.haze + far * (colour * light - self.haze)
        if self.neutral:  # the windows of a street would be most of its events
            glass = glass * np.float32(0.3)
        pane = self.haze + far * (np.array((0.20, 0.25, 0.32), np.float32) * light - self.haze)
        rgb = facade + glass[:, :, None] * (pane - facade)
        rgb += (glass * lit)[:, :, None] * (np.array((0.98, 0.80, 0.45), np.float32) - rgb)
        part = canvas[: len(h), columns]
        part += cover[:, :, None] * (rgb - part)

    # -- things, drawn in metres around the point on the road where they stand --

    def _shape(
        self,
        canvas: Floats,
        place: tuple[float, float],
        box: Box,
        colour: Colour,
        form: str = "box",
        shine: float = 0.0,
    ) -> None:
        """Paint one shape at a place (x, z) on the road; shine: the light that it has of its own."""
        x, z = place
        scale = self.focal / z
        middle = self.centre + self.focal * (x / z + self.curve * z / 2)
        foot = self.horizon + CAMERA * scale
        left, right = middle + box[0] * scale, middle + box[2] * scale
        top, bottom = foot - box[3] * scale, foot - box[1] * scale
        x0, x1 = max(int(left) - 1, 0), min(int(right) + 2, self.width)
        y0, y1 = max(int(top) - 1, 0), min(int(bottom) + 2, self.height)
        if x0 >= x1 or y0 >= y1:
            return
        u, v = self.columns[x0:x1] - (left + right) / 2, self.rows[y0:y1] - (top + bottom) / 2
        a, b = (right - left) / 2, (bottom - top) / 2  # half sizes in pixels
        part = canvas[y0:y1, x0:x1]
        rgb = np.array(colour, np.float32)
        if form == "glow":
            part += (np.exp(-4 * ((u / a) ** 2 + (v / b) ** 2)) - np.exp(-4.0)).clip(0)[:, :, None] * rgb * shine
            return
        if form == "box":
            cover = _overlap(u, a, 1.0) * _overlap(v, b, 1.0)
        elif form == "disc":
            cover = np.clip((1 - np.hypot(u / a, v / b)) * min(a, b) + 0.5, 0, 1)
        elif form == "diamond":
            cover = np.clip((1 - np.abs(u / a) - np.abs(v / b)) * min(a, b) * 0.7 + 0.5, 0, 1)
        else:  # an octagon
            corner = (np.abs(u / a) + np.abs(v / b)) / 1.41
            cover = np.clip((1 - np.maximum(np.maximum(np.abs(u / a), np.abs(v / b)), corner)) * a + 0.5, 0, 1)
        rgb = rgb * np.float32(max(float(self._light(x, z)), shine))
        rgb = self.haze + np.float32(math.exp(-z / (200 if shine else 90))) * (rgb - self.haze)
        cover = cover * np.float32(np.clip((FAR - z) / 8, 0, 1))  # what is far comes up slowly
        part += cover[:, :, None] * (rgb - part)

    def _vehicle(self, canvas: Floats, thing: Thing, x: float, z: float, t: float) -> None:
        wide, high, length = VEHICLE_SIZES[thing.kind]
        w, place = wide / 2, (x, z)
        body: Colour = GREY if self.neutral else thing.colour
        dark, glass = (0.06, 0.06, 0.07), (0.16, 0.20, 0.26)
        up = thing.bounce(t)
        belt = up + (0.58 * high if thing.kind == "car" else high)  # m up to the windows
        high += up
        side = (body[0] * 0.6, body[1] * 0.6, body[2] * 0.6)
        self._shape(canvas, (x, z + length / 2), (-w * 1.1, -0.12, w * 1.1, 0.3), dark, "disc")
        for slices in range(8, 0, -1):  # the side is a stack of slices
            back = length * slices / 8
            self._shape(canvas, (x, z + back), (-w, 0.28 + up, w, belt), side)
            if thing.kind == "car" and 0.2 * length < back < 0.85 * length:
                self._shape(canvas, (x, z + back), (-w * 0.82, belt, w * 0.82, high), side)
        for wheel in (-w + 0.05, w - 0.3):
            self._shape(canvas, place, (wheel, 0.0, wheel + 0.25, 0.4), dark)
        if thing.kind == "car":
            cabin = (x, z + 0.2 * length)
            self._shape(canvas, cabin, (-w * 0.82, belt, w * 0.82, high), body)
            self._shape(canvas, cabin, (-w * 0.72, belt, w * 0.72, high - 0.1), glass)
        self._shape(canvas, place, (-w, 0.28 + up, w, belt), body)
        if thing.kind == "van" or (thing.kind == "truck" and not thing.ahead):
            self._shape(canvas, place, (-w * 0.85, high * 0.52, w * 0.85, high * 0.86), glass)
        elif thing.kind == "truck":
            self._shape(canvas, place, (-0.03, 0.5 + up, 0.03, high - 0.15), side)
        self._shape(
            canvas, place, (-w * 0.4, 0.42 + up, w * 0.4, 0.55 + up), (0.85, 0.85, 0.8) if thing.ahead else dark
        )
        lamp: Colour = (0.95, 0.12, 0.08) if thing.ahead else (1.0, 0.97, 0.85)
        for middle in (-w * 0.78, w * 0.78):
            box = (middle - 0.15, 0.62 + up, middle + 0.15, 0.84 + up)
            self._shape(canvas, place, box, lamp, "disc", 1.0 if self.night else 0.75)
            if self.night:
                r = 0.6 if thing.ahead else 1.3
                strength = float(np.clip((FAR - z) / 20, 0, 1)) * 0.8
                self._shape(canvas, place, (middle - r, 0.73 - r, middle + r, 0.73 + r), lamp, "glow", strength)

    def _person(self, canvas: Floats, thing: Thing, x: float, z: float, t: float) -> None:
        swing = 0.28 * math.sin(9.5 * t + thing.phase)
        place, skin, trousers = (x, z), (0.80, 0.62, 0.50), (0.13, 0.14, 0.22)
        coat: Colour = (0.95, 0.95, 0.95) if self.neutral else thing.colour
        for step in (swing, -swing):
            for i in range(5):  # a leg is five boxes from the hip to the foot
                middle, top = step * (i + 1) / 5, 0.9 - 0.18 * i
                self._shape(canvas, place, (middle - 0.09, top - 0.2, middle + 0.09, top), trousers)
        for step in (-1, 1):
            middle = 0.24 * step + swing * step * 0.3
            self._shape(canvas, place, (middle - 0.07, 0.8, middle + 0.07, 1.42), coat)
        self._shape(canvas, place, (-0.23, 0.82, 0.23, 1.48), coat)
        self._shape(canvas, place, (-0.13, 1.47, 0.13, 1.77), skin, "disc")

    def _board(self, canvas: Floats, thing: Thing, x: float, z: float, t: float) -> None:
        """A dark board over the road, on which two lamps run to one side, PERIOD metres apart."""
        low, high, half = 5.1, 6.3, PERIOD
        for post in (-8.0, 8.0):
            self._shape(canvas, (x, z), (post - 0.12, 0, post + 0.12, high), (0.4, 0.4, 0.42))
        self._shape(canvas, (x, z), (-8.0, low - 0.2, 8.0, low), (0.4, 0.4, 0.42))
        panel, lit = ((0.2,) * 3, (0.42,) * 3) if self.neutral else (thing.colour, (1.0, 0.72, 0.25))
        self._shape(canvas, (x, z), (-half - 0.3, low - 0.2, half + 0.3, high + 0.2), (panel[0], panel[1], panel[2]))
        light = self.scene.attributes["light"]
        way = {"left": -1, "right": 1}[light["direction"]] * SPEEDS[light["speed"]]
        shift = (thing.phase + way * t / STROBE_S) % 1.0  # the place of the first lamp, in periods
        shine = 0.0 if self.neutral else 1.0
        for number in (-1, 0, 1, 2):
            left = (number - 1 + shift) * PERIOD
            box = (max(left, -half), low, min(left + 0.2 * PERIOD, half), high)
            if box[0] < box[2]:
                self._shape(canvas, (x, z), box, (lit[0], lit[1], lit[2]), "box", shine)

    def _tree(self, canvas: Floats, thing: Thing, x: float, z: float, t: float) -> None:
        r, g, b = thing.colour
        self._shape(canvas, (x, z), (-0.16, 0, 0.16, 2.2), (0.30, 0.22, 0.15))
        for right, up, radius, shade in CROWN:
            box = (right - radius, up - radius, right + radius, up + radius)
            self._shape(canvas, (x, z), box, (r * shade, g * shade, b * shade), "disc")

    def _lamp(self, canvas: Floats, thing: Thing, x: float, z: float, t: float) -> None:
        inward = -0.9 if x > 0 else 0.9
        self._shape(canvas, (x, z), (-0.07, 0, 0.07, 5.0), thing.colour)
        self._shape(canvas, (x, z), (min(inward, 0), 4.9, max(inward, 0), 5.02), thing.colour)
        bulb = (inward - 0.3, 4.78, inward + 0.3, 4.95)
        self._shape(canvas, (x, z), bulb, (1.0, 0.86, 0.6), "box", float(self.night))
        if self.night:
            strength = float(np.clip((FAR - z) / 20, 0, 1)) * 0.6
            self._shape(canvas, (x, z), (inward - 1.6, 3.3, inward + 1.6, 6.5), (1.0, 0.8, 0.5), "glow", strength)

    def _sign(self, canvas: Floats, thing: Thing, x: float, z: float, t: float) -> None:
        place, sign = (x, z), self.scene.sign
        red, white, black = (0.82, 0.07, 0.08), (0.95, 0.95, 0.95), (0.05, 0.05, 0.06)
        self._shape(canvas, place, (-0.06, 0, 0.06, 3.0), thing.colour)
        plate = (-0.5, 2.2, 0.5, 3.2)
        shine = 0.6 if self.night else 0.0  # signs reflect the headlights
        if sign == "stop sign":
            self._shape(canvas, place, plate, red, "octagon", shine)
            self._shape(canvas, place, (-0.34, 2.61, 0.34, 2.79), white, "box", shine)
        elif sign == "speed limit sign":
            self._shape(canvas, place, plate, red, "disc", shine)
            self._shape(canvas, place, (-0.37, 2.33, 0.37, 3.07), white, "disc", shine)
            for middle in (-0.13, 0.13):
                self._shape(canvas, place, (middle - 0.07, 2.52, middle + 0.07, 2.88), black, "box", shine)
        elif sign == "warning sign":
            self._shape(canvas, place, (-0.62, 2.08, 0.62, 3.32), (0.97, 0.78, 0.08), "diamond", shine)
            self._shape(canvas, place, (-0.06, 2.56, 0.06, 3.0), black, "box", shine)
            self._shape(canvas, place, (-0.07, 2.36, 0.07, 2.5), black, "disc", shine)
        else:
            self._shape(canvas, place, (-0.3, 2.1, 0.3, 3.7), black)
            for up, name, colour in LIGHTS:
                on, halo = sign.startswith(name), (-0.8, up - 0.8, 0.8, up + 0.8)
                dim = (colour[0] * 0.25, colour[1] * 0.25, colour[2] * 0.25)
                self._shape(canvas, place, (-0.2, up - 0.2, 0.2, up + 0.2), colour if on else dim, "disc", float(on))
                if on:
                    self._shape(canvas, place, halo, colour, "glow", 0.5 if self.night else 0.2)
