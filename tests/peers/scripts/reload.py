"""Whether timm's own network takes a file whole, and what it then holds.

    python reload.py OUT.npz IN.npz FILE.safetensors ORIGINAL.safetensors

Loads FILE into an untrained network, strictly. OUT: `different`, the names whose bits are not those of ORIGINAL.
"""

import sys

import numpy as np
import safetensors.torch
import timm
import torch


def main() -> None:
    out, _, written, original = sys.argv[1:]
    wanted = safetensors.torch.load_file(original)
    network = timm.create_model("vit_tiny_patch16_224", num_classes=len(wanted["head.bias"]))
    network.load_state_dict(safetensors.torch.load_file(written), strict=True)
    held = network.state_dict()
    different = [name for name, value in wanted.items() if not torch.equal(held[name], value)]
    np.savez(out, different=np.array(different, dtype=str))


if __name__ == "__main__":
    main()
