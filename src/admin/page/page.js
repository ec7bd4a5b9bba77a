// Asks the gateway each second what there is to see, and shows it. Changes nothing at the gateway.

import { sparkline, turnsOfCall } from "./charts.js";
import { Table, clock, element, number, pills, put, quotaBar } from "./tables.js";

const EACH_MS = 1000;
const AFTER_FAILURE_MS = 2000;
const PATIENCE_MS = 8000;
const STALE_MS = 5000;
// More rows than anybody reads.
const MOST_ROWS = 200;
const SPAN_S = 900;
const TOKEN = "trunkline-admin-token";

const $ = (id) => document.getElementById(id);

const seen = {
  state: null,
  // When an answer came last.
  at: 0,
  // Calls at each second, as this page saw them.
  calls: [],
  chosen: null,
  // What is known of it, also once it is over.
  call: null,
};

// --- Asking.

let token = sessionStorage.getItem(TOKEN);
let timer = null;

function ask(path) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  return fetch(path, { headers, cache: "no-store", redirect: "error", signal: AbortSignal.timeout(PATIENCE_MS) });
}

async function round() {
  clearTimeout(timer);
  // Whom nobody looks at asks nothing.
  if (document.hidden) return;
  let next = EACH_MS;
  try {
    const answer = await ask("state");
    if (answer.status === 401) return signIn();
    if (answer.status === 403) return notShown((await answer.json()).error);
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    seen.state = await answer.json();
    seen.at = Date.now();
    if (seen.chosen) await askForCall();
    show();
  } catch (error) {
    // The network's doing; anything else is a mistake of this page, for its console.
    if (!(error instanceof TypeError || error instanceof DOMException)) console.warn(error);
    next = AFTER_FAILURE_MS;
  }
  showFreshness();
  // From the answer on: a gateway that is slow is asked less often.
  timer = setTimeout(round, next);
}

async function askForCall() {
  const chosen = seen.chosen;
  const answer = await ask(`calls/${encodeURIComponent(chosen)}`);
  if (!answer.ok) return;
  const { call } = await answer.json();
  if (seen.chosen !== chosen) return;
  if (call) {
    seen.call = { ...call, over: false };
  } else if (seen.call) {
    seen.call.over = true;
  }
}

// --- Who may see it.

function signIn() {
  const wasWrong = Boolean(token);
  forget();
  put($("sign-in-error"), wasWrong ? "The gateway does not take this token." : "");
  $("board").hidden = true;
  $("sign-in").hidden = false;
  put($("freshness"), "");
  $("token").focus();
}

function forget() {
  token = null;
  sessionStorage.removeItem(TOKEN);
  $("sign-out").hidden = true;
}

const WHY_NOT = {
  public: "Nothing is shown here: the admin address is public, and neither a token nor client certificates are configured.",
  misdirected:
    "Nothing is shown by this name, because no token is configured: open the page at localhost or by address, or configure [admin] read_token_file.",
};

function notShown(error) {
  $("board").hidden = true;
  put($("notice"), WHY_NOT[error] ?? "The gateway does not show this.");
  $("notice").hidden = false;
}

$("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  sessionStorage.setItem(TOKEN, token);
  $("token").value = "";
  round();
});

$("sign-out").addEventListener("click", () => {
  clearTimeout(timer);
  forget();
  seen.state = null;
  choose(null);
  signIn();
});

// --- Showing.

const PHASES = { talking: "good", connected: "", replacing: "warn", ending: "warn", ended: "" };

function spent(call) {
  const { input_text, input_audio, input_image, output_text, output_audio } = call.tokens;
  return input_text + input_audio + input_image + output_text + output_audio;
}

const calls = new Table(
  $("calls-table"),
  [
    { name: "Call", fill: callButton, by: (call) => call.call_id },
    { name: "Tenant", text: (call) => call.tenant, by: (call) => call.tenant },
    { name: "Agent or model", text: (call) => call.route, by: (call) => call.route },
    { name: "Dialect", text: (call) => call.dialect, by: (call) => call.dialect },
    { name: "Deployment", text: (call) => call.deployment, by: (call) => call.deployment },
    { name: "Phase", fill: (cell, call) => pills(cell, [[call.state, PHASES[call.state]]]), by: (call) => call.state },
    { name: "Since", number: true, text: (call) => clock(call.lasts_ms), by: (call) => call.lasts_ms },
    { name: "Turns", number: true, text: (call) => number(call.turns), by: (call) => call.turns },
    { name: "Last turn", number: true, text: lastTurn, by: (call) => call.last_turn?.latency_ms ?? null },
    { name: "Barge-ins", number: true, text: (call) => number(call.barge_ins), by: (call) => call.barge_ins },
    { name: "Tokens", number: true, text: (call) => number(spent(call)), by: spent },
  ],
  (call) => call.call_id,
);
calls.sortBy(6, true);
calls.changed = () => showCalls();

function lastTurn(call) {
  return call.last_turn ? `${number(call.last_turn.latency_ms)} ms` : "–";
}

function callButton(cell, call) {
  if (!cell.firstElementChild) {
    const button = element("button", { type: "button", class: "code" }, call.call_id);
    button.addEventListener("click", () => choose(call.call_id));
    cell.append(button);
  }
  const isChosen = call.call_id === seen.chosen;
  cell.firstElementChild.setAttribute("aria-pressed", String(isChosen));
  cell.parentElement.classList.toggle("chosen", isChosen);
}

const CONDITIONS = {
  well: ["well", "good", "Sessions are opened there."],
  paused: ["paused", "warn", "It asked to be left alone for a while."],
  open: ["breaker open", "bad", "It failed too often and is tried again later."],
  probing: ["probing", "warn", "One session finds out whether it is well again."],
  out: ["out of use", "bad", "Its credentials are refused, or it was ejected from its pool."],
};

function condition(cell, deployment) {
  const words = [CONDITIONS[deployment.condition] ?? [deployment.condition, ""]];
  if (deployment.drained) {
    words.push(["drained", "warn", "An operator wants no session to be opened there."]);
  }
  pills(cell, words);
}

const deployments = new Table(
  $("deployments-table"),
  [
    { name: "Deployment", text: (it) => it.name },
    { name: "Region", text: (it) => it.region ?? "–" },
    { name: "Health", fill: condition },
    { name: "Sessions", number: true, text: (it) => number(it.sessions) },
    { name: "Standing by", number: true, text: (it) => number(it.standby) },
    { name: "Tokens a minute", fill: (cell, it) => quotaBar(cell, it.tokens, `Tokens used of ${it.name}`) },
    { name: "Requests a minute", fill: (cell, it) => quotaBar(cell, it.requests, `Requests used of ${it.name}`) },
    { name: "Full", number: true, text: (it) => `${Math.round(it.pressure * 100)} %` },
  ],
  (it) => it.name,
);

function ago(seconds) {
  return seconds < 1 ? "now" : seconds < 120 ? `${seconds} s ago` : `${Math.round(seconds / 60)} min ago`;
}

const refusals = new Table(
  $("refusals-table"),
  [
    { name: "Last", text: (it) => ago(it.last_s) },
    { name: "Times", number: true, text: (it) => number(it.times) },
    { name: "Asked for", text: (it) => it.route },
    { name: "Tenant", text: (it) => it.tenant ?? "unknown" },
    { name: "Answer", text: (it) => (it.status === null ? "no HTTP status" : String(it.status)) },
    { name: "Cause", fill: cause },
  ],
  (it) => it.row,
);

function cause(cell, it) {
  if (!cell.firstElementChild) cell.append(element("code"));
  put(cell.firstElementChild, it.cause ? `${it.reason}: ${it.cause}` : it.reason);
}

function show() {
  const { gateway } = seen.state;
  $("sign-in").hidden = true;
  $("notice").hidden = true;
  $("board").hidden = false;
  $("sign-out").hidden = !token;
  put($("version"), gateway.version);
  const [standing, kind] = gateway.stalled
    ? ["stalled: a thread is stuck", "bad"]
    : gateway.draining
      ? ["draining: no new calls", "warn"]
      : ["taking calls", "good"];
  put($("standing"), standing);
  $("standing").className = `pill ${kind}`;
  document.title = `${gateway.calls} calls – Trunkline`;
  showFigures();
  showCalls();
  showCall();
  deployments.show(seen.state.deployments);
  $("deployments-none").hidden = seen.state.deployments.length > 0;
  refusals.show(seen.state.refusals.map((it, row) => ({ ...it, row })));
  $("refusals-none").hidden = seen.state.refusals.length > 0;
  $("refusals-table").hidden = seen.state.refusals.length === 0;
}

function showFreshness() {
  if (!seen.at) {
    put($("freshness"), "The gateway does not answer. Trying again.");
    return;
  }
  const isStale = Date.now() - seen.at > STALE_MS;
  const at = new Date(seen.at).toLocaleTimeString();
  put($("freshness"), isStale ? `Stale: no answer since ${at}. Trying again.` : "Live");
  $("freshness").classList.toggle("bad", isStale);
}

function showFigures() {
  const { gateway, turns, turn_step_ms } = seen.state;
  const now = performance.now() / 1000;
  seen.calls.push({ at: now, value: gateway.calls });
  while (seen.calls[0].at < now - SPAN_S) seen.calls.shift();
  const most = Math.max(...seen.calls.map((it) => it.value));
  put($("calls-now"), number(gateway.calls));
  put($("calls-limit"), `of ${number(gateway.calls_limit)}`);
  put($("calls-note"), `at most ${number(most)} while this page was open`);
  const points = seen.calls.map(({ at, value }) => ({ ago: now - at, value }));
  sparkline($("calls-line"), points, { span: SPAN_S, gap: 30, words: `Calls, at most ${most}` });

  const step = turn_step_ms / 1000;
  const line = (of) => turns.map((it) => ({ ago: Math.max(0, it.ago_s - step / 2), value: of(it) }));
  for (const name of ["p50", "p95"]) {
    const values = line((it) => it[`${name}_ms`]);
    const last = values.at(-1);
    const worst = Math.max(0, ...values.map((it) => it.value));
    put($(`${name}-now`), last ? number(last.value) : "–");
    put($(`${name}-note`), last ? `at most ${number(worst)} ms in 15 min` : "no turn in 15 min");
    const words = last ? `Now ${last.value} ms, at most ${worst} ms in 15 minutes` : "No turn in 15 minutes";
    sparkline($(`${name}-line`), values, { span: SPAN_S, gap: 3.5 * step, words });
  }
  const sum = (steps) => steps.reduce((total, it) => total + it.turns, 0);
  const lately = sum(turns.filter((it) => it.ago_s <= 60));
  put($("turns-now"), number(lately));
  put($("turns-note"), `${number(sum(turns))} in 15 min`);
  const words = `Turns in steps of ${step} seconds`;
  sparkline($("turns-line"), line((it) => it.turns), { span: SPAN_S, gap: 3.5 * step, words });
}

function showCalls() {
  if (!seen.state) return;
  const { live, calls: all } = seen.state;
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = (call) => {
    const text = [call.call_id, call.tenant, call.route, call.dialect, call.deployment, call.state].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const fitting = calls.sorted(all.filter(fits));
  const drawn = fitting.slice(0, MOST_ROWS);
  calls.show(drawn);
  const notes = [words.length ? `${number(fitting.length)} of ${number(live)} fit` : `${number(live)}`];
  if (drawn.length < fitting.length) notes.push(`the first ${number(drawn.length)} are shown`);
  if (all.length < live) notes.push(`the ${number(live - all.length)} oldest are left out`);
  put($("calls-drawn"), notes.join(", "));
}

$("filter").addEventListener("input", showCalls);

// --- One call.

async function choose(callId) {
  seen.chosen = callId;
  seen.call = null;
  $("call").hidden = callId === null;
  if (callId === null) return;
  try {
    await askForCall();
  } catch {
    // The next round asks again.
  }
  showCalls();
  showCall();
  $("call").focus({ preventScroll: true });
  $("call").scrollIntoView({ block: "nearest" });
}

$("call-close").addEventListener("click", () => {
  const chosen = seen.chosen;
  choose(null);
  showCalls();
  (calls.rows.get(chosen)?.querySelector("button") ?? $("filter")).focus();
});

function showCall() {
  const call = seen.call;
  if (!seen.chosen) return;
  put($("call-title"), `Call ${seen.chosen}`);
  if (!call) {
    put($("call-state"), "It is over.");
    return;
  }
  put($("call-state"), call.over ? "It is over; this is what was seen of it last." : `${call.state}`);
  facts(call);
  const turns = call.timeline.filter((moment) => moment.turn);
  const worst = Math.max(0, ...turns.map((moment) => moment.turn.latency_ms));
  const words = `${turns.length} turns, the slowest answered within ${Math.round(worst)} ms. All moments are listed below.`;
  turnsOfCall($("call-chart"), call, words, clock);
  const lines = [...call.timeline].reverse().map((moment) => [clock(moment.at_ms), happened(moment)]);
  if (!lines.length) lines.push(["", "Nothing yet."]);
  const list = $("moments");
  lines.forEach(([at, what], index) => {
    const line = list.children[index] ?? list.appendChild(element("li", {}, element("time"), element("span")));
    put(line.children[0], at);
    put(line.children[1], what);
  });
  while (list.children.length > lines.length) list.lastElementChild.remove();
}

function facts(call) {
  const told = {
    Tenant: call.tenant,
    "Agent or model": call.route,
    Dialect: call.dialect,
    Deployment: call.deployment,
    Session: call.session_id || "–",
    Sessions: number(call.sessions),
    Began: call.began_at ? new Date(call.began_at).toLocaleTimeString() : "–",
    Lasts: clock(call.lasts_ms),
    "Driven by": call.conductor === "caller" ? "the caller's SDK" : "the gateway",
    "First audio": call.first_audio_ms === null ? "–" : `${number(call.first_audio_ms)} ms`,
    Turns: number(call.turns),
    "Barge-ins": number(call.barge_ins),
    "Tokens in": `${number(call.tokens.input_audio)} audio, ${number(call.tokens.input_text)} text`,
    "Tokens out": `${number(call.tokens.output_audio)} audio, ${number(call.tokens.output_text)} text`,
  };
  const list = $("call-facts");
  Object.entries(told).forEach(([name, value], index) => {
    const pair = list.children[index] ?? list.appendChild(element("div", {}, element("dt"), element("dd")));
    put(pair.children[0], name);
    put(pair.children[1], value);
  });
}

function happened(moment) {
  if (moment.turn) {
    const { latency_ms, model_ms, gateway_ms } = moment.turn;
    const parts = `model ${number(model_ms)} ms, gateway ${number(gateway_ms)} ms`;
    return `Turn answered within ${number(latency_ms)} ms (${parts})`;
  }
  if ("first_audio_ms" in moment) return `▲ First audio ${number(moment.first_audio_ms)} ms after the answer`;
  if ("barge_in_unheard_ms" in moment) {
    return `✕ The caller interrupted; ${number(moment.barge_in_unheard_ms)} ms of the reply were not heard`;
  }
  if ("session_lost" in moment) return `■ Session lost: ${moment.session_lost}`;
  if ("session_opened" in moment) return `● Went on at ${moment.session_opened}`;
  if ("said" in moment) return `◆ An operator had something said (${moment.said})`;
  return "Something this page does not know";
}

// --- Begin.

document.addEventListener("visibilitychange", round);
addEventListener("resize", showCall);
setInterval(() => {
  if (seen.at && !document.hidden && !$("board").hidden) showFreshness();
}, EACH_MS);
round();
