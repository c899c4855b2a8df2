// The report's behaviour: figures in the reader's colours, one emotion everywhere, filters, sorting. No library but Plotly.
(() => {
  "use strict";
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const darkMode = window.matchMedia("(prefers-color-scheme: dark)");
  const swaps = JSON.parse(document.getElementById("dark-swaps").textContent);
  const pattern = new RegExp(Object.keys(swaps).map((k) => k.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|"), "g");
  const inColours = (text) => (darkMode.matches ? text.replace(pattern, (key) => swaps[key]) : text);

  // Figures -----------------------------------------------------------------------------------------------------------
  const config = { responsive: true, displayModeBar: false, scrollZoom: false, doubleClick: false, showTips: false };

  function draw(plot) {
    const figure = JSON.parse(inColours(document.getElementById(plot.dataset.figure).textContent));
    const menus = figure.layout.updatemenus || [];
    delete figure.layout.updatemenus;
    const chosen = Number(plot.dataset.view || -1);
    if (menus.length && chosen >= 0) applyView(figure, menus[0].buttons[chosen]);
    const frames = figure.frames || [];
    if (frames.length && plot.dataset.frame) figure.data = frames[Number(plot.dataset.frame)].data;
    Plotly.react(plot, { data: figure.data, layout: figure.layout, frames, config });
    if (menus.length && !plot.dataset.drawn) addButtons(plot, menus[0]);
    if (frames.length && !plot.dataset.drawn) addPlayer(plot, frames.map((frame) => frame.name));
    plot.dataset.drawn = "yes";
  }

  function applyView(figure, button) {
    const [style, layout] = button.args;
    if (style && style.visible) figure.data.forEach((trace, i) => { trace.visible = style.visible[i]; });
    return layout;
  }

  // Plotly's own buttons and sliders cannot be reached with a keyboard, so the page has real ones.
  const placeOf = (plot) => plot.closest("figure").querySelector("[data-controls]");

  function makeButton(text, onClick) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.addEventListener("click", onClick);
    return button;
  }

  function addButtons(plot, menu) {
    const place = placeOf(plot);
    const buttons = menu.buttons.map((entry, i) => {
      const button = makeButton(entry.label, () => {
        plot.dataset.view = String(i);
        buttons.forEach((other, j) => other.setAttribute("aria-pressed", String(i === j)));
        draw(plot);
      });
      button.setAttribute("aria-pressed", String(i === (menu.active || 0)));
      place.append(button);
      return button;
    });
    place.hidden = false;
  }

  function addPlayer(plot, names) {
    const slider = document.createElement("input"), label = document.createElement("label"), shown = document.createElement("output");
    const last = names.length - 1, calm = window.matchMedia("(prefers-reduced-motion: reduce)");
    Object.assign(slider, { type: "range", min: 0, max: last, value: plot.dataset.frame || last });
    let timer = 0;
    const show = (i) => {
      slider.value = i;
      plot.dataset.frame = String(i);
      shown.textContent = names[i];
      slider.setAttribute("aria-valuetext", `layer ${names[i]}`);
      const transition = { duration: calm.matches ? 0 : 350 };
      Plotly.animate(plot, [names[i]], { mode: "immediate", transition, frame: { duration: transition.duration, redraw: false } });
    };
    const stop = () => { clearInterval(timer); timer = 0; button.textContent = "Play"; };
    const button = makeButton("Play", () => {
      if (timer) return stop();
      button.textContent = "Pause";
      show(Number(slider.value) === last ? 0 : Number(slider.value));
      timer = setInterval(() => (Number(slider.value) < last ? show(Number(slider.value) + 1) : stop()), 900);
    });
    slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
    shown.textContent = names[slider.value];
    label.append("Layer ", slider, " ", shown);
    placeOf(plot).append(button, label);
    placeOf(plot).hidden = false;
  }

  const plots = all("[data-figure]");
  const watcher = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      watcher.unobserve(entry.target);
      draw(entry.target);
    });
  }, { rootMargin: "600px" });
  plots.forEach((plot) => watcher.observe(plot));
  darkMode.addEventListener("change", () => plots.filter((plot) => plot.dataset.drawn).forEach(draw));
  window.addEventListener("beforeprint", () => plots.filter((p) => !p.dataset.drawn && p.offsetParent).forEach(draw));

  // One emotion everywhere --------------------------------------------------------------------------------------------
  const panels = all("[data-emotion]");
  const choices = all("[data-emotion-choice]");

  function choose(emotion) {
    all("section").forEach((section) => {
      const own = panels.filter((panel) => section.contains(panel));
      if (!own.some((panel) => panel.dataset.emotion === emotion)) return;
      own.forEach((panel) => { panel.hidden = panel.dataset.emotion !== emotion; });
    });
    choices.forEach((input) => { if (input.value === emotion) input.checked = true; });
    // What was hidden is drawn now; what was drawn before may have the size of an older window.
    plots.filter((plot) => plot.offsetParent && plot.closest("[data-emotion]")).forEach((plot) => {
      if (plot.dataset.drawn) Plotly.Plots.resize(plot);
      else draw(plot);
    });
    filterReplies();
    filterNodes();
  }
  choices.forEach((input) => input.addEventListener("change", () => choose(input.value)));

  // Replies -----------------------------------------------------------------------------------------------------------
  const byId = (id) => document.getElementById(id);

  const FIRST = 6;
  let room = FIRST;

  function filterReplies() {
    const words = byId("reply-search").value.trim().toLowerCase();
    const valence = byId("reply-valence").value, which = byId("reply-which").value;
    const methods = new Set(all("[data-method-choice]").filter((box) => box.checked).map((box) => box.value));
    const verdict = byId("reply-verdict").value;
    all("#replies [data-method]").forEach((answer) => {
      answer.hidden = !methods.has(answer.dataset.method) || (verdict && answer.dataset.verdict !== verdict);
    });
    const items = all("#replies .items:not([hidden]) .item");
    items.forEach((item) => {
      item.hidden = (valence && item.dataset.valence !== valence)
        || (which === "disagree" && item.dataset.disagree !== "yes")
        || (verdict && !item.querySelector("[data-method]:not([hidden])"))
        || (words && !item.textContent.toLowerCase().includes(words));
    });
    const found = items.filter((item) => !item.hidden);
    found.slice(room).forEach((item) => { item.hidden = true; });
    byId("reply-more").hidden = found.length <= room;
    const first = found.length > room ? `, the first ${room} shown` : "";
    byId("reply-count").textContent = `${found.length} of ${items.length} sample items match${first}`;
  }
  ["reply-search", "reply-valence", "reply-which", "reply-verdict"].forEach((id) => byId(id).addEventListener("input", filterReplies));
  all("[data-method-choice]").forEach((box) => box.addEventListener("change", filterReplies));
  byId("reply-more").addEventListener("click", () => { room += FIRST; filterReplies(); });

  // Nodes -------------------------------------------------------------------------------------------------------------
  function filterNodes() {
    const words = byId("node-search").value.trim().toLowerCase(), kind = byId("node-kind").value;
    const rows = all("#nodes [data-emotion]:not([hidden]) tbody tr");
    rows.forEach((row) => {
      row.hidden = (kind && row.dataset.kind !== kind) || (words && !row.cells[0].textContent.toLowerCase().includes(words));
    });
    const shown = rows.filter((row) => !row.hidden).length;
    byId("node-count").textContent = `${shown} of ${rows.length} nodes shown`;
  }
  ["node-search", "node-kind"].forEach((id) => byId(id).addEventListener("input", filterNodes));

  const collator = new Intl.Collator("en", { numeric: true });
  function sortBy(table, column, direction) {
    const body = table.tBodies[0], sign = direction === "ascending" ? 1 : -1;
    const numeric = table.tHead.rows[0].cells[column].classList.contains("number");
    const value = (row) => row.cells[column].textContent.replaceAll(",", "");
    const compare = numeric
      ? (a, b) => (parseFloat(value(a)) || 0) - (parseFloat(value(b)) || 0)
      : (a, b) => collator.compare(value(a), value(b));
    body.append(...[...body.rows].sort((a, b) => sign * compare(a, b)));
  }
  all("[data-sortable]").forEach((table) => {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => {
      const first = head.classList.contains("number") ? "descending" : "ascending";
      const other = first === "ascending" ? "descending" : "ascending";
      const direction = head.getAttribute("aria-sort") === first ? other : first;
      heads.forEach((cell) => cell.setAttribute("aria-sort", cell === head ? direction : "none"));
      sortBy(table, column, direction);
    }));
  });

  // Where the reader is -----------------------------------------------------------------------------------------------
  const links = new Map(all("nav a").map((link) => [link.getAttribute("href").slice(1), link]));
  const place = new IntersectionObserver((entries) => {
    entries.filter((entry) => entry.isIntersecting).forEach((entry) => {
      links.forEach((link, id) => {
        if (id === entry.target.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      });
    });
  }, { rootMargin: "-20% 0px -70% 0px" });
  all("main > section").forEach((section) => place.observe(section));

  filterReplies();
  filterNodes();
})();
