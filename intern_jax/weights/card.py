"""The model card of a model folder: model.json and its provenance, for a reader."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from intern_jax import families
from intern_jax.families.family import ANSWERS
from intern_jax.models import own, zoo
from intern_jax.weights.preprocess import Preprocess

# What `predict` gives of one picture, by the family's kind of answer.
_ANSWERS = {
    "label": '[{"label": ..., "score": ..., "scores": ...}]',
    "mask": "[array [H, W] of class indices]",
    "map": "[array [H, W]]",
    "boxes": '[{"boxes": [[x1, y1, x2, y2], ...], "scores": [...], "labels": [...]}]',
}
_FEATURES = 'model.features("picture.jpg")  # array [1, D]'

_ZERO_SHOT = 'model.zero_shot("picture.jpg", ["cat", "dog"])  # [{"label": ..., "score": ..., "scores": ...}]'


def card(info: Mapping[str, Any], parameters: int) -> str:
    """Markdown for card.md of a checked model.json; `parameters` counts all numbers in the weights file."""
    head, pictures = info["head"], Preprocess.of(info["preprocess"])
    title, use, classes = "an image backbone", _FEATURES, []
    if head is not None:
        family = families.find(head["family"])
        title, classes = family.title or f"a model of {family.name}", head["classes"]
        answer = _ANSWERS.get(family.answer, f"[{ANSWERS[family.answer]}]")
        use = f'model.predict("picture.jpg")  # {answer}'
    elif "text" in info:
        title, use = "an image and a text tower", _ZERO_SHOT
    shown = ", ".join(classes[:20]) + (f", ... ({len(classes)} in all)" if classes[20:] else "")
    note = zoo.reconstructed(info["backbone"])
    facts = {"Network": note} if note else {}
    facts |= {
        "Numbers stored": f"{parameters:,}",
        "Reads": f"{pictures.canvas} x {pictures.canvas} RGB pictures: {pictures}",
        "Classes": shown or "none",
        "Written by": f"intern_jax {info['version']}",
    }
    if "text" in info:
        facts["Text tower"] = json.dumps(info["text"]["settings"])
        facts["Tokenizer"] = info["text"]["tokenizer"]
    facts |= info["provenance"]
    rows = "\n".join(f"| {_cell(key)} | {_cell(value)} |" for key, value in facts.items())
    return f"""# {title.capitalize()} of intern_jax

| | |
|---|---|
| Backbone | {_code(info["backbone"])} |
{rows}

```python
import intern_jax

model = intern_jax.load({_arguments(info)})
{use}
```
"""


def _arguments(info: Mapping[str, Any]) -> str:
    """What `load` is given, with the code of the author's that the folder needs."""
    backbone, family = own.text_in(info["backbone"]), (info["head"] or {}).get("own")
    given = ['"THIS_FOLDER"']
    given += [f'backbone="{backbone}"'] if backbone else []
    given += [f'families=["{family}"]'] if family else []
    return ", ".join(given)


def _cell(value: Any) -> str:
    """Text of anyone in a table: one line, no markup, no cell of its own."""
    text = value if isinstance(value, str) else json.dumps(value)
    text = re.sub(r"([\\\\`|\[])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _code(value: Any) -> str:
    """Plain data in a table, as code."""
    return f"`{json.dumps(value)}`".replace("|", "\\|")
