// The dashboard: asks the daemon every other second and draws what it answers. When the daemon goes away, what was known
// last stays, greyed and with its age, and asking goes on.

import { Chart, roundUpSpan } from "./dashboard_charts.js";
import { about, byId, element, lasting, latency, messages, rate, say, show, showOutbox, shownOutbox, span, table, whole } from "./dashboard_dom.js";
import { Failed } from "./dashboard_failed.js";

const EVERY = 2000;
const EVERY_HIDDEN = 15000;
const PATIENCE = 5000;
const KEPT_SECONDS = 900;

const failed = new Failed();
const charts = byId("charts");
const count = { least: 4, format: (value) => (value < 1000 || value % 1000 ? whole(value) : `${whole(value / 1000)}k`) };
const drawn = [
  new Chart(charts, "Backlog", [["due", "due"], ["waiting", "waiting"]], count),
  new Chart(charts, "Oldest due age", [["age", "oldest_due_age_seconds"]], { least: 1, format: span, ceiling: roundUpSpan }),
  new Chart(charts, "Messages a second", [["relayed", "relayed_per_second"], ["failed", "failed_per_second"]], { least: 1, format: rate }),
  new Chart(charts, "Relay latency", [["p50", "p50_seconds"], ["p99", "p99_seconds"]], { least: 0.01, format: latency }),
];

let run;
let seen = 0;
let samples = [];
let last;
let answeredAt;
let away = false;
let next;

async function ask() {
  const response = await fetch(about(`/api/v1/summary?after=${seen}`), { signal: AbortSignal.timeout(PATIENCE) });
  if (!response.ok) throw new Error(`the daemon answered ${response.status}`);
  return response.json();
}

/** Which outboxes there are, and how each stands: nothing is shown of that where there is one. */
async function outboxes() {
  const response = await fetch("/api/v1/outboxes", { signal: AbortSignal.timeout(PATIENCE) });
  if (!response.ok) throw new Error(`the daemon answered ${response.status}`);
  const list = (await response.json()).filter(({ outbox }) => outbox !== null);
  if (list.length > 0 && !list.some(({ outbox }) => outbox === shownOutbox())) showOutbox(list[0].outbox);
  const box = byId("outbox");
  byId("switch").hidden = list.length < 2;
  show(box, list.map(({ outbox, ready }) => [outbox, ready]), () =>
    list.map(({ outbox, ready }) => element("option", { value: outbox, selected: outbox === shownOutbox() }, ready ? outbox : `${outbox} (not ready)`)));
  box.value = shownOutbox();
  byId("status-link").href = about("/api/v1/status");
}

/** Another outbox is to be shown: nothing of the one before is. */
function change(name) {
  showOutbox(name);
  const address = new URL(location.href);
  address.searchParams.set("outbox", name);
  history.replaceState(null, "", address);
  [run, seen, samples, last, answeredAt] = [undefined, 0, [], undefined, undefined];
  document.body.classList.add("waiting");
  failed.reset();
  clearTimeout(next);
  poll();
}

async function look() {
  const meant = shownOutbox();
  await outboxes();
  let summary = await ask();
  if (meant !== "" && meant !== shownOutbox()) return;
  if (summary.run !== run) {
    // Another run of the daemon numbers its samples anew. What was drawn stays.
    const asked = seen;
    seen = 0;
    run = summary.run;
    if (asked > 0) summary = await ask();
  }
  const newest = samples.at(-1)?.at ?? 0;
  samples.push(...summary.samples.filter((sample) => sample.at > newest));
  seen = summary.samples.at(-1)?.number ?? seen;
  samples = samples.filter((sample) => sample.at > summary.now - KEPT_SECONDS);
  last = summary;
  answeredAt = performance.now();
}

async function poll() {
  try {
    await look();
    away = false;
    if (last) {
      draw(last);
      failed.follow(last);
    }
  } catch {
    away = true;
  }
  banners();
  clearTimeout(next);
  next = setTimeout(poll, document.hidden ? EVERY_HIDDEN : EVERY);
}

function draw(summary) {
  document.body.classList.remove("waiting");
  const { backlog } = summary;
  say(byId("identity"), `${summary.instance} · ${summary.version}${summary.lanes ? ` · ${lanes(summary.lanes)}` : ""}`);
  tiles(summary, backlog);
  for (const chart of drawn) chart.draw(samples, summary.now);
  routes(summary.routes);
  instances(summary.instances);
  paused(summary);
  held(summary.held_keys);
  pausedTopics(summary.paused_topics);
  stuck(summary);
}

const lanes = ({ held: mine, of }) => (mine === 0 ? `standing by, others hold all ${of} lanes` : `${mine} of ${of} lanes`);

function tile(name, value, note, tone = "") {
  const node = byId(`tile-${name}`);
  say(node, value);
  node.className = tone;
  if (note !== undefined) say(byId(`note-${name}`), note);
}

function tiles(summary, backlog) {
  const recent = samples.at(-1);
  tile("rate", recent ? rate(summary.routes.reduce((sum, route) => sum + route.relayed_per_second, 0)) : "–");
  const slow = samples.findLast((sample) => sample.p99_seconds !== null);
  tile("latency", slow ? latency(slow.p99_seconds) : "–", slow ? `p50 ${latency(slow.p50_seconds)}` : "nothing relayed yet");
  if (!backlog) return;
  const waiting = backlog.delayed + backlog.retrying + backlog.held;
  const parts = [["delayed", backlog.delayed], ["retrying", backlog.retrying], ["held", backlog.held]];
  const named = parts.filter(([, number]) => number > 0).map(([name, number]) => `${whole(number)} ${name}`);
  tile("due", whole(backlog.due), `${whole(summary.in_flight)} in flight`);
  tile("waiting", whole(waiting), named.join(", ") || "none delayed, retrying or held");
  tile("failed", whole(backlog.failed), backlog.failed ? "need a person" : "nothing failed", backlog.failed ? "bad" : "");
  const age = backlog.oldest_due_age_seconds;
  tile("age", age === null ? "–" : span(age), age === null ? "nothing is due" : "since it fell due", age > 60 ? "warn" : "");
  if (!summary.database) return;
  for (const name of ["due", "waiting", "failed", "age"]) {
    byId(`tile-${name}`).className = "old";
    say(byId(`note-${name}`), `${lasting(backlog.age_seconds)} ago`);
  }
}

function routes(list) {
  show(byId("routes"), list, () => {
    if (list.length === 0) return [element("p", { class: "empty" }, "No figures yet.")];
    const columns = [["Route"], ["Transport"], ["Relayed/s", true], ["Failed/s", true], ["p50", true], ["p99", true], ["Relayed", true]];
    const percentile = (value) => (value === null ? "–" : latency(value));
    return [table(columns, list.map((route) => [
      element("span", { class: "mono" }, route.route), route.transport, rate(route.relayed_per_second), rate(route.failed_per_second),
      percentile(route.p50_seconds), percentile(route.p99_seconds), whole(route.relayed_total),
    ]))];
  });
}

function instances(list) {
  const shown = (list ?? []).map((instance) => [
    instance.instance, whole(instance.lanes), instance.version ?? "–",
    instance.lease_seconds > 0 ? "valid" : `ended ${lasting(-instance.lease_seconds)} ago`,
  ]);
  show(byId("instances"), shown, () => (shown.length === 0
    ? [element("p", { class: "empty" }, list ? "None registered." : "Not known: the database has not answered.")]
    : [table([["Instance"], ["Lanes", true], ["Version"], ["Lease"]], shown)]));
}

function facts(list, what, why) {
  return element("ul", { class: "facts" }, ...list.map((fact) =>
    element("li", {}, element("span", { class: "what" }, what(fact)), element("span", { class: "why" }, why(fact)))));
}

function paused({ paused_destinations: list, paused_total: total }) {
  const shown = list.map((one) => [one.transport, one.destination, one.error, lasting(one.since_seconds)]);
  show(byId("paused"), [shown, total], () => {
    if (shown.length === 0) return [element("p", { class: "empty" }, "Every destination takes messages.")];
    const what = ([transport, destination]) => (destination ? `${transport} → ${destination}` : transport);
    const why = ([, , error, since]) => `for ${since}: ${error}. Its messages wait, no attempt is counted; sending goes on by itself.`;
    const more = total > shown.length ? [element("p", { class: "more" }, `and ${whole(total - shown.length)} more`)] : [];
    return [facts(shown, what, why), ...more];
  });
}

function pausedTopics(topics) {
  byId("topics-card").hidden = topics.length === 0;
  show(byId("topics"), topics, () => {
    const why = ({ since, who }) => (who
      ? `by ${who} since ${since?.slice(0, 19) ?? "?"}. Its messages wait: outboxd resume lets them go.`
      : "by its route (routes[].paused). Its messages wait for a start without that.");
    return [facts(topics, ({ topic }) => topic, why)];
  });
}

const STUCK = {
  refused: ["the database refuses to write it", "Correct the trigger, the constraint or the value."],
  locked: ["another transaction locks it", "End the transaction that holds the lock."],
  suppressed: ["writing it has no effect", "Look for a trigger, rule or policy that swallows updates of the table."],
  unreadable: ["it can be neither read nor marked failed", "Correct its columns by SQL, or delete it."],
  slow: ["writing it takes too long", "Look for slow triggers, locks and load on the server."],
};

function stuck({ stuck: list, stuck_count: total }) {
  byId("stuck-card").hidden = total === 0;
  const shown = list.map((row) => ({ ...row, seconds: lasting(row.seconds) }));
  show(byId("stuck"), [shown, total], () => {
    const rows = shown.map((row) => {
      const [what, next] = STUCK[row.reason] ?? [row.reason, ""];
      const id = row.id ? ` (id ${row.id})` : "";
      return element("li", {},
        element("span", { class: "what" }, `Message ${row.seq}${id}: ${what}`),
        element("span", { class: "why" }, `${row.detail ? `${row.detail}; ` : ""}for ${row.seconds}, on ${row.instance}`),
        element("span", { class: "next" }, `${next} It is tried again by itself; everything else goes on.`));
    });
    const more = total > shown.length ? [element("p", { class: "more" }, `and ${whole(total - shown.length)} more`)] : [];
    return [element("ul", { class: "facts" }, ...rows), ...more];
  });
}

function held(keys) {
  show(byId("held"), keys, () => {
    if (keys.length === 0) return [element("p", { class: "empty" }, "No key waits behind one of its messages.")];
    const remedy = { failed: "failed: retry or discard it below", retrying: "is being retried" };
    const why = (key) => `${messages(key.waiting)} behind message ${key.seq}, which ${remedy[key.reason] ?? key.reason}`;
    return [facts(keys, (key) => `${key.topic} · ${key.key}`, why)];
  });
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

/** What is wrong, in order of weight: a tone, a title that stays and a text that may change. */
function troubles() {
  if (away) {
    const known = last ? "The figures below are the last ones known. " : "";
    return [["bad", "outboxd does not answer.", `${known}Asking again every ${EVERY / 1000} seconds; this page goes on by itself.`]];
  }
  const list = [];
  if (last.lock) {
    list.push(["bad", "Waiting for a lock:", `${last.lock.what}. For ${lasting(last.lock.for_seconds)}; relaying goes on by itself.`, "lock"]);
  }
  if (last.database) {
    const { title, what, todo, for_seconds: seconds } = last.database;
    const next = todo ? ` ${sentence(todo)}.` : "";
    list.push(["bad", `${sentence(title)}:`, `${what}, for ${lasting(seconds)}.${next} Relaying goes on by itself.`, "database"]);
  }
  for (const reason of last.reasons) {
    if (reason.kind === "lock" && last.lock) continue;
    if (reason.kind !== "database" || !last.database) list.push(["bad", "Not ready:", reason.message, reason.kind]);
  }
  if (last.stuck_count > 0 && !last.reasons.some((reason) => reason.kind === "stuck")) {
    const [first] = last.stuck;
    const others = last.stuck_count > 1 ? `, and ${whole(last.stuck_count - 1)} more` : "";
    const which = first ? `message ${first.seq}: ${STUCK[first.reason]?.[0] ?? first.reason}${others}. ` : "";
    list.push(["warn", `${messages(last.stuck_count)} stuck:`, `${which}Everything else goes on.`, "stuck"]);
  }
  if (last.commit_order && !last.reasons.some((reason) => reason.kind === "commit_order")) {
    list.push(["warn", "Commit order waits:", `${last.commit_order.what}, for ${lasting(last.commit_order.for_seconds)}`]);
  }
  if (last.paused_total > 0 && !last.reasons.some((reason) => reason.kind === "destination")) {
    const [first] = last.paused_destinations;
    const others = last.paused_total > 1 ? `, and ${whole(last.paused_total - 1)} more` : "";
    list.push(["warn", "A destination takes nothing:", `${first.transport} → ${first.destination}: ${first.error}${others}`, "paused"]);
  }
  return list;
}

function pill() {
  if (away) return ["bad", last ? "Reconnecting" : "Connecting"];
  if (last.lock) return ["bad", "Waiting for a lock"];
  if (last.database) return ["bad", last.database.about === "connection" || last.database.about === "server" ? "Database away" : "Not ready"];
  if (!last.ready) return last.lanes ? ["bad", "Not ready"] : ["warn", "Starting"];
  if (last.stuck_count > 0) return ["warn", "Messages stuck"];
  if (last.paused_total > 0) return ["warn", "Paused"];
  return last.lanes?.held === 0 ? ["good", "Standing by"] : ["good", "Relaying"];
}

function banners() {
  document.body.classList.toggle("stale", away && last !== undefined);
  const wanted = troubles();
  const box = byId("banners");
  // The same trouble keeps its element, and its changing text is read out once only.
  wanted.forEach(([tone, title, text, kind = title], index) => {
    let banner = box.children[index];
    if (banner?.dataset.kind !== kind) {
      banner = element("div", { class: `banner ${tone}`, "data-kind": kind },
        element("strong", {}, ""), " ", element("span", { "aria-live": "off" }));
      box.insertBefore(banner, box.children[index] ?? null);
    }
    say(banner.children[0], title);
    say(banner.children[1], text);
  });
  while (box.children.length > wanted.length) box.lastElementChild.remove();
  const [tone, text] = pill();
  const state = byId("state");
  state.className = `pill ${tone}`;
  say(state, text);
  age();
}

function age() {
  if (answeredAt === undefined) return;
  const seconds = (performance.now() - answeredAt) / 1000;
  say(byId("updated"), seconds < 4 ? "Up to date" : `Last answer ${span(Math.floor(seconds))} ago`);
}

byId("outbox").addEventListener("change", (event) => change(event.target.value));
setInterval(age, 1000);
document.addEventListener("visibilitychange", () => { if (!document.hidden) age(); });
poll();
