"""torchvision's Faster R-CNN with random weights: its file, and each of its steps for some pictures.

    python detector.py OUT.npz IN.npz FILE.pth

IN: images, float32 [B,3,H,W], normalised; sizes, int [B,2], the height and width of each picture at its canvas's top
left. OUT, in float64: map0 ... map4, objectness [B,A], anchor_deltas [B,A,4], anchors [A,4], and of picture b
proposals/b [R,4], pooled/b [R,C,7,7], logits/b [R,K+1] with the background first, deltas/b [R,K+1,4], boxes/b [D,4],
scores/b and labels/b [D].
"""

import pathlib
import sys

import numpy as np
import torch
import torchvision
from torchvision.models.detection import fasterrcnn_resnet50_fpn
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers

sys.path.insert(0, str(pathlib.Path(__file__).parents[3]))

from tools.bench.detector_sides import greedy_nms

CLASSES = 5


def main() -> None:
    out, asked, file = map(pathlib.Path, sys.argv[1:])
    with np.load(asked) as arrays:
        images, sizes = torch.from_numpy(arrays["images"]).double(), arrays["sizes"].tolist()
    torchvision.ops.boxes.nms = greedy_nms
    torch.manual_seed(0)
    with torch.no_grad():
        network = spread(
            fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=CLASSES + 1)
        )
        network.double().eval()
        sizes = [tuple(size) for size in sizes]
        calibrate(network, images, sizes)
        torch.save(network.float().state_dict(), file)
        answer = steps(network.double(), images, sizes)
    np.savez(out, **{name: value.numpy() for name, value in answer.items()})


def steps(network, images: torch.Tensor, sizes: list) -> dict[str, torch.Tensor]:
    """What each part makes of what the part before made."""
    maps = network.backbone(images)
    answer = {f"map{level}": x for level, x in enumerate(maps.values())}
    x = list(maps.values())
    objectness, deltas = network.rpn.head(x)
    listed = ImageList(images, sizes)
    anchors = network.rpn.anchor_generator(listed, x)
    counts = [one[0].shape[0] * one[0].shape[1] * one[0].shape[2] for one in objectness]
    scores, flat = concat_box_prediction_layers(objectness, deltas)
    decoded = network.rpn.box_coder.decode(flat.detach(), anchors).view(len(sizes), -1, 4)
    proposals, _ = network.rpn.filter_proposals(decoded, scores.detach(), sizes, counts)
    answer |= {
        "objectness": scores.view(len(sizes), -1),
        "anchor_deltas": flat.view(len(sizes), -1, 4),
        "anchors": anchors[0],
    }
    heads = network.roi_heads
    pooled = heads.box_roi_pool(maps, proposals, sizes)
    logits, box = heads.box_predictor(heads.box_head(pooled))
    found, found_scores, labels = heads.postprocess_detections(logits, box, proposals, sizes)
    first = 0
    for b, own in enumerate(proposals):
        rows = slice(first, first + len(own))
        first += len(own)
        answer |= {f"proposals/{b}": own, f"pooled/{b}": pooled[rows], f"logits/{b}": logits[rows]}
        answer |= {f"deltas/{b}": box[rows].view(len(own), -1, 4), f"boxes/{b}": found[b]}
        answer |= {f"scores/{b}": found_scores[b], f"labels/{b}": labels[b]}
    return answer


def calibrate(network, images: torch.Tensor, sizes: list) -> None:
    """Give scores and deltas the spread that those of a trained network have, first of anchors and then of regions."""
    head, predictor = network.rpn.head, network.roi_heads.box_predictor
    for layer, name, wanted in (
        (head.cls_logits, "objectness", 3.0),
        (head.bbox_pred, "anchor_deltas", 0.3),
        (predictor.cls_score, "logits/0", 3.0),
        (predictor.bbox_pred, "deltas/0", 1.0),
    ):
        layer.weight *= wanted / steps(network, images, sizes)[name].std()


def spread(network: torch.nn.Module) -> torch.nn.Module:
    """No bias is 0 and no variance 1."""
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point() and value.ndim <= 1:
            value += 0.1 * torch.randn_like(value)
    return network


if __name__ == "__main__":
    main()
