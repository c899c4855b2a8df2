// The page around the explorer: gives explorer.js the interface that a widget's model has, over its own server.
import explorer from "./explorer.js";

class ServerModel {
  #parts;
  #listeners = new Map();

  constructor(parts) {
    this.#parts = parts;
  }

  get(name) {
    return this.#parts[name];
  }

  on(event, listener) {
    if (!this.#listeners.has(event)) this.#listeners.set(event, new Set());
    this.#listeners.get(event).add(listener);
  }

  off(event, listener) {
    this.#listeners.get(event)?.delete(listener);
  }

  async send(message) {
    this.#set(await answered(message));
  }

  #set(parts) {
    Object.assign(this.#parts, parts);
    for (const name of Object.keys(parts)) for (const listener of this.#listeners.get(`change:${name}`) ?? []) listener();
  }
}

async function answered(message) {
  try {
    const response = await fetch("message", { method: "POST", body: JSON.stringify(message) });
    if (response.ok) return await response.json();
    return { status: { id: message.id, said: "", error: await response.text() } };
  } catch {
    return { status: { id: message.id, said: "", error: "the explorer does not answer; is its command still running?" } };
  }
}

const el = document.getElementById("explorer");
try {
  const model = new ServerModel(await (await fetch("state")).json());
  el.replaceChildren();
  explorer.render({ model, el });
} catch {
  el.textContent = "The explorer does not answer; is its command still running?";
}
