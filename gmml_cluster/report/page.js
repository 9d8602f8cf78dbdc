"use strict";
// What the page's own controls do with Bokeh's figures. Models are found by name: see figures.py.
(() => {
  const places = [...document.querySelectorAll("[data-figure]")];
  if (!places.length) return;

  const named = (doc, name) => doc.get_model_by_name(name);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function paint(figure) {
    const [text, faint, line] = ["--text", "--faint", "--line"].map(style);
    figure.outline_line_color = line;
    for (const axis of [...figure.below, ...figure.left]) {
      axis.setv({
        axis_label_text_color: text, major_label_text_color: text, axis_line_color: faint,
        major_tick_line_color: faint, minor_tick_line_color: faint,
      });
    }
    for (const grid of figure.center) grid.grid_line_color = line;
  }

  function start(doc) {
    const figures = places.map((place) => named(doc, place.dataset.figure));
    const curves = figures.filter((figure) => !["timeline", "goodput"].includes(figure.name));
    const repaint = () => figures.forEach(paint);
    repaint();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
    document.documentElement.dataset.ready = "true";
    if (curves.length) control(curves);
  }

  function control(curves) {
    const x = curves[0].x_range;
    const [from, to, said] = ["from", "to", "range"].map((id) => document.getElementById(id));
    let column = "last";
    const lines = () => curves.flatMap((figure) => figure.renderers);

    function whole() {
      let most = 0;
      for (const each of lines()) {
        if (!each.visible) continue;
        const values = each.data_source.data[column];
        most = Math.max(most, values[values.length - 1]);
      }
      return [0, most || 1];
    }
    const show = ([begin, end]) => { if (end > begin) x.setv({start: begin, end}); };
    const write = (value) => Number(value.toPrecision(7));

    const logarithmic = new Set();  // figures; what is not above 0 is not seen in them
    const stretched = (low, high) => {
      const margin = 0.06 * (high - low) || 0.1 * Math.abs(high) || 1;
      return [low - margin, high + margin];
    };

    // heights follow what is seen: of the whole curve the first steps would leave no room for the others
    function fit() {
      for (const figure of curves) {
        let [low, high] = [Infinity, -Infinity];
        for (const each of figure.renderers) {
          if (!each.visible) continue;
          const data = each.data_source.data;
          const [at, least, greatest] = [column, `${figure.name}_least`, `${figure.name}_greatest`].map((key) => data[key]);
          for (let index = 0; index < at.length; index++) {
            if (at[index] < x.start || at[index] > x.end) continue;
            if (least[index] < low && (least[index] > 0 || !logarithmic.has(figure))) low = least[index];
            if (greatest[index] > high) high = greatest[index];
          }
        }
        if (low > high) continue;
        const [start, end] = logarithmic.has(figure)
          ? stretched(Math.log(low), Math.log(high)).map(Math.exp)
          : stretched(low, high);
        figure.y_range.setv({start, end});
      }
    }

    function tell() {
      fit();
      from.value = write(x.start);
      to.value = write(x.end);
      const digits = {maximumSignificantDigits: 6};
      const unit = {last: "steps", samples: "images", hours: "hours"}[column];
      said.textContent = `${unit} ${x.start.toLocaleString("en", digits)} to ${x.end.toLocaleString("en", digits)}`;
    }

    function axis(input) {
      column = input.value;
      for (const each of lines()) each.glyph.x = {field: column};
      for (const figure of curves) for (const each of figure.below) each.axis_label = input.dataset.label;
      show(whole());
      fit();
    }

    function scale(figure, isLogarithmic) {
      if (isLogarithmic) logarithmic.add(figure);
      else logarithmic.delete(figure);
      fit();  // first: a logarithmic axis must not begin below 0
      const model = (name) => new Bokeh.Models[name]();
      figure.y_scale = model(isLogarithmic ? "LogScale" : "LinearScale");
      figure.left[0].ticker = model(isLogarithmic ? "LogTicker" : "BasicTicker");
    }

    const moves = {
      in: () => [x.start + (x.end - x.start) / 4, x.end - (x.end - x.start) / 4],
      out: () => [Math.max(0, x.start - (x.end - x.start) / 2), x.end + (x.end - x.start) / 2],
      left: () => [x.start - (x.end - x.start) / 4, x.end - (x.end - x.start) / 4],
      right: () => [x.start + (x.end - x.start) / 4, x.end + (x.end - x.start) / 4],
      all: whole,
    };
    const form = document.getElementById("controls");
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("click", (event) => {
      const move = moves[event.target.dataset.zoom];
      if (move) show(move());
    });
    form.addEventListener("change", (event) => {
      const input = event.target;
      if (input.name === "axis") axis(input);
      else if (input.name === "logarithmic") scale(curves.find((figure) => figure.name === "loss"), input.checked);
      else if (input.dataset.run) {
        for (const each of lines()) if (each.tags.includes(input.dataset.run)) each.visible = input.checked;
        fit();
      } else show([Number(from.value), Number(to.value)]);
    });
    x.change.connect(tell);
    form.reset();  // a browser keeps what was chosen before the page was loaded again
    show(whole());
    tell();
  }

  (function wait() {
    const doc = window.Bokeh && Bokeh.documents[0];
    if (doc && places.every((place) => named(doc, place.dataset.figure))) start(doc);
    else requestAnimationFrame(wait);
  })();
})();
