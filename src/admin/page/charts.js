// What is drawn: lines of figures over time, and the turns of one call. Each drawing says in words what it shows.

const SVG = "http://www.w3.org/2000/svg";

function draw(name, attributes, ...children) {
  const drawn = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) {
    drawn.setAttribute(key, String(value));
  }
  drawn.append(...children);
  return drawn;
}

/**
 * A line over the last `span` seconds. `points` are `{ago, value}`, the oldest first; where more than `gap` seconds lie
 * between two of them the line is broken.
 */
export function sparkline(place, points, { span, gap, words }) {
  const [width, height] = [300, 46];
  const top = Math.max(1, ...points.map((point) => point.value));
  const x = (ago) => (width * (1 - ago / span)).toFixed(1);
  const y = (value) => (height - 2 - (height - 6) * (value / top)).toFixed(1);
  let path = "";
  let before = null;
  for (const point of points.filter((point) => point.ago <= span)) {
    const at = `${x(point.ago)} ${y(point.value)}`;
    // A line to itself is a dot.
    path += before !== null && before - point.ago <= gap ? `L${at}` : `M${at}L${at}`;
    before = point.ago;
  }
  const view = { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", role: "img", "aria-label": words };
  place.replaceChildren(
    draw(
      "svg",
      view,
      draw("line", { class: "base", x1: 0, x2: width, y1: height - 1, y2: height - 1 }),
      draw("path", { class: "line", d: path }),
    ),
  );
}

const HEIGHT = 170;
const LEFT = 52;
const BARS_END = 122;
const MARKS = 140;

/** The turns of a call as bars of their latency, at the time of their answer, and what else happened below them. */
export function turnsOfCall(place, call, words, clock) {
  const width = Math.max(place.clientWidth, 280);
  const moments = call.timeline;
  // Only so many are remembered; before the first of them nothing is known.
  const from = moments.length >= 64 ? moments[0].at_ms : 0;
  const until = Math.max(call.lasts_ms, from + 1000);
  const turns = moments.filter((moment) => moment.turn);
  const most = Math.max(500, ...turns.map((moment) => moment.turn.latency_ms));
  const x = (at) => LEFT + ((width - LEFT - 12) * (at - from)) / (until - from);
  const tall = (latency) => ((BARS_END - 12) * latency) / most;
  const drawn = [];
  for (const part of [0, 0.5, 1]) {
    const y = BARS_END - tall(most * part);
    drawn.push(draw("line", { class: "grid", x1: LEFT, x2: width, y1: y, y2: y }));
    const label = part === 0 ? "0" : `${Math.round(most * part)} ms`;
    drawn.push(draw("text", { x: LEFT - 6, y: y + 4, "text-anchor": "end" }, label));
  }
  for (const { at_ms, turn } of turns) {
    const [model, gateway] = [tall(turn.model_ms), tall(turn.gateway_ms)];
    const bar = { x: x(at_ms) - 3, width: 6 };
    const told = draw("title", {}, `${clock(at_ms)}: answered within ${Math.round(turn.latency_ms)} ms`);
    drawn.push(
      draw(
        "g",
        {},
        told,
        draw("rect", { ...bar, class: "model", y: BARS_END - model, height: model }),
        draw("rect", { ...bar, class: "gateway", y: BARS_END - model - gateway, height: gateway }),
      ),
    );
  }
  for (const moment of moments) {
    const sign = signOf(moment);
    if (sign) {
      drawn.push(draw("text", { class: "mark", x: x(moment.at_ms), y: MARKS }, sign));
    }
  }
  const ticks = width > 600 ? 6 : 3;
  for (let tick = 0; tick <= ticks; tick += 1) {
    const at = from + ((until - from) * tick) / ticks;
    const anchor = tick === 0 ? "start" : tick === ticks ? "end" : "middle";
    drawn.push(draw("text", { x: x(at), y: HEIGHT - 8, "text-anchor": anchor }, clock(at)));
  }
  const view = { width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": words };
  place.replaceChildren(draw("svg", view, ...drawn));
}

function signOf(moment) {
  if ("first_audio_ms" in moment) return "▲";
  if ("barge_in_unheard_ms" in moment) return "✕";
  if ("session_lost" in moment) return "■";
  if ("session_opened" in moment) return "●";
  if ("said" in moment) return "◆";
  return null;
}
