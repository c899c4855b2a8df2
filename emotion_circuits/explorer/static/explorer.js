// The explorer's front end, for a notebook's widget and for the page alike.
//
// `render({ model, el })` is anywidget's interface. Of the model it uses `get`, `on`, `off` and `send`; what it gets
// and sends is described in messages.py. Texts are always set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
const CELL = 20; // room of one neuron in the drawing
const GUTTER = 34; // room for the layers' names

/** An HTML element; attributes that are functions become listeners, and those that are undefined or false are left out. */
function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
function s(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : Number(Number(value).toPrecision(digits)).toString().replace("-", "−");
const strengthText = (value) => value.toFixed(2).replace("-", "−");
const counted = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
const spelt = (token) => token.replaceAll("\n", "⏎").replaceAll("\t", "⇥");

/** Sends one message at a time; of choices that wait, the newest counts. */
function messenger(model, onBusy) {
  const sender = Math.random().toString(36).slice(2);
  const waiting = [];
  let current = null;
  let count = 0;
  const next = () => {
    current = waiting.shift() ?? null;
    onBusy(current !== null);
    if (current) model.send(current);
  };
  const answered = () => {
    if (current && model.get("status")?.id === current.id) next();
  };
  const ask = (message) => {
    const last = waiting.at(-1);
    if (message.do === "choose" && last?.do === "choose") {
      if (message.emotion) delete last.strength; // another emotion starts at its own strength
      Object.assign(last, message);
    } else {
      waiting.push({ id: `${sender}-${++count}`, ...message });
    }
    if (!current) next();
  };
  return { ask, answered, isBehind: () => waiting.length > 0 };
}

/** Emotion, prompt and strength. */
function controls(model, { ask, isBehind }) {
  const { emotions, prompts } = model.get("about");
  const group = `ec-${Math.random().toString(36).slice(2)}`;
  const radios = emotions.map((emotion) => {
    const dot = h("span", { class: "ec-dot", "aria-hidden": "true" });
    dot.style.setProperty("--dot", `var(--emotion-${emotions.indexOf(emotion)})`);
    const input = h("input", { type: "radio", name: group, value: emotion, change: () => ask({ do: "choose", emotion }) });
    return h("label", {}, input, h("span", { class: "ec-pill" }, dot, emotion));
  });
  const own = h("option", { value: "", disabled: true }, "a text of my own");
  const select = h(
    "select",
    { change: () => ask({ do: "choose", prompt: Number(select.value) }) },
    prompts.map((text, i) => h("option", { value: i }, text.length > 90 ? `${text.slice(0, 89)}…` : text)),
    own,
  );
  const text = h("textarea", { rows: 3, dir: "auto", spellcheck: "false" });
  const reply = h("button", { type: "button", click: () => ask({ do: "choose", prompt: text.value }) }, "Reply to this text");
  const shown = h("span", { class: "ec-value" });
  const slider = h("input", {
    type: "range", min: -2, max: 4, step: 0.05,
    input: () => {
      shown.textContent = strengthText(Number(slider.value));
      ask({ do: "choose", strength: Number(slider.value) });
    },
  });
  const jump = (label, to) => h("button", { type: "button", click: () => ask({ do: "choose", strength: to() }) }, label);
  const calibrated = jump("calibrated", () => model.get("view").calibrated);
  const element = h(
    "section",
    { class: "ec-controls", "aria-label": "What is tried" },
    h("fieldset", { class: "ec-emotions" }, h("legend", {}, "Emotion"), radios),
    h("label", { class: "ec-field" }, "Prompt", select),
    h("div", { class: "ec-field" }, h("label", {}, "What the model replies to", text), reply),
    h(
      "div",
      { class: "ec-field" },
      h("label", {}, h("span", {}, "Strength ", shown), slider),
      h("div", { class: "ec-row" }, jump("none", () => 0), calibrated),
    ),
  );
  const draw = () => {
    if (isBehind()) return; // what is shown is about to change again
    const view = model.get("view");
    for (const input of element.querySelectorAll("input[type=radio]")) input.checked = input.value === view.emotion;
    select.value = view.prompt === null ? "" : String(view.prompt);
    text.value = view.text;
    slider.max = Math.max(4, view.strength);
    slider.min = Math.min(-2, view.strength);
    slider.value = view.strength;
    shown.textContent = strengthText(view.strength);
    calibrated.textContent = `calibrated (${number(view.calibrated)})`;
  };
  return { element, draw, parts: ["view"] };
}

/** A reply, with the words marked that the other one has not. */
function marked(reply) {
  return reply.after.flatMap(([piece, isNew]) => {
    const text = piece.trimStart();
    return isNew ? [piece.slice(0, piece.length - text.length), h("mark", {}, text)] : [piece];
  });
}

/** The reply without and with the circuit. */
function replies(model) {
  const before = h("p", { class: "ec-before", dir: "auto" });
  const after = h("p", { class: "ec-after", dir: "auto", "aria-live": "polite" });
  const title = h("h3");
  const element = h(
    "section",
    { class: "ec-replies", "aria-label": "Replies" },
    h("article", {}, h("h3", {}, "Without the circuit"), before),
    h("article", {}, title, after),
  );
  const draw = () => {
    const [reply, view] = [model.get("reply"), model.get("view")];
    title.textContent = `With the circuit of ${view.emotion} at strength ${strengthText(view.strength)}`;
    before.textContent = reply.before;
    after.replaceChildren(...marked(reply));
  };
  return { element, draw, parts: ["reply", "view"] };
}

const stateWords = { kept: "in the circuit", added: "added", removed: "taken out" };
const described = (node) => `${node.node}, ${node.kind}, score ${number(node.score)}, ${stateWords[node.state]}`;

/** Where every node stands: heads by index on the left, neurons by score on the right, layers bottom to top. */
function placed(circuit, about, width) {
  const headsTo = GUTTER + Math.max(80, 0.24 * (width - GUTTER));
  const perRow = Math.max(4, Math.floor((width - headsTo - 24) / CELL));
  const most = { head: 1e-9, neuron: 1e-9 };
  for (const node of circuit.nodes) most[node.kind] = Math.max(most[node.kind], node.score);
  const places = [];
  const layers = [];
  let bottom = 4;
  for (let layer = 0; layer < about.n_layers; layer++) {
    const mine = circuit.nodes.filter((node) => node.layer === layer);
    const neurons = mine.filter((node) => node.kind === "neuron");
    const rows = Math.max(1, Math.ceil(neurons.length / perRow));
    const height = rows * CELL + 8;
    for (const node of mine) {
      const size = Math.max(4, 9 * Math.sqrt(Math.max(0, node.score) / most[node.kind]));
      const i = neurons.indexOf(node);
      const x = i < 0
        ? GUTTER + ((node.index + 0.5) / about.n_heads) * (headsTo - GUTTER)
        : headsTo + 24 + (i % perRow) * CELL;
      const up = i < 0 ? height / 2 : height - 4 - CELL / 2 - Math.floor(i / perRow) * CELL;
      places.push({ node, size, x, up: bottom + up });
    }
    layers.push({ layer, up: bottom + height / 2, top: bottom + height });
    bottom += height;
  }
  const height = bottom + 4;
  const down = (up) => height - up;
  return { height, headsTo, places: places.map((p) => ({ ...p, y: down(p.up) })), layers, down };
}

/** The circuit's drawing; arrows move between nodes, Enter looks at one. */
function drawing(model, { ask }) {
  const svg = s("svg", { role: "group", "aria-label": "Nodes of the circuit by layer; arrow keys move, Enter looks at one" });
  const element = h("div", { class: "ec-drawing" }, svg);
  let marks = [];
  let order = [];

  const mark = ({ node, size, x, y }, i) => {
    const shape = node.kind === "head"
      ? s("rect", { x: x - size * 0.85, y: y - size * 0.85, width: 1.7 * size, height: 1.7 * size, rx: 1.5 })
      : s("circle", { cx: x, cy: y, r: size });
    const room = s("circle", { class: "ec-room", cx: x, cy: y, r: CELL / 2 });
    return s(
      "g",
      {
        class: `ec-node ec-${node.kind} ec-${node.state}`, role: "button", tabindex: -1, "data-node": node.node,
        "aria-label": described(node), "aria-pressed": "false",
        click: () => ask({ do: "look", node: node.node }), keydown: (event) => onKey(event, i),
      },
      s("title", {}, described(node)), room, shape,
    );
  };
  const onKey = (event, i) => {
    const here = order[i];
    if (event.key === "Enter" || event.key === " ") ask({ do: "look", node: here.node.node });
    else if (event.key === "ArrowRight") focus(Math.min(i + 1, order.length - 1));
    else if (event.key === "ArrowLeft") focus(Math.max(i - 1, 0));
    else if (event.key === "ArrowUp" || event.key === "ArrowDown") focus(nearest(i, event.key === "ArrowUp" ? 1 : -1));
    else return;
    event.preventDefault();
  };
  /** The node that is closest sideways in the next layer that has any. */
  const nearest = (i, step) => {
    const here = order[i];
    const beyond = order.filter((p) => (p.node.layer - here.node.layer) * step > 0);
    if (!beyond.length) return i;
    const layer = beyond.reduce((best, p) => (Math.abs(p.node.layer - here.node.layer) < Math.abs(best - here.node.layer) ? p.node.layer : best), beyond[0].node.layer);
    const there = beyond.filter((p) => p.node.layer === layer);
    return order.indexOf(there.reduce((best, p) => (Math.abs(p.x - here.x) < Math.abs(best.x - here.x) ? p : best)));
  };
  const focus = (i) => {
    marks.forEach((m, k) => m.setAttribute("tabindex", k === i ? 0 : -1));
    marks[i]?.focus();
  };

  const draw = () => {
    const [circuit, about, view] = [model.get("circuit"), model.get("about"), model.get("view")];
    const width = Math.min(1240, Math.max(300, element.clientWidth || 640));
    const { height, headsTo, places, layers, down } = placed(circuit, about, width);
    const focused = svg.contains(document.activeElement) ? document.activeElement.dataset.node : null;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("width", width);
    svg.setAttribute("height", height);
    svg.style.setProperty("--colour", `var(--emotion-${about.emotions.indexOf(circuit.emotion)})`);
    order = [...places].sort((a, b) => a.node.layer - b.node.layer || a.x - b.x);
    marks = order.map(mark);
    const lines = layers.map(({ layer, up, top }) => [
      s("text", { class: "ec-layer", x: GUTTER - 10, y: down(up), "text-anchor": "end", "dominant-baseline": "central" }, `L${layer}`),
      s("line", { class: "ec-line", x1: GUTTER, x2: width, y1: down(top), y2: down(top) }),
    ]);
    svg.replaceChildren(...lines.flat(), s("line", { class: "ec-line", x1: headsTo + 6, x2: headsTo + 6, y1: 0, y2: height }), ...marks);
    const start = order.findIndex((p) => p.node.node === (focused ?? view.node));
    marks[Math.max(0, start)]?.setAttribute("tabindex", 0);
    if (focused !== null && start >= 0) marks[start].focus();
    select();
  };
  const select = () => {
    const { node } = model.get("view");
    for (const m of marks) m.setAttribute("aria-pressed", String(m.dataset.node === node));
  };
  const observer = new ResizeObserver(() => {
    if (Math.abs(element.clientWidth - svg.clientWidth) > 8) draw();
  });
  observer.observe(element);
  return { element, draw, parts: ["circuit"], more: { view: select }, stop: () => observer.disconnect() };
}

/** The circuit: drawing, table, edits. */
function circuitView(model, messages) {
  const { ask } = messages;
  const graph = drawing(model, messages);
  const title = h("h3");
  const name = h("input", { type: "text", autocomplete: "off" });
  const wanted = h("input", { type: "text", placeholder: "L2H1", autocomplete: "off", size: 9 });
  const rows = h("tbody");
  const table = h(
    "details",
    { toggle: () => drawTable() },
    h("summary", {}, "All nodes as a table"),
    h("div", { class: "ec-scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ["Node", "Kind", "Score", ""].map((t) => h("th", { scope: "col" }, t)))), rows)),
  );
  const element = h(
    "section",
    { class: "ec-circuit", "aria-label": "Circuit" },
    title,
    h("p", { class: "ec-quiet" }, "Heads (squares) by index, neurons (circles) by score; area: score. Hollow: taken out; dashed: added. Choose a node to see what it does."),
    graph.element,
    h(
      "div",
      { class: "ec-row" },
      form("Any node", wanted, "Look", () => ask({ do: "look", node: wanted.value.trim() })),
      form("Name", name, "Save circuit", () => ask({ do: "save", name: name.value.trim() })),
      h("button", { type: "button", click: () => ask({ do: "reset" }) }, "Undo all edits"),
    ),
    table,
  );
  const drawTable = () => {
    if (!table.open) return;
    rows.replaceChildren(
      ...model.get("circuit").nodes.map((node) =>
        h(
          "tr",
          {},
          h("th", { scope: "row" }, h("button", { type: "button", class: "ec-link", click: () => ask({ do: "look", node: node.node }) }, node.node)),
          h("td", {}, node.kind),
          h("td", {}, number(node.score)),
          h("td", {}, toggle(ask, node.node, node.state !== "removed")),
        ),
      ),
    );
  };
  const draw = () => {
    const circuit = model.get("circuit");
    const sizes = `${counted(circuit.n_neurons, "neuron")} and ${counted(circuit.n_heads, "head")}`;
    title.textContent = `Circuit of ${circuit.emotion}: ${sizes}`;
    if (name.dataset.emotion !== circuit.emotion) name.value = name.dataset.emotion = circuit.emotion;
    graph.draw();
    drawTable();
  };
  return { element, draw, parts: ["circuit"], more: graph.more, stop: graph.stop };
}

function form(label, input, button, submit) {
  const send = (event) => {
    event.preventDefault();
    submit();
  };
  return h("form", { class: "ec-inline", submit: send }, h("label", {}, label, input), h("button", { type: "submit" }, button));
}

function toggle(ask, node, isIn) {
  const act = { do: isIn ? "remove" : "add", node };
  return h("button", { type: "button", "aria-label": isIn ? `Take ${node} out` : `Put ${node} in`, click: () => ask(act) }, isIn ? "Take out" : "Put in");
}

/** What is known about one node. */
function nodeView(model, { ask }) {
  const element = h("section", { class: "ec-facts", "aria-label": "Node", "aria-live": "polite" });
  const draw = () => {
    const facts = model.get("node");
    element.replaceChildren(...(facts ? nodeFacts(facts, model.get("about"), ask) : [h("p", { class: "ec-quiet" }, "No node is chosen.")]));
  };
  return { element, draw, parts: ["node"] };
}

function nodeFacts(facts, about, ask) {
  return [
    h(
      "header",
      { class: "ec-row" },
      h("h3", {}, `${facts.node}, ${facts.kind === "head" ? "attention head" : "MLP neuron"} ${facts.in_circuit ? "in" : "not in"} the circuit`),
      toggle(ask, facts.node, facts.in_circuit),
      h("button", { type: "button", click: () => ask({ do: "look", node: null }) }, "Close"),
    ),
    h("div", { class: "ec-columns" }, removalFacts(facts), scoreFacts(facts, about), vocabularyFacts(facts), sampleFacts(facts, about)),
  ];
}

function removalFacts({ node, emotion, in_circuit, removal, projection, toggled }) {
  const range = removal.low === null ? "(no interval: one scenario)" : `[${number(removal.low)}, ${number(removal.high)}]`;
  const interval = `${number(removal.mean)} ${range}`;
  return h(
    "div",
    {},
    h("h4", {}, "Effect of removing it"),
    h("p", {}, `Set to zero in the model, it changes how strongly ${emotion} is written at the end by `, h("b", {}, interval),
      `, from ${number(projection.mean)} (projection, 95 % interval over scenarios, ${counted(projection.n, "prompt")} that ask for ${emotion}).`),
    h("p", {}, in_circuit ? `Taken out of the circuit, ${node} leaves this reply:` : `Put into the circuit, ${node} makes this reply:`),
    h("blockquote", { class: "ec-toggled", dir: "auto" }, toggled.changed ? marked(toggled) : "the same as now"),
  );
}

function bar(share) {
  const element = h("span", { class: share < 0 ? "ec-bar ec-negative" : "ec-bar", "aria-hidden": "true" });
  element.style.setProperty("--share", Math.abs(share));
  return element;
}

function scoreFacts({ scores, kind, scored_by }, about) {
  const largest = Math.max(...scores.map((row) => Math.abs(row.score)), 1e-9);
  const head = kind === "head";
  const columns = ["Emotion", "Score", "", "Rank", ...(head ? ["Importance"] : [])];
  const rows = scores.map((row) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, dotOf(row.emotion, about), row.emotion),
      h("td", {}, row.std === null ? number(row.score) : `${number(row.score)} ± ${number(row.std, 2)}`),
      h("td", { class: "ec-wide" }, bar(row.score / largest)),
      h("td", {}, `${row.rank} of ${row.of}`),
      head ? h("td", {}, number(row.importance)) : null,
    ),
  );
  return h(
    "div",
    {},
    h("h4", {}, "Scores"),
    h("table", {}, h("caption", {}, `${scored_by}, mean ± standard deviation over prompts; rank among ${kind}s`),
      h("thead", {}, h("tr", {}, columns.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, rows)),
  );
}

function vocabularyFacts({ promotes, suppresses, emotion }) {
  const largest = Math.max(...[...promotes, ...suppresses].map((row) => Math.abs(row.logit)), 1e-9);
  const list = (title, rows) =>
    h("div", {}, h("h5", {}, title), h("ol", { class: "ec-tokens" }, rows.map((row) =>
      h("li", {}, h("code", { dir: "auto" }, spelt(row.token)), bar(row.logit / largest), h("span", {}, number(row.logit, 2))))));
  return h(
    "div",
    {},
    h("h4", {}, "What it writes in the vocabulary"),
    h("p", { class: "ec-quiet" }, `Its direct part of the next token’s logits when ${emotion} is asked for: mean over prompts, through the final norm as it is, less the mean over all tokens.`),
    h("div", { class: "ec-pair" }, list("For", promotes), list("Against", suppresses)),
  );
}

function sampleFacts({ samples, n_samples, emotion, kind }, about) {
  const activity = kind === "head" ? "norm of its write" : "activation";
  return h(
    "div",
    {},
    h("h4", {}, "Top samples"),
    h("p", { class: "ec-quiet" }, `Of ${counted(n_samples, "prompt")}, those on which it writes most ${emotion} (along its direction, at the last token).`),
    h("ol", { class: "ec-samples" }, samples.map((row) =>
      h("li", {}, h("p", { dir: "auto" }, row.text),
        h("p", { class: "ec-quiet" }, dotOf(row.emotion, about), `asked for ${row.emotion}; contribution ${number(row.contribution)}, ${activity} ${number(row.activation)}`)))),
  );
}

function dotOf(emotion, about) {
  const dot = h("span", { class: "ec-dot", "aria-hidden": "true" });
  dot.style.setProperty("--dot", `var(--emotion-${about.emotions.indexOf(emotion)})`);
  return dot;
}

/** What was done, or what went wrong. */
function statusView(model) {
  const said = h("p", { role: "status" });
  const error = h("p", { role: "alert", class: "ec-error" });
  const draw = () => {
    const status = model.get("status") ?? {};
    said.textContent = status.said ?? "";
    error.textContent = status.error ? `Error: ${status.error}` : "";
  };
  return { element: h("div", { class: "ec-status" }, said, error), draw, parts: ["status"] };
}

/** Colours of the surroundings, light or dark, as Jupyter, VS Code or the system has them; follows changes. */
function follow(root, colours) {
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => {
    const { jpThemeLight, vscodeThemeKind } = document.body.dataset;
    if (jpThemeLight) return jpThemeLight === "false";
    return vscodeThemeKind ? vscodeThemeKind.includes("dark") : system.matches;
  };
  const paint = () => {
    const theme = isDark() ? "dark" : "light";
    const { emotions, ...named } = colours[theme];
    root.dataset.theme = theme;
    for (const [name, colour] of Object.entries(named)) root.style.setProperty(`--${name}`, colour);
    Object.values(emotions).forEach((colour, i) => root.style.setProperty(`--emotion-${i}`, colour));
  };
  const observer = new MutationObserver(paint);
  observer.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "data-vscode-theme-kind"] });
  system.addEventListener("change", paint);
  paint();
  return () => {
    observer.disconnect();
    system.removeEventListener("change", paint);
  };
}

function render({ model, el }) {
  const about = model.get("about");
  // Jupyter would take arrows and letters for its own shortcuts.
  const root = h("div", { class: "ec", "data-lm-suppress-shortcuts": "true", "data-busy": "false" });
  const messages = messenger(model, (busy) => (root.dataset.busy = String(busy)));
  const views = [controls, replies, circuitView, nodeView, statusView].map((view) => view(model, messages));
  const title = h("header", {}, h("h2", {}, "Emotion circuits: explorer"), h("p", { class: "ec-quiet" }, `${about.model}, run ${about.folder}`));
  const [tried, seen, circuit, node, status] = views.map((view) => view.element);
  const bench = h("div", { class: "ec-bench" }, h("div", { class: "ec-left" }, circuit, status), node);
  root.append(h("div", { class: "ec-all" }, title, tried, seen, bench));
  el.append(root);
  const stops = [follow(root, about.colours)];
  const listen = (part, listener) => {
    model.on(`change:${part}`, listener);
    stops.push(() => model.off(`change:${part}`, listener));
  };
  listen("status", messages.answered);
  for (const view of views) {
    for (const part of view.parts) listen(part, view.draw);
    for (const [part, listener] of Object.entries(view.more ?? {})) listen(part, listener);
    if (view.stop) stops.push(view.stop);
    view.draw();
  }
  return () => stops.forEach((stop) => stop());
}

export default { render };
