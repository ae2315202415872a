"""GV-B's page: well formed, whole without a network, and harmless whatever a method is called."""

import html.parser
import json
import re

import pytest

from intern_jax.benchmark.rows import published
from intern_jax.benchmark.scores import record as record_lib
from intern_jax.benchmark.scores.page import page_data
from intern_jax.report import gvb, parts, plots

VOID = {"meta", "img", "br"}


def make_records(methods=("random", "generalist"), fractions=(0.01, 0.1, 1.0), columns=None):
    rows = []
    for column in columns or published.COLUMNS:
        for i, method in enumerate(methods):
            for fraction in fractions:
                for draw in range(2):
                    start = 40.0 if column.measure.higher_is_better else 2.0
                    score = start + i + fraction + 0.2 * draw
                    fields = {
                        "task": column.name,
                        "family": column.family,
                        "metric": column.metric,
                        "method": method,
                        "head": column.family,
                        "fraction": fraction,
                        "seed": 0,
                        "draw": draw,
                        "score": score,
                        "standard_error": 0.5,
                        "scores": {figure: score for figure in column.figures if figure},
                    }
                    rows.append(record_lib.made(fields))
    return rows


class Tree(html.parser.HTMLParser):
    """Checks that every tag closes in its turn; keeps texts, links and the rows of tables."""

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.tags, self.rows = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            attributes = dict(attributes)
            kind = (attributes.get("class") or "").split()
            self.rows[-1].append({"kind": kind, "text": "", "span": attributes.get("colspan", "1")})
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1]["text"] += data

    def row(self, label):
        return next(row for row in self.rows if row[0]["text"].startswith(label))


@pytest.fixture(scope="module")
def text():
    return gvb.page(page_data(make_records()))


def test_page_is_well_formed_and_needs_nothing_but_itself(text):
    tree = Tree(text)
    images = [link for link in tree.links if link.startswith("data:image/svg+xml;base64,")]
    # The radar, and a plot of each figure that has a panel of its own.
    assert len(images) == 1 + tree.tags.count("figure") > 26
    assert tree.tags.count("section") == 4
    others = [link for link in tree.links if link not in images]
    assert others == ["https://arxiv.org/abs/2111.08687"]
    rest = re.sub(r'src="data:[^"]*"', "", text).replace(others[0], "")
    assert "http" not in rest and "url(" not in rest and "@import" not in rest
    assert "script" not in tree.tags and "link" not in tree.tags


def test_every_row_of_the_table_has_the_same_width(text):
    tree = Tree(text)
    widths = {sum(int(cell["span"]) for cell in row) for row in tree.rows}
    # The name, 29 figures of 26 data sets, and the mean.
    assert widths == {1 + 29 + 1}
    titles = [cell["text"] for cell in tree.rows[1]]
    assert titles[1] == "Cifar10" and titles[20:23] == ["Kinetics700", "mean of 20", "VOC07+12"]
    assert len(titles) == 1 + 26 + 1
    assert [cell["text"] for cell in tree.rows[0]] == ["", "CLS", "DET", "SEG", "DEP"]


def test_cells_hold_score_and_spread_and_mark_the_best(text):
    tree = Tree(text)
    best, other = tree.row("generalist 10%"), tree.row("random 10%")
    # By number: Cifar10, the mean, CityPersons reasonable and KITTI, of which lower is better.
    assert best[1]["text"] == "41.2sd 0.1 (0.5)" and "best" in best[1]["kind"]
    assert "best" not in other[1]["kind"] and "best" in other[26]["kind"]
    assert other[21]["text"] == "40.2" and "best" not in best[29]["kind"]
    assert other[29]["text"].startswith("2.200sd 0.141")
    theirs = tree.row("Up-G R50†")
    assert theirs[1]["text"] == "92.9" and theirs[28]["text"] == "66.19"
    assert '<tbody class="published">' in text


def test_missing_scores_are_dashes_and_a_page_without_records_still_stands():
    few = make_records(columns=published.COLUMNS[:1], fractions=(0.1,))
    text = gvb.page(page_data(few))
    tree = Tree(text)
    row = tree.row("random 10%")
    assert (row[2]["text"], row[2]["kind"], row[21]["text"]) == ("-", ["none"], "1 of 20")
    assert "1 of 26 data sets scored" in text
    assert (
        "Drawn where a method has three or more data sets at the published share of labels." in text
    )
    empty = gvb.page(page_data([], published=False))
    assert "data:image" not in empty and "0 of 26 data sets scored" in empty
    Tree(empty)


@pytest.mark.parametrize(
    "name", ['<script>alert("1")</script>', "a & b $x_{$", "_hidden", "x" * 400]
)
def test_names_of_any_kind_are_text_on_the_page_and_in_its_plots(name):
    columns = published.COLUMNS[:3]
    records = make_records((name, "other"), (0.1,), columns)
    text = gvb.page(page_data(records), title=f"{name} & more")
    tree = Tree(text)
    assert "script" not in tree.tags
    assert tree.row(f"{name} 10%") and text.count("data:image") == 4


def test_page_is_written_whole_from_data_that_went_through_json(tmp_path):
    columns = published.COLUMNS[:3]
    data = page_data(make_records(fractions=(0.1,), columns=columns))
    path = gvb.write_page(json.loads(json.dumps(data)), tmp_path / "table.html", title="ours")
    assert path.read_text("utf-8") == gvb.page(data, title="ours")
    assert [p.name for p in tmp_path.iterdir()] == ["table.html"]


def test_lines_are_told_apart_and_roles_keep_their_colour():
    labels = ["random", "MN-B4", "generalist", "generalist knn", *(f"m{i}" for i in range(12))]
    looks = plots.line_looks(labels)
    pairs = {(look["color"], look["linestyle"]) for look in looks.values()}
    assert len(pairs) == len(labels)
    for role in ("random", "generalist"):
        color = plots.METHOD_COLORS[role]
        assert looks[role] == {"color": color, "linestyle": "-", "marker": "o"}
    assert plots.line_looks(["scratch"])["scratch"]["marker"] == "s"
    assert len(plots.line_looks([f"m{i}" for i in range(40)])) == 40


def test_radar_leaves_gaps_and_keeps_far_values_on_its_edge():
    line = {"label": "a", "values": [0.5, None, 40.0, 1.0]}
    data = {"against": "b†", "axes": list("wxyz"), "lines": [line]}
    drawn = plots.radar(data, plots.line_looks(["a"]))
    assert drawn.image.startswith(b"<?xml") and list(drawn.legend) == ["a", "b†"]
    assert plots.radar(data | {"lines": []}, {}) is None


def test_efficiency_draws_only_panels_with_points():
    full = page_data(make_records(columns=published.COLUMNS[22:23]))["efficiency"]
    assert [panel["title"] for panel in full["panels"]] == [
        *("CityPersons reasonable", "CityPersons heavy"),
    ]
    looks = plots.line_looks(["random", "generalist"])
    empty = [panel | {"lines": []} for panel in full["panels"]]
    both, legend = plots.efficiency_panels(full["panels"], looks, "b†")
    one, _ = plots.efficiency_panels([full["panels"][0], empty[1]], looks, "b†")
    assert len(both) == 2 and [plot.title for plot in one] == ["CityPersons reasonable"]
    # A miss rate: the note says which way is better, beside the flipped axis.
    assert "lower is better ↓, axis flipped" in one[0].note
    assert list(legend) == ["random", "generalist", "b†"]
    assert plots.efficiency_panels(empty, looks, "b†") == ([], {})


def test_header_says_when_where_and_how_the_page_was_made():
    made = {"date": "2026-01-02T03:04:05+00:00", "host": "h", "command": "python -m x <y>"}
    facts = parts.provenance(made, [0, 1], {"intern_jax": "9.9"})
    text = gvb.page(page_data(make_records(fractions=(0.1,))), facts=facts)
    Tree(text)
    for said in ("2026-01-02 03:04 +00:00", "<dt>seeds</dt><dd>0, 1</dd>", "python -m x &lt;y&gt;"):
        assert said in text
    assert "<dt>version</dt><dd>9.9</dd>" in text and "<dt>commit</dt>" not in text
