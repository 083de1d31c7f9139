// Failed messages: searching, looking at one, retrying and discarding. The token is asked for when an action needs it, and
// kept in this tab's session only.

import { about, byId, clock, element, lasting, messages, say, whole } from "./dashboard_dom.js";

const API = "/api/v1/failed";
const PAGE = 100;
const PAGE_MAX = 1000;
const EVERY = 10000;
const PATIENCE = 12000;
const TOKEN = "outboxd-token";
const DONE = { retry: "Retried", discard: "Discarded" };

class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  const response = await fetch(about(path), { ...options, signal: AbortSignal.timeout(PATIENCE) });
  const body = await response.json();
  if (!response.ok) throw new Refused(response.status, body.error);
  return body;
}

const authorization = () => {
  const token = sessionStorage.getItem(TOKEN);
  return token ? { authorization: `Bearer ${token}` } : {};
};

export class Failed {
  constructor() {
    this.filter = {};
    this.rows = [];
    this.nodes = new Map();
    this.open = new Set();
    this.selected = new Set();
    this.matching = false;
    this.skew = 0;
    byId("search").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search(Object.fromEntries([...new FormData(event.target)].filter(([, text]) => text !== "")));
    });
    byId("clear").addEventListener("click", () => {
      byId("search").reset();
      this.search({});
    });
    byId("select-all").addEventListener("change", (event) => this.select(event.target.checked ? this.rows.map((row) => row.seq) : []));
    byId("more").addEventListener("click", () => this.load(this.rows.length + PAGE));
    byId("forget").addEventListener("click", () => this.forget());
    for (const action of ["retry", "discard"]) byId(action).addEventListener("click", () => this.act(action));
    byId("confirm-no").addEventListener("click", () => byId("confirm").close());
    this.offerForget();
  }

  /** What the daemon said last: whether the list may have changed, and whether anything may be done about it. */
  follow(summary) {
    this.skew = summary.now * 1000 - Date.now();
    this.configured = summary.token_configured;
    const total = summary.backlog?.failed ?? null;
    const due = performance.now() - (this.loadedAt ?? -EVERY) >= EVERY;
    const reason = total !== this.total || !this.loaded || (due && (total > 0 || this.rows.length > 0));
    this.total = total;
    if (summary.database) {
      this.loaded = false;
      this.note("The list comes from the database, which does not answer.", this.rows.length > 0);
    } else if (reason) {
      this.load(Math.max(PAGE, this.rows.length));
    }
    this.count();
    this.ages();
    this.choices();
  }

  /** Another outbox is shown: nothing of the one before is. */
  reset() {
    this.ticket = undefined;
    this.filter = {};
    this.rows = [];
    this.loaded = false;
    this.total = null;
    byId("search").reset();
    this.select([]);
    this.paint();
  }

  search(filter) {
    this.filter = filter;
    this.select([]);
    this.load(PAGE);
  }

  /** Loads the first `limit` messages. A load that was overtaken by another is forgotten. */
  async load(limit) {
    const ticket = (this.ticket = Symbol("load"));
    this.loadedAt = performance.now();
    const query = new URLSearchParams({ ...this.filter, limit: Math.min(limit, PAGE_MAX) });
    try {
      const rows = await request(`${API}?${query}`);
      if (ticket !== this.ticket) return;
      this.more = rows.length >= Math.min(limit, PAGE_MAX) && rows.length < PAGE_MAX;
      this.cut = rows.length >= PAGE_MAX;
      this.rows = rows;
      this.loaded = true;
      this.paint();
    } catch (error) {
      if (ticket === this.ticket) this.note(`The list could not be read: ${error.message}`, this.rows.length > 0);
    }
  }

  paint() {
    const shown = new Set(this.rows.map((row) => row.seq));
    for (const set of [this.selected, this.open]) for (const seq of set) if (!shown.has(seq)) set.delete(seq);
    for (const [seq, nodes] of this.nodes) {
      if (shown.has(seq)) continue;
      nodes.row.remove();
      nodes.detail.remove();
      this.nodes.delete(seq);
    }
    const body = byId("failed-rows");
    this.rows.forEach((message, index) => {
      const known = this.nodes.get(message.seq);
      // Another message under the number was not chosen.
      if (known && known.message.id !== message.id) this.selected.delete(message.seq);
      const fresh = known?.message.updated_at === message.updated_at ? known : this.build(message);
      if (known && known !== fresh) {
        known.row.replaceWith(fresh.row);
        known.detail.replaceWith(fresh.detail);
      }
      this.nodes.set(message.seq, fresh);
      [fresh.row, fresh.detail].forEach((node, part) => {
        const there = body.children[2 * index + part];
        if (there !== node) body.insertBefore(node, there ?? null);
      });
    });
    const filtered = Object.keys(this.filter).length > 0;
    const empty = filtered ? "No failed message matches." : "Nothing failed.";
    this.note(this.rows.length === 0 ? empty : "", this.rows.length > 0);
    byId("more-line").hidden = !this.more;
    this.count();
    this.ages();
    this.choices();
  }

  note(text, table) {
    say(byId("failed-note"), text);
    byId("failed-note").hidden = text === "";
    byId("failed-table").hidden = !table;
    byId("actions").hidden = !table;
  }

  count() {
    const shown = whole(this.rows.length);
    const filtered = Object.keys(this.filter).length > 0;
    const all = filtered || this.total === null || this.total < this.rows.length ? "" : ` of ${whole(this.total)}`;
    say(byId("failed-count"), this.rows.length === 0 ? "" : `${shown}${this.more || this.cut ? all : ""} shown, oldest first`);
  }

  ages() {
    for (const { message, age } of this.nodes.values()) {
      const seconds = (Date.now() + this.skew - Date.parse(message.failed_at)) / 1000;
      say(age, Number.isFinite(seconds) ? lasting(Math.max(seconds, 0)).replace(/ (\S+) \d.*$/, " $1") : "–");
    }
  }

  build(message) {
    const { seq } = message;
    const pick = element("input", { type: "checkbox", "aria-label": `Select message ${seq}`, onchange: () => this.toggle(seq) });
    const expand = element("button", {
      type: "button", class: "expand", "aria-expanded": "false", "aria-controls": `detail-${seq}`, title: "Attempts and contents",
      onclick: () => this.expand(seq),
    }, String(seq));
    const age = element("span", {});
    const row = element("tr", { class: "message" },
      element("td", {}, pick), element("td", { class: "number" }, expand),
      element("td", {}, message.topic), element("td", {}, message.key ?? "–"),
      element("td", { class: "number" }, age), element("td", { class: "number" }, whole(message.attempt - 1)),
      element("td", {}, element("span", { class: "mono" }, message.last_error ?? "–")));
    const content = element("td", { colspan: "7" });
    const detail = element("tr", { class: "detail", id: `detail-${seq}`, hidden: true }, content);
    const nodes = { message, row, detail, content, pick, expand, age };
    if (this.open.has(seq)) this.unfold(nodes);
    return nodes;
  }

  toggle(seq) {
    const chosen = new Set(this.selected);
    if (!chosen.delete(seq)) chosen.add(seq);
    this.select([...chosen]);
  }

  select(seqs) {
    this.selected = new Set(seqs);
    this.matching = false;
    this.choices();
  }

  /** What the buttons would do. */
  choices() {
    const chosen = this.selected.size;
    for (const [seq, { pick }] of this.nodes) pick.checked = this.selected.has(seq);
    const all = byId("select-all");
    all.checked = chosen > 0 && chosen === this.rows.length;
    all.indeterminate = chosen > 0 && !all.checked;
    const box = byId("selected");
    const state = JSON.stringify([chosen, this.matching, all.checked && this.more, this.configured]);
    if (box.dataset.shown !== state) {
      box.dataset.shown = state;
      box.replaceChildren(...this.chosen(chosen, all.checked));
    }
    for (const action of ["retry", "discard"]) byId(action).disabled = chosen === 0 || !this.configured;
  }

  chosen(count, all) {
    if (!this.configured) return ["Retrying and discarding here needs http.token_file, which is not set."];
    if (this.matching) return ["Every failed message that matches"];
    const text = count === 0 ? "None selected" : `${whole(count)} selected`;
    if (!all || !this.more) return [text];
    const widen = element("button", { type: "button", class: "link", onclick: () => { this.matching = true; this.choices(); } },
      "choose every one that matches");
    return [`${text}, or `, widen];
  }

  expand(seq) {
    const nodes = this.nodes.get(seq);
    if (this.open.delete(seq)) {
      nodes.detail.hidden = true;
      nodes.row.classList.remove("open");
      nodes.expand.setAttribute("aria-expanded", "false");
    } else {
      this.open.add(seq);
      this.unfold(nodes);
    }
  }

  async unfold(nodes) {
    nodes.detail.hidden = false;
    nodes.row.classList.add("open");
    nodes.expand.setAttribute("aria-expanded", "true");
    if (!nodes.content.hasChildNodes()) nodes.content.replaceChildren(element("p", { class: "note" }, "Loading"));
    try {
      nodes.content.replaceChildren(...this.describe(await this.read(nodes.message.seq)));
    } catch (error) {
      nodes.content.replaceChildren(element("p", { class: "note" }, `It could not be read: ${error.message}`));
    }
  }

  /** With the token when there is one; one that is no longer right is forgotten. */
  async read(seq) {
    try {
      return await request(`${API}/${seq}`, { headers: authorization() });
    } catch (error) {
      if (error.status !== 401 && error.status !== 403) throw error;
      this.forget();
      return request(`${API}/${seq}`);
    }
  }

  describe(message) {
    const { seq, payload, headers, attempts, ...rest } = message;
    const hidden = new Set(["topic", "key", "relayed_at", "last_error"]);
    const told = Object.entries(rest).filter(([name, value]) => value !== null && !hidden.has(name));
    const facts = told.flatMap(([name, value]) => [
      element("dt", {}, name.replaceAll("_", " ")),
      element("dd", { class: "mono" }, typeof value === "object" ? JSON.stringify(value) : String(value))]);
    const contents = payload === undefined && headers === undefined
      ? [this.configured ? element("p", {}, element("button", { type: "button", onclick: () => this.reveal(seq) }, "Show payload and headers")) : null]
      : [["Payload", payload], ["Headers", headers]].flatMap(([title, value]) => [
        element("h3", {}, title), element("pre", { class: "mono", tabindex: "0", "aria-label": title },
          typeof value === "string" ? value : JSON.stringify(value, null, 2))]);
    const history = attempts.length === 0
      ? element("p", { class: "note" }, "No attempt is on record.")
      : element("ol", { class: "attempts" }, ...attempts.map((attempt) => element("li", {},
        `${attempt.attempt}. ${clock(Date.parse(attempt.at) / 1000)} · ${[attempt.class, attempt.code].filter(Boolean).join(" ")} · on ${attempt.instance ?? "–"} · ${Math.round(attempt.latency_ms ?? 0)} ms`,
        element("span", { class: "mono" }, attempt.error))));
    return [element("h3", {}, "Attempts"), history, ...contents.filter(Boolean), element("h3", {}, "Message"), element("dl", {}, ...facts)];
  }

  async reveal(seq) {
    if (!authorization().authorization && !(await this.ask("Payloads and headers are shown to the holder of the token.")))  return;
    const nodes = this.nodes.get(seq);
    if (nodes) this.unfold(nodes);
  }

  forget() {
    sessionStorage.removeItem(TOKEN);
    this.offerForget();
  }

  offerForget() {
    byId("forget").hidden = sessionStorage.getItem(TOKEN) === null;
  }

  /** Asks for the token; false when nobody gives it. */
  ask(why) {
    const dialog = byId("ask-token");
    const input = byId("token");
    say(byId("token-text"), why);
    input.value = "";
    return new Promise((resolve) => {
      const end = new AbortController();
      const on = (node, event, then) => node.addEventListener(event, then, { signal: end.signal });
      on(byId("token-form"), "submit", (event) => {
        event.preventDefault();
        sessionStorage.setItem(TOKEN, input.value.trim());
        this.offerForget();
        dialog.close("given");
      });
      on(byId("token-no"), "click", () => dialog.close(""));
      on(dialog, "close", () => {
        end.abort();
        input.value = "";
        resolve(dialog.returnValue === "given");
      });
      dialog.returnValue = "";
      dialog.showModal();
      input.focus();
    });
  }

  /** Confirms, gets the token where needed, and works through what was chosen. */
  async act(action) {
    const chosen = this.rows.filter((row) => this.selected.has(row.seq)).map(({ seq, id }) => ({ seq, id }));
    const filtered = Object.keys(this.filter).length > 0;
    const body = this.matching ? (filtered ? { filter: this.filter } : { all: true }) : { ids: chosen };
    const what = this.matching ? (filtered ? "every failed message that matches" : "every failed message") : messages(chosen.length);
    const dialog = byId("confirm");
    const title = { retry: `Retry ${what}?`, discard: `Discard ${what}?` }[action];
    const text = {
      retry: "They become due at once, and their attempts start over. Mend the cause first, or they fail again.",
      discard: "They are deleted and will never be sent. The audit table keeps each of them whole.",
    }[action];
    say(byId("confirm-title"), title);
    say(byId("confirm-text"), text);
    say(byId("confirm-progress"), "");
    const yes = byId("confirm-yes");
    say(yes, action === "retry" ? "Retry" : "Discard");
    yes.className = action === "retry" ? "primary" : "primary danger";
    yes.disabled = false;
    // The close event of the question before may still be on its way.
    this.withdraw?.();
    const agreed = await new Promise((resolve) => {
      const end = new AbortController();
      const on = (node, event, then) => node.addEventListener(event, then, { signal: end.signal });
      const finish = (answer) => { end.abort(); resolve(answer); };
      this.withdraw = () => finish(false);
      on(yes, "click", () => finish(true));
      on(dialog, "close", () => dialog.open || finish(false));
      dialog.showModal();
      byId("confirm-no").focus();
    });
    if (!agreed) return;
    yes.disabled = true;
    await this.carryOut(action, body, dialog);
    dialog.close();
    this.select([]);
    await this.load(Math.max(PAGE, this.rows.length));
  }

  async carryOut(action, body, dialog) {
    let done = 0;
    let remaining = 1;
    try {
      while (remaining > 0) {
        const answer = await this.post(action, body);
        if (answer === null) return;
        done += answer.changed;
        remaining = answer.changed > 0 ? answer.remaining : 0;
        say(byId("confirm-progress"), `${messages(done)} done, ${whole(remaining)} left`);
        if (!dialog.open) break;
      }
      this.toast(`${DONE[action]} ${messages(done)}.`);
    } catch (error) {
      this.toast(`${done > 0 ? `${DONE[action]} ${messages(done)}, then: ` : ""}${error.message}`, true);
    }
  }

  /** Asks for the token until it is right; null when nobody gives it. */
  async post(action, body) {
    let why = "Changing something needs the token the daemon was given in http.token_file.";
    for (;;) {
      if (!authorization().authorization && !(await this.ask(why))) return null;
      try {
        const headers = { "content-type": "application/json", ...authorization() };
        return await request(`${API}/${action}`, { method: "POST", headers, body: JSON.stringify(body) });
      } catch (error) {
        if (error.status !== 401) throw error;
        this.forget();
        why = "That was not the token. It is in the file http.token_file names.";
      }
    }
  }

  toast(text, bad = false) {
    const toast = byId("toast");
    toast.className = bad ? "bad" : "";
    say(toast, text);
    clearTimeout(this.fading);
    this.fading = setTimeout(() => say(toast, ""), bad ? 12000 : 5000);
  }
}
