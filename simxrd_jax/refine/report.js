"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const unpack = (text, Kind) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return new Kind(bytes.buffer);
  };
  const x = unpack(data.two_theta, Float64Array), n = x.length;
  const [observed, calculated, background, weight] = ["observed", "calculated", "background", "weight"].map(
    (name) => unpack(data[name], Float32Array));
  const phases = data.phases.map((p) => ({ ...p, peaks: p.peaks ? unpack(p.peaks, Float32Array) : null }));
  const difference = observed.map((y, i) => y - calculated[i]);
  const residual = difference.map((d, i) => d * Math.sqrt(weight[i]));

  const full = [x[0], x[n - 1]];
  const state = { x: full, y: null, scale: "linear", weighted: false,
    shown: { observed: true, calculated: true, background: true, phases: phases.map(() => false) } };

  // --- Layout: intensities, a row of ticks for each phase, the difference; in CSS pixels.
  const curves = $("curves"), marks = $("marks"), tip = $("tip"), readout = $("readout");
  const LEFT = 72, RIGHT = 16, TOP = 8, MAIN = 380, GAP = 8, LOW = 110, BOTTOM = 38;
  const ROW = phases.length > 12 ? 9 : 15;
  const rowsTop = TOP + MAIN + GAP, lowTop = rowsTop + ROW * phases.length + GAP, height = lowTop + LOW + BOTTOM;
  const FONT = '12px system-ui, "Segoe UI", Arial, sans-serif';
  let width = 0, palette = {};

  const smallest = (() => {  // floor of the logarithmic scale
    let low = Infinity, high = 0;
    for (let i = 0; i < n; i++) {
      if (weight[i] > 0 && observed[i] > 0) low = Math.min(low, observed[i]);
      high = Math.max(high, observed[i]);
    }
    return Math.max(Math.min(low, high), high * 1e-5) || 1;
  })();
  const forward = { linear: (v) => v, sqrt: (v) => Math.sqrt(Math.max(v, 0)), log: (v) => Math.log10(Math.max(v, smallest)) };
  const backward = { linear: (v) => v, sqrt: (v) => v * v, log: (v) => 10 ** v };

  const firstAfter = (value) => {  // index of the first point at or after a value
    let low = 0, high = n;
    while (low < high) { const mid = (low + high) >> 1; if (x[mid] < value) low = mid + 1; else high = mid; }
    return low;
  };
  const nearest = (value) => {
    const i = Math.min(firstAfter(value), n - 1);
    return i > 0 && value - x[i - 1] < x[i] - value ? i - 1 : i;
  };
  const toPixel = (v) => LEFT + (v - state.x[0]) / (state.x[1] - state.x[0]) * (width - LEFT - RIGHT);
  const toAngle = (p) => state.x[0] + (p - LEFT) / (width - LEFT - RIGHT) * (state.x[1] - state.x[0]);
  const visible = () => [Math.max(firstAfter(state.x[0]) - 1, 0), Math.min(firstAfter(state.x[1]) + 1, n)];

  function range(arrays, first, last, transform) {
    let low = Infinity, high = -Infinity;
    const scan = (counted) => {
      for (const values of arrays) for (let i = first; i < last; i++) if (!counted || weight[i] > 0) {
        const v = transform(values[i]);
        if (v < low) low = v;
        if (v > high) high = v;
      }
    };
    scan(true);
    if (low > high) scan(false);
    if (!(low <= high)) return [0, 1];
    const pad = (high - low || Math.abs(high) || 1) * 0.05;
    return [low - pad, high + pad];
  }
  function steps(low, high, count) {  // round numbers, about as many as asked for, and their decimals
    const rough = (high - low) / Math.max(count, 1), power = 10 ** Math.floor(Math.log10(rough));
    const step = power * [1, 2, 5, 10].reduce((a, b) => Math.abs(b - rough / power) < Math.abs(a - rough / power) ? b : a);
    const found = [];
    for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
    return [found, Math.max(0, -Math.floor(Math.log10(step) + 1e-9))];
  }
  function label(v, decimals = 0) {
    const size = Math.abs(v);
    if (v !== 0 && (size >= 1e6 || size < 1e-3)) {
      const power = Math.floor(Math.log10(size) + 1e-9), digits = ["⁰", "¹", "²", "³", "⁴", "⁵", "⁶", "⁷", "⁸", "⁹"];
      const raised = [...String(power)].map((c) => c === "-" ? "⁻" : digits[+c]).join("");
      const front = +(v / 10 ** power).toPrecision(3);
      return (front === 1 ? "" : front === -1 ? "−" : `${front}·`.replace("-", "−")) + "10" + raised;
    }
    return v.toFixed(decimals).replace(/\B(?=(\d{3})+(?!\d|.*\.))/g, "\u2009").replace("-", "−");
  }
  function intensityTicks(low, high) {  // of the upper panel, as values; low and high are on the scale
    if (state.scale === "linear") return steps(low, high, 6);
    const from = backward[state.scale](state.scale === "sqrt" ? Math.max(low, 0) : low), to = backward[state.scale](high);
    const found = [];
    for (let power = 10 ** Math.floor(Math.log10(Math.max(from, to * 1e-9))); power <= to; power *= 10)
      for (const m of [1, 2, 5]) if (m * power >= from && m * power <= to) found.push(m * power);
    if (state.scale === "sqrt" && low <= 0) found.unshift(0);
    const size = MAIN / (high - low), kept = [];
    if (state.scale === "log" && high - low > 3) return [found.filter((v) => Math.abs(Math.log10(v) % 1) < 1e-6), 0];
    for (const v of found.reverse()) {  // from above: labels of small values crowd on a square root
      const at = forward[state.scale](v) * size;
      if (!kept.length || kept[kept.length - 1].at - at > 26) kept.push({ v, at });
    }
    if (kept.length < 3) return steps(from, to, 5);
    const least = Math.min(...kept.map((k) => k.v || 1));
    return [kept.map((k) => k.v), Math.max(0, -Math.floor(Math.log10(least)))];
  }

  // --- Drawing
  function context(canvas, ratio = window.devicePixelRatio || 1) {
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    const g = canvas.getContext("2d");
    g.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
    g.clearRect(0, 0, width, height);
    g.font = FONT;
    return g;
  }
  function clipped(g, top, size, draw) {
    g.save();
    g.beginPath();
    g.rect(LEFT, top, width - LEFT - RIGHT, size);
    g.clip();
    draw();
    g.restore();
  }
  // A line; where points are closer than pixels, the extent of each column of pixels.
  function trace(g, values, place, first, last, colour, thickness) {
    g.beginPath();
    if (last - first < 2 * (width - LEFT - RIGHT)) {
      for (let i = first; i < last; i++) g.lineTo(toPixel(x[i]), place(values[i]));
    } else {
      let column = null, low = 0, high = 0, end = 0;
      const flush = () => { g.lineTo(column, low); g.lineTo(column, high); g.lineTo(column, end); };
      for (let i = first; i < last; i++) {
        const p = Math.round(toPixel(x[i])), q = place(values[i]);
        if (p !== column) { if (column !== null) flush(); column = p; low = high = q; g.lineTo(p, q); }
        low = Math.min(low, q); high = Math.max(high, q); end = q;
      }
      if (column !== null) flush();
    }
    g.strokeStyle = colour;
    g.lineWidth = thickness;
    g.lineJoin = "round";
    g.stroke();
  }
  let limits = { main: [0, 1], low: [-1, 1] };
  function draw() {
    width = Math.max($("plot").clientWidth, 320);
    paint(context(curves));
    context(marks);
    tip.style.display = "none";
    clearTimeout(printing);
    printing = setTimeout(print, 400);
  }
  // For paper: an image in light colours, since browsers print canvases badly or not at all.
  let printing = 0;
  const sheet = document.createElement("canvas");
  function print() {
    const root = document.documentElement;
    root.dataset.print = "";
    paint(context(sheet, 2));
    delete root.dataset.print;
    $("paper").src = sheet.toDataURL();
  }
  function paint(g) {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["page", "ink", "quiet", "line", "grid", "calculated", "background", "excluded", "accent", "difference"])
      palette[name] = style.getPropertyValue(`--${name}`).trim();
    palette.phases = phases.map((_, i) => style.getPropertyValue(`--phase-${i % 6}`).trim());
    const [first, last] = visible(), right = width - RIGHT;
    const change = forward[state.scale];
    const drawn = [["observed", observed], ["calculated", calculated], ["background", background]];
    const chosen = drawn.filter(([name]) => state.shown[name]).map(([, values]) => values);
    limits.main = state.y ? state.y.map(change) : range(chosen.length ? chosen : [observed], first, last, change);
    const lower = state.weighted ? residual : difference;
    limits.low = range([lower], first, last, (v) => v);
    const upperPlace = (v) => TOP + MAIN * (1 - (change(v) - limits.main[0]) / (limits.main[1] - limits.main[0]));
    const lowerPlace = (v) => lowTop + LOW * (1 - (v - limits.low[0]) / (limits.low[1] - limits.low[0]));

    g.fillStyle = palette.excluded;
    for (const [a, b] of data.excluded) {
      const from = Math.max(toPixel(a), LEFT), to = Math.min(toPixel(b), right);
      if (to > from) g.fillRect(from, TOP, Math.max(to - from, 1), lowTop + LOW - TOP);
    }
    // Axes
    g.lineWidth = 1;
    g.textBaseline = "middle";
    g.textAlign = "right";
    const rule = (value, y, decimals) => {
      g.strokeStyle = palette.grid;
      g.beginPath(); g.moveTo(LEFT, Math.round(y) + 0.5); g.lineTo(right, Math.round(y) + 0.5); g.stroke();
      g.fillStyle = palette.quiet;
      g.fillText(label(value, decimals), LEFT - 7, y);
    };
    const [upperTicks, upperDecimals] = intensityTicks(...limits.main);
    for (const v of upperTicks) rule(v, upperPlace(v), upperDecimals);
    const [lowerTicks, lowerDecimals] = steps(...limits.low, 4);
    for (const v of lowerTicks) rule(v, lowerPlace(v), lowerDecimals);
    g.textAlign = "center";
    const [angles, angleDecimals] = steps(...state.x, Math.max(3, (right - LEFT) / 90));
    for (const v of angles) {
      const p = toPixel(v);
      g.strokeStyle = palette.line;
      g.beginPath(); g.moveTo(p, lowTop + LOW); g.lineTo(p, lowTop + LOW + 5); g.stroke();
      g.fillStyle = palette.quiet;
      g.fillText(v.toFixed(angleDecimals), p, lowTop + LOW + 14);
    }
    g.fillStyle = palette.ink;
    g.fillText("2θ (degrees)", (LEFT + right) / 2, lowTop + LOW + 30);
    for (const [text, middle] of [["intensity", TOP + MAIN / 2], [state.weighted ? "difference / σ" : "difference", lowTop + LOW / 2]]) {
      g.save(); g.translate(11, middle); g.rotate(-Math.PI / 2); g.fillText(text, 0, 0); g.restore();
    }
    g.strokeStyle = palette.line;
    g.strokeRect(LEFT + 0.5, TOP + 0.5, right - LEFT - 1, MAIN - 1);
    g.strokeRect(LEFT + 0.5, lowTop + 0.5, right - LEFT - 1, LOW - 1);

    clipped(g, TOP, MAIN, () => {
      phases.forEach((p, k) => {
        if (state.shown.phases[k] && p.peaks) {
          trace(g, p.peaks.map((v, i) => v + background[i]), upperPlace, first, last, palette.phases[k], 1);
        }
      });
      if (state.shown.background) trace(g, background, upperPlace, first, last, palette.background, 1.2);
      if (state.shown.observed) {
        const spacing = (right - LEFT) / Math.max(last - first, 1), size = spacing > 6 ? 4 : spacing > 1.5 ? 3 : 2;
        for (const counts of [false, true]) {
          g.fillStyle = counts ? palette.ink : palette.background;
          g.beginPath();
          for (let i = first; i < last; i++) if (weight[i] > 0 === counts) {
            const p = toPixel(x[i]), q = upperPlace(observed[i]);
            g.rect(p - size / 2, q - size / 2, size, size);
            if (counts && spacing > 10) {  // far enough apart: error bars
              const sigma = 1 / Math.sqrt(weight[i]), up = upperPlace(observed[i] + sigma);
              g.rect(p - 0.5, up, 1, upperPlace(observed[i] - sigma) - up);
            }
          }
          g.fill();
        }
      }
      if (state.shown.calculated) trace(g, calculated, upperPlace, first, last, palette.calculated, 1.3);
    });
    phases.forEach((p, k) => {
      const top = rowsTop + k * ROW;
      g.fillStyle = palette.phases[k];
      if (ROW > 10) {
        g.textAlign = "right";
        let name = p.name;
        while (name.length > 1 && g.measureText(name).width > LEFT - 10) name = name.slice(0, name.endsWith("…") ? -2 : -1) + "…";
        g.fillText(name, LEFT - 7, top + ROW / 2);
      }
      clipped(g, top, ROW, () => {
        g.strokeStyle = palette.phases[k];
        g.lineWidth = 1;
        g.beginPath();
        for (const angle of p.two_theta) if (angle >= state.x[0] && angle <= state.x[1]) {
          const at = Math.round(toPixel(angle)) + 0.5;
          g.moveTo(at, top + 2); g.lineTo(at, top + ROW - 2);
        }
        g.stroke();
      });
    });
    clipped(g, lowTop, LOW, () => {
      g.strokeStyle = palette.line;
      g.beginPath(); g.moveTo(LEFT, lowerPlace(0)); g.lineTo(right, lowerPlace(0)); g.stroke();
      let start = null;  // runs of points that count
      for (let i = first; i <= last; i++) {
        const counts = i < last && weight[i] > 0;
        if (counts && start === null) start = i;
        if (!counts && start !== null) { trace(g, lower, lowerPlace, start, i, palette.difference, 1); start = null; }
      }
    });
  }
  let waiting = 0;
  const redraw = () => { if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; draw(); }); };

  // --- Zoom
  function show(low, high, y = state.y) {
    const least = 4 * (full[1] - full[0]) / n, size = Math.min(Math.max(high - low, least), full[1] - full[0]);
    const start = Math.min(Math.max((low + high - size) / 2, full[0]), full[1] - size);
    state.x = [start, start + size];
    state.y = y;
    redraw();
  }
  const reset = () => show(...full, null);
  const zoom = (factor, about) => show(about - (about - state.x[0]) * factor, about + (state.x[1] - about) * factor);
  const pan = (part) => { const s = (state.x[1] - state.x[0]) * part; show(state.x[0] + s, state.x[1] + s); };

  const place = (event) => { const box = curves.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  let drag = null;
  curves.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || event.pointerType === "touch" && !event.isPrimary) return;
    const [p, q] = place(event);
    drag = { p, q, from: [...state.x], pans: event.shiftKey || q > lowTop + LOW, moved: false };
    curves.setPointerCapture(event.pointerId);
  });
  curves.addEventListener("pointermove", (event) => {
    const [p, q] = place(event);
    if (!drag) return hover(p, q);
    if (Math.abs(p - drag.p) > 3 || Math.abs(q - drag.q) > 3) drag.moved = true;
    if (drag.pans) {
      const s = (drag.p - p) / (width - LEFT - RIGHT) * (drag.from[1] - drag.from[0]);
      return show(drag.from[0] + s, drag.from[1] + s);
    }
    const box = selection(p, q), g = context(marks);
    g.strokeStyle = palette.accent;
    g.fillStyle = palette.accent;
    g.globalAlpha = 0.15; g.fillRect(box.left, box.top, box.right - box.left, box.bottom - box.top);
    g.globalAlpha = 1; g.strokeRect(box.left, box.top, box.right - box.left, box.bottom - box.top);
  });
  // A box in the upper panel takes its height too; a flat one, or one elsewhere, takes the angles alone.
  function selection(p, q) {
    const inside = (v) => Math.min(Math.max(v, LEFT), width - RIGHT);
    const isBox = drag.q < TOP + MAIN && Math.abs(q - drag.q) > 25;
    return { left: inside(Math.min(p, drag.p)), right: inside(Math.max(p, drag.p)), isBox,
      top: isBox ? Math.max(Math.min(q, drag.q), TOP) : TOP, bottom: isBox ? Math.min(Math.max(q, drag.q), TOP + MAIN) : lowTop + LOW };
  }
  curves.addEventListener("pointerup", (event) => {
    const was = drag, [p, q] = place(event);
    if (!was) return;
    const box = selection(p, q);
    drag = null;
    if (was.pans || !was.moved || box.right - box.left < 4) return redraw();
    const value = (at) => backward[state.scale](limits.main[0] + (1 - (at - TOP) / MAIN) * (limits.main[1] - limits.main[0]));
    show(toAngle(box.left), toAngle(box.right), box.isBox ? [value(box.bottom), value(box.top)] : null);
  });
  curves.addEventListener("pointercancel", () => { drag = null; redraw(); });
  curves.addEventListener("pointerleave", () => { if (!drag) { tip.style.display = "none"; readout.textContent = hint; context(marks); } });
  curves.addEventListener("dblclick", reset);
  curves.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;  // the page scrolls; a pinch comes with ctrlKey
    event.preventDefault();
    zoom(Math.exp(Math.max(-0.5, Math.min(0.5, event.deltaY * 0.004))), toAngle(place(event)[0]));
  }, { passive: false });
  curves.addEventListener("keydown", (event) => {
    const middle = (state.x[0] + state.x[1]) / 2;
    const action = { "+": () => zoom(0.6, middle), "=": () => zoom(0.6, middle), "-": () => zoom(1 / 0.6, middle),
      ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2), 0: reset, Escape: reset }[event.key];
    if (action && !event.ctrlKey && !event.metaKey && !event.altKey) { event.preventDefault(); action(); }
  });

  // --- What is under the pointer
  const hint = readout.textContent;
  const number = (v) => { const size = Math.abs(v); return label(v, size >= 1000 ? 0 : size >= 10 ? 1 : 3); };
  function hover(p, q) {
    const g = context(marks);
    tip.style.display = "none";
    if (p < LEFT || p > width - RIGHT || q < TOP || q > lowTop + LOW) { readout.textContent = hint; return; }
    const i = nearest(toAngle(p)), at = toPixel(x[i]);
    g.strokeStyle = palette.quiet;
    g.globalAlpha = 0.6;
    g.beginPath(); g.moveTo(at, TOP); g.lineTo(at, lowTop + LOW); g.stroke();
    const d = data.wavelength / (2 * Math.sin(x[i] * Math.PI / 360));
    const told = weight[i] > 0 ? ` (${label(residual[i], 2)} σ)` : " (does not count)";
    readout.textContent = `2θ ${x[i].toFixed(4)}°   d ${d.toFixed(4)} Å   observed ${number(observed[i])}   calculated ` +
      `${number(calculated[i])}   background ${number(background[i])}   difference ${number(difference[i])}${told}`;
    const row = Math.floor((q - rowsTop) / ROW);
    if (row < 0 || row >= phases.length) return;
    const phase = phases[row], near = [];
    phase.two_theta.forEach((angle, k) => { if (Math.abs(toPixel(angle) - p) <= 6) near.push([Math.abs(toPixel(angle) - p), k]); });
    if (!near.length) return;
    near.sort((a, b) => a[0] - b[0]);
    const lines = near.slice(0, 5).map(([, k]) =>
      `${phase.hkl[k].join(" ").replace(/-/g, "−")}   2θ ${phase.two_theta[k].toFixed(3)}°   d ${phase.d[k].toFixed(4)} Å   ` +
      `intensity ${phase.intensity[k]} %   m ${phase.multiplicity[k]}`);
    if (near.length > 5) lines.push(`and ${near.length - 5} more`);
    tip.textContent = [phase.name, ...lines].join("\n");
    tip.style.display = "block";
    tip.style.left = `${Math.max(0, Math.min(p + 12, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${rowsTop + (row + 1) * ROW + 4}px`;
  }

  // --- Switches
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));
  for (const button of document.querySelectorAll("button[data-scale]")) button.addEventListener("click", () => {
    state.scale = button.dataset.scale;
    for (const other of document.querySelectorAll("button[data-scale]")) press(other, other === button);
    redraw();
  });
  for (const button of document.querySelectorAll("button[data-weighted]")) button.addEventListener("click", () => {
    state.weighted = button.dataset.weighted === "true";
    for (const other of document.querySelectorAll("button[data-weighted]")) press(other, other === button);
    redraw();
  });
  for (const button of document.querySelectorAll("button[data-curve]")) button.addEventListener("click", () => {
    state.shown[button.dataset.curve] = !state.shown[button.dataset.curve];
    press(button, state.shown[button.dataset.curve]);
    redraw();
  });
  for (const button of document.querySelectorAll("button[data-phase]")) button.addEventListener("click", () => {
    const k = +button.dataset.phase;
    state.shown.phases[k] = !state.shown.phases[k];
    press(button, state.shown.phases[k]);
    redraw();
  });
  $("reset").addEventListener("click", reset);
  $("all").addEventListener("change", (event) => $("parameters").classList.toggle("refined", !event.target.checked));

  new ResizeObserver(redraw).observe($("plot"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  draw();
})();
