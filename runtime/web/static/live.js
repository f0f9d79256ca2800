// The connection to the device, the tabs and the Live view. Texts become text nodes, never HTML.
import { $, api, clock, element, fill, ms, percent, showBars } from "./panels.js";
import { showBundle, showLatency } from "./panels.js";

const STREAMS = 3; // a browser opens six connections to a host: one is for events, two are kept for requests
const [WINDOW, SLOTS] = [600, 200]; // a timeline's seconds, and its slots: each shows the answer in its middle
const cameras = new Map(); // by short name: card, sources (itself or its regions), their views, what it shows
const [latest, hues] = [new Map(), new Map()]; // the last result by a source's id; a hue by label
let [status, timeline, events, paused, large] = [null, {}, null, false, null];

function connect() {
  events = new EventSource("/api/v1/events");
  const told = { status: showStatus, sources: showSources, latest: showResults };
  for (const [name, show] of Object.entries(told)) events.addEventListener(name, ({ data }) => show(JSON.parse(data)));
  events.onopen = () => {
    notify("");
    load("timeline", (found) => { timeline = found; });
    for (const camera of cameras.values()) camera.shows = ""; // pictures of before ended without a word
  };
  events.onerror = () => {
    notify("Connection lost. What you see is old; the page tries again by itself.");
    if (events.readyState === events.CLOSED) setTimeout(() => load("status").then(() => paused || connect()), 2000);
  };
}

const seen = ({ id, flowing }) => (flowing && latest.get(id)) || { error: "no answer", top: [] };
const copy = (template) => $(template).content.firstElementChild.cloneNode(true);
const connected = () => events.readyState === events.OPEN;
const showTimes = () => connected() && !$("#latency").hidden && load("latency", showLatency);
const notify = (alert) => fill(document, { alert });
const load = (path, show) => api(path).then(show, ({ message }) => notify(message));

function showStatus(found) {
  status = found;
  fill($("#totals"), {
    fps: `${status.fps.toFixed(1)} /s`, p50: ms(status.age_p50_ms), p99: ms(status.age_p99_ms), viewers: status.viewers,
    inference: ms(status.inference_ms), minutes: `${Math.floor(status.seconds / 60)} min`,
  });
  $("#logout").hidden = !status.token;
  const { kind, source, detail, time } = status.last_fault ?? {};
  const words = [source, kind?.replace("-", " "), detail].filter(Boolean).join(": ");
  if (kind) fill(document, { fault: `Last fault, ${clock(time)}: ${words}` });
}

function showSources(sources) {
  if (!sources.length) return; // the device has just started
  for (const camera of cameras.values()) camera.sources = [];
  for (const source of sources) {
    if (!cameras.has(source.camera)) cameras.set(source.camera, addCamera(source.source));
    cameras.get(source.camera).sources.push(source);
  }
  for (const [key, camera] of cameras) {
    if (camera.sources.length) showCamera(camera);
    else if (cameras.delete(key)) camera.card.remove();
    for (const { id, flowing } of camera.sources) {
      const changes = (timeline[id] ??= []);
      if (!flowing && changes.at(-1)?.label) changes.push({ time: status.time, label: null });
      showTimeline(camera.views.get(id), changes, status.time);
    }
  }
  play();
}

function addCamera(name) {
  const card = copy("#camera");
  const camera = { card, sources: [], views: new Map(), shows: "", drawn: null };
  fill(card, { name });
  $("img", card).alt = `Picture of ${name}`;
  $("img", card).onerror = () => setTimeout(() => { camera.shows = ""; }, 2000); // the next play() asks again
  $(".enlarge", card).onclick = () => enlarge(large === card ? null : card);
  $(".picture", card).onclick = () => large === card || enlarge(card);
  letDraw(camera);
  $("#cameras").append(card);
  return camera;
}

function enlarge(chosen) {
  large = chosen;
  for (const { card } of cameras.values()) {
    card.classList.toggle("large", card === large);
    $(".enlarge", card).ariaPressed = card === large;
  }
  large?.scrollIntoView({ block: "nearest" });
  play();
}

function showCamera({ card, sources, views, drawn }) {
  const { id, flowing, width, height } = sources[0];
  const last = Math.max(0, ...sources.map((source) => latest.get(source.id)?.time ?? 0));
  const quiet = last ? `${Math.round(status.time - last)} s` : "–";
  card.classList.toggle("lost", !flowing);
  card.style.setProperty("--ratio", width / height || 1.5);
  fill(card, { state: flowing ? "flowing" : "lost", stopped: flowing ? "" : `No picture for ${quiet}` });
  Object.assign($(".snapshot", card), { href: `/api/v1/sources/${id}/snapshot`, download: `${id}.jpg` });
  const boxes = sources.map(({ box, region, ...one }) => box && [box, `${region}: ${seen(one).answer?.label ?? ""}`]);
  boxes.push(large === card && drawn && [drawn, "new"]);
  $(".boxes", card).replaceChildren(...boxes.filter(Boolean).map(([[x, y, w, h], text]) => element(
    "span", { "--x": x / width, "--y": y / height, "--w": w / width, "--h": h / height }, text,
  )));
  for (const { id, region, fps, dropped, unreadable, reconnects } of sources) {
    if (!views.has(id)) views.set(id, $(".views", card).appendChild(copy("#view")));
    const { answer, error, age_ms, top } = seen({ id, flowing });
    const [age, probability] = [age_ms ? ms(age_ms) : quiet, answer ? percent(answer.probability) : ""];
    const counts = { fps: `${fps.toFixed(1)} /s`, dropped, unreadable, reconnects };
    fill(views.get(id), { region, label: answer?.label ?? error, probability, age, ...counts });
    showBars($(".bars", views.get(id)), top);
  }
}

function showResults(results) {
  for (const result of results.filter(({ id, time }) => time !== latest.get(id)?.time)) {
    latest.set(result.id, result);
    const { label, since } = result.answer ?? { label: null, since: result.time };
    const changes = (timeline[result.id] ??= []);
    if (changes.at(-1)?.label !== label) changes.push({ time: since, label });
  }
  for (const camera of cameras.values()) showCamera(camera);
}

function showTimeline(view, changes, now) {
  while (changes[1]?.time < now - WINDOW) changes.shift();
  const from = Math.min(Math.max(changes[0]?.time ?? now, now - WINDOW), now - 60);
  const runs = [];
  for (let slot = 0; slot < SLOTS; slot++) {
    const time = from + ((slot + 0.5) / SLOTS) * (now - from);
    const label = changes.findLast((change) => change.time <= time)?.label ?? "no answer";
    if (runs.at(-1)?.label !== label) runs.push({ label, slots: 0, words: `${label} from ${clock(time)}` });
    runs.at(-1).slots++;
    if (!hues.has(label)) hues.set(label, (210 + 137.5 * hues.size) % 360);
  }
  $(".strip", view).replaceChildren(...runs.map(({ label, slots, words }) => element("span", {
    "--grow": slots, "--hue": hues.get(label), title: words, class: label === "no answer" && "gap",
  }, slots > SLOTS / 8 ? label : "")));
  const newest = runs.slice(-9).reverse().map(({ words }) => words);
  $(".strip", view).ariaLabel = `Answers, newest first: ${newest.join(", ")}`;
  fill(view, { from: `${Math.round((now - from) / 60)} min ago` });
}

// Pictures are asked for only while they are looked at; what was seen last stays on the canvas behind them.
function play() {
  const watched = connected() && !document.hidden && !$("#live").hidden;
  const order = [...cameras.values()].sort((a, b) => (b.card === large) - (a.card === large));
  for (const [place, camera] of order.entries()) {
    const wanted = !watched ? "" : place < STREAMS ? "stream" : `snapshot?at=${Math.floor(Date.now() / 2000)}`;
    if (camera.shows === wanted) continue;
    camera.shows = wanted;
    const [image, canvas] = [$("img", camera.card), $("canvas", camera.card)];
    if (image.naturalWidth) {
      Object.assign(canvas, { width: image.naturalWidth, height: image.naturalHeight });
      canvas.getContext("2d").drawImage(image, 0, 0);
    }
    if (wanted) image.src = `/api/v1/sources/${camera.sources[0].id}/${wanted}`;
    else image.removeAttribute("src");
  }
}

function letDraw(camera) {
  const [picture, form] = [$(".picture", camera.card), $("form", camera.card)];
  const [name, ...fields] = ["name", "x", "y", "w", "h"].map((field) => form.elements[field]);
  const point = ({ offsetX, offsetY }) =>
    [offsetX, offsetY].map((at) => Math.round((at * camera.sources[0].width) / picture.clientWidth));
  let start = [0, 0];
  picture.onpointerdown = (event) => { start = point(event); };
  picture.onpointermove = (event) => {
    const [[x, y], [left, top]] = [point(event), start];
    if (!event.buttons || large !== camera.card || x === left || y === top) return;
    const box = [Math.min(x, left), Math.min(y, top), Math.abs(x - left), Math.abs(y - top)];
    for (const [place, field] of fields.entries()) field.value = box[place];
    form.oninput();
  };
  form.oninput = () => {
    camera.drawn = fields.map((field) => Number(field.value));
    const text = `${name.value}${cameras.size > 1 ? `@${camera.sources[0].camera}` : ""}=${camera.drawn}`;
    form.elements.flag.value = `--region '${text.replaceAll("'", "'\\''")}'`;
    form.elements.toml.value = `region = [${JSON.stringify(text)}]`;
    form.parentElement.open = true;
    showCamera(camera);
  };
  form.onclick = ({ target }) => { if (target.readOnly) target.select(); };
}

function openTab(chosen) {
  for (const tab of tabs) {
    tab.ariaSelected = tab === chosen;
    tab.tabIndex = tab === chosen ? 0 : -1;
    $(`#${tab.getAttribute("aria-controls")}`).hidden = tab !== chosen;
  }
  chosen.focus();
  if (chosen.id === "tab-bundle") load("bundle", showBundle);
  showTimes();
  play();
}

const tabs = [...document.querySelectorAll("[role=tab]")];
for (const [place, tab] of tabs.entries()) {
  const next = { ArrowRight: (place + 1) % tabs.length, ArrowLeft: place - 1, Home: 0, End: -1 };
  tab.onclick = () => openTab(tab);
  tab.onkeydown = ({ key }) => { if (key in next) openTab(tabs.at(next[key])); }; // a false would hold the Tab key
}
$("#pause").onclick = ({ target }) => {
  paused = !paused;
  target.ariaPressed = paused;
  if (paused) events.close();
  else connect();
  play();
};
document.onvisibilitychange = play;
setInterval(showTimes, 2000);
connect();
