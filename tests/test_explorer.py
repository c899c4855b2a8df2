"""The explorer: its facts are what interventions show, its edits act and are saved, its page keeps others out."""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.request
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pytest
import torch
from browser import low_contrast, unlabelled, visit
from helpers import EMOTIONS, Background, background, ids_of, instructed, naive_record, naive_run, prompts

import emotion_circuits as ec
from emotion_circuits.errors import EmotionCircuitsError, EmotionError, NodeError, PromptError, RunError
from emotion_circuits.explorer import messages
from emotion_circuits.explorer.writes import NodeWrites, direct_logits, removal
from emotion_circuits.nodes import Node
from emotion_circuits.pipeline.manifest import write_manifest

HOSTILE = "<img src=x onerror=alert(1)>"
NODES = [Node(1, "neuron", 7), Node(2, "neuron", 0), Node(0, "head", 1), Node(2, "head", 3)]


# What a node writes, by intervention and by sums


@pytest.mark.parametrize("node", NODES, ids=str)
def test_the_write_is_what_the_residual_loses_without_the_node(qwen, node: Node) -> None:
    asked = prompts(2)
    site = "resid_post" if node.kind == "neuron" else "resid_mid"
    for prompt, write in zip(asked, NodeWrites(qwen, asked).write(node), strict=True):
        ids = ids_of(qwen, prompt)
        with_it, without = naive_run(qwen.hf, ids), naive_run(qwen.hf, ids, {(node.kind, node.layer): zeroing(node)})
        lost = with_it[site, node.layer][-1] - without[site, node.layer][-1]
        torch.testing.assert_close(write, lost, atol=2e-5, rtol=1e-4)


def test_the_vocabulary_writes_of_all_nodes_make_the_logits(either_model) -> None:
    asked, model = prompts(3), either_model
    writes = NodeWrites(model, asked)
    every = sum(writes.vocabulary(node, range(len(asked))).logits for node in ec.NodeSet.all(model))
    embedded, last = naive_record(model, asked, "resid_pre")[0], naive_record(model, asked, "resid_post")[-1]
    logits = torch.stack([naive_run(model.hf, ids_of(model, p))["logits"][-1] for p in asked]).mean(dim=0)
    total = every + direct_logits(model, embedded, last)
    torch.testing.assert_close(total, logits - logits.mean(), atol=2e-4, rtol=1e-4)


def test_one_node_s_vocabulary_write_by_hand(qwen) -> None:
    asked, node = prompts(3), Node(2, "neuron", 5)
    norm, head = qwen.hf.model.norm, qwen.hf.lm_head
    by_hand = []
    for prompt in asked:
        seen = naive_run(qwen.hf, ids_of(qwen, prompt))
        resid = seen["resid_post", 2][-1]
        write = seen["neuron", 2][-1, 5] * qwen.hf.model.layers[2].mlp.down_proj.weight[:, 5]
        rms = (resid.square().mean() + norm.variance_epsilon).sqrt()
        by_hand.append((write / rms * norm.weight) @ head.weight.T)
    wanted = torch.stack(by_hand).mean(dim=0)
    found = NodeWrites(qwen, asked).vocabulary(node, [0, 1, 2])
    torch.testing.assert_close(found.logits, wanted - wanted.mean(), atol=1e-5, rtol=1e-4)
    best = int((wanted).argmax())
    assert found.top(1)["token"][0] == qwen.tokenizer.decode([best])
    assert found.bottom(1)["logit"][0] == pytest.approx(float(found.logits.min()))


@pytest.mark.parametrize("node", NODES, ids=str)
def test_removal_is_a_real_zero_ablation(either_model, node: Node) -> None:
    model, asked = either_model, instructed(2, EMOTIONS[:1])
    vector = torch.randn(model.dims.d_model, generator=torch.Generator().manual_seed(0))
    before, change = removal(model, node, asked, ec.Projection(vector))
    for i, prompt in enumerate(asked):
        ids = ids_of(model, prompt)
        whole, cut = naive_run(model.hf, ids), naive_run(model.hf, ids, {(node.kind, node.layer): zeroing(node)})
        assert float(before.values[i]) == pytest.approx(float(whole["resid_post", 2][-1] @ vector), abs=2e-4)
        lost = float((cut["resid_post", 2][-1] - whole["resid_post", 2][-1]) @ vector)
        assert float(change.values[i]) == pytest.approx(lost, abs=2e-4)


def zeroing(node: Node):
    def edit(activation: torch.Tensor) -> torch.Tensor:
        changed = activation.clone()
        changed[-1, node.index] = 0
        return changed

    return edit


# A run to explore


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on the demo model, up to its circuits."""
    from emotion_circuits.pipeline import Settings, run_pipeline, search

    out = tmp_path_factory.mktemp("runs") / "small"
    settings = Settings(emotions=("anger", "happiness"), limit=3, max_new_tokens=40, temperature=None, size=60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "STRENGTHS", search.Range(1.0, 1.0))  # a small search is enough here
        patch.setattr(search, "PLACES", search.PLACES[:1])
        run_pipeline(settings, out, until="circuit")
    return out


@pytest.fixture(scope="module")
def opened(folder: Path):
    return ec.load_run(folder)


@pytest.fixture
def explorer(opened) -> ec.Explorer:
    return ec.Explorer(opened.model, opened)


def test_the_reply_is_that_of_the_patch(explorer: ec.Explorer) -> None:
    explorer.emotion, explorer.strength = "happiness", 1.3
    circuit, config = explorer.circuit, explorer.run.config()
    positions = explorer.run.modulations()["happiness"].positions
    patch = ec.Patch(circuit.nodes, ec.Enhancement(circuit.contrast, 1.3), positions)
    asked = [explorer.items[0].prompt()]
    assert explorer.reply.after.text == ec.generate(explorer.model, asked, patch, config).texts[0]
    assert explorer.reply.before.text == ec.generate(explorer.model, asked, None, config).texts[0]
    assert explorer.reply.changed
    assert "".join(piece for piece, _ in explorer.reply.parts()).strip() == explorer.reply.after.text
    explorer.strength = 0
    assert not explorer.reply.changed
    assert "none" in repr(explorer.reply)


def test_a_text_of_one_s_own_is_asked_under_the_same_rule(explorer: ec.Explorer) -> None:
    item = explorer.items[4]
    explorer.prompt = 4
    listed = explorer.reply
    explorer.prompt = item.text
    assert explorer.reply.after.text == listed.after.text
    assert explorer.text == item.text


def test_toggling_and_editing_are_one(explorer: ec.Explorer) -> None:
    best = explorer.circuit.to_frame()["node"][0]
    outside = next(str(n) for n in ~explorer.circuit.nodes)
    found = explorer.circuit.nodes
    for node, edit in ((best, explorer.remove), (outside, explorer.add)):
        promised = explorer.toggled(node).after.text
        edit(node)
        assert explorer.reply.after.text == promised
    assert explorer.circuit.nodes == (found - ec.NodeSet.of(explorer.model, best)) | ec.NodeSet.of(
        explorer.model, outside
    )
    explorer.reset()
    assert explorer.circuit.nodes == found


def test_a_saved_circuit_loads_and_says_what_was_edited(explorer: ec.Explorer) -> None:
    explorer.strength = 0.5
    best = explorer.circuit.to_frame()["node"][0]
    explorer.remove(best)
    path = explorer.save()
    assert path == explorer.run.folder.path / "explorer/anger.safetensors"
    loaded = ec.Circuit.load(path, explorer.model)
    assert loaded.nodes == explorer.circuit.nodes
    assert loaded.provenance["edited"] == {"added": [], "removed": [best], "strength": 0.5}
    assert loaded.provenance["model"] == "demo"


def test_facts_agree_with_the_run(explorer: ec.Explorer) -> None:
    node = explorer.circuit.to_frame()["node"][0]
    facts, scores = explorer.node(node), explorer.run.attributions()["anger"]
    row = facts.to_frame().set_index("emotion").loc["anger"]
    at = Node.parse(node)
    assert row["score"] == pytest.approx(float(scores.values.values(at.kind)[at.layer, at.index]))
    assert 1 <= row["rank"] <= row["of"]
    # Direct attribution is the mean contribution on the prompts that ask for the emotion; here these are all of them.
    mine = facts.samples.query("emotion == 'anger'")
    assert mine["contribution"].mean() == pytest.approx(row["score"], rel=1e-4)
    assert facts.samples["contribution"].is_monotonic_decreasing
    assert node in repr(facts)
    assert len(facts.vocabulary.top(5)) == 5


def test_what_is_wrong_is_refused_and_changes_nothing(explorer: ec.Explorer) -> None:
    before = explorer.choice
    with pytest.raises(EmotionError, match="'zorn' in the run; choose among anger, happiness"):
        explorer.emotion = "zorn"
    with pytest.raises(PromptError, match="no item 99"):
        explorer.choose(emotion="happiness", prompt=99)
    with pytest.raises(PromptError, match="empty"):
        explorer.prompt = " \n"
    with pytest.raises(PromptError, match="context"):
        explorer.prompt = "rain " * 600
    with pytest.raises(EmotionCircuitsError, match="between -10 and 10"):
        explorer.strength = float("nan")
    with pytest.raises(NodeError, match="outside the model"):
        explorer.node("L99H0")
    with pytest.raises(NodeError, match="at least one node"):
        explorer.remove(*explorer.circuit.nodes)
    assert explorer.choice == before


def test_a_run_without_circuits_says_how_to_make_them(opened, tmp_path: Path) -> None:
    manifest = opened.folder.manifest
    write_manifest(tmp_path, manifest | {"files": {}})
    with pytest.raises(RunError, match="emotion-circuits circuit --out"):
        ec.Explorer(opened.model, tmp_path)
    write_manifest(tmp_path, manifest)  # lists circuits that are not there
    with pytest.raises(RunError, match=r"damaged \(it is missing\); run again with this folder"):
        ec.Explorer(opened.model, tmp_path)
    with pytest.raises(RunError, match="no run folder"):
        ec.load_run(tmp_path / "nothing")


def test_a_run_folder_cannot_ask_for_remote_code(folder: Path, tmp_path: Path) -> None:
    manifest = ec.load_run(folder).folder.manifest
    write_manifest(tmp_path, manifest | {"settings": manifest["settings"] | {"trust_remote_code": True}})
    assert not ec.load_run(tmp_path).settings.trust_remote_code
    assert ec.load_run(tmp_path, trust_remote_code=True).settings.trust_remote_code


# Messages


def test_what_has_no_interval_is_json_all_the_same() -> None:
    alone = ec.Measurement(torch.ones(2), ("work", "work"))
    assert messages._measured(alone) == {"mean": 1.0, "low": None, "high": None, "n": 2}
    assert messages._measured(ec.Measurement(torch.ones(2), ("work", "home")))["low"] == 1.0


def test_every_message_is_answered(explorer: ec.Explorer) -> None:
    node = explorer.circuit.to_frame()["node"][0]
    json.dumps(messages.about(explorer), allow_nan=False)
    for i, message in enumerate([
        {"do": "choose", "emotion": "happiness", "strength": 1}, {"do": "look", "node": node},
        {"do": "choose", "prompt": HOSTILE}, {"do": "remove", "node": node}, {"do": "add", "node": node},
        {"do": "save", "name": "my circuit 2"}, {"do": "look", "node": None}, {"do": "reset"},
    ]):  # fmt: skip
        answer = json.loads(json.dumps(messages.answer(explorer, message | {"id": i}), allow_nan=False))
        assert answer["status"]["error"] == ""
        assert answer["status"]["id"] == i
    assert answer["view"]["text"] == HOSTILE
    assert answer["view"]["emotion"] == "happiness"
    assert (explorer.run.folder.path / "explorer/my circuit 2.safetensors").is_file()


@pytest.mark.parametrize(
    "message",
    [
        None, [], "reset", {}, {"do": "eval"}, {"do": "look", "node": 3}, {"do": "look", "node": HOSTILE},
        {"do": "choose", "strength": "1"}, {"do": "choose", "strength": True}, {"do": "choose", "strength": 1e99},
        {"do": "choose", "prompt": -1}, {"do": "choose", "prompt": 1.5}, {"do": "choose", "emotion": ["anger"]},
        {"do": "save", "name": "../outside"}, {"do": "save", "name": "/tmp/outside"}, {"do": "save", "name": ".."},
        {"do": "save", "name": "a\x00b"}, {"do": "save", "name": ""}, {"do": "add", "node": "L0N99999"},
    ],
    ids=str,
)  # fmt: skip
def test_a_hostile_message_is_an_error_and_nothing_else(explorer: ec.Explorer, message: object) -> None:
    files, before = sorted(explorer.run.folder.path.rglob("*")), explorer.choice
    answer = messages.answer(explorer, message)
    assert answer["status"]["error"]
    assert explorer.choice == before
    assert sorted(explorer.run.folder.path.rglob("*")) == files
    assert not re.search(r"Traceback|TypeError|KeyError|AttributeError", answer["status"]["error"])


def test_nothing_is_saved_through_a_link_that_leads_out(explorer: ec.Explorer, tmp_path: Path) -> None:
    held, outside = explorer.run.folder.path / "explorer", tmp_path / "outside"
    outside.mkdir()
    if held.exists():
        held.rename(tmp_path / "kept")
    try:
        held.symlink_to(outside, target_is_directory=True)
        answer = messages.answer(explorer, {"do": "save", "name": "mine"})
        assert "leads out of the run folder" in answer["status"]["error"]
        with pytest.raises(RunError, match="remove the link"):
            explorer.save()
        assert not list(outside.iterdir())
        assert explorer.save(outside / "mine.safetensors").is_file()  # a path of one's own is one's own
    finally:
        held.unlink()
        if (tmp_path / "kept").exists():
            (tmp_path / "kept").rename(held)


# The page


@pytest.fixture(scope="module")
def client(opened):
    from starlette.testclient import TestClient

    from emotion_circuits.explorer.server import app_of

    return TestClient(app_of(ec.Explorer(opened.model, opened), "secret"), base_url="http://127.0.0.1:8000")


def test_nothing_is_answered_without_the_token(client) -> None:
    for path in ("/", "/state", "/explorer.js", "/secre/", "/secrets/state", "/SECRET/", "//secret/", "/x/secret/"):
        response = client.get(path, follow_redirects=False)
        assert response.status_code == 403, path
        assert "secret" not in response.text
    assert client.post("/message", json={"do": "reset"}).status_code == 403
    assert client.get("/secret/state").status_code == 200
    for path in ("/secret/server.py", "/secret/../server.py", "/secret/%2e%2e/server.py"):
        assert client.get(path).status_code in (403, 404)


def test_another_host_s_name_does_not_lead_here(client) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example:80", ""):
        assert client.get("/secret/", headers={"Host": host}).status_code == 400
    assert client.get("/secret/", headers={"Host": "localhost:9"}).status_code == 200


def test_every_answer_forbids_what_the_page_does_not_need(client) -> None:
    for path in ("/secret/", "/secret/state", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


def test_messages_over_http(client) -> None:
    good = client.post("/secret/message", json={"id": 1, "do": "choose", "strength": 2})
    assert good.json()["view"]["strength"] == 2
    assert client.post("/secret/message", content=b"{").status_code == 400
    assert client.post("/secret/message", content=b"[" * 70_000).status_code == 413
    assert client.post("/secret/message", content=b"[" * 60_000).status_code == 400
    assert client.get("/secret/message").status_code == 405


def test_the_socket_is_this_machine_s_own() -> None:
    from emotion_circuits.explorer.server import listening

    with listening(0) as place:
        host, port = place.getsockname()
        assert host == "127.0.0.1"
        with pytest.raises(EmotionCircuitsError, match="choose another --port"):
            listening(port)


def test_the_token_is_in_no_argument_of_the_browser(monkeypatch: pytest.MonkeyPatch) -> None:
    from emotion_circuits import explorer as package
    from emotion_circuits import pipeline
    from emotion_circuits.cli.explore import explore
    from emotion_circuits.explorer import server

    address, files = "http://127.0.0.1:8000/secret-token/", []

    def browse(given: str) -> bool:
        path = Path(url2pathname(urlsplit(given).path))
        assert given.startswith("file://")
        assert "secret-token" not in given
        assert f'content="0; url={address}"' in path.read_text(encoding="utf-8")
        if os.name == "posix":
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
        files.append(path)
        return True

    def serve(explorer: object, port: int, *, ready) -> None:
        ready(address)
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", browse)
    monkeypatch.setattr(server, "serve", serve)
    monkeypatch.setattr(pipeline, "load_run", lambda *a, **k: SimpleNamespace(model=None))
    monkeypatch.setattr(package, "Explorer", lambda *a: None)
    explore(Path("run"), 0, browser=True)
    assert len(files) == 1
    assert not files[0].parent.exists()


def test_the_front_end_never_reads_text_as_markup() -> None:
    static = Path(messages.__file__).parent / "static"
    for name in ("explorer.js", "page.js"):
        text = (static / name).read_text(encoding="utf-8")
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|https?:",
            text.replace("http://www.w3.org/2000/svg", ""),
        )


@pytest.mark.parametrize(("module", "package"), [("widget", "anywidget"), ("server", "uvicorn")])
def test_a_missing_package_says_how_to_get_it(module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"emotion_circuits.explorer.{module}", raising=False)
    with pytest.raises(EmotionCircuitsError, match=rf"needs {package}.*pip install 'emotion-circuits\[explorer\]'"):
        importlib.import_module(f"emotion_circuits.explorer.{module}")


# In a browser


def exploring(folder: Path, log: Path) -> AbstractContextManager[Background]:
    """The command on a run folder; wide, so that the address stays on one line."""
    return background(log, "-m", "emotion_circuits", "explore", str(folder), "--no-browser", COLUMNS="300")


def settled(page) -> None:
    """Wait until the explorer has answered everything."""
    page.wait_for_selector('.ec[data-busy="false"]')


def slide(page, strength: float) -> None:
    """Move the strength as a hand does."""
    page.locator(".ec input[type=range]").evaluate(
        "(e, value) => { e.value = value; e.dispatchEvent(new Event('input', { bubbles: true })); }", strength
    )
    settled(page)


@pytest.mark.slow
def test_the_page_in_a_browser(folder: Path, tmp_path: Path) -> None:
    with exploring(folder, tmp_path / "log") as server, visit(color_scheme="light") as seen:
        page, address = seen.page, server.printed(r"http://\S+")
        assert address.startswith("http://127.0.0.1:")
        without = page.request.get(address[: address.rindex("/", 0, -1) + 1], timeout=120_000)
        assert without.status == 403
        page.goto(address)
        page.wait_for_selector(".ec-node")

        calibrated = page.inner_text(".ec-after")
        slide(page, 0)
        assert page.inner_text(".ec-after") == page.inner_text(".ec-before") != calibrated
        slide(page, 2)
        assert page.inner_text(".ec-after") != page.inner_text(".ec-before")

        count = page.locator(".ec-node").count()
        first = page.locator(".ec-head").first
        node = first.get_attribute("data-node")
        first.click()
        page.wait_for_selector(f'.ec-facts h3:has-text("{node}")')
        for title in ("Effect of removing it", "Scores", "What it writes in the vocabulary", "Top samples"):
            assert page.locator(f'.ec-facts h4:has-text("{title}")').count() == 1
        assert page.locator(".ec-samples li").count() == messages.N_SAMPLES
        promised = page.inner_text(".ec-toggled")
        page.click(".ec-facts button:has-text('Take out')")
        page.wait_for_selector(f'.ec-removed[data-node="{node}"]')
        settled(page)
        assert promised in (page.inner_text(".ec-after"), "the same as now")
        page.click(".ec-facts button:has-text('Put in')")
        page.wait_for_selector(f'.ec-kept[data-node="{node}"]')

        other = str(next(iter(~ec.Circuit.load(folder / "circuit/anger.safetensors").nodes)))
        page.get_by_label("Any node").fill(other)
        page.click("button:has-text('Look')")
        page.wait_for_selector(f'.ec-facts h3:has-text("{other}")')
        page.click(".ec-facts button:has-text('Put in')")
        page.wait_for_selector(f'.ec-added[data-node="{other}"]')
        page.get_by_label("Name", exact=True).fill("tried")
        page.click("button:has-text('Save circuit')")
        page.wait_for_selector('[role=status]:has-text("tried.safetensors")')
        saved = ec.Circuit.load(folder / "explorer/tried.safetensors")
        assert len(saved.nodes) == count + 1
        assert saved.provenance["edited"]["added"] == [other]

        page.focus('.ec-node[tabindex="0"]')
        page.keyboard.press("ArrowRight")
        focused = page.evaluate("document.activeElement.dataset.node")
        page.keyboard.press("Enter")
        page.wait_for_selector(f'.ec-facts h3:has-text("{focused}")')
        settled(page)
        page.get_by_label("happiness").check()
        page.wait_for_selector('.ec-circuit h3:has-text("happiness")')
        settled(page)
        page.click("summary")

        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.wait_for_selector(f'.ec[data-theme="{scheme}"]')
            assert low_contrast(page) == []
            seen.picture(f"explorer-page-{scheme}")
        assert unlabelled(page) == []
        page.set_viewport_size({"width": 390, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert seen.hosts() == {"127.0.0.1"}
        assert seen.problems == []


@pytest.mark.slow
def test_hostile_texts_stay_texts(folder: Path, tmp_path: Path) -> None:
    def hostile(route) -> None:
        parts = route.fetch(timeout=120_000).json()
        parts["reply"] |= {"before": HOSTILE, "after": [[HOSTILE, True], [HOSTILE, False]]}
        parts["node"]["promotes"][0]["token"] = parts["node"]["samples"][0]["text"] = HOSTILE
        parts["circuit"]["nodes"][0]["node"] = parts["status"]["error"] = HOSTILE
        route.fulfill(json=parts)

    with exploring(folder, tmp_path / "log") as server, visit() as seen:
        seen.page.route("**/message", hostile)
        seen.page.goto(server.printed(r"http://\S+"))
        seen.page.locator(".ec-node").first.click()
        seen.page.wait_for_selector(".ec-facts h4")
        seen.page.click("summary")
        assert seen.page.inner_text(".ec-before") == HOSTILE
        assert seen.page.locator(f".ec :text('{HOSTILE}')").count() >= 5
        assert seen.page.locator(".ec img").count() == 0
        assert seen.problems == []


RUN_ALL = """() => Promise.race([
  (async () => {
    const lab = window.jupyterapp;
    await lab.restored;
    const { sessionContext } = lab.shell.currentWidget;
    await sessionContext.ready;
    await sessionContext.session.kernel.info;
    lab.commands.execute("notebook:run-all-cells");  // is done when the last cell is; nobody waits for that
  })(),
  new Promise((_, fail) => setTimeout(() => fail(new Error("the kernel does not start")), 180000)),
])"""


@pytest.mark.slow
def test_the_widget_in_jupyter_lab(folder: Path, tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
    pytest.importorskip("jupyterlab", reason="needs jupyterlab")
    cells = [
        f"import torch; torch.set_num_threads(1)\nimport emotion_circuits as ec\nrun = ec.load_run({str(folder)!r})",
        "explorer = ec.Explorer(run.model, run)\nexplorer",
        "explorer.strength = 0",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "explore.ipynb")
    quiet = tmp_path / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    quiet.parent.mkdir(parents=True)
    quiet.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    folders = {f"JUPYTER_{name}_DIR": str(tmp_path / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    command = (
        "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0",
        "--ServerApp.token=secret", f"--ServerApp.root_dir={tmp_path}", "--LabApp.expose_app_in_browser=True",
    )  # fmt: skip
    folders["JUPYTERLAB_SETTINGS_DIR"] = str(tmp_path / "settings")
    with background(tmp_path / "log", *command, **folders) as server, visit() as seen:
        page = seen.page
        page.set_default_timeout(180_000)
        address = server.wait_for(lambda: address_of(tmp_path / "RUNTIME"), 180)
        page.goto(f"{address}lab/tree/explore.ipynb?token=secret")
        page.wait_for_selector(".jp-Notebook .jp-Cell")
        page.evaluate(RUN_ALL)
        page.wait_for_selector(".ec-node")
        page.wait_for_selector('.ec-value:text-is("0.00")')  # the last cell's doing
        assert page.inner_text(".ec-after") == page.inner_text(".ec-before")
        slide(page, 2)
        assert page.inner_text(".ec-after") != page.inner_text(".ec-before")
        node = page.locator(".ec-head").first.get_attribute("data-node")
        page.locator(".ec-head").first.click()
        page.wait_for_selector(f'.ec-facts h3:has-text("{node}")')
        page.click(".ec-facts button:has-text('Take out')")
        page.wait_for_selector(f'.ec-removed[data-node="{node}"]')
        settled(page)
        assert low_contrast(page, ".ec") == []
        seen.picture("explorer-jupyterlab")
        assert seen.hosts() == {"127.0.0.1"}
        assert seen.problems == []


def address_of(runtime: Path) -> str | None:
    """What JupyterLab says of itself in its runtime folder, once it answers."""
    try:
        address = json.loads(next(runtime.glob("jpserver-*.json")).read_text())["url"]
        urllib.request.urlopen(f"{address}api?token=secret", timeout=10).read()
    except (StopIteration, ValueError, OSError):  # not written, half written, not listening
        return None
    return address
