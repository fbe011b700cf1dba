// DOM tools: builds elements without markup, so that a caption is never parsed as HTML; requests to the server; number formats.

export const $ = (id) => document.getElementById(id);

export function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "css") for (const [key, one] of Object.entries(value)) made.style.setProperty(key, one);
    else if (name in made && name !== "list" && name !== "form") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** Replace the children of a node; lists are flattened and empty values are skipped. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat(4).filter((child) => child !== null && child !== undefined && child !== false && child !== ""));
}

const svgNs = "http://www.w3.org/2000/svg";
export function svg(tag, given = {}, ...children) {
  const made = document.createElementNS(svgNs, tag);
  for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const amount = (value) => value === null || value === undefined ? "–" : Number(value).toLocaleString("en-US");
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)} %`;
export function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return amount(value);
  return size >= 1e5 || (size && size < 1e-3) ? value.toExponential(2) : String(Number(value.toPrecision(4)));
}
export const plainly = (name) => name.replace(/^clip_(.*)_similarity_score$/, "CLIP score, $1").replaceAll("_", " ");

async function answered(response) {
  if (response.ok) return response;
  let told = `The server answered ${response.status}.`;
  try { told = (await response.json()).error || told; } catch { /* it is not JSON */ }
  throw new Error(told);
}

export async function ask(path) {
  const response = await answered(await fetch(`api/${path}`));
  return response.json();
}
export async function array(path, kind) {
  const response = await answered(await fetch(`api/${path}`));
  return new kind(await response.arrayBuffer());
}
export async function tell(path, body, signal) {
  const raw = body instanceof Blob;
  const response = await answered(await fetch(`api/${path}`, {
    method: "POST", body: raw ? body : JSON.stringify(body), signal,
    headers: { "X-Datacomp": "explore", "Content-Type": raw ? "application/octet-stream" : "application/json" },
  }));
  return response.json();
}

let toastTimer = 0;
export function toast(text, isError = false) {
  const box = $("toast");
  box.textContent = text;
  box.classList.toggle("bad", isError);
  box.hidden = false;
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { box.hidden = true; }, isError ? 9000 : 5000);
}
/** Run a request to the server; show errors. */
export async function trying(work) {
  try { return await work(); } catch (problem) {
    if (problem.name !== "AbortError") toast(problem.message, true);
    return null;
  }
}
export function bits(base64, count) {
  const raw = atob(base64), made = new Uint8Array(count);
  for (let at = 0; at < count; at++) made[at] = raw.charCodeAt(at >> 3) >> (at & 7) & 1;
  return made;
}
export function numbers16(base64) {
  const raw = atob(base64), bytes = new Uint8Array(raw.length);
  for (let at = 0; at < raw.length; at++) bytes[at] = raw.charCodeAt(at);
  return new Uint16Array(bytes.buffer);
}
export function debounce(work, wait) {
  let timer = 0;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), wait); };
}
