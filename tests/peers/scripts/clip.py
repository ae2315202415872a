"""A whole CLIP of open_clip with random weights: its file, and what both towers make of pictures and tokens.

    python clip.py OUT.npz IN.npz NETWORK FILE.pth

IN: `images` [B,3,H,W], normalised, and `tokens` [B,77]. OUT, in float32 as users run it: `image`, `text` [B,D], not of
unit length, `logits` [B,B].
"""

import sys

import numpy as np
import open_clip
import torch


def main() -> None:
    out, asked, name, file = sys.argv[1:]
    torch.manual_seed(0)
    network = open_clip.create_model(name)
    with np.load(asked) as arrays, torch.no_grad():
        for key, value in network.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif value.is_floating_point() and value.ndim == 1:
                value += 0.1 * torch.randn_like(value)
        torch.save(network.eval().state_dict(), file)
        images, tokens = (torch.from_numpy(arrays[key]) for key in ("images", "tokens"))
        answer = {
            "image": network.encode_image(images),
            "text": network.encode_text(tokens),
            "logits": network.get_logits(images, tokens)[0],
        }
    np.savez(out, **{key: value.numpy() for key, value in answer.items()})


if __name__ == "__main__":
    main()
