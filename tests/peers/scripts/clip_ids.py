"""The ids of CLIP's tokenizer, as open_clip has it.

    python clip_ids.py OUT.npz IN.npz

IN: texts uint8 [T], JSON of a list of strings. OUT: ids int64 [N], those of all texts in turn; counts int64 [N texts];
merges uint8, the path of the file of merges; tokens int64 [N texts,77].
"""

import json
import pathlib
import sys

import numpy as np
import open_clip.tokenizer


def main() -> None:
    out, asked = sys.argv[1:]
    with np.load(asked) as data:
        texts = json.loads(data["texts"].tobytes())
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    ids = [tokenizer.encode(text) for text in texts]
    path = pathlib.Path(open_clip.tokenizer.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    np.savez(
        out,
        ids=np.asarray([i for found in ids for i in found]),
        counts=np.asarray([len(found) for found in ids]),
        tokens=tokenizer(texts, 77).numpy(),
        merges=np.frombuffer(str(path).encode(), np.uint8),
    )


if __name__ == "__main__":
    main()
