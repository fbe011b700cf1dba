// The map: draws points with WebGL, or on a plain canvas without it; zoom, pan, picking and cluster names.

import { isDark } from "./colours.js";

const VERTEX = `#version 300 es
in vec2 place; in vec4 colour; in float shown;
uniform vec3 view; uniform vec2 aspect; uniform float size; uniform float pass;
out vec4 tint;
void main() {
  bool mine = pass < 0.5 ? shown < 0.5 : shown > 0.5;
  gl_Position = mine ? vec4((place - view.xy) * view.z * aspect, 0.0, 1.0) : vec4(3.0, 3.0, 0.0, 1.0);
  gl_PointSize = pass < 0.5 ? max(1.0, size * 0.8) : size;
  tint = colour;
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec4 tint; uniform float alpha; uniform float size; out vec4 made;
void main() {
  float away = length(gl_PointCoord - 0.5) * 2.0;
  float edge = size > 2.5 ? 1.0 - smoothstep(1.0 - 2.0 / size, 1.0, away) : 1.0;
  if (edge <= 0.0) discard;
  made = vec4(tint.rgb, tint.a * alpha * edge);
}`;
const GRID = 256, REACH = 14;

export class PointMap extends EventTarget {
  constructor(canvas, over, note) {
    super();
    this.canvas = canvas; this.over = over; this.note = note;
    this.view = { x: 0, y: 0, zoom: 0.92 };
    this.count = 0; this.labels = []; this.marks = []; this.hovered = -1; this.onlyKept = false; this.showNames = true;
    const force = new URLSearchParams(location.search).has("webgl");  // software WebGL is slower than the plain canvas
    this.gl = canvas.getContext("webgl2", { antialias: false, alpha: true, premultipliedAlpha: false, failIfMajorPerformanceCaveat: !force });
    if (this.gl) this.prepare(); else this.plain = canvas.getContext("2d");
    canvas.addEventListener("webglcontextlost", (event) => { event.preventDefault(); });
    canvas.addEventListener("webglcontextrestored", () => { this.prepare(); this.upload(); this.draw(); });
    new ResizeObserver(() => this.resize()).observe(canvas.parentElement);
    this.listen();
    this.resize();
  }

  get kind() { return this.gl ? "webgl" : "canvas"; }

  prepare() {
    const gl = this.gl, program = gl.createProgram();
    for (const [type, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, text); gl.compileShader(shader); gl.attachShader(program, shader);
    }
    ["place", "colour", "shown"].forEach((name, at) => gl.bindAttribLocation(program, at, name));
    gl.linkProgram(program); gl.useProgram(program);
    this.at = Object.fromEntries(["view", "aspect", "size", "pass", "alpha"].map((name) => [name, gl.getUniformLocation(program, name)]));
    this.buffers = [0, 1, 2].map(() => gl.createBuffer());
    gl.enable(gl.BLEND);
    gl.blendFuncSeparate(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA, gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
  }

  setPoints(places) {
    this.places = places; this.count = places.length / 2;
    this.colours = new Uint8Array(4 * this.count).fill(160);
    this.shown = new Uint8Array(this.count).fill(1);
    this.grid = gridOf(places);
    this.upload(); this.draw();
  }
  setColours(colours) { this.colours = colours; this.upload(1); this.draw(); }
  setShown(shown) { this.shown = shown; this.upload(2); this.draw(); }

  upload(which = -1) {
    if (!this.gl || !this.places) return;
    const gl = this.gl, given = [[this.places, 2, gl.FLOAT, false], [this.colours, 4, gl.UNSIGNED_BYTE, true], [this.shown, 1, gl.UNSIGNED_BYTE, false]];
    given.forEach(([data, size, type, normal], at) => {
      if (which >= 0 && which !== at) return;
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[at]);
      gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
      gl.enableVertexAttribArray(at);
      gl.vertexAttribPointer(at, size, type, normal, 0, 0);
    });
  }

  resize() {
    const box = this.canvas.parentElement.getBoundingClientRect(), scale = Math.min(devicePixelRatio || 1, 2);
    this.wide = Math.max(1, box.width); this.high = Math.max(1, box.height); this.scale = scale;
    for (const one of [this.canvas, this.over]) { one.width = Math.round(this.wide * scale); one.height = Math.round(this.high * scale); }
    this.draw();
  }
  get side() { return Math.min(this.wide, this.high) / 2; }
  toScreen(x, y) {
    return [this.wide / 2 + (x - this.view.x) * this.view.zoom * this.side, this.high / 2 - (y - this.view.y) * this.view.zoom * this.side];
  }
  toPlace(left, top) {
    const unit = this.view.zoom * this.side;
    return [this.view.x + (left - this.wide / 2) / unit, this.view.y - (top - this.high / 2) / unit];
  }
  get pointSize() {
    const room = Math.sqrt(this.wide * this.high / Math.max(this.count, 1)) * 0.58 * Math.sqrt(this.view.zoom);
    return Math.min(Math.max(room, 1.6), 11) * this.scale;
  }

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }
  paint() {
    const began = performance.now();
    if (this.gl) this.paintGl(); else this.paintPlain();
    this.paintOver();
    this.spent = performance.now() - began;
  }
  paintGl() {
    const gl = this.gl;
    gl.viewport(0, 0, this.canvas.width, this.canvas.height);
    gl.clearColor(0, 0, 0, 0); gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.count) return;
    gl.uniform3f(this.at.view, this.view.x, this.view.y, this.view.zoom);
    gl.uniform2f(this.at.aspect, 2 * this.side / this.wide, 2 * this.side / this.high);
    gl.uniform1f(this.at.size, this.pointSize);
    for (const pass of this.onlyKept ? [1] : [0, 1]) {
      gl.uniform1f(this.at.pass, pass);
      gl.uniform1f(this.at.alpha, pass ? 0.86 : isDark() ? 0.16 : 0.13);
      gl.drawArrays(gl.POINTS, 0, this.count);
    }
  }
  paintPlain() {
    const wide = this.canvas.width, high = this.canvas.height, image = new ImageData(wide, high), pixels = new Uint32Array(image.data.buffer);
    const unit = this.view.zoom * this.side * this.scale, left = wide / 2 - this.view.x * unit, top = high / 2 + this.view.y * unit;
    const size = Math.max(2, Math.round(this.pointSize)), half = size / 2, round = size > 4;
    const { places, shown, colours } = this;
    for (const pass of this.onlyKept ? [1] : [0, 1]) {
      const alpha = (pass ? 225 : isDark() ? 44 : 36) << 24;
      for (let row = 0; row < this.count; row++) {
        if (shown[row] !== pass) continue;
        const x = Math.round(left + places[2 * row] * unit - half), y = Math.round(top - places[2 * row + 1] * unit - half);
        if (!(x > -size && y > -size && x < wide && y < high)) continue;  // NaN too
        const colour = (alpha | colours[4 * row + 2] << 16 | colours[4 * row + 1] << 8 | colours[4 * row]) >>> 0;
        for (let down = 0; down < size; down++) {
          const line = y + down, inset = round && (down === 0 || down === size - 1) ? 1 : 0;
          if (line < 0 || line >= high) continue;
          const end = Math.min(x + size - inset, wide);
          for (let at = Math.max(x + inset, 0); at < end; at++) pixels[line * wide + at] = colour;
        }
      }
    }
    this.plain.putImageData(image, 0, 0);
  }
  paintOver() {
    const pen = this.over.getContext("2d"), style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink"), page = style.getPropertyValue("--page"), accent = style.getPropertyValue("--accent");
    pen.setTransform(this.scale, 0, 0, this.scale, 0, 0);
    pen.clearRect(0, 0, this.wide, this.high);
    for (const row of this.marks) this.ring(pen, row, 6, accent, page);
    if (this.hovered >= 0) this.ring(pen, this.hovered, 8, ink, page);
    if (this.showNames) this.paintNames(pen, ink, page);
    if (this.box) {
      const [x, y, wide, high] = this.box;
      pen.strokeStyle = accent; pen.setLineDash([5, 4]); pen.strokeRect(x, y, wide, high); pen.setLineDash([]);
    }
  }
  ring(pen, row, radius, colour, page) {
    const [x, y] = this.toScreen(this.places[2 * row], this.places[2 * row + 1]);
    pen.beginPath(); pen.arc(x, y, radius, 0, 7); pen.lineWidth = 4; pen.strokeStyle = page; pen.stroke();
    pen.lineWidth = 2; pen.strokeStyle = colour; pen.stroke();
  }
  paintNames(pen, ink, page) {
    pen.font = '600 12px ui-sans-serif, system-ui, "Liberation Sans", sans-serif'; pen.textAlign = "center"; pen.textBaseline = "middle"; pen.lineJoin = "round";
    const taken = [], most = Math.round(10 * Math.max(1, this.view.zoom));
    for (const label of this.labels) {
      if (taken.length >= most) break;
      const [x, y] = this.toScreen(label.x, label.y), half = pen.measureText(label.name).width / 2 + 8;
      if (x < half || y < 58 || x > this.wide - half || y > this.high - 20) continue;
      if (taken.some(([a, b, c]) => Math.abs(a - x) < c + half && Math.abs(b - y) < 20)) continue;
      taken.push([x, y, half]);
      pen.lineWidth = 4; pen.strokeStyle = page; pen.strokeText(label.name, x, y);
      pen.fillStyle = ink; pen.fillText(label.name, x, y);
    }
  }

  /** The nearest visible point within reach of a screen position, -1 if there is none. */
  pick(left, top, reach = REACH) {
    if (!this.count) return -1;
    const [x, y] = this.toPlace(left, top), far = reach / (this.view.zoom * this.side);
    let best = -1, least = far * far;
    this.grid.near(x - far, y - far, x + far, y + far, (row) => {
      if (this.onlyKept && !this.shown[row]) return;
      const away = (this.places[2 * row] - x) ** 2 + (this.places[2 * row + 1] - y) ** 2;
      if (away < least) { least = away; best = row; }
    });
    return best;
  }
  inside(left, top, right, bottom) {
    const [x0, y1] = this.toPlace(left, top), [x1, y0] = this.toPlace(right, bottom), rows = [];
    this.grid?.near(x0, y0, x1, y1, (row) => {
      const x = this.places[2 * row], y = this.places[2 * row + 1];
      if (x >= x0 && x <= x1 && y >= y0 && y <= y1 && (!this.onlyKept || this.shown[row])) rows.push(row);
    });
    return rows.sort((a, b) => a - b);
  }
  zoomBy(factor, left = this.wide / 2, top = this.high / 2) {
    const [x, y] = this.toPlace(left, top);
    this.view.zoom = Math.min(Math.max(this.view.zoom * factor, 0.5), 400);
    const [nowX, nowY] = this.toPlace(left, top);
    this.view.x += x - nowX; this.view.y += y - nowY;
    this.draw();
  }
  moveBy(dx, dy) { const unit = this.view.zoom * this.side; this.view.x -= dx / unit; this.view.y += dy / unit; this.draw(); }
  whole() { this.view = { x: 0, y: 0, zoom: 0.92 }; this.draw(); }
  goTo(x, y, zoom = Math.max(this.view.zoom, 4)) { this.view = { x, y, zoom }; this.draw(); }

  listen() {
    const canvas = this.canvas, fingers = new Map();
    let start = null, gap = 0;
    const at = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
    const tell = (name, detail) => this.dispatchEvent(new CustomEvent(name, { detail }));
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...at(event)); }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId); fingers.set(event.pointerId, at(event));
      start = { at: at(event), far: 0, boxing: event.shiftKey };
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = at(event), before = fingers.get(event.pointerId);
      if (!before) { const row = this.pick(...now); if (row !== this.hovered) { this.hovered = row; this.draw(); tell("hover", { row, at: now }); } return; }
      fingers.set(event.pointerId, now);
      if (fingers.size === 2) {
        const [one, two] = [...fingers.values()], wide = Math.hypot(one[0] - two[0], one[1] - two[1]);
        if (gap) this.zoomBy(wide / gap, (one[0] + two[0]) / 2, (one[1] + two[1]) / 2);
        gap = wide; return;
      }
      if (!start) return;
      start.far += Math.abs(now[0] - before[0]) + Math.abs(now[1] - before[1]);
      if (start.boxing) { this.box = [Math.min(start.at[0], now[0]), Math.min(start.at[1], now[1]), Math.abs(now[0] - start.at[0]), Math.abs(now[1] - start.at[1])]; this.draw(); }
      else this.moveBy(now[0] - before[0], now[1] - before[1]);
    });
    const up = (event) => {
      fingers.delete(event.pointerId); gap = 0;
      const [left, top] = at(event);
      if (event.type === "pointerup" && start && start.far < 6) { const row = this.pick(left, top); if (row >= 0) tell("open", { row }); }
      else if (this.box) { const [x, y, wide, high] = this.box; tell("select", { rows: this.inside(x, y, x + wide, y + high) }); }
      this.box = null; start = null; this.draw();
    };
    canvas.addEventListener("pointerup", up); canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => { if (this.hovered >= 0) { this.hovered = -1; this.draw(); tell("hover", { row: -1 }); } });
    canvas.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      if (moves[event.key]) this.moveBy(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoomBy(1.4);
      else if (event.key === "-") this.zoomBy(1 / 1.4);
      else if (event.key === "0") this.whole();
      else if (event.key === "Enter") { const row = this.pick(this.wide / 2, this.high / 2, this.side); if (row >= 0) tell("open", { row }); }
      else return;
      event.preventDefault();
    });
  }
}

/** Rows by the cell of a square grid over -1.2..1.2, in two arrays. */
function gridOf(places) {
  const count = places.length / 2, cells = new Uint32Array(GRID * GRID + 1), of = new Int32Array(count).fill(-1);
  const cell = (value) => Math.min(GRID - 1, Math.max(0, Math.floor((value + 1.2) / 2.4 * GRID)));
  for (let row = 0; row < count; row++) {
    if (Number.isNaN(places[2 * row])) continue;
    of[row] = cell(places[2 * row + 1]) * GRID + cell(places[2 * row]);
    cells[of[row] + 1]++;
  }
  for (let at = 0; at < GRID * GRID; at++) cells[at + 1] += cells[at];
  const next = cells.slice(), rows = new Uint32Array(cells[GRID * GRID]);
  for (let row = 0; row < count; row++) if (of[row] >= 0) rows[next[of[row]]++] = row;
  return {
    near(x0, y0, x1, y1, each) {
      for (let down = cell(y0); down <= cell(y1); down++) for (let across = cell(x0); across <= cell(x1); across++) {
        const at = down * GRID + across;
        for (let place = cells[at]; place < cells[at + 1]; place++) each(rows[place]);
      }
    },
  };
}
