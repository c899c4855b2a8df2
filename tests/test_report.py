"""The report: one file, complete, escaped, usable without a mouse, and free of errors in a browser."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
import test_plots as made

from emotion_circuits.errors import ArtefactError
from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.evaluation.judges import Score
from emotion_circuits.report import ReportData, write_report
from emotion_circuits.report.headline import headline
from emotion_circuits.report.replies import MAX_ITEMS, sample_replies
from emotion_circuits.report.tables import duration, method_rows, setting_rows
from emotion_circuits.types import EKMAN

NOTE = "This model's ranking of methods was made by its training and is no evidence about large models."
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
VOID = {"meta", "link", "br", "input", "img", "hr"}


def run(**changes) -> ReportData:
    """A whole run with random results."""
    data = ReportData(
        title="Emotion circuits in a tiny model", settings={"seed": 0, "strength": {"anger": 0.8, "fear": 1.0}},
        directions=made.directions(), attributions={e: made.attribution(e) for e in EKMAN}, influence=made.influence(),
        circuits=made.circuits(), comparison=made.comparison(), sampled=made.comparison(seed=1), notes=[NOTE],
        timings={"elicitation": 75.2, "evaluation": 3},
    )  # fmt: skip
    return dataclasses.replace(data, **changes)


class Page(HTMLParser):
    """What the tests need to know of a page; complains about tags that do not close."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self._open, f"</{tag}> without a start"
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open and self._open[-1] == "script":
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif not self._open or self._open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    return write_report(tmp_path_factory.mktemp("report") / "report.html", run())


@pytest.fixture(scope="module")
def html(path) -> str:
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory) -> str:
    data = run(title=HOSTILE, notes=[HOSTILE], settings={HOSTILE: HOSTILE}, comparison=made.comparison(text=HOSTILE))
    return write_report(tmp_path_factory.mktemp("hostile") / "r.html", data).read_text(encoding="utf-8")


# One file -------------------------------------------------------------------------------------------------------------


def test_report_is_one_file_below_ten_megabytes(path):
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_size < 10e6


def test_nothing_is_fetched(page):
    for tag, attrs in page.tags:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attrs.get(name) or ""
            assert value == "" or value.startswith(("#", "data:")), f"<{tag} {name}={value}>"
    style = "".join(attrs.get("style") or "" for _, attrs in page.tags)
    assert "url(" not in style


def test_style_sheet_and_own_script_fetch_nothing(html, page):
    style = html[html.index("<style>") : html.index("</style>")]
    assert not re.search(r"url\(|@import|https?:", style)
    own = page.scripts[-1][1]
    assert not re.search(r"https?:|fetch\(|XMLHttpRequest|import\(|\bimport\b .* from", own)


def test_policy_forbids_every_request(page):
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "connect-src" not in policy


def test_plotly_is_there_once(html):
    assert html.count("plotly.js v") == 1


def test_every_figure_is_json_that_the_page_draws(page):
    held = {a["id"]: json.loads(text) for a, text in page.scripts if a.get("type") == "application/json"}
    drawn = [a["data-figure"] for a in page.all("div") if "data-figure" in a]
    assert set(drawn) == {key for key in held if key.startswith("json-")}
    assert len(drawn) == len(set(drawn)) == 2 + 1 + 6 + 6 + 6 + 1 + 6 + 1
    assert all(held[key]["data"] for key in drawn)


def test_report_cannot_be_written_into_a_missing_folder(tmp_path):
    with pytest.raises(ArtefactError, match="cannot write"):
        write_report(tmp_path / "absent" / "report.html", run(sampled=None))


# What it says ---------------------------------------------------------------------------------------------------------


def test_headline_tells_the_accuracies_with_intervals(page):
    row = next(r for r in method_rows(made.comparison()) if r["method"] == "circuit")["accuracy"]
    assert f"With the circuit modulated, {row.value:.1f} % of replies" in page.text
    assert f"(95 % interval {row.low:.1f} to {row.high:.1f})" in page.text
    assert "random nodes in the circuit’s place" in page.text


def test_headline_without_a_circuit_takes_the_best_method():
    full = made.comparison()
    some = Comparison({m: full.evaluations[m] for m in ("none", "prompting")}, full.fluencies)
    assert headline(some).sentence.startswith("With prompting, ")


def test_every_method_has_its_row_in_both_tables_and_for_both_decodings(html):
    rows = re.findall(r'<th scope="row">([^<]+)', html)
    for method in made.METHODS:
        assert rows.count(method) == 4
    assert "Greedy decoding" in html
    assert "Sampled at temperature 0.7" in html


def test_tables_show_intervals_unscored_and_fluency(page):
    row = next(r for r in method_rows(made.comparison()) if r["method"] == "steering")
    shown = f"{row['accuracy'].value:.1f} {row['accuracy'].low:.1f}–{row['accuracy'].high:.1f}"
    assert shown in page.text
    assert f"{row['perplexity']:.2f}" in page.text
    assert "Unscored" in page.text
    assert "On topic, %" in page.text


def test_unscored_replies_are_never_shown_as_zero():
    held = made.comparison()
    lost = dataclasses.replace(
        held.evaluations["steering"], scores=tuple(Score(None, "?") for _ in held.evaluations["steering"].scores)
    )
    row = next(
        r for r in method_rows(Comparison(held.evaluations | {"steering": lost}, held.fluencies))
        if r["method"] == "steering"
    )  # fmt: skip
    assert str(row["accuracy"]) == "none scored"


def test_report_shows_a_method_that_nobody_could_score(tmp_path):
    held = made.comparison()
    lost = dataclasses.replace(
        held.evaluations["circuit"], scores=tuple(Score(None, "?") for _ in held.evaluations["circuit"].scores)
    )
    data = run(comparison=Comparison(held.evaluations | {"circuit": lost}, held.fluencies), sampled=None)
    text = Page(write_report(tmp_path / "r.html", data).read_text(encoding="utf-8")).text
    assert "none scored" in text
    assert "nan" not in text.split("Replies side by side")[0]


def test_notes_settings_provenance_and_timings_are_there(page):
    assert NOTE in page.text
    assert "strength · anger 0.8" in page.text
    assert "tiny_demo" in page.text
    assert "elicitation 1 min 15 s" in page.text


def test_every_node_of_every_circuit_is_in_the_table(html):
    for circuit in made.circuits().values():
        for name in circuit.nodes.names():
            assert f'<th scope="row">{name}</th>' in html


def test_replies_are_sampled_evenly_and_grouped_by_item():
    held = sample_replies(made.comparison(n_items=60))
    assert set(held) == set(EKMAN)
    assert all(len(items) == MAX_ITEMS for items in held.values())
    first = held["anger"][0]
    assert [answer.method for answer in first.answers] == list(made.METHODS)
    assert first.said.startswith("I moved my desk")


def test_small_runs_have_a_report_too(tmp_path):
    full = made.comparison(n_items=3)
    one = Comparison({"none": full.evaluations["none"]}, full.fluencies)
    data = run(
        attributions={}, circuits={"anger": made.circuit()}, comparison=one, sampled=None, notes=(), timings=None
    )
    page = Page(write_report(tmp_path / "r.html", data).read_text(encoding="utf-8"))
    assert "With none, " in page.text


def test_durations_and_settings_read_well():
    assert [duration(s) for s in (4.24, 200, 7500)] == ["4.2 s", "3 min 20 s", "2 h 05 min"]
    rows = setting_rows({"a_b": None, "c": {"d": True, "e": [1, 0.5]}})
    assert rows == [("a b", "none"), ("c · d", "yes"), ("c · e", "1, 0.5")]


# Safe -----------------------------------------------------------------------------------------------------------------


def test_hostile_text_is_text(hostile):
    assert HOSTILE not in hostile
    assert "<script>alert" not in hostile
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in hostile
    page = Page(hostile)
    assert not page.all("img")
    assert HOSTILE in page.text
    assert not any("onerror" in attrs for _, attrs in page.tags)


def test_figures_cannot_end_their_script_element(tmp_path):
    held = made.comparison(n_items=3)
    name = "</script><script>alert(3)</script>"
    renamed = Comparison({name: held.evaluations["none"]}, {name: held.fluencies["none"]})
    data = run(comparison=renamed, sampled=None)
    text = write_report(tmp_path / "r.html", data).read_text(encoding="utf-8")
    assert "<script>alert(3)" not in text
    Page(text)


# Usable ---------------------------------------------------------------------------------------------------------------


def test_every_control_has_a_label(page):
    labelled = {a.get("for") for a in page.all("label")}
    inside = labels_around(page)
    for tag in ("input", "select"):
        for attrs in page.all(tag):
            assert attrs.get("id") in labelled or inside[id(attrs)], attrs
    for attrs in page.all("button"):
        assert attrs.get("type") == "button"


def labels_around(page: Page) -> dict[int, bool]:
    """For each control whether the tag before it is its label, which is how the page nests them."""
    result = {}
    for before, (_, attrs) in zip(page.tags, page.tags[1:], strict=False):
        result[id(attrs)] = before[0] == "label"
    return result


def test_tables_are_marked_up_for_screen_readers(page):
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.all("th"))
    sorts = [attrs["aria-sort"] for attrs in page.all("th") if "aria-sort" in attrs]
    assert len(sorts) == 6 * 6
    assert set(sorts) == {"none", "descending"}
    assert len(page.all("caption")) >= len(page.all("table"))


def test_scrolling_regions_can_be_reached_and_are_named(page):
    regions = [a for a in page.all("div") if "scroll" in (a.get("class") or "").split()]
    assert regions
    for attrs in regions:
        assert attrs["tabindex"] == "0"
        assert attrs["role"] == "region"
        assert attrs.get("aria-label") or attrs.get("aria-labelledby")


def test_figures_have_text_for_those_who_cannot_see_them(page):
    for attrs in page.all("div"):
        if "data-figure" in attrs:
            assert attrs["role"] == "img"
            assert len(attrs["aria-label"] or "") > 20


def test_page_has_language_viewport_one_heading_and_no_double_ids(page):
    assert page.all("html")[0]["lang"] == "en"
    assert any(a.get("name") == "viewport" for a in page.all("meta"))
    assert len(page.all("h1")) == 1
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = {(a["href"] or "")[1:] for a in page.all("a")}
    assert targets <= set(ids)
    named = {a for _, attrs in page.tags for a in (attrs.get("aria-labelledby") or "").split()}
    assert named <= set(ids)


def test_style_has_dark_mode_focus_and_narrow_screens(html):
    style = html[html.index("<style>") : html.index("</style>")]
    for needed in ("prefers-color-scheme:dark", ":focus-visible", "max-width: 44rem", "prefers-reduced-motion"):
        assert needed in style


def test_links_and_focus_have_contrast(html):
    surfaces = {"light": made.LIGHT.surface, "dark": made.DARK.surface}
    for name in ("link", "focus"):
        for look, colour in zip(surfaces, re.findall(rf"--{name}: (#\w{{6}})", html), strict=True):
            assert made.vision.contrast(colour, surfaces[look]) >= 4.5


# In a browser ---------------------------------------------------------------------------------------------------------

_VISIT = """
<script>
const report = {};
window.addEventListener("error", (event) => { report.error = event.message; });
document.addEventListener("securitypolicyviolation", (event) => { report.violation = event.violatedDirective; });
setTimeout(() => {
  const pick = (selector) => document.querySelector(selector);
  const shown = (selector) => [...document.querySelectorAll(selector)].filter((e) => !e.closest("[hidden]"));
  pick("[data-emotion-choice][name=emotion-nodes][value=fear]").click();
  report.panels = [...new Set(shown("[data-emotion]").map((e) => e.dataset.emotion))];
  report.checked = [...document.querySelectorAll("[data-emotion-choice]:checked")].map((e) => e.value);
  const heads = shown("#nodes th[aria-sort]");
  heads[2].querySelector("button").click();
  report.sort = heads.map((e) => e.getAttribute("aria-sort"));
  report.layers = shown("#nodes tbody tr").map((row) => Number(row.cells[2].textContent));
  pick("#node-search").value = "l2h"; pick("#node-search").dispatchEvent(new Event("input"));
  report.found = shown("#nodes tbody tr").map((row) => row.cells[0].textContent);
  pick("#reply-valence").value = "negative"; pick("#reply-valence").dispatchEvent(new Event("input"));
  report.valences = shown("#replies .item").map((e) => e.dataset.valence);
  pick("[data-method-choice][value=steering]").click();
  report.methods = [...new Set(shown("#replies [data-method]").map((e) => e.dataset.method))];
  setTimeout(() => {
    report.plots = document.querySelectorAll(".js-plotly-plot").length;
    const button = shown("#circuits .controls button")[0];
    button.click();
    report.pressed = button.getAttribute("aria-pressed");
    report.width = document.documentElement.scrollWidth <= window.innerWidth;
    document.title = "VISITED " + JSON.stringify(report);
  }, 3000);
}, 1500);
</script>
"""


def visit(html: str, folder: Path, *flags: str) -> tuple[dict, str]:
    """Open the page, use its controls, and return what was seen and what the console said."""
    file = folder / "visited.html"
    start, end, rest = html.rpartition("</body>")  # Plotly's own code has the word too
    file.write_text(start + _VISIT + end + rest, encoding="utf-8")
    command = [
        made.browser() or "", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=20000", *flags,
        "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    title = re.search(r"<title>VISITED (.*?)</title>", done.stdout)
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    assert title, f"the page did not come to its end: {console}"
    return json.loads(title[1].replace("&amp;", "&")), console


@made.needs_browser
@pytest.mark.slow
@pytest.mark.parametrize("size", ["1280,900", "500,800"])
def test_page_works_in_a_browser(html, tmp_path, size):
    seen, console = visit(html, tmp_path, f"--window-size={size}")
    assert console == ""
    assert "error" not in seen
    assert "violation" not in seen
    assert seen["panels"] == ["fear"]
    assert set(seen["checked"]) == {"fear"}
    assert seen["sort"] == ["none", "none", "descending", "none", "none", "none"]
    assert seen["layers"] == sorted(seen["layers"], reverse=True)
    assert seen["found"]
    assert all(name.startswith("L2H") for name in seen["found"])
    assert set(seen["valences"]) == {"negative"}
    assert seen["methods"] == [m for m in made.METHODS if m != "steering"]
    assert seen["plots"] >= 1
    assert seen["pressed"] == "true"
    assert seen["width"]


@made.needs_browser
@pytest.mark.slow
def test_hostile_page_does_nothing_in_a_browser(hostile, tmp_path):
    alarm = hostile.replace(
        "<head>", "<head><script>window.alert = (what) => console.error('ALARM', what);</script>", 1
    )
    _, console = visit(alarm, tmp_path)
    assert console == ""
