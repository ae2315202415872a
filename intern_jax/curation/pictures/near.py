"""Near-duplicates among millions of pictures: a descriptor per picture, shared keys, and a careful comparison.

The parts are pure functions, to be run by any engine that can sort by key:

1. `describe` makes a DESCRIPTOR per picture: small thumbnails and 64-bit hashes.
2. `bands` makes ENTRY records; sorted by key, `candidates` makes pairs of rows from all entries of one key, or of
   any batch of whole keys. The union over all keys may hold a pair more than once.
3. `same` compares the thumbnails of a pair and decides; duplicates.py chooses who stays.

A picture's thumbnail shows its foreground, as coverage and, inside large areas, relative luminance. So it depends
neither on the tint of a single colour, nor on the ground, nor on brightness or contrast. A cut-out's ground is where
it is transparent, an opaque picture's is the colour of its corners or border; a photograph has none. What has the
colour of the ground cannot be seen there, so a cut-out of many colours is described on white and on black too.

Integers, and floats that hold integers exactly, make the same bytes on every machine, whatever the batch.

The hash is that of low DCT frequencies (Zauner, "Implementation and benchmarking of perceptual image hash functions",
2010), the keys are those of locality-sensitive hashing with probes (Lv et al., VLDB 2007).

Legend: N records, P pairs, SIDE = 32 cells of a thumbnail's side, h and w the sides of a picture in pixels.
"""

import functools
from collections.abc import Iterator

import numpy as np
from PIL import Image

SIDE = 32
SMALL = 8
LARGEST = 128  # pixels of the longer side that a description looks at
FREQUENCIES = 8
COEFFICIENTS = FREQUENCIES**2 - 1
GROUNDS = (255, 0)
CROPS = 5
VARIANTS = 2 * (1 + len(GROUNDS) + CROPS)  # each as it is and mirrored
CROP = 0.95

BANDS = 6
BAND_POOL = 44  # lowest frequencies, from which a band takes BAND_BITS
BAND_BITS = 20
WEAK = 3  # bits of a band that a query also tries the other way
QUERY = 255
NEAR = 18  # differing bits of 2 x 63
MET, KEPT = 512, 8  # per query and key
AT_ONCE = 1 << 22  # hashes compared in one step

ROUGHLY = 0.2  # part of the variance that may be unexplained before alignment
CLOSELY = 0.15  # after alignment at half resolution
DIFFERENT = 0.28  # of the range of luminance: a detail
LEAST_WEIGHT = 0.5
PLAIN = 10.0  # levels of inner luminance

CUT_OUT, FLAT, PHOTO, BLANK = range(4)

Box = tuple[int, int, int, int]  # top, bottom, left, right in 1/256 pixels

DESCRIPTOR = np.dtype(
    [
        ("thumbs", "u1", (2, SIDE, SIDE)),  # luminance, coverage
        ("small", "u1", (2, SMALL, SMALL)),  # their means of 4 x 4 cells
        # Bits of coefficients above ABOVE, and below -ABOVE; repeated where a variant is like the picture itself.
        ("hashes", "<u8", (VARIANTS, 2)),
        (
            "coefficients",
            "i1",
            (COEFFICIENTS,),
        ),  # of the picture itself, SCALE times their mean size
        ("boxes", "<i4", (1 + len(GROUNDS), 4)),  # of what is seen as it is, on white and on black
        ("kind", "u1"),
    ]
)
ENTRY = np.dtype([("key", "<u8"), ("hash", "<u8", (2,)), ("row", "<u4"), ("variant", "u1")])

# How coverage follows from the distance to the ground, as parts of the largest distance.
FAINT, SOLID = 0.12, 0.35
TOLERANCE = 24  # levels by which pixels of one ground differ
INSIDE = 230  # coverage of a pixel and its neighbours where luminance counts
SCALE = 32
ABOVE = 5  # a bit is set above ABOVE / SCALE; zero itself would be noise for a symmetrical picture
LEAST_CONTRAST = 2.0  # root mean square of a blank picture's coefficients, in levels

_CELLS = np.arange(SIDE)
# Rounded, so that all sums of products with uint8 stay below 2**53 and hence exact in float64.
_COSINES = np.rint(
    1024 * np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * (2 * _CELLS + 1) / (2 * SIDE))
)
_ORDER = sorted(
    ((u, v) for u in range(FREQUENCIES) for v in range(FREQUENCIES) if u + v),
    key=lambda pair: (sum(pair), pair),
)
_FLAT_ORDER = np.array([u * FREQUENCIES + v for u, v in _ORDER])
_MIRROR = np.array([-1 if v % 2 else 1 for _, v in _ORDER], np.int8)
_POWERS = np.uint64(1) << np.arange(COEFFICIENTS, dtype=np.uint64)


def describe(image: np.ndarray) -> np.void:
    """The DESCRIPTOR of a picture, uint8 [H,W,3] or [H,W,4] of any size."""
    image = reduced(image)
    found = np.zeros(1, DESCRIPTOR)[0]
    coverage, luminance, kind = foreground(image)
    box = _box(coverage, kind)
    many = kind == CUT_OUT and _many_colours(image, coverage)
    if kind == CUT_OUT and not many:
        # Of one colour only transparency shows inner parts; on a dark ground they are the other way round.
        luminance = 255 - image[..., 3].astype(np.int32)
    shown = _relief(coverage, luminance)
    contrast, coefficients = _coefficients(_thumb(shown, box))
    found["coefficients"] = coefficients
    found["kind"] = kind if contrast >= LEAST_CONTRAST else BLANK
    found["boxes"] = box
    found["thumbs"] = _seen(image, coverage, luminance, kind, box)
    blocks = found["thumbs"].reshape(2, SMALL, SIDE // SMALL, SMALL, SIDE // SMALL)
    found["small"] = blocks.sum((2, 4), dtype=np.int64) * SMALL**2 // SIDE**2
    variants = np.tile(coefficients, (VARIANTS // 2, 1))
    if found["kind"] != BLANK:
        if many:
            for i, ground in enumerate(GROUNDS, 1):
                thumb, found["boxes"][i] = _shown(_laid(image, ground))
                variants[i] = _coefficients(thumb)[1]
        elif kind == CUT_OUT and _uneven(coverage, luminance):
            variants[1] = _coefficients(_thumb(_relief(coverage, 255 - luminance), box))[1]
        rows, columns = coverage.max(1) >= 128, coverage.max(0) >= 128
        for i, window in enumerate(_windows(*coverage.shape), 1 + len(GROUNDS)):
            if rows.sum() > rows[window[0]].sum() or columns.sum() > columns[window[1]].sum():
                variants[i] = _coefficients(_windowed(image, coverage, shown, kind, window))[1]
    found["hashes"] = _hashes(np.concatenate([variants, variants * _MIRROR]))
    return found


def _seen(
    image: np.ndarray,
    coverage: np.ndarray,
    luminance: np.ndarray,
    kind: int,
    box: Box,
) -> np.ndarray:
    """Luminance and coverage as thumbnails; a cut-out lies on black or white, whichever is further from it."""
    if kind == CUT_OUT:
        coverage = image[..., 3]
        luminance = luma(laid_to_be_seen(image))
    return np.stack([_thumb(shown, box, extended=True) for shown in (luminance, coverage)])


def reduced(image: np.ndarray, largest: int = LARGEST) -> np.ndarray:
    """The picture by whole-number box averages with no side above `largest`; strips keep the memory small."""
    factor = -(-max(image.shape[:2]) // largest)
    if factor == 1:
        return image
    # About a million pixels each.
    rows = max((1 << 20) // image.shape[1] // factor, 1) * factor
    strips = [
        np.asarray(Image.fromarray(np.ascontiguousarray(image[y : y + rows])).reduce(factor))
        for y in range(0, len(image), rows)
    ]
    return np.concatenate(strips)


def luma(image: np.ndarray) -> np.ndarray:
    """Integer luminance of the first three channels, int32."""
    return (
        image[..., 0].astype(np.int32) * 77
        + image[..., 1].astype(np.int32) * 150
        + image[..., 2].astype(np.int32) * 29
    ) >> 8


def foreground(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Coverage by the foreground 0..255 and luminance 0..255 (int32 [h,w]), and the kind of picture."""
    luminance = luma(image)
    if is_cut_out(image):
        return _ramp(image[..., 3].astype(np.int32), 255), luminance, CUT_OUT
    ground = _ground(image)
    if ground is None:
        return np.full(luminance.shape, 255, np.int32), luminance, PHOTO
    change = image[..., :3].astype(np.int32) - ground
    brighter = luma(change)
    # Linear in the coverage of any one colour; luminance counts most, since files blur the rest.
    distance = (
        2 * np.abs(brighter) + np.abs(change[..., 0] - brighter) + np.abs(change[..., 2] - brighter)
    )
    # The value that 0.5% of the pixels reach; below 60 it would be the noise of an empty picture.
    reached = np.cumsum(np.bincount(distance.ravel())[::-1])
    rank = max(distance.size // 200, 1)
    peak = max(len(reached) - 1 - int(np.searchsorted(reached, rank)), 60)
    return _ramp(distance, peak), luminance, FLAT


def is_cut_out(image: np.ndarray) -> bool:
    """Whether more than 0.5% of a picture is transparent."""
    if image.shape[2] == 3:
        return False
    return int(np.count_nonzero(image[..., 3] < 250)) * 200 > image[..., 3].size


def _ground(image: np.ndarray) -> np.ndarray | None:
    """The colour that three corners and a part of the border share, or most of the border; int32 [3]."""
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1], :3].astype(np.int32)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])[:, :3].astype(
        np.int32
    )
    ordered = np.sort(corners, axis=0)
    middle = np.sort(border, axis=0)[len(border) // 2]
    for colour, parts in ((ordered[1], 20), (ordered[2], 20), (middle, None)):
        if parts and np.count_nonzero(np.abs(corners - colour).max(1) <= TOLERANCE) < 3:
            continue
        near = border[np.abs(border - colour).max(1) <= TOLERANCE]
        # 5% of the border beside three corners, or else 60%.
        if (len(near) * 20 if parts else len(near) * 5 / 3) >= len(border):
            return near.sum(0) // len(near)
    return None


def _ramp(distance: np.ndarray, peak: int) -> np.ndarray:
    low, high = int(peak * FAINT), int(peak * SOLID)
    return np.clip((distance - low) * 255 // max(high - low, 1), 0, 255)


def _relief(coverage: np.ndarray, luminance: np.ndarray) -> np.ndarray:
    """Half of the coverage, and inside also the relative luminance; int32 [h,w] from 0 to 222."""
    inside = _lowest(coverage) >= INSIDE
    values = luminance[inside]
    if len(values) < 16:
        return coverage // 2
    mean = int(values.sum()) // len(values)
    variance = int((values * values).sum()) // len(values) - mean * mean
    spread = max(int(np.sqrt(max(variance, 0))), 12)
    relative = np.clip((luminance - mean) * 64 // spread, -127, 127) * 3 // 4
    return coverage // 2 + np.where(inside, relative, 0)


def _lowest(values: np.ndarray) -> np.ndarray:
    """The least of each pixel and its eight neighbours."""
    rows = values.copy()
    np.minimum(rows[1:], values[:-1], out=rows[1:])
    np.minimum(rows[:-1], values[1:], out=rows[:-1])
    found = rows.copy()
    np.minimum(found[:, 1:], rows[:, :-1], out=found[:, 1:])
    np.minimum(found[:, :-1], rows[:, 1:], out=found[:, :-1])
    return found


def _box(coverage: np.ndarray, kind: int) -> Box:
    """Top, bottom, left and right of what a thumbnail shows, in 1/256 pixels: the foreground's square, or all."""
    height, width = coverage.shape
    if kind == PHOTO:
        return 0, height * 256, 0, width * 256
    top, bottom = _ends(coverage.max(1))
    left, right = _ends(coverage.max(0))
    # One cell stays free on each side.
    half = max(bottom - top, right - left) * SIDE // (2 * (SIDE - 2))
    y, x = (top + bottom) // 2, (left + right) // 2
    return y - half, y + half, x - half, x + half


def _ends(profile: np.ndarray) -> tuple[int, int]:
    """Where a profile passes half of its range, in 1/256 pixels."""
    on = np.flatnonzero(profile >= 128)
    if len(on) == 0:
        return 0, len(profile) * 256
    first, last = int(on[0]), int(on[-1])
    before = int(profile[first - 1]) if first else 0
    after = int(profile[last + 1]) if last + 1 < len(profile) else 0
    return first * 256 - before, (last + 1) * 256 + after


def _thumb(shown: np.ndarray, box: Box, extended: bool = False) -> np.ndarray:
    """A map's box as uint8 [SIDE,SIDE]; outside the map is 0, or what is at its edge."""
    rows = _weights(box[0], box[1], shown.shape[0], extended)
    columns = _weights(box[2], box[3], shown.shape[1], extended)
    # Whole numbers below 2**53, so that the sums are exact in any order.
    cells = rows @ shown.astype(np.float64) @ columns.T
    return np.minimum(np.floor(cells / 2**24 + 0.5), 255).astype(np.uint8)


def _weights(low: int, high: int, pixels: int, extended: bool) -> np.ndarray:
    """Whole-number weights, float64 [SIDE,pixels], of triangles one cell apart whose sum is about 4096 each."""
    step = (high - low) / SIDE
    reach = max(step, 256.0)
    centres = low + (_CELLS + 0.5) * step - 128
    distance = np.abs(np.arange(pixels) * 256 - centres[:, None])
    around = np.arange(-int(reach // 256) - 1, int(reach // 256) + 3) * 256
    # Samples of a triangle have no constant sum, which would show as a grid.
    whole = np.maximum(1 - np.abs(around - (centres % 256)[:, None]) / reach, 0).sum(1)
    weights = np.rint(np.maximum(1 - distance / reach, 0) * (4096 / whole)[:, None])
    if extended:
        missing = np.maximum(4096 - weights.sum(1), 0)
        left = centres < pixels * 128
        weights[left, 0] += missing[left]
        weights[~left, -1] += missing[~left]
    return weights


def _coefficients(thumb: np.ndarray) -> tuple[float, np.ndarray]:
    """The root mean square of a thumbnail's low frequencies, in levels, and each as int8 parts of it."""
    cosines = (_COSINES @ thumb.astype(np.float64) @ _COSINES.T).ravel()[_FLAT_ORDER]
    # Whole numbers again, whose squares stay exact too.
    cosines = np.floor(cosines / 2**20)
    size = float(np.sqrt((cosines * cosines).sum() / COEFFICIENTS))
    parts = np.rint(cosines * (SCALE / max(size, 1.0)))
    return size / SIDE, np.clip(parts, -127, 127).astype(np.int8)


def _hashes(coefficients: np.ndarray) -> np.ndarray:
    found = [
        (bits * _POWERS).sum(-1, dtype=np.uint64)
        for bits in (coefficients > ABOVE, coefficients < -ABOVE)
    ]
    return np.stack(found, -1)


def _many_colours(image: np.ndarray, coverage: np.ndarray) -> bool:
    """Whether the ground that a cut-out is laid on changes more than its ground: many colours, or covered corners."""
    if np.count_nonzero(coverage[[0, 0, -1, -1], [0, -1, 0, -1]] >= 128) >= 3:
        return True
    visible = image[image[..., 3] > 128][:, :3]
    return len(visible) > 0 and int((visible.max(0) - visible.min(0)).max()) >= 16


def laid_to_be_seen(image: np.ndarray) -> np.ndarray:
    """A cut-out, uint8 [h,w,4], on white or black, whichever is further from its mean luminance; uint8 [h,w,3]."""
    alpha = image[..., 3].astype(np.int64)
    dark = int((luma(image) * alpha).sum()) < 128 * int(alpha.sum())
    return _laid(image, 255 if dark else 0)


def _laid(image: np.ndarray, level: int) -> np.ndarray:
    """A cut-out on grey of one level."""
    alpha = image[..., 3:].astype(np.int32)
    return ((image[..., :3] * alpha + level * (255 - alpha) + 127) // 255).astype(np.uint8)


def _shown(image: np.ndarray) -> tuple[np.ndarray, Box]:
    coverage, luminance, kind = foreground(image)
    box = _box(coverage, kind)
    return _thumb(_relief(coverage, luminance), box), box


def _uneven(coverage: np.ndarray, luminance: np.ndarray) -> bool:
    values = luminance[_lowest(coverage) >= INSIDE]
    return len(values) > 0 and int(values.max()) - int(values.min()) >= 12


def _windows(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """The middle and the four corners."""
    rows, columns = round(height * CROP), round(width * CROP)
    y, x = height - rows, width - columns
    for top, left in ((y // 2, x // 2), (0, 0), (0, x), (y, 0), (y, x)):
        yield slice(top, top + rows), slice(left, left + columns)


def _windowed(
    image: np.ndarray,
    coverage: np.ndarray,
    shown: np.ndarray,
    kind: int,
    window: tuple[slice, slice],
) -> np.ndarray:
    """The thumbnail of a crop."""
    if kind == CUT_OUT and not is_cut_out(image[window]):
        # Its transparent corners are gone, so that it has another ground.
        return _shown(image[window])[0]
    return _thumb(shown[window], _box(coverage[window], kind))


@functools.cache
def _bands() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bits of each band [BANDS,BAND_BITS], their masks and the bands' salts, uint64 [BANDS]."""
    numbers = np.arange(BANDS * BAND_POOL, dtype=np.uint64).reshape(BANDS, BAND_POOL)
    bits = np.sort(np.argsort(_mixed(numbers), axis=1, kind="stable")[:, :BAND_BITS], axis=1)
    salts = _mixed(np.arange(BANDS, dtype=np.uint64) + np.uint64(1 << 32))
    return bits, _POWERS[bits].sum(1, dtype=np.uint64), salts


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Splitmix64's mixing of uint64 (Steele et al., 2014), which is one to one."""
    with np.errstate(over="ignore"):
        numbers = numbers + np.uint64(0x9E3779B97F4A7C15)
        numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))


def bands(described: np.ndarray, first_row: int = 0) -> np.ndarray:
    """The ENTRY records of N descriptors, whose rows begin at `first_row`; blank pictures have none.

    A record has an entry per band and variant of it, and per band and probe of its own hash (variant QUERY). Probes
    are its own key and those with some of its WEAK least certain bits turned. Entries of one record that say the
    same are left out, so that an icon has about 67 of at most 144 entries: 2 KB to shuffle, at most 4.2 KB.
    """
    rows = np.flatnonzero(described["kind"] != BLANK)
    described = described[rows]
    rows = (rows + first_row).astype(np.uint32)
    found = [_entries(described, rows, band) for band in range(BANDS)]
    return np.concatenate(found) if found else np.zeros(0, ENTRY)


def _entries(described: np.ndarray, rows: np.ndarray, band: int) -> np.ndarray:
    bits, masks, salts = _bands()
    hashes = described["hashes"]
    above, own = hashes[..., 0], hashes[:, :1, 0]
    # How far each coefficient is from the bound between 0 and 1.
    margins = np.abs(2 * described["coefficients"][:, bits[band]].astype(np.int16) - 2 * ABOVE - 1)
    weakest = bits[band][np.argsort(margins, axis=1, kind="stable")[:, :WEAK]]
    subsets = (np.arange(1 << WEAK)[:, None] >> np.arange(WEAK)) & 1
    turned = (_POWERS[weakest][:, None] * subsets.astype(np.uint64)).sum(-1, dtype=np.uint64)
    tables = []
    for keys, whole, variants in (
        (above & masks[band], hashes, np.arange(VARIANTS)),
        ((own ^ turned) & masks[band], hashes[:, :1], np.full(1 << WEAK, QUERY)),
    ):
        table = np.zeros(keys.shape, ENTRY)
        table["key"] = _mixed(keys ^ salts[band])
        table["hash"], table["variant"] = whole, variants
        table["row"] = rows[:, None]
        # Of equal keys the first stays, which is the plainest variant.
        earlier = (keys[:, :, None] == keys[:, None, :]) & np.tri(keys.shape[1], k=-1, dtype=bool)
        tables.append(table[~earlier.any(2)])
    return np.concatenate(tables)


def candidates(entries: np.ndarray) -> np.ndarray:
    """Pairs of rows to compare, int64 [P,2] in order and each once, from ENTRY records sorted by key.

    `entries` holds all entries of the keys that occur in it. A query meets the variants under its key whose hashes
    differ in at most NEAR bits. Where a key has more than MET variants, only the MET whose hashes follow its own or
    precede it in numerical order are looked at; of those the KEPT nearest stay, of equally near ones the lowest
    rows. So the work is linear in the number of entries, and a pair that one popular key misses may meet in another.
    """
    asking = entries["variant"] == QUERY
    answers, queries = entries[~asking], entries[asking]
    if not len(answers) or not len(queries):
        return np.zeros((0, 2), np.int64)
    order = np.lexsort((answers["row"], *answers["hash"].T[::-1], answers["key"]))
    answers = answers[order]
    keys, hashes = np.ascontiguousarray(answers["key"]), np.ascontiguousarray(answers["hash"])
    asked = np.ascontiguousarray(queries["key"])
    start, stop = np.searchsorted(keys, asked, "left"), np.searchsorted(keys, asked, "right")
    popular = np.flatnonzero(stop - start > MET)
    place = _places(keys, hashes, queries[popular])
    start[popular] = np.clip(place - MET // 2, start[popular], stop[popular] - MET)
    stop[popular] = start[popular] + MET
    ends = np.cumsum(stop - start)
    found, first = [np.zeros((0, 2), np.int64)], 0
    while first < len(queries):
        past = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, past + AT_ONCE, "right")), first + 1)
        part = slice(first, last)
        found.append(_met(queries[part], answers["row"], hashes, start[part], stop[part]))
        first = last
    return distinct(np.concatenate(found))


def _places(keys: np.ndarray, hashes: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Where the queries stand among entries in order of key and hash."""
    count = len(keys)
    keys = np.concatenate([keys, queries["key"]])
    hashes = np.concatenate([hashes, queries["hash"]])
    asking = np.arange(len(keys)) >= count
    order = np.lexsort((~asking, *hashes.T[::-1], keys))
    found = np.empty(len(keys), np.int64)
    found[order] = np.cumsum(~asking[order])
    return found[count:]


def _met(
    queries: np.ndarray, rows: np.ndarray, hashes: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> np.ndarray:
    counts = stop - start
    asker = np.repeat(np.arange(len(queries)), counts)
    met = np.arange(len(asker)) - np.repeat(np.cumsum(counts) - counts, counts) + start[asker]
    differing = np.bitwise_count(queries["hash"][asker] ^ hashes[met]).sum(-1)
    near = (differing <= NEAR) & (queries["row"][asker] != rows[met])
    asker, met, differing = asker[near], met[near], differing[near]
    order = np.lexsort((rows[met], differing, asker))
    asker, met = asker[order], met[order]
    place = np.arange(len(asker)) - np.searchsorted(asker, asker)
    asker, met = asker[place < KEPT], met[place < KEPT]
    return distinct(np.stack([queries["row"][asker], rows[met]], 1).astype(np.int64))


def distinct(pairs: np.ndarray) -> np.ndarray:
    """Each pair once, lower row first, in order; int64 [P,2]."""
    low, high = pairs.min(1), pairs.max(1)
    order = np.lexsort((high, low))
    low, high = low[order], high[order]
    new = np.ones(len(low), bool)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    return np.stack([low[new], high[new]], 1)


def same(a: np.ndarray, b: np.ndarray, mirror: bool = True, at_once: int = 128) -> np.ndarray:
    """Whether the pictures of P pairs of descriptors are copies of each other; bool [P].

    `mirror` says whether a mirror image is a copy. The luminance of one picture has to be explained, at each place,
    by that of the other: it is fitted as a weighted sum of the other's luminance and coverage and a constant, which
    stand for changes of brightness, contrast, tint and ground. The fit is repeated while a small shift and scale
    align the two. The largest residual mean of 3 x 3 cells, divided by the range of luminance, decides.
    """
    found = np.zeros(len(a), bool)
    for first in range(0, len(a), 16 * at_once):
        likely = first + np.flatnonzero(
            _likely(a[first : first + 16 * at_once], b[first : first + 16 * at_once], mirror)
        )
        for start in range(0, len(likely), at_once):
            rows = likely[start : start + at_once]
            found[rows] = _same(a[rows], b[rows], mirror)
    return found


def _likely(a: np.ndarray, b: np.ndarray, mirror: bool) -> np.ndarray:
    """What `same` begins with, at a quarter of the resolution; other grounds' boxes need the whole."""
    mixed = (a["kind"] == CUT_OUT) != (b["kind"] == CUT_OUT)
    turned = (mixed & (b["kind"] == CUT_OUT))[:, None, None, None]
    shown = np.where(turned, b["small"], a["small"]).astype(np.float32)
    seen = np.where(turned, a["small"], b["small"])[:, 0].astype(np.float32)
    boxes = np.where(turned[..., 0], b["boxes"], a["boxes"])
    found = mixed & (boxes != boxes[:, :1]).any((1, 2))
    for target in (seen, seen[..., ::-1])[: 1 + mirror]:
        found |= _unexplained(shown, target) <= ROUGHLY
    return found


def _unexplained(shown: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The part of the variance of maps [P,size,size] that maps [P,2,size,size] do not explain; [P]."""
    _, residual, centred = _fitted(_rows(shown), _rows(target), None)
    return _dot(residual, residual) / (_dot(centred, centred) + 1)


def _same(a: np.ndarray, b: np.ndarray, mirror: bool) -> np.ndarray:
    # The one that knows its own ground explains the other.
    turned = ((b["kind"] == CUT_OUT) & (a["kind"] != CUT_OUT))[:, None]
    one = np.where(turned[:, 0], b, a)
    other = np.where(turned[:, 0], a, b)
    shown = one["thumbs"].astype(np.float32)
    seen = other["thumbs"].astype(np.float32)
    both = (one["kind"] == CUT_OUT) == (other["kind"] == CUT_OUT)
    starts = _starts(one["boxes"].astype(np.float64), ~both)
    error, start, flipped = _best_start(shown, seen, starts, mirror)
    seen = np.where(flipped[:, None, None, None], seen[..., ::-1], seen)
    found = np.zeros(len(a), bool)
    # A crop of the one or of the other may need another start.
    cut = _may_be_cut(one) | _may_be_cut(other)
    for scale in (0.0, 1 / CROP - 1, CROP - 1):
        rows = np.flatnonzero((error <= ROUGHLY) & ~found & (cut | (scale == 0)))
        if len(rows) == 0:
            break
        begin = start[rows] + np.array([scale, 0, scale, 0])
        found[rows] = _explained(shown[rows], seen[rows], begin, both[rows])
    return found


def _may_be_cut(described: np.ndarray) -> np.ndarray:
    """Whether a crop of a picture looks different."""
    crops = slice(1 + len(GROUNDS), 1 + len(GROUNDS) + CROPS)
    return (described["hashes"][:, crops] != described["hashes"][:, :1]).any((1, 2))


def _starts(boxes: np.ndarray, grounds: np.ndarray) -> list[np.ndarray]:
    """Scale less one and shift in cells, of rows and columns [P,4], that lead from a picture's box to each box."""
    found: list[np.ndarray] = []
    own = boxes[:, 0]
    for box in (boxes[:, i] for i in range(boxes.shape[1])):
        start = np.empty((len(boxes), 4))
        for axis in (0, 2):
            low, high = own[:, axis], own[:, axis + 1]
            start[:, axis] = (box[:, axis + 1] - box[:, axis]) / (high - low) - 1
            middle = box[:, axis] + box[:, axis + 1] - low - high
            start[:, axis + 1] = middle / 2 * SIDE / (high - low)
        # NaN is a start that need not be tried.
        start[~grounds | (np.abs(start).max(1) < 0.02)] = 0 if not found else np.nan
        found.append(start)
    return found


def _best_start(
    shown: np.ndarray, seen: np.ndarray, starts: list[np.ndarray], mirror: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The least part of the variance left unexplained at a quarter of the resolution, its start, and if mirrored."""
    count = len(shown)
    error, best, flipped = np.full(count, np.inf), np.zeros((count, 4)), np.zeros(count, bool)
    luminance = _halved(_halved(seen[:, 0]))
    for start in starts:
        rows = np.flatnonzero(~np.isnan(start[:, 0]))
        if len(rows) == 0:
            continue
        moved = _halved(
            _halved(_moved(shown[rows], start[rows]) if start[rows].any() else shown[rows])
        )
        for turned in (False, True)[: 1 + mirror]:
            target = luminance[rows, :, ::-1] if turned else luminance[rows]
            left = _unexplained(moved, target)
            better = rows[left < error[rows]]
            error[better] = left[left < error[rows]]
            best[better], flipped[better] = start[better], turned
    return error, best, flipped


def _explained(
    shown: np.ndarray, seen: np.ndarray, start: np.ndarray, both: np.ndarray
) -> np.ndarray:
    found = np.zeros(len(shown), bool)
    halves, target = _halved(shown), _halved(seen[:, 0])
    move = _aligned(halves, target, start, start, steps=3)
    rows = np.flatnonzero(_unexplained(_moved(halves, move), target) <= CLOSELY)
    if len(rows):
        move = _aligned(shown[rows], seen[rows, 0], start[rows], move[rows], steps=2)
        found[rows] = _tested(shown[rows], seen[rows], start[rows], move, both[rows])
    return found


def _tested(
    shown: np.ndarray, seen: np.ndarray, start: np.ndarray, move: np.ndarray, both: np.ndarray
) -> np.ndarray:
    moved, inside = _moved(shown, move), _inside(move, start)
    weights, residual, _ = _fitted(_rows(moved), _rows(seen[:, 0]), inside)
    found = _largest(residual) <= DIFFERENT * _range(seen[:, 0])
    # What has inner luminance needs it in the other too.
    _, inner, _ = _fitted(_rows(moved[:, [1, 1]]), _rows(moved[:, 0]), inside)
    found &= (weights[:, 0] >= LEAST_WEIGHT) | (np.sqrt((inner**2).mean(-1)) < PLAIN)
    # Of two cut-outs, or two opaque pictures, the other has to explain the one as well.
    _, back, _ = _fitted(_rows(seen), _rows(moved[:, 0]), inside)
    return found & (~both | (_largest(back) <= DIFFERENT * _range(moved[:, 0])))


def _aligned(
    shown: np.ndarray, luminance: np.ndarray, start: np.ndarray, move: np.ndarray, steps: int
) -> np.ndarray:
    """Scale and shift [P,4] after Gauss-Newton steps from `move`, within bounds around `start`."""
    bound = np.array([0.08, 2.0, 0.08, 2.0])
    size = luminance.shape[-1]
    target = _rows(luminance)
    cells = np.arange(size) - (size - 1) / 2
    for _ in range(steps):
        moved = _moved(shown, move)
        weights, residual, _ = _fitted(_rows(moved), target, None)
        fitted = weights[:, 0, None, None] * moved[:, 0] + weights[:, 1, None, None] * moved[:, 1]
        slopes = np.zeros((len(move), 4, size, size), np.float32)
        slopes[:, 1, 1:-1] = (fitted[:, 2:] - fitted[:, :-2]) * (size / SIDE / 2)
        slopes[:, 3, :, 1:-1] = (fitted[:, :, 2:] - fitted[:, :, :-2]) * (size / SIDE / 2)
        slopes[:, 0] = slopes[:, 1] * (cells * (SIDE / size))[:, None]
        slopes[:, 2] = slopes[:, 3] * (cells * (SIDE / size))
        flat = slopes.reshape(len(move), 4, -1)
        square = (flat @ flat.transpose(0, 2, 1)).astype(np.float64)
        # A little damping, so that a direction without slopes stays where it is.
        square[:, range(4), range(4)] = square[:, range(4), range(4)] * 1.02 + 1
        move = move + np.linalg.solve(square, flat @ residual[..., None])[..., 0]
        move = start + np.clip(move - start, -bound, bound)
    return move


def _moved(maps: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Maps [P,C,size,size] read at scaled and shifted cells, between which they are linear."""
    size = maps.shape[-1]
    rows, columns = (_hats(move[:, axis : axis + 2], size) for axis in (0, 2))
    return rows[:, None] @ maps @ columns.transpose(0, 2, 1)[:, None]


def _positions(move: np.ndarray, size: int) -> np.ndarray:
    middle = (size - 1) / 2
    return middle + (1 + move[:, :1]) * (np.arange(size) - middle) + move[:, 1:] * (size / SIDE)


def _hats(move: np.ndarray, size: int) -> np.ndarray:
    at = np.clip(_positions(move, size), 0, size - 1).astype(np.float32)
    return np.maximum(1 - np.abs(np.arange(size, dtype=np.float32) - at[..., None]), 0)


def _inside(move: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Where both show the same part, float32 [P,SIDE*SIDE]: a crop has lost the rim of the other."""
    cropped = (np.abs(move - start) > np.array([0.01, 0.25, 0.01, 0.25])).any(1)
    rim = (_CELLS >= 2) & (_CELLS < SIDE - 2)
    masks = []
    for axis in (0, 2):
        at = _positions(move[:, axis : axis + 2], SIDE)
        masks.append(((at >= 2) & (at <= SIDE - 3) & rim) | ~cropped[:, None])
    return (masks[0][:, :, None] & masks[1][:, None, :]).reshape(len(move), -1).astype(np.float32)


def _fitted(
    sources: np.ndarray, target: np.ndarray, mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A target [P,K] as a weighted sum of two sources [P,2,K]: weights [P,2], residual and centred target.

    Least squares with a constant; `mask` [P,K] says which places count.
    """
    if mask is None:
        sources = sources - sources.mean(-1, keepdims=True)
        target = target - target.mean(-1, keepdims=True)
    else:
        size = np.maximum(mask.sum(-1)[:, None], 1)
        target = (target - (target * mask).sum(-1)[:, None] / size) * mask
        means = (sources * mask[:, None]).sum(-1) / size
        sources = (sources - means[..., None]) * mask[:, None]
    first, second = sources[:, 0], sources[:, 1]
    a, b, d = _dot(first, first), _dot(first, second), _dot(second, second)
    u, v = _dot(first, target), _dot(second, target)
    # A ridge shares the weight among sources that say the same.
    ridge = 1e-3 * (a + d) + 1
    a, d = a + ridge, d + ridge
    scale = a * d - b * b
    weights = np.stack([(d * u - b * v) / scale, (a * v - b * u) / scale], 1).astype(np.float32)
    residual = target - weights[:, :1] * first - weights[:, 1:] * second
    return weights, residual, target


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1).astype(np.float64)


def _largest(residual: np.ndarray) -> np.ndarray:
    """The largest mean of 3 x 3 neighbours, without sign; [P]."""
    maps = residual.reshape(-1, SIDE, SIDE)
    rows = maps[:, :-2] + maps[:, 1:-1] + maps[:, 2:]
    blocks = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    return np.abs(blocks).reshape(len(maps), -1).max(-1) / 9


def _range(luminance: np.ndarray) -> np.ndarray:
    """How far the furthest 2.5% of cells are from the median, and 6 levels, which files may add."""
    values = np.sort(luminance.reshape(len(luminance), -1), axis=-1)
    middle, end = values[:, values.shape[1] // 2], values.shape[1] // 40
    return np.maximum(values[:, -end] - middle, middle - values[:, end - 1]) + 6


def _halved(maps: np.ndarray) -> np.ndarray:
    size = maps.shape[-1] // 2
    return maps.reshape(*maps.shape[:-2], size, 2, size, 2).sum((-3, -1)) / 4


def _rows(maps: np.ndarray) -> np.ndarray:
    return maps.reshape(*maps.shape[:-2], -1)
