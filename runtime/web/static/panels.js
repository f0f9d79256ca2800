// What the views share, and the views Bundle, Latency and Classify. Texts become text nodes, never HTML.
export const $ = (selector, root = document) => root.querySelector(selector);
export const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`;
export const ms = (time) => `${time.toFixed(time < 10 ? 1 : 0)} ms`;
export const clock = (seconds) => new Date(1000 * seconds).toLocaleTimeString();

// An element; attributes that begin with -- are properties for the style sheet.
export function element(tag, attributes, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("--")) made.style.setProperty(name, value);
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

export function fill(root, texts) {
  for (const [name, text] of Object.entries(texts)) {
    const place = $(`[data-is=${name}]`, root);
    if (place.textContent !== String(text)) place.textContent = text; // what does not change is not spoken again
  }
}

export function showBars(list, top) {
  list.replaceChildren(...top.map(({ label, probability }) => element(
    "li", { "--share": `${100 * probability}%` }, element("span", {}, label), element("span", {}, percent(probability)),
  )));
}

export async function api(path, options) {
  const response = await fetch(`/api/v1/${path}`, options);
  if (response.status === 401) location.assign("/login");
  const found = await response.json();
  if (!response.ok) throw new Error(found.error);
  return found;
}

export function showBundle({ variant, variants, ...others }) {
  const round = (value) => (Number.isInteger(value) ? value : Number(value?.toPrecision?.(3)) || value);
  const pairs = (value) => Object.entries(value).map((pair) => pair.join(" "));
  const inWords = (value) => (value?.constructor === Object ? pairs(value) : [round(value)].flat()).join(", ") || "–";
  for (const list of document.querySelectorAll("#bundle dl")) {
    const facts = Object.entries(others[list.dataset.is] ?? { check: "left out" });
    list.replaceChildren(...facts.map(([name, value]) => element(
      "div", {}, element("dt", {}, name.replaceAll("_", " ")), element("dd", {}, inWords(value)),
    )));
  }
  $("#bundle tbody").replaceChildren(...variants.map(({ name, target, size, parity: { checks, passed } }) => {
    const gates = checks.map(({ name, found, limit, passed }) => element(
      "li", { class: passed ? "" : "bad" }, `${name}: ${round(found)} (limit ${limit})`,
    ));
    const title = name === variant ? element("strong", {}, `${name}, running`) : name;
    const cells = [title, target, (size / 1e6).toFixed(1), element("ul", {}, ...gates), passed ? "passed" : "failed"];
    return element("tr", {}, ...cells.map((cell) => element("td", {}, cell)));
  }));
}

export function showLatency({ stages, history }) {
  const { preprocess, inference, age } = stages;
  const waiting = Math.max(0, age.p50 - preprocess.p50 - inference.p50);
  const parts = [["preprocessing", preprocess.p50], ["inference", inference.p50], ["waiting", waiting]];
  const words = parts.map(([name, time]) => `${name} ${ms(time)}`);
  $("#latency .strip").ariaLabel = words.join(", ");
  $("#latency .strip").replaceChildren(...parts.map(([, time], place) => element(
    "span", { "--grow": time, "--hue": 210 + 110 * place, title: words[place] }, words[place],
  )));
  $("#latency tbody").replaceChildren(...Object.entries(stages).map(([name, { p50, p99, histogram }]) => element(
    "tr", {}, ...[name, ms(p50), ms(p99), drawHistogram(histogram)].map((cell) => element("td", {}, cell)),
  )));
  const [first, last] = [history[0], history.at(-1)];
  const most = Math.max(1, ...history.map(({ p99 }) => p99));
  const across = (time) => (600 * (time - first.time)) / (last.time - first.time || 1);
  for (const line of document.querySelectorAll("polyline")) {
    const points = history.map((at) => `${across(at.time)},${150 - (140 * at[line.id]) / most}`);
    line.setAttribute("points", points.join(" "));
  }
  $("#history").ariaLabel = `p50 ${ms(last.p50)}, p99 ${ms(last.p99)}, at most ${ms(most)}`;
  fill($("#latency"), { most: ms(most), from: clock(first.time), to: clock(last.time) });
}

// The edges rise by factors, so that bars of one width are a logarithmic axis; the first and last bar are open.
function drawHistogram({ edges_ms: edges, counts }) {
  const most = Math.max(...counts, 1);
  const label = `most often under ${edges[counts.indexOf(most)]} ms`;
  return element("div", { class: "histogram", role: "img", "aria-label": label }, ...counts.map((count, place) => {
    const edge = place < edges.length ? `under ${edges[place]}` : `from ${edges.at(-1)}`;
    return element("span", { "--share": count / most, title: `${edge} ms: ${count}` });
  }));
}

function classifyPicture(file) {
  const say = (text) => { $("#classified").textContent = `${file.name}: ${text}`; };
  say("being classified");
  $(".answered").hidden = true;
  api("classify", { method: "POST", body: file }).then((found) => {
    const top = found.labels.map((label, place) => ({ label, probability: found.probabilities[place] }));
    const times = `preprocessing ${ms(found.preprocess_ms)}, inference ${ms(found.inference_ms)}`;
    $(".answered img").src = URL.createObjectURL(file);
    $(".answered").hidden = false;
    fill($(".answered"), { label: found.answer, probability: percent(top[0].probability) });
    showBars($(".answered .bars"), top);
    say(`${found.width} × ${found.height} pixels, ${times}`);
  }).catch(({ message }) => say(message));
}

const take = ([file]) => file && classifyPicture(file);
$("[type=file]").onchange = ({ target }) => take(target.files); // what is dropped on the field, too
document.onpaste = ({ clipboardData }) => $("#classify").hidden || take(clipboardData.files);
