"""Does a model see the pixels that open_clip would show it? Every architecture and tag that open_clip lists.

    python -m benchmarks.preprocessing --json benchmarks/results/preprocessing.json

Ours against open_clip's own transform before it normalises: the mean difference in grey levels, on the worst of two
photographs (tests/photos), three pieces of them, and a drawing by each artist. Mean and std must be equal.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import open_clip
from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict
from PIL import Image

from benchmarks import record
from data_pipelines.stream import read_samples
from vlp.models.image_transform import ImageTransform
from vlp.models.kinds.open_clip import OpenClip
from vlp.pictures import Limits, decode

PHOTOS = Path(__file__).parents[1] / "tests" / "photos"
Tags = dict[tuple[ImageTransform, str], list[tuple[str, str]]]


def pictures() -> list[Image.Image]:
    """Two photographs as they are, three pieces of them (square, wide, tall), and drawings."""
    whole = [decode(path.read_bytes(), Limits()) for path in sorted(PHOTOS.glob("*.jpg"))]
    pieces = [
        whole[0].crop((100, 0, 500, 400)),
        whole[0].crop((0, 100, 640, 220)),
        whole[-1].crop((200, 0, 301, 427)),
    ]
    drawings = {s.metadata["artist"]: s.image for s in read_samples("bundled:emoji/test_concept")}
    return [*whole, *pieces, *(decode(image, Limits()) for image in drawings.values())]


def groups() -> Tags:
    """Tags by what we do with their pictures and what open_clip does (as JSON)."""
    tags: Tags = defaultdict(list)
    for architecture, tag in open_clip.list_pretrained():
        size = open_clip.get_model_config(architecture)["vision_cfg"].get("image_size", 224)
        theirs = merge_preprocess_dict(PreprocessCfg(), open_clip.get_pretrained_cfg(architecture, tag))
        tags[OpenClip(architecture, tag).transform(), json.dumps({**theirs, "size": size})].append((architecture, tag))
    return tags


def difference(ours: ImageTransform, theirs: dict[str, object], picture: Image.Image) -> float:
    """Mean absolute difference of the pixels, grey levels of 255."""
    config = PreprocessCfg(**theirs)  # type: ignore[arg-type]
    if (ours.mean, ours.std) != (tuple(config.mean), tuple(config.std)):
        return float("inf")
    want = picture
    for step in image_transform_v2(config, is_train=False).transforms[:-1]:
        want = step(want)
    return float((ours(picture).float() - want * 255).abs().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    peer = f"open_clip {version('open_clip_torch')} image_transform_v2"
    rows, some = [], pictures()
    print("| resize | filter | side | mean | std | tags | such as | grey levels, worst picture |")
    print("|---|---|---:|---|---|---:|---|---:|")
    for (ours, theirs), tags in sorted(groups().items(), key=lambda group: -len(group[1])):
        worst = max(difference(ours, json.loads(theirs), picture) for picture in some)
        case = f"preprocessing.{ours.resize}.{ours.interpolation}.{ours.size}.mean_{ours.mean[0]:.3g}"
        rows.append({**record.row(case, "grey levels", [worst]), "tags": len(tags), "peer_name": peer})
        mean, std = (" ".join(f"{v:.3g}" for v in values) for values in (ours.mean, ours.std))
        cells = (ours.resize, ours.interpolation, str(ours.size), mean, std, str(len(tags)), ":".join(tags[0]))
        print(f"| {' | '.join(cells)} | {worst:.3f} |")
    total, worst = sum(row["tags"] for row in rows), max(row["ours"] for row in rows)
    print(f"\n{len(rows)} ways to prepare pictures, {total} tags; worst mean difference {worst:.3f} grey levels\n")
    rows.append({**record.row("preprocessing.worst", "grey levels", [worst]), "tags": total, "peer_name": peer})
    packages = ("open_clip_torch", "torchvision", "pillow", "torch")
    record.write(options.json, record.conditions(packages, threads=1), rows)


if __name__ == "__main__":
    main()
