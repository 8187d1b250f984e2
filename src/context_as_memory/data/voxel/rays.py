"""What a ray through a voxel world meets and which colour it brings back: one description for CPU and GPU.

The functions are compiled by numba for the CPU; a CUDA kernel that calls them compiles them again for the GPU. They use
plain float64 arithmetic and square roots, which IEEE 754 defines to the last bit, so that every x86 machine gives the
same bytes. Exponentials and powers are avoided for that reason.

All functions that call each other stand in this file: numba compiles them again when their file changes.

A ray is origin + t * direction. Directions have length 1 along the camera's z axis, so that t is the depth in metres.
"""

import math

from context_as_memory.data.voxel.compiled import compiled
from context_as_memory.data.voxel.scene import AIR
from context_as_memory.data.voxel.world import BOXES, CUBE, MIP_LEVELS, SEE_THROUGH, TEXELS

MAX_LAYERS = 4  # see-through faces in front of each other; one more counts as solid
NO_FACE = -1
SMALLEST = 1e-12  # replaces direction components near 0, so that no division by 0 happens
SPREAD = 0.75  # of a texel: footprints up to this show the finest level of a texture
LAMP_REACH_M = 16.0
LAMP_HALF_M = 4.5  # distance at which a lamp is half as bright
BEND, BRIGHTEST = 0.62, 1.10  # light above the first is bent towards the second
CLOUD_M, CLOUD_HEIGHT_M = 9.0, 70.0  # side of a cloud cell, height of the clouds
TOP_LEVEL, ROW, LEVEL, TEXTURE = MIP_LEVELS - 1, TEXELS, TEXELS * TEXELS, MIP_LEVELS * TEXELS * TEXELS  # in texels


@compiled
def safe(component):
    """A direction component that can be divided by."""
    if component >= 0.0:
        return max(component, SMALLEST)
    return min(component, -SMALLEST)


@compiled
def start(scene, ox, oy, oz, dx, dy, dz):
    """Where a ray begins to matter: x, y, z of its first cell, t there and the face it enters by.

    t is negative if the ray misses the world. The face is `NO_FACE` if the ray begins inside the world.
    """
    X, Y, Z = scene.size[0], scene.size[1], scene.size[2]
    if 0.0 <= ox < X and 0.0 <= oy < Y and 0.0 <= oz < Z:
        return int(ox), int(oy), int(oz), 0.0, NO_FACE
    t, face, leave = 0.0, NO_FACE, math.inf
    for axis in range(3):
        if axis == 0:
            o, d, high = ox, dx, float(X)
        elif axis == 1:
            o, d, high = oy, dy, float(Y)
        else:
            o, d, high = oz, dz, float(Z)
        if d > 0.0:
            near, far, side = -o / d, (high - o) / d, 2 * axis
        else:
            near, far, side = (high - o) / d, -o / d, 2 * axis + 1
        if near > t:
            t, face = near, side
        leave = min(leave, far)
    if t >= leave:
        return 0, 0, 0, -1.0, NO_FACE
    x = min(max(int(math.floor(ox + t * dx)), 0), X - 1)
    y = min(max(int(math.floor(oy + t * dy)), 0), Y - 1)
    z = min(max(int(math.floor(oz + t * dz)), 0), Z - 1)
    if face == 0:  # rounding must not move it off the layer that it enters
        x = 0
    elif face == 1:
        x = X - 1
    elif face == 2:
        y = 0
    elif face == 3:
        y = Y - 1
    elif face == 4:
        z = 0
    elif face == 5:
        z = Z - 1
    return x, y, z, t, face


@compiled
def nearest_box(scene, kind, ox, oy, oz, ix, iy, iz):
    """Depth and face of the first box of a kind; the origin is relative to the cell, i are 1 / direction."""
    best, best_face = math.inf, NO_FACE
    for box in range(scene.box_range[kind, 0], scene.box_range[kind, 1]):
        if ix > 0.0:
            near, far, face = (scene.boxes[box, 0] - ox) * ix, (scene.boxes[box, 3] - ox) * ix, 0
        else:
            near, far, face = (scene.boxes[box, 3] - ox) * ix, (scene.boxes[box, 0] - ox) * ix, 1
        if iy > 0.0:
            low, high, side = (scene.boxes[box, 1] - oy) * iy, (scene.boxes[box, 4] - oy) * iy, 2
        else:
            low, high, side = (scene.boxes[box, 4] - oy) * iy, (scene.boxes[box, 1] - oy) * iy, 3
        if low > near:
            near, face = low, side
        far = min(far, high)
        if iz > 0.0:
            low, high, side = (scene.boxes[box, 2] - oz) * iz, (scene.boxes[box, 5] - oz) * iz, 4
        else:
            low, high, side = (scene.boxes[box, 5] - oz) * iz, (scene.boxes[box, 2] - oz) * iz, 5
        if low > near:
            near, face = low, side
        far = min(far, high)
        if 0.0 < near <= far and near < best:
            best, best_face = near, face
    return best, best_face


@compiled
def march(scene, ox, oy, oz, dx, dy, dz, x, y, z, face, leave_first):
    """The next block from a cell on: its kind (0: none, the sky), depth, face, and x, y, z of its cell.

    Faces are seen from their front only: whoever stands inside a block sees out of it. `leave_first`: the cell
    itself was seen before.
    """
    ix, iy, iz = 1.0 / dx, 1.0 / dy, 1.0 / dz
    stride_y = scene.size[2] + 2
    stride_x = stride_y * (scene.size[1] + 2)
    per_x, per_y = 1.0 / stride_x, 1.0 / stride_y
    next_x, next_y, next_z = (1.0 if dx > 0.0 else 0.0), (1.0 if dy > 0.0 else 0.0), (1.0 if dz > 0.0 else 0.0)
    face_x, face_y, face_z = (0 if dx > 0.0 else 1), (2 if dy > 0.0 else 3), (4 if dz > 0.0 else 5)
    step_x = stride_x if dx > 0.0 else -stride_x
    step_y = stride_y if dy > 0.0 else -stride_y
    step_z = 1 if dz > 0.0 else -1
    slow_x, slow_y, slow_z = abs(dx), abs(dy), abs(dz)
    wide_x, wide_y, wide_z = abs(ix), abs(iy), abs(iz)  # t from border to border
    tx, ty, tz = (x + next_x - ox) * ix, (y + next_y - oy) * iy, (z + next_z - oz) * iz  # t of the next borders
    cell = (x + 1) * stride_x + (y + 1) * stride_y + z + 1
    code, before = int(scene.cells[cell]), 0
    while True:
        # Air: no branches that depend on the axis, since a processor cannot foresee them.
        while code >= AIR:
            if code > AIR + 2:  # nothing is near: go to the border of the empty cube of 2 away - 1 cells
                away = code - AIR
                empty = float(away - 1)
                edge_x, edge_y, edge_z = tx + empty * wide_x, ty + empty * wide_y, tz + empty * wide_z
                t = min(edge_x, edge_y, edge_z)
                by_x, by_y = t == edge_x, t == edge_y
                cells_x = away if by_x else int((t - tx) * slow_x + 1.0)
                cells_y = away if by_y and not by_x else int((t - ty) * slow_y + 1.0)
                cells_z = int((t - tz) * slow_z + 1.0) if by_x or by_y else away
                face = face_x if by_x else (face_y if by_y else face_z)
                cell += cells_x * step_x + cells_y * step_y + cells_z * step_z
                tx, ty, tz = tx + cells_x * wide_x, ty + cells_y * wide_y, tz + cells_z * wide_z
            else:
                t = min(tx, ty, tz)
                by_x, by_y = t == tx, t == ty
                cell += step_x if by_x else (step_y if by_y else step_z)
                face = face_x if by_x else (face_y if by_y else face_z)
                tx += wide_x if by_x else 0.0
                ty += wide_y if by_y and not by_x else 0.0
                tz += 0.0 if by_x or by_y else wide_z
            code, before, leave_first = int(scene.cells[cell]), 0, False
        if code == 0:
            return 0, math.inf, face, 0, 0, 0
        layer = int((cell + 0.5) * per_x)  # as cell // stride_x, which takes many times longer
        line = int((cell + 0.5) * per_y)
        x, y, z = layer - 1, line - layer * (scene.size[1] + 2) - 1, cell - line * stride_y - 1
        how = scene.kinds[code]
        if how == CUBE:
            if face != NO_FACE and not leave_first:
                if face == face_x:
                    t = (x + 1.0 - next_x - ox) * ix
                elif face == face_y:
                    t = (y + 1.0 - next_y - oy) * iy
                else:
                    t = (z + 1.0 - next_z - oz) * iz
                return code, t, face, x, y, z
        elif not leave_first:
            t, hit_face = nearest_box(scene, code, ox - x, oy - y, oz - z, ix, iy, iz)
            if hit_face != NO_FACE:
                if before != code or how == BOXES:
                    return code, t, hit_face, x, y, z
                place = ox + t * dx - x if hit_face < 2 else (oy + t * dy - y if hit_face < 4 else oz + t * dz - z)
                if 1e-6 < place < 1.0 - 1e-6:  # on the border between equal neighbours there is no face
                    return code, t, hit_face, x, y, z
        t = min(tx, ty, tz)
        by_x, by_y = t == tx, t == ty
        cell += step_x if by_x else (step_y if by_y else step_z)
        face = face_x if by_x else (face_y if by_y else face_z)
        tx += wide_x if by_x else 0.0
        ty += wide_y if by_y and not by_x else 0.0
        tz += 0.0 if by_x or by_y else wide_z
        before, code, leave_first = code, int(scene.cells[cell]), False


@compiled
def ray_depth(scene, ox, oy, oz, dx, dy, dz):
    """Depth of the first block that is not see-through; inf for sky."""
    dx, dy, dz = safe(dx), safe(dy), safe(dz)
    x, y, z, t, face = start(scene, ox, oy, oz, dx, dy, dz)
    if t < 0.0:
        return math.inf
    leave_first = False
    for layer in range(MAX_LAYERS + 1):
        kind, t, face, x, y, z = march(scene, ox, oy, oz, dx, dy, dz, x, y, z, face, leave_first)
        if kind == 0 or scene.kinds[kind] != SEE_THROUGH or layer == MAX_LAYERS:
            break
        leave_first = True
    return t


@compiled
def outside_light(scene, ox, oy, oz, dx, dy, dz):
    """The share of light that comes from outside against the direction of a ray."""
    dx, dy, dz = safe(dx), safe(dy), safe(dz)
    x, y, z, t, face = start(scene, ox, oy, oz, dx, dy, dz)
    if t < 0.0:
        return 1.0
    share, leave_first = 1.0, False
    for _ in range(MAX_LAYERS):
        kind, t, face, x, y, z = march(scene, ox, oy, oz, dx, dy, dz, x, y, z, face, leave_first)
        if kind == 0:
            return share
        share *= scene.through[kind]
        if scene.kinds[kind] != SEE_THROUGH:
            return 0.0
        leave_first = True
    return 0.0


@compiled
def lamp_light(scene, ox, oy, oz, dx, dy, dz):
    """The share of light that comes from the first thing a ray meets behind water and glass, if that glows."""
    dx, dy, dz = safe(dx), safe(dy), safe(dz)
    x, y, z, t, face = start(scene, ox, oy, oz, dx, dy, dz)
    share, leave_first = 1.0, False
    for _ in range(MAX_LAYERS):
        kind, t, face, x, y, z = march(scene, ox, oy, oz, dx, dy, dz, x, y, z, face, leave_first)
        if kind == 0:
            return 0.0
        if scene.glow[kind] > 0.0:
            return share
        share *= scene.through[kind]
        if scene.kinds[kind] != SEE_THROUGH:
            return 0.0
        leave_first = True
    return 0.0


@compiled
def cloud_hash(i, j, seed):
    """A number in [0, 1) that looks random."""
    n = (i * 73856093 + j * 19349663 + seed * 83492791) & 0x7FFFFFFF
    n = ((n ^ (n >> 13)) * 1274126177) & 0x7FFFFFFF
    n = ((n ^ (n >> 16)) * 1911520717) & 0x7FFFFFFF
    return ((n ^ (n >> 15)) & 0xFFFF) / 65536.0


@compiled
def sky_color(scene, ox, oy, oz, dx, dy, dz, length):
    """Colour of the sky: a gradient by elevation, a soft sun, blocks of cloud."""
    up = max(dz / length, 0.0)
    rest = 1.0 - up
    mix = 1.0 - rest * rest * rest
    r = scene.sky[1, 0] + (scene.sky[0, 0] - scene.sky[1, 0]) * mix
    g = scene.sky[1, 1] + (scene.sky[0, 1] - scene.sky[1, 1]) * mix
    b = scene.sky[1, 2] + (scene.sky[0, 2] - scene.sky[1, 2]) * mix
    near = (dx * scene.sky[2, 0] + dy * scene.sky[2, 1] + dz * scene.sky[2, 2]) / length
    if near > 0.9:
        halo = (near - 0.9) * 10.0
        halo = 0.25 * halo * halo * halo
        if near > 0.9975:
            halo = min(1.0, halo + (near - 0.9975) * 1500.0)
        r += (scene.sky[3, 0] - r) * halo
        g += (scene.sky[3, 1] - g) * halo
        b += (scene.sky[3, 2] * 0.96 - b) * halo
    cover = scene.sky[4, 1]
    if cover > 0.0 and up > 0.04 and oz < CLOUD_HEIGHT_M:
        t = (CLOUD_HEIGHT_M - oz) / dz
        u, v = math.floor((ox + t * dx) / CLOUD_M), math.floor((oy + t * dy) / CLOUD_M)
        seed = int(scene.sky[4, 2])
        i, j = math.floor(u / 4.0), math.floor(v / 4.0)  # clouds are cells of smooth noise above a threshold
        fu, fv = (u - 4.0 * i + 0.5) / 4.0, (v - 4.0 * j + 0.5) / 4.0
        i, j = int(i), int(j)
        low = cloud_hash(i, j, seed) * (1.0 - fu) + cloud_hash(i + 1, j, seed) * fu
        high = cloud_hash(i, j + 1, seed) * (1.0 - fu) + cloud_hash(i + 1, j + 1, seed) * fu
        noise = low * (1.0 - fv) + high * fv + 0.25 * (cloud_hash(int(u), int(v), seed + 1) - 0.5)
        if noise > 1.0 - cover:
            white = 0.8 * min(1.0, (up - 0.04) * 6.0)
            r += (1.0 - r) * white
            g += (1.0 - g) * white
            b += (1.0 - b) * white
    return r, g, b


@compiled
def shoulder(light):
    """Strong light, bent so that it nears `BRIGHTEST`: bright textures keep their contrast."""
    over = max(light - BEND, 0.0)
    return min(light, BEND) + over * (BRIGHTEST - BEND) / (over + (BRIGHTEST - BEND))


@compiled
def face_color(scene, kind, face, x, y, z, px, py, pz, texels):
    """Lit colour of a face at p, the place inside the cell; `texels`: how wide a sample is."""
    if face < 2:
        u, v = (py if face == 1 else 1.0 - py), 1.0 - pz
    elif face < 4:
        u, v = (px if face == 2 else 1.0 - px), 1.0 - pz
    else:
        u, v = px, (1.0 - py if face == 5 else py)
    texels *= 1.0 / SPREAD
    level, width = 0, ROW
    while texels >= 2.0 and level < TOP_LEVEL:
        texels *= 0.5
        width >>= 1
        level += 1
    base = int(scene.faces[kind, face]) * TEXTURE + level * LEVEL
    row, column = min(max(int(v * width), 0), width - 1), min(max(int(u * width), 0), width - 1)
    texel = base + row * ROW + column
    r, g, b = float(scene.textures[texel, 0]), float(scene.textures[texel, 1]), float(scene.textures[texel, 2])
    if texels > 1.0 and level < TOP_LEVEL:  # go over to the next level without a seam
        share = texels - 1.0
        texel = base + LEVEL + (row >> 1) * ROW + (column >> 1)
        r += (scene.textures[texel, 0] - r) * share
        g += (scene.textures[texel, 1] - g) * share
        b += (scene.textures[texel, 2] - b) * share

    # The cell that the face looks into: the neighbour if the face lies on the border.
    stride_y = scene.size[2] + 2
    stride_x = stride_y * (scene.size[1] + 2)
    corner = (x + 1) * stride_x + (y + 1) * stride_y + z + 1
    if face == 0:
        corner -= stride_x if px < 1e-6 else 0
    elif face == 1:
        corner += stride_x if px > 1.0 - 1e-6 else 0
    elif face == 2:
        corner -= stride_y if py < 1e-6 else 0
    elif face == 3:
        corner += stride_y if py > 1.0 - 1e-6 else 0
    elif face == 4:
        corner -= 1 if pz < 1e-6 else 0
    else:
        corner += 1 if pz > 1.0 - 1e-6 else 0
    if face < 2:
        p, q, along_p, along_q = py, pz, stride_y, 1
    elif face < 4:
        p, q, along_p, along_q = px, pz, stride_x, 1
        corner += stride_x * (scene.size[0] + 2)
    else:
        p, q, along_p, along_q = px, py, stride_x, stride_y
        corner += 2 * stride_x * (scene.size[0] + 2)
    w00, w10, w01, w11 = (1.0 - p) * (1.0 - q), p * (1.0 - q), (1.0 - p) * q, p * q
    c10, c01, c11 = corner + along_p, corner + along_q, corner + along_p + along_q
    lights = scene.corners
    sun = lights[corner, 0] * w00 + lights[c10, 0] * w10 + lights[c01, 0] * w01 + lights[c11, 0] * w11
    sky = lights[corner, 1] * w00 + lights[c10, 1] * w10 + lights[c01, 1] * w01 + lights[c11, 1] * w11
    lamp = lights[corner, 2] * w00 + lights[c10, 2] * w10 + lights[c01, 2] * w01 + lights[c11, 2] * w11
    open_ = lights[corner, 3] * w00 + lights[c10, 3] * w10 + lights[c01, 3] * w01 + lights[c11, 3] * w11
    open_ *= 1.0 / 255.0
    scale = open_ * (1.0 / 255.0)
    table, glow = scene.face_light, scene.glow[kind]
    dark = table[face, 3, 0] * open_
    r *= shoulder((sun * table[face, 0, 0] + sky * table[face, 1, 0] + lamp * table[face, 2, 0]) * scale + dark) + glow
    g *= shoulder((sun * table[face, 0, 1] + sky * table[face, 1, 1] + lamp * table[face, 2, 1]) * scale + dark) + glow
    b *= shoulder((sun * table[face, 0, 2] + sky * table[face, 1, 2] + lamp * table[face, 2, 2]) * scale + dark) + glow
    return min(r * (1.0 / 255.0), 1.0), min(g * (1.0 / 255.0), 1.0), min(b * (1.0 / 255.0), 1.0)


@compiled
def ray_color(scene, ox, oy, oz, dx, dy, dz, sample_width):
    """Colour of one ray, r, g, b in [0, 1]; `sample_width`: metres that a sample covers, per metre of depth."""
    dx, dy, dz = safe(dx), safe(dy), safe(dz)
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    x, y, z, t, face = start(scene, ox, oy, oz, dx, dy, dz)
    red, green, blue, left = 0.0, 0.0, 0.0, 1.0
    if t >= 0.0:
        leave_first = False
        for layer in range(MAX_LAYERS + 1):
            kind, t, face, x, y, z = march(scene, ox, oy, oz, dx, dy, dz, x, y, z, face, leave_first)
            if kind == 0:
                break
            slant = abs(dx if face < 2 else (dy if face < 4 else dz)) / length
            texels = TEXELS * t * sample_width / math.sqrt(max(slant, 0.02))
            r, g, b = face_color(scene, kind, face, x, y, z, ox + t * dx - x, oy + t * dy - y, oz + t * dz - z, texels)
            haze = t * length / scene.sky[4, 0]
            clear = 1.0 + haze * haze * (1.0 / 16.0)  # to the -16: nearly exp(-haze^2)
            clear *= clear
            clear *= clear
            clear *= clear
            clear = 1.0 / (clear * clear)
            weight = left
            if scene.kinds[kind] == SEE_THROUGH and layer < MAX_LAYERS:
                weight = left * (1.0 - scene.through[kind])
            red += weight * (scene.sky[1, 0] + (r - scene.sky[1, 0]) * clear)
            green += weight * (scene.sky[1, 1] + (g - scene.sky[1, 1]) * clear)
            blue += weight * (scene.sky[1, 2] + (b - scene.sky[1, 2]) * clear)
            left -= weight
            if left <= 0.0:
                return red, green, blue
            leave_first = True
    r, g, b = sky_color(scene, ox, oy, oz, dx, dy, dz, length)
    return red + left * r, green + left * g, blue + left * b


@compiled
def pixel(scene, c2w, K, row, column):
    """Colour of a pixel: the mean of 2 x 2 rays. c2w [4, 4], K [4]; r, g, b in [0, 1]."""
    red, green, blue = 0.0, 0.0, 0.0
    sample_width = 0.5 / math.sqrt(K[0] * K[1])
    for sample in range(4):
        a = (column + (0.25 + 0.5 * (sample & 1)) - K[2]) / K[0]
        b = (row + (0.25 + 0.5 * (sample >> 1)) - K[3]) / K[1]
        r, g, bl = ray_color(
            scene, c2w[0, 3], c2w[1, 3], c2w[2, 3],
            c2w[0, 0] * a + c2w[0, 1] * b + c2w[0, 2],
            c2w[1, 0] * a + c2w[1, 1] * b + c2w[1, 2],
            c2w[2, 0] * a + c2w[2, 1] * b + c2w[2, 2],
            sample_width,
        )  # fmt: skip
        red += r
        green += g
        blue += bl
    return 0.25 * red, 0.25 * green, 0.25 * blue


@compiled
def paint(scene, c2w, K, out, first, last):
    """Rows `first` to `last` of one picture."""
    for row in range(first, last):
        for column in range(out.shape[1]):
            r, g, b = pixel(scene, c2w, K, row, column)
            out[row, column, 0] = int(r * 255.0 + 0.5)
            out[row, column, 1] = int(g * 255.0 + 0.5)
            out[row, column, 2] = int(b * 255.0 + 0.5)


@compiled
def measure(scene, c2w, K, out, first, last):
    """Depth of rows `first` to `last` of one picture."""
    for row in range(first, last):
        for column in range(out.shape[1]):
            a, b = (column + 0.5 - K[2]) / K[0], (row + 0.5 - K[3]) / K[1]
            out[row, column] = ray_depth(
                scene, c2w[0, 3], c2w[1, 3], c2w[2, 3],
                c2w[0, 0] * a + c2w[0, 1] * b + c2w[0, 2],
                c2w[1, 0] * a + c2w[1, 1] * b + c2w[1, 2],
                c2w[2, 0] * a + c2w[2, 1] * b + c2w[2, 2],
            )  # fmt: skip


@compiled
def direct_light(scene, cells, places, directions, lamps, found):
    """Direct light at cells [C, 3] -> found uint8 [C, 3]."""
    sun_x, sun_y, sun_z = scene.sky[2, 0], scene.sky[2, 1], scene.sky[2, 2]
    for n in range(cells.shape[0]):
        x, y, z = float(cells[n, 0]), float(cells[n, 1]), float(cells[n, 2])
        sun = 0.0
        if sun_z > 0.0:
            for k in range(places.shape[0]):
                sun += outside_light(scene, x + places[k, 0], y + places[k, 1], z + places[k, 2], sun_x, sun_y, sun_z)
        found[n, 0] = int(255.0 * sun / places.shape[0] + 0.5)
        sky = 0.0
        for k in range(directions.shape[0]):
            sky += directions[k, 3] * outside_light(
                scene, x + 0.5, y + 0.5, z + 0.5, directions[k, 0], directions[k, 1], directions[k, 2]
            )
        dark = 1.0 - min(sky, 1.0)
        found[n, 1] = int(255.0 * (1.0 - dark * dark) + 0.5)  # half the sky is three quarters of the light
        lamp = 0.0
        for k in range(lamps.shape[0]):
            dx, dy, dz = lamps[k, 0] - x - 0.5, lamps[k, 1] - y - 0.5, lamps[k, 2] - z - 0.5
            square = dx * dx + dy * dy + dz * dz
            if square < LAMP_REACH_M * LAMP_REACH_M:
                bright = lamps[k, 3] / (1.0 + square / (LAMP_HALF_M * LAMP_HALF_M))
                bright *= 1.0 - square / (LAMP_REACH_M * LAMP_REACH_M)
                if square < 0.6 or lamp_light(scene, x + 0.5, y + 0.5, z + 0.5, dx, dy, dz) > 0.0:
                    lamp += bright
        found[n, 2] = int(255.0 * min(lamp, 1.0) + 0.5)
