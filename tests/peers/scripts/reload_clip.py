"""Whether open_clip's whole CLIP, or timm's image tower, takes a file strictly, and whether it then holds the same.

    python reload_clip.py OUT.npz IN.npz open_clip|timm NETWORK FILE.safetensors ORIGINAL.pth

OUT: `different`: of open_clip, names whose bits are not those of ORIGINAL; of timm, "image" if its embeddings of noise
are not those of ORIGINAL in open_clip's network, named after a colon in NETWORK.
"""

import sys

import numpy as np
import open_clip
import safetensors.torch
import timm
import torch


def main() -> None:
    out, _, library, name, written, original = sys.argv[1:]
    wanted = torch.load(original, weights_only=True)
    state = safetensors.torch.load_file(written)
    if library == "open_clip":
        network = open_clip.create_model(name)
        network.load_state_dict(state, strict=True)
        held = network.state_dict()
        different = [key for key, value in wanted.items() if not torch.equal(held[key], value)]
    else:
        name, _, whole = name.partition(":")
        first = open_clip.create_model(whole)
        first.load_state_dict(wanted, strict=True)
        size = first.state_dict()["text_projection"].shape[1]
        network = timm.create_model(name, num_classes=size)
        network.load_state_dict(state, strict=True)
        images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            ours, theirs = network.eval()(images), first.eval().encode_image(images)
        near = torch.allclose(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item())
        different = [] if near else ["image"]
    np.savez(out, different=np.array(different, dtype=str))


if __name__ == "__main__":
    main()
