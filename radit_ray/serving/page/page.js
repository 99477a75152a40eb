// The page of radit serve: no library, no build, nothing from elsewhere. Text of a run only ever
// becomes text nodes, never markup.

const byId = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

function drawn(name, attributes, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.textContent = text;
  return made;
}

// --- asking the server ---

// what a header can carry: fetch throws at anything else, and would again after each reload
const usable = (text) => /^[!-~]+$/.test(text);

let token = sessionStorage.getItem("radit-token") ?? "";
if (!usable(token)) token = "";

async function call(path, body, signal) {
  for (;;) {
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    const options = { signal, headers };
    if (body !== undefined) {
      options.method = "POST";
      options.body = JSON.stringify(body);
      headers["content-type"] = "application/json";
    }
    const response = await fetch(path, options);
    if (response.status === 401) {
      await askForToken();
      continue;
    }
    if (!response.ok) throw new Error(await whatWentWrong(response));
    return response;
  }
}

async function whatWentWrong(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}; try again`;
  }
}

let asking = null; // several calls may meet a 401: one dialog serves them all

function askForToken() {
  asking ??= new Promise((resolve) => {
    const dialog = byId("token-dialog");
    dialog.addEventListener("close", () => {
      const given = byId("token").value.trim();
      token = usable(given) ? given : "";
      byId("token").value = "";
      sessionStorage.setItem("radit-token", token);
      asking = null;
      resolve();
    }, { once: true });
    dialog.showModal();
  });
  return asking;
}

function say(id, text, wrong = false) {
  byId(id).textContent = text;
  byId(id).classList.toggle("wrong", wrong);
}

// --- tabs ---

const tabs = [...document.querySelectorAll("[role=tab]")];

function show(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", chosen);
    other.tabIndex = chosen ? 0 : -1;
    byId(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
}

for (const [place, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(place + step + tabs.length) % tabs.length];
    show(next);
    next.focus();
  });
}

// --- a question ---

const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(value < 0.1 ? 2 : 1)}%`);

// a probability may be one in a billion
const chance = (value) =>
  value === null ? "–" : value >= 0.001 ? percent(value) : value.toExponential(1);

function marked(text, answer) {
  const made = element("p", { class: "text" });
  const words = answer?.trim() ?? "";
  const found = words ? text.toLowerCase().indexOf(words.toLowerCase()) : -1;
  // lower case may change the length of a text: then nothing is marked rather than the wrong place
  if (found < 0 || text.toLowerCase().length !== text.length) {
    made.append(text);
    return made;
  }
  let rest = 0;
  const lower = text.toLowerCase();
  for (let at = found; at >= 0; at = lower.indexOf(words.toLowerCase(), rest)) {
    made.append(text.slice(rest, at), element("mark", {}, text.slice(at, at + words.length)));
    rest = at + words.length;
  }
  made.append(text.slice(rest));
  return made;
}

function bar(value, name) {
  const inner = element("span");
  inner.style.width = `${100 * value}%`;
  return element("div", { class: "bar" },
    element("span", { role: "img", "aria-label": `${name} ${percent(value)}` }, inner),
    element("span", { "aria-hidden": "true" }, `${name} ${percent(value)}`));
}

function chunkItem(chunk, answer) {
  const own = chunk.answer === null ? null : element("p", { class: "quiet" }, "alone it says ",
    element("strong", {}, chunk.answer || "nothing"),
    chunk.probability === null ? "" : `, with probability ${chance(chunk.probability)}`,
    chunk.answer_probability === null || chunk.answer === answer ? ""
      : `; the answer above ${chance(chunk.answer_probability)}`);
  return element("li", {}, element("h2", {}, chunk.title || chunk.id), bar(chunk.p_r, "p_R"),
    marked(chunk.text, answer), own);
}

function answerCard(found) {
  const several = found.k === 1 ? "1 chunk" : `${found.k} chunks`;
  const how = found.k ? `${several}, ${found.ensemble}` : "closed book: no chunk";
  const list = element("ol", { "aria-label": "Chunks, best first" },
    ...found.chunks.map((chunk) => chunkItem(chunk, found.answer)));
  return element("article", { "data-model": found.model },
    element("h2", {}, found.model),
    element("p", { class: "answer" }, found.answer || "(no answer)"),
    element("p", { class: "quiet" },
      `probability ${chance(found.probability)} · ${how} · ` +
      `retrieval ${found.timings.retrieve_ms.toFixed(0)} ms, LM ${found.timings.answer_ms.toFixed(0)} ms`),
    found.chunks.length ? list : null);
}

let running = null;

async function ask(event) {
  event.preventDefault();
  running?.abort();
  const mine = (running = new AbortController());
  const body = { question: byId("question").value };
  if (byId("ensemble").value) body.ensemble = byId("ensemble").value;
  const names = [...new Set([byId("left").value, byId("right").value].filter(Boolean))];
  say("ask-status", "asking …");
  byId("answers").setAttribute("aria-busy", "true");
  try {
    const cards = await Promise.all(names.map(async (model) => {
      // a variant that is closed book stays so
      const k = models.get(model).k ? { k: Number(byId("k").value) } : {};
      const response = await call("v1/answer", { ...body, ...k, model }, mine.signal);
      return answerCard(await response.json());
    }));
    byId("answers").replaceChildren(...cards);
    say("ask-status", "");
  } catch (error) {
    if (mine.signal.aborted) return; // a newer question is asked
    byId("answers").replaceChildren();
    say("ask-status", error.message, true);
  } finally {
    if (running === mine) byId("answers").removeAttribute("aria-busy");
  }
}

// --- measuring ---

let measuring = null;

async function measure(event) {
  event.preventDefault();
  const chosen = [...document.querySelectorAll("#variants input:checked")].map((box) => box.value);
  if (!chosen.length) return say("measure-status", "choose a variant", true);
  measuring = new AbortController();
  setMeasuring(true);
  byId("results").replaceChildren();
  say("measure-status", "asking …");
  const body = { task: byId("task").value, limit: Number(byId("limit").value), models: chosen };
  try {
    const response = await call("v1/evaluate", body, measuring.signal);
    for await (const found of events(response)) {
      if (found.error) throw new Error(found.error.message);
      byId("progress").value = found.done / found.total;
      say("measure-status", `${found.done} of ${found.total} answers`);
      if (found.result) drawResult(found.result, chosen);
    }
  } catch (error) {
    const stopped = measuring.signal.aborted;
    say("measure-status", stopped ? "stopped" : error.message, !stopped);
  } finally {
    setMeasuring(false);
  }
}

function setMeasuring(on) {
  byId("measure-button").disabled = on;
  byId("stop-button").disabled = !on;
  byId("progress").hidden = !on;
  byId("progress").value = 0;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    const lines = waiting.split("\n\n");
    waiting = lines.pop();
    for (const line of lines) yield JSON.parse(line.replace(/^data: /, ""));
  }
}

const SHARES = ["em", "f1", "recall@1", "recall@5"];

function drawResult(result, names) {
  const charts = SHARES.flatMap((metric) => {
    const rows = names.filter((name) => metric in result.variants[name]);
    if (!rows.length) return [];
    const title = `${metric}, ${result.num_questions} questions, with 95% intervals`;
    return [element("h3", {}, title), chart(rows, (name) => result.variants[name][metric], title)];
  });
  const beside = Object.keys(result.contrasts);
  byId("results").replaceChildren(...charts,
    ...(beside.length ? [element("h3", {}, "Differences, paired by question"), contrasts(result)] : []),
    element("h3", {}, "Question by question"), questionTable(result, names));
}

function chart(names, cell, title) {
  const width = Math.min(640, byId("results").clientWidth); // so that a narrow one keeps its letters
  const left = Math.min(150, width / 3), line = 30, room = width - left - 60;
  const height = names.length * line;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": title });
  for (const [row, name] of names.entries()) {
    const { value, low, high } = cell(name);
    const middle = row * line + line / 2;
    svg.append(
      drawn("text", { x: 0, y: middle + 4 }, name.slice(0, Math.floor(left / 7))),
      drawn("rect", { class: "track", x: left, y: middle - 9, width: room, height: 18 }),
      drawn("rect", { class: "value", x: left, y: middle - 9, width: value * room, height: 18 }),
      drawn("line", { class: "whisker", x1: left + low * room, x2: left + high * room, y1: middle, y2: middle }),
      drawn("line", { class: "whisker", x1: left + low * room, x2: left + low * room, y1: middle - 4, y2: middle + 4 }),
      drawn("line", { class: "whisker", x1: left + high * room, x2: left + high * room, y1: middle - 4, y2: middle + 4 }),
      drawn("text", { x: left + room + 8, y: middle + 4 }, percent(value)));
  }
  return svg;
}

function contrasts(result) {
  const signed = (value) => `${value > 0 ? "+" : ""}${value.toFixed(3)}`;
  const rows = Object.entries(result.contrasts).flatMap(([name, metrics]) =>
    ["em", "f1", "nll"].filter((metric) => metric in metrics).map((metric) => {
      const { diff, low, high } = metrics[metric];
      return element("tr", {}, element("td", {}, name.replace("-minus-", " − ")),
        element("td", {}, metric), element("td", { class: "number" }, signed(diff)),
        element("td", { class: "number" }, `${signed(low)} … ${signed(high)}`));
    }));
  return table(["variants", "metric", "difference", "95% interval"], rows, 2);
}

function questionTable(result, names) {
  const rows = result.questions.map((asked) => element("tr", {},
    element("td", {}, asked.question), element("td", {}, asked.answers[0]),
    ...names.map((name) => element("td", asked.em[name] ? { class: "right" } : {},
      asked.predictions[name] || "(no answer)"))));
  return table(["question", "right answer", ...names], rows);
}

function table(heads, rows, words = heads.length) { // columns from `words` on hold numbers
  const head = element("tr", {}, ...heads.map((text, place) =>
    element("th", { scope: "col", ...(place < words ? {} : { class: "number" }) }, text)));
  const made = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": heads.join(", ") }, made);
}

// --- what there is ---

const models = new Map();

function fill(select, values, chosen = "") {
  select.replaceChildren(...values.map(([value, text]) => element("option", { value }, text)));
  select.value = chosen;
}

async function start() {
  const listed = (await (await call("v1/models")).json()).data;
  for (const model of listed) models.set(model.id, model.radit);
  const names = [...models.keys()];
  fill(byId("left"), names.map((name) => [name, name]), names[0]);
  fill(byId("right"), [["", "nothing"], ...names.map((name) => [name, name])], names[1] ?? "");
  const deepest = Math.max(...listed.map((model) => model.radit.k), 1);
  byId("k").max = Math.min(50, Math.max(20, deepest));
  byId("k").value = deepest;
  byId("k-shown").value = deepest;
  byId("variants").append(...names.map((name) => {
    const box = element("input", { type: "checkbox", value: name });
    box.checked = true;
    return element("label", {}, box, name);
  }));
  const tasks = (await (await call("v1/tasks")).json()).tasks;
  const told = (task) => (task.questions ? `${task.name} (${task.questions})` : task.name);
  fill(byId("task"), tasks.map((task) => [task.name, told(task)]), tasks[0]?.name ?? "");
  byId("measure-button").disabled = !tasks.length;
  if (tasks[0]?.example) byId("question").placeholder = tasks[0].example;
}

byId("k").addEventListener("input", () => { byId("k-shown").value = byId("k").value; });
byId("question-form").addEventListener("submit", ask);
byId("measure-form").addEventListener("submit", measure);
byId("stop-button").addEventListener("click", () => measuring?.abort());
if (location.hash === "#measure") show(byId("tab-measure"));
start().catch((error) => say("ask-status", error.message, true));
