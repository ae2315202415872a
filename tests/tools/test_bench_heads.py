"""The bench of many heads: a tiny case gives its four figures, and both forms the same loss."""

import pytest

from tools.bench import heads


@pytest.mark.medium
def test_a_case_has_a_time_to_compile_and_a_step_of_each_form(monkeypatch):
    monkeypatch.setattr(heads, "BATCH", 8)
    found = heads.compare((2, 3), rounds=1, seconds=0.01)
    assert len(found) == len(heads.COLUMNS) - 1 and all(value > 0 for value in found)
