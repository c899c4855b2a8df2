"""The report: one file, complete, escaped, usable without a mouse, and free of errors in a browser."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import test_plots as made
from browser import Visit, low_contrast, unlabelled, visit

from emotion_circuits.circuits.stability import Stability
from emotion_circuits.errors import ArtefactError
from emotion_circuits.evaluation.comparison import Comparison
from emotion_circuits.evaluation.judges import Score
from emotion_circuits.nodes import NodeValues
from emotion_circuits.report import ReportData, write_report
from emotion_circuits.report.headline import headline
from emotion_circuits.report.replies import MAX_ITEMS, sample_replies
from emotion_circuits.report.tables import duration, method_rows, node_rows, setting_rows
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
        timings={"elicitation": 75.2, "evaluation": 3}, stability=made.selected(), samples=made.samples(),
        calibrations={"circuit": made.calibration(), "steering": made.calibration()},
    )  # fmt: skip
    return dataclasses.replace(data, **changes)


def small_run(**changes) -> ReportData:
    """A run with one circuit and little beside it, whose report is quickly written."""
    least: dict[str, Any] = {
        "attributions": {}, "circuits": {"anger": made.circuit()}, "sampled": None, "timings": None, "calibrations": {},
        "samples": None, "stability": {}, "notes": (),
    }  # fmt: skip
    return run(**least | changes)


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
    data = small_run(
        title=HOSTILE, notes=[HOSTILE], settings={HOSTILE: HOSTILE}, comparison=made.comparison(text=HOSTILE)
    )
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
    assert len(drawn) == len(set(drawn)) == 3 + 1 + 6 + 1 + 6 + 6 + 1 + 6 + 2 + 2 * 6
    assert all(held[key]["data"] for key in drawn)


def test_report_cannot_be_written_into_a_missing_folder(tmp_path):
    with pytest.raises(ArtefactError, match="cannot write"):
        write_report(tmp_path / "absent" / "report.html", small_run())


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
    data = small_run(comparison=Comparison(held.evaluations | {"circuit": lost}, held.fluencies))
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


def test_report_says_which_nodes_are_stable(tmp_path):
    circuit = made.circuits()["anger"]
    (stable, *_), every = circuit.nodes, circuit.nodes
    often = NodeValues(every.neurons * 0.5, every.heads * 0.5)
    often.values(stable.kind)[stable.layer, stable.index] = 0.95
    found = Stability(every, often, often, 0.6, 200, 40)
    path = write_report(tmp_path / "stable.html", small_run(stability={"anger": found}))
    text = " ".join(Page(path.read_text()).words)
    assert f"1 of the {len(every)} nodes are in at least 90 % of both" in text
    assert "share 60 % of their nodes" in text
    (row,) = [r for r in node_rows(circuit, found) if r["core"]]
    assert (row["node"], row["chosen"]) == (str(stable), pytest.approx(95))
    assert text.count("95 ●") == 1
    assert len(re.findall(r"\b50\b(?! ●)", text)) >= len(every) - 1


def test_calibration_and_quality_are_told(page):
    fear = made.calibration().chosen["fear"]
    assert f"fear {fear.candidate} {fear.strength:.2f} controlled" in page.text
    test = made.directions().quality["split halves"]
    assert f"fear {test.values[3]:.2f}" in page.text
    assert "no flag" in page.text


def test_flagged_directions_are_told(tmp_path):
    held = made.directions()
    weak = dataclasses.replace(held, split_half=held.split_half * 0.3)
    flags = weak.quality.flags("fear")
    text = Page(write_report(tmp_path / "r.html", small_run(directions=weak)).read_text(encoding="utf-8")).text
    assert f"flagged : {flags[0]}" in text


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
    data = small_run(comparison=one)
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
    data = small_run(comparison=renamed)
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
    assert len(sorts) == 6 * 6 + 2  # two circuits have a column of stability
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


def opened(seen: Visit, path: Path) -> Any:
    """The page, looked at from top to bottom; nothing may leave the machine, and every figure is drawn."""
    page = seen.page
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith("file:") else route.abort())
    page.goto(path.as_uri())
    for plot in page.query_selector_all("[data-figure]"):
        if plot.evaluate("(e) => Boolean(e.offsetParent)"):
            plot.evaluate("(e) => e.scrollIntoView({ behavior: 'instant' })")
            page.wait_for_function("(e) => e.dataset.drawn", arg=plot, timeout=60_000)
    page.evaluate("scrollTo(0, 0)")
    return page


def shown(page: Any, selector: str, what: str) -> list[Any]:
    """``what`` of every visible element."""
    return page.evaluate(
        f"(selector) => [...document.querySelectorAll(selector)].filter((e) => e.offsetParent).map((e) => {what})",
        selector,
    )


@pytest.mark.slow
def test_page_works_in_a_browser(path):
    with visit(reduced_motion="reduce") as seen:
        page = opened(seen, path)
        assert {urlsplit(url).scheme for url in seen.requests} <= {"file", "data", "blob"}
        assert unlabelled(page) == []

        page.locator("[name=emotion-nodes][value=fear]").check(force=True)
        assert set(shown(page, "[data-emotion]", "e.dataset.emotion")) == {"fear"}
        chosen = page.evaluate("[...document.querySelectorAll('[data-emotion-choice]:checked')].map((e) => e.value)")
        assert set(chosen) == {"fear"}

        check_nodes(page)
        check_replies(page)
        check_player(page)
        first = page.locator("#circuits .controls:visible button").first
        first.click()
        assert first.get_attribute("aria-pressed") == "true"
        seen.picture("report-light")
        assert seen.problems == []


def check_nodes(page: Any) -> None:
    """The table sorts and searches."""
    page.locator("#nodes th:visible button", has_text="Layer").click()
    assert shown(page, "#nodes th[aria-sort]", "e.ariaSort") == ["none"] * 2 + ["descending"] + ["none"] * 4
    layers = [int(text) for text in shown(page, "#nodes tbody tr", "e.cells[2].textContent")]
    assert layers == sorted(layers, reverse=True)
    assert len(set(layers)) > 1
    page.fill("#node-search", "l2h")
    found = shown(page, "#nodes tbody tr", "e.cells[0].textContent")
    assert found
    assert all(name.startswith("L2H") for name in found)
    assert page.inner_text("#node-count").startswith(f"{len(found)} of ")


def check_replies(page: Any) -> None:
    """Replies are filtered by event, method and verdict."""
    page.select_option("#reply-valence", "negative")
    assert set(shown(page, "#replies .item", "e.dataset.valence")) == {"negative"}
    page.locator("[data-method-choice][value=steering]").uncheck()
    methods = dict.fromkeys(shown(page, "#replies [data-method]", "e.dataset.method"))
    assert list(methods) == [m for m in made.METHODS if m != "steering"]
    page.select_option("#reply-verdict", "miss")
    assert set(shown(page, "#replies [data-method]", "e.dataset.verdict")) == {"miss"}
    empty = "[...e.querySelectorAll('[data-method]')].every((a) => !a.offsetParent)"
    assert not any(shown(page, "#replies .item", empty))


def check_player(page: Any) -> None:
    """The animation over layers has a slider and a button, both for the keyboard."""
    slider = page.locator("#directions input[type=range]")
    slider.focus()
    first = "document.querySelector('[data-figure=json-samples]').data[0].x[0]"
    for key, layer in (("Home", "layer 0"), ("End", "layer 4")):
        before = page.evaluate(first)
        page.keyboard.press(key)
        page.wait_for_selector(f"#directions input[type=range][aria-valuetext='{layer}']")
        page.wait_for_function(f"(before) => {first} !== before", arg=before)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(path, scheme):
    with visit(color_scheme=scheme) as seen:
        page = opened(seen, path)
        # Plotly chooses the colour of a cell's number by the cell, which style sheets do not know.
        page.evaluate("document.querySelectorAll('.heatmap-label').forEach((e) => e.remove())")
        assert low_contrast(page) == []
        if scheme == "dark":
            seen.picture("report-dark")
        assert seen.problems == []


@pytest.mark.slow
def test_page_fits_a_phone_and_the_keyboard_reaches_everything(path):
    with visit(width=375, height=740) as seen:
        page = opened(seen, path)
        assert page.evaluate("document.documentElement.scrollWidth") == 375
        small = shown(page, "button, select, input[type=search]", "[e.textContent || e.id, e.offsetHeight]")
        assert [name for name, height in small if height < 24] == []  # WCAG 2.2's least target
        assert page.evaluate("[...document.querySelectorAll('[tabindex]')].every((e) => e.tabIndex === 0)")
        page.evaluate("window.scrollTo(0, 0)")
        reached = [focused(page) for _ in range(60)]
        assert reached[0]["text"] == "Skip to the results"
        tops = [r["top"] for r in reached[1:] if not r["sticky"]]
        assert tops == sorted(tops)
        assert all(r["outline"] for r in reached)
        seen.picture("report-phone")
        assert seen.problems == []


def focused(page: Any) -> dict[str, Any]:
    """What has the focus after another press of the tab key: where it is, and whether one can see that it has it."""
    page.keyboard.press("Tab")
    return page.evaluate("""() => {
      const e = document.activeElement, next = e.matches('.picker input') ? e.nextElementSibling : e;
      return { text: e.textContent.trim().slice(0, 40), sticky: Boolean(e.closest('nav')),
               top: Math.round(e.getBoundingClientRect().top + scrollY),
               outline: getComputedStyle(next).outlineStyle !== "none" };
    }""")


@pytest.mark.slow
def test_hostile_page_does_nothing_in_a_browser(hostile, tmp_path):
    path = tmp_path / "hostile.html"
    path.write_text(hostile, encoding="utf-8")
    with visit() as seen:
        alarms: list[str] = []
        seen.page.on("dialog", lambda dialog: (alarms.append(dialog.message), dialog.dismiss()))
        opened(seen, path)
        assert alarms == seen.problems == []
