"""The model card of a model folder: model.json and its provenance, for a reader."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_TITLES = {
    "classification": "an image classifier",
    "segmentation": "a semantic segmentation model",
    "depth": "a monocular depth model",
    "backbone": "an image backbone",
}
_USE = {
    "classification": 'model.predict("picture.jpg")  # [{"label": ..., "score": ...}]',
    "segmentation": 'model.predict("picture.jpg")  # [array [H, W] of class indices]',
    "depth": 'model.predict("picture.jpg")  # [array [H, W] in metres]',
    "backbone": 'model.features("picture.jpg")  # array [1, D]',
}


def card(info: Mapping[str, Any], parameters: int) -> str:
    """Markdown for card.md; `parameters` counts all numbers in the weights file."""
    classes = list(info["classes"])
    shown = ", ".join(classes[:20]) + (f", ... ({len(classes)} in all)" if classes[20:] else "")
    facts = {
        "Backbone": f"`{json.dumps(info['backbone'])}`",
        "Numbers stored": f"{parameters:,}",
        "Reads": f"{info['canvas']} x {info['canvas']} RGB pictures",
        "Classes": shown or "none",
        "Written by": f"intern_jax {info['version']}",
    }
    facts |= {key: _plain(value) for key, value in info["provenance"].items()}
    rows = "\n".join(f"| {key} | {value} |" for key, value in facts.items())
    return f"""# {_TITLES[info["task"]].capitalize()} of intern_jax

| | |
|---|---|
{rows}

```python
import intern_jax

model = intern_jax.load("THIS_FOLDER")
{_USE[info["task"]]}
```
"""


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|")
